"""The live bars of runs on a terminal, and what else is written there meanwhile."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("rich")

from rich.cells import cell_len
from rich.text import Text

import treadle
from treadle._show import progress as progress_module
from treadle._show.progress import choose_display

GOING_ON = treadle.Stats(taken=5, succeeded=2, seconds=1.0)
OVER = treadle.Stats(taken=5, succeeded=4, failed=1, seconds=2.0)


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and breaks after so many writes."""

    def __init__(self, error: OSError | None = None, writes: int = 0) -> None:
        super().__init__()
        self.error = error
        self.left = writes

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.error is not None:
            self.left -= 1
            if self.left < 0:
                raise self.error
        return super().write(text)


class Pipe(Terminal):
    def isatty(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def terminal() -> Terminal:
    """Return what tests have for their standard error. They put it there: pytest replaces it as a test begins."""
    return Terminal()


@pytest.fixture
def logger(terminal: Terminal) -> Iterator[logging.Logger]:
    """Return one whose handler has got hold of the terminal before there is a bar."""
    logger = logging.getLogger("tests.progress_bar")
    handler = logging.StreamHandler(terminal)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_what_is_logged_printed_and_written_stands_above_the_bar(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, logger: logging.Logger
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    display = choose_display("work", 10, terminal)
    display.show(GOING_ON)
    before = terminal.tell()

    logger.warning("logged")
    print("written", file=sys.stderr)
    after = terminal.getvalue()[before:]
    display.finish(OVER)

    for text in ("logged\n", "written\n"):
        line, _, below = after.partition(text)
        assert "\x1b[2K" in line, "the bar was erased first"
        assert "2 of 10 done" in below, "and drawn again below"
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


def test_in_the_end_everything_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, logger: logging.Logger
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    display = choose_display("work", 10, terminal)
    theirs = sys.stderr
    assert theirs is not terminal
    display.finish(OVER)

    handler = logger.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is terminal
    assert sys.stderr is terminal
    before = terminal.tell()
    print("later, by whoever has kept it", file=theirs)
    assert terminal.getvalue()[before:] == "later, by whoever has kept it\n"


def test_a_long_line_is_neither_wrapped_nor_cut_nor_taken_for_markup(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    display = choose_display("work", 10, terminal)
    line = "x" * 200 + " [red]x[/] [/users] \x1b[31mred\x1b[0m " + "y" * 200

    print(line, file=sys.stderr)
    display.finish(OVER)

    assert f"{line}\n" in terminal.getvalue()


def test_a_line_is_written_when_it_is_complete_or_flushed(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    display = choose_display("work", 10, terminal)

    print("begun", end=" ", file=sys.stderr)
    assert "begun" not in terminal.getvalue()
    print("and ended", file=sys.stderr)
    assert "begun and ended\n" in terminal.getvalue()
    print("flushed", end="", file=sys.stderr, flush=True)
    assert "flushed\n" in terminal.getvalue()
    print("never ended", end="", file=sys.stderr)
    display.finish(OVER)

    assert terminal.getvalue().endswith("never ended")


def test_two_runs_at_once_have_a_row_each(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    first = choose_display("first", 10, terminal)
    second = choose_display("second", 20, sys.stderr)
    first.show(GOING_ON)
    before = terminal.tell()
    second.show(GOING_ON)
    frame = terminal.getvalue()[before:]
    first.finish(OVER)
    before = terminal.tell()
    second.show(GOING_ON)
    later = terminal.getvalue()[before:]
    second.finish(OVER)

    assert "2 of 10 done" in frame
    assert "2 of 20 done" in frame
    assert "first" not in later, "it has ended"
    assert "first: ended after 2.0 s: 5 of 10 done, 1 failed, 5 not read\n" in terminal.getvalue()
    assert "second: ended after 2.0 s: 5 of 20 done, 1 failed, 15 not read\n" in terminal.getvalue()
    assert sys.stderr is terminal


@pytest.mark.parametrize("columns", [80, 50, 20])
@pytest.mark.parametrize(
    "name", ["work", "GET [/users]", "a name that is longer than half of a narrow terminal", "一二三"]
)
def test_a_row_fits_and_leaves_room_for_what_a_terminal_echoes(
    monkeypatch: pytest.MonkeyPatch, columns: int, name: str
) -> None:
    """One more character, and the row is two lines, of which only one is erased."""
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    display = choose_display(name, 1000, terminal)
    display.show(treadle.Stats(taken=999, succeeded=900, failed=50, timed_out=40, retried=9, seconds=9.0))
    rows = Text.from_ansi(terminal.getvalue().replace("\r", "")).plain.splitlines()
    display.finish(OVER)

    assert max(cell_len(row) for row in rows) <= columns - 4
    assert name[:3] in "".join(rows)


def test_a_name_that_would_act_upon_the_terminal_does_not(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    list(treadle.map(abs, [1], name="GET [/users]\x1b]0;owned\x07\n", progress=True))

    assert "GET [/users]\\x1b]0;owned\\x07\\n: ended after" in terminal.getvalue()


@pytest.mark.parametrize("kind", [Terminal, Pipe])
@pytest.mark.parametrize("writes", [0, 1, 4])
@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "gone"), OSError(errno.ENOSPC, "full")])
def test_a_display_that_breaks_costs_no_result_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: type[Terminal], writes: int, error: OSError
) -> None:
    stream = kind(error, writes)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress_module, "LIVE_SECONDS", 0.001)
    monkeypatch.setattr(progress_module._Lines, "seconds", 0.001)
    monkeypatch.setattr(progress_module._Bar, "seconds", 0.001)

    assert list(treadle.map(treadle.sleep, [0.002] * 50, max_workers=2, progress=True, name="work")) == [None] * 50
    stream.error = None

    assert caplog.text.count("the progress of run 'work' cannot be shown: ") == 1
    assert sys.stderr is stream
    assert stream.getvalue().count("\n") <= writes


def test_no_thread_to_be_had_costs_no_result(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(progress_module._Watcher, "start", refuse)

    assert list(treadle.map(abs, [-1], progress=True, name="work")) == [1]
    assert "cannot be shown: RuntimeError: can't start new thread" in caplog.text
    assert "work: ended after" in terminal.getvalue()


def test_a_progress_function_that_keeps_failing_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: treadle.Stats) -> None:
        calls.append(1)
        raise OSError("no display today")

    calls: list[int] = []
    display = progress_module._Callback(fail)
    display.show(GOING_ON)
    display.finish(OVER)

    assert len(calls) == 2
    assert caplog.text.count("the progress function failed") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_writes_without_the_bar(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    """The bar is the parent's, and its locks may have been held by another thread."""
    monkeypatch.setattr(sys, "stderr", terminal)
    display = choose_display("work", 10, terminal)
    before = terminal.tell()
    if (child := os.fork()) == 0:
        print("from the child", file=sys.stderr)
        os._exit(0 if terminal.getvalue()[before:] == "from the child\n" else 1)
    _, status = os.waitpid(child, 0)
    display.finish(OVER)

    assert status == 0
