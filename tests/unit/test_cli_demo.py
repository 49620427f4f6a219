"""``treadle demo`` does what it says."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.programs import run_treadle
from treadle._cli.demo_server import MAX_LATENCY_SECONDS, MIN_LATENCY_SECONDS, content_of, latency_of


def test_the_demo_shows_the_lesson_and_compares_every_byte() -> None:
    code, out, err = run_treadle("demo")

    assert code == 0, err
    assert "all 200 files are right, byte for byte" in out
    gain = re.search(r"max_workers=32\)\s+\S+ s\s+(\S+) x as fast", out)
    assert gain is not None
    assert float(gain[1]) > 1
    assert "download: started, 200 items" in err
    assert max(map(len, out.splitlines())) <= 80, "it fits a terminal"


def test_files_are_the_same_everywhere_and_latencies_as_promised() -> None:
    assert content_of("a") == content_of("a") != content_of("b")
    assert all(MIN_LATENCY_SECONDS <= latency_of(str(number)) <= MAX_LATENCY_SECONDS for number in range(100))
