"""Progress and dump."""

from __future__ import annotations

import io
import sys
import threading

import pytest

import treadle
from tests.conftest import Gate
from treadle._core.gil import is_gil_enabled
from treadle._show.progress import _Lines, choose_display, describe_counts


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_dump_names_run_item_age_and_the_line_of_the_users_code(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    def work(item: str) -> object:
        return gate.hold(item)

    with treadle.map(work, ["first", "second"], max_workers=2, name="fetch"):
        gate.wait_for_arrivals(2)
        treadle.dump()
        gate.open()

    text = capsys.readouterr().err
    assert "run 'fetch': 2 workers" in text
    assert "has been at item 0 ('first') for 0." in text
    assert "has been at item 1 ('second') for 0." in text
    assert ("return gate.hold(item)" in text) == is_gil_enabled(), "without a GIL, reading stacks can crash"
    assert "_engines" not in text, "the stack starts in the user's code"


def test_dump_writes_where_it_is_told() -> None:
    file = io.StringIO()

    treadle.dump(file)

    assert file.getvalue() == "no live workers\n"


def test_dump_takes_no_lock(gate: Gate) -> None:
    """It is called from signal handlers, which may have interrupted the holder of any lock."""
    file = io.StringIO()
    with treadle.map(gate.hold, [1]) as run:
        gate.wait_for_arrivals()
        with run._course.crew.lock:
            thread = threading.Thread(target=treadle.dump, args=(file,))
            thread.start()
            thread.join(10)
            assert not thread.is_alive()
        gate.open()
    assert "item 0" in file.getvalue()


def test_stats_take_no_lock(gate: Gate) -> None:
    with treadle.map(gate.hold, [1]) as run:
        gate.wait_for_arrivals()
        with run._course.crew.lock:
            assert run.stats.running == 1
        gate.open()


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(treadle.map(abs, range(1000), progress=True, name="work")) == list(range(1000))

    started, ended = capsys.readouterr().err.splitlines()
    assert started == "work: started, 1,000 items"
    assert ended.startswith("work: ended after ")
    assert ended.endswith(" s: 1,000 of 1,000 done")


def test_lines_tell_rate_and_time_left() -> None:
    file = io.StringIO()
    display = _Lines("work", 100, file)

    display.show(treadle.Stats(taken=60, succeeded=45, failed=5, seconds=100.0))

    assert file.getvalue().splitlines()[1] == "work: 50 of 100 done, 5 failed, 0.5 a second, 1:40 left"


def test_counts_name_only_what_happened() -> None:
    stats = treadle.Stats(succeeded=1, cancelled=2, not_started=3, abandoned=1)

    assert describe_counts(stats, None) == "1 done, 2 cancelled, 3 not started, 1 abandoned"


@pytest.mark.skipif("rich" not in sys.modules and not __import__("importlib").util.find_spec("rich"), reason="no rich")
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    display = choose_display("work", 4, stream)

    display.show(treadle.Stats(succeeded=2, seconds=1.0))
    display.finish(treadle.Stats(succeeded=3, failed=1, seconds=2.0))

    assert "2 of 4 done" in stream.getvalue()
    assert "4 of 4 done, 1 failed" in stream.getvalue()


def test_no_bar_on_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    assert isinstance(choose_display("work", 4, Terminal()), _Lines)


def test_progress_can_be_a_function_of_the_users() -> None:
    seen: list[treadle.Stats] = []

    list(treadle.map(abs, range(10), progress=seen.append))

    assert seen[-1].succeeded == 10


def test_a_progress_function_that_raises_does_not_harm_the_run(caplog: pytest.LogCaptureFixture) -> None:
    def explode(_: treadle.Stats) -> None:
        raise RuntimeError("no display today")

    assert list(treadle.map(abs, range(10), progress=explode)) == list(range(10))
    assert "no display today" in caplog.text


def test_the_display_ends_when_the_run_is_dropped(gate: Gate) -> None:
    seen: list[treadle.Stats] = []
    for _ in treadle.map(abs, range(1000), progress=seen.append):
        break

    for thread in threading.enumerate():
        if thread.name.startswith("treadle-"):
            thread.join(10)
    assert not any(thread.name == "treadle-progress" for thread in threading.enumerate())
