"""``treadle demo`` does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

import click
from rich.console import Console

from tests.programs import run_treadle
from treadle._cli import demo
from treadle._cli.demo import Computing
from treadle._cli.demo_server import MAX_LATENCY_SECONDS, MIN_LATENCY_SECONDS, content_of, latency_of
from treadle._cli.demo_work import sum_of_squares


def test_the_demo_shows_the_lesson_and_compares_all_that_comes_back() -> None:
    code, out, err = run_treadle("demo")

    assert code == 0, err
    assert "all 200 files are right, byte for byte" in out
    gain = re.search(r"max_workers=32\)\s+\S+ s\s+(\S+) x as fast", out)
    assert gain is not None
    assert float(gain[1]) > 1
    for engine in ("threads", "processes", "auto"):
        assert re.search(rf'engine="{engine}"\)\s+\S+ s  \S+ x as fast\n', out)
    assert re.search(r"decided: (threads|processes), at most [2-4] workers: ", " ".join(out.split()))
    assert "all 24 sums agree" in out
    assert "The sums compute, " in out
    assert err.splitlines()[0] == "download: started, 200 items"
    assert len(err.splitlines()) == 2, "what the log advises comes anyway"
    assert max(map(len, out.splitlines())) <= 80, "it fits a terminal"


@pytest.mark.parametrize(
    ("threads", "processes", "cores", "has_gil", "says"),
    [
        (1.0, 1.9, 2, True, "2 threads were 1.0 x as fast, which is no gain. 2 processes, each with a GIL of its own,"),
        (1.0, 1.9, 2, True, "2 processes, each with a GIL of its own, were 1.9 x as fast: about what 2 cores are wort"),
        (1.4, 1.9, 2, True, "2 threads were 1.4 x as fast, which is no gain but the noise of this machine"),
        (1.0, 1.2, 2, True, "were 1.2 x as fast: less than 2 cores are worth, which others may be using."),
        (1.0, None, 2, True, "which is no gain. Processes would help, which Treadle does not have on this system"),
        (1.9, 1.8, 2, False, "no GIL, so threads do so side by side: 2 threads were 1.9 x as fast, 2 processes 1.8 x"),
        (1.1, 1.0, 2, False, "no GIL, but too few cores were free: 2 threads were 1.1 x as fast, 2 processes 1.0 x"),
        (0.9, 0.8, 1, True, "on one core nobody gains by that: 2 threads were 0.9 x as fast, 2 processes 0.8 x as fa"),
        (0.9, None, 1, False, "on one core nobody gains by that: 2 threads were 0.9 x as fast."),
    ],
)
def test_the_verdict_is_what_was_measured(
    threads: float, processes: float | None, cores: int, has_gil: bool, says: str
) -> None:
    assert says in Computing(threads, processes, 2, cores, has_gil).verdict()


def test_sums_that_differ_are_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def sum_by(engine: str, limits: list[int], _: int) -> tuple[list[int], str]:
        return [sum_of_squares(limit) + (engine == "auto") for limit in limits], ""

    monkeypatch.setattr(demo, "SUM_BELOW", 10)
    monkeypatch.setattr(demo, "_sum_by", sum_by)

    with pytest.raises(click.ClickException, match="the sums differ"):
        demo._show_sums(Console(quiet=True))


def test_where_there_are_no_processes_it_shows_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def sum_by(engine: str, limits: list[int], _: int) -> tuple[list[int], str]:
        asked.append(engine)
        return [sum_of_squares(limit) for limit in limits], ""

    monkeypatch.setattr(demo, "SUM_BELOW", 10)
    monkeypatch.setattr(demo, "_sum_by", sum_by)
    monkeypatch.delattr("os.fork", raising=False)

    assert demo._show_sums(Console(quiet=True)).processes is None
    assert asked == ["threads", "auto"]


def test_what_the_processes_import_costs_them_nothing() -> None:
    source = "import sys, treadle._cli.demo_work; sys.exit('click' in sys.modules or 'rich' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", source], timeout=60).returncode == 0


def test_files_are_the_same_everywhere_and_latencies_as_promised() -> None:
    assert content_of("a") == content_of("a") != content_of("b")
    assert all(MIN_LATENCY_SECONDS <= latency_of(str(number)) <= MAX_LATENCY_SECONDS for number in range(100))
