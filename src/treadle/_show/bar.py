"""Live bars at the bottom of a terminal, drawn by rich: a row for each run, below what is written meanwhile."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.segment import Segment, Segments
from rich.text import Text

from treadle._core.raw import make_rlock
from treadle._core.real_time import monotonic
from treadle._core.user_code import call_guarded

BAR_CELLS = 30
LEAST_BAR_CELLS = 5
# On the right of a row: a terminal echoes "^C" there, which must not begin another line.
SPARE_CELLS = 4
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
TURNS_A_SECOND = 8

_lock = make_rlock()  # protects which screens there are, and what stands for the streams
_screens: list[Screen] = []


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error: rich would end the program, and send its standard output to nowhere."""
        raise  # noqa: PLE0704  # it is called where the error was caught


class Screen:
    """The rows at the bottom of one terminal: of all runs that show themselves there, as two cannot draw on one place.

    While there are any, what goes to the terminal by ``sys.stdout``, ``sys.stderr`` and handlers of ``logging`` that
    write to these is written above the rows.

    Args:
        stream: That leads to the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.rows: list[Bar] = []
        self._console = _Console(file=stream, get_time=monotonic)
        self._live = Live(
            get_renderable=self._draw,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._above: list[_Above] = []

    def open(self) -> None:
        """Take the bottom of the terminal."""
        streams = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__, self.stream]
        for stream in {id(stream): stream for stream in streams if _leads_to_a_terminal(stream)}.values():
            above = _Above(cast("TextIO", stream), self)
            _replace(stream, above)
            self._above.append(above)
        self._live.start()

    def close(self) -> None:
        """Give it back."""
        try:
            self._live.stop()
        finally:
            for above in self._above:
                above.end()
                _replace(above, above.stream)

    def is_behind(self, stream: object) -> bool:
        """Tell whether ``stream`` leads to this screen."""
        return stream is self.stream or stream in self._above

    def refresh(self) -> None:
        """Draw the rows as they are now."""
        self._live.refresh()

    def write(self, text: str) -> None:
        """Write whole lines above the rows, as they are: neither wrapped nor cut nor taken for markup."""
        self._console.print(Segments([Segment(text)]), soft_wrap=True, end="")

    def _draw(self) -> Group:
        rows = list(self.rows)
        widest = max((cell_len(row.name) for row in rows), default=0)
        return Group(*[row.draw(widest, self._console.width - SPARE_CELLS) for row in rows])


class _Above:
    """Stands for a stream that leads to the terminal, as long as there are rows: lines go above them."""

    def __init__(self, stream: TextIO, screen: Screen) -> None:
        self.stream = stream
        self._is_over = False
        self._screen = screen
        self._pid = os.getpid()
        self._line = ""
        self._writing = make_rlock()  # protects the line; a handler of signals may write in the middle of it

    def write(self, text: str) -> int:
        if self._is_over or os.getpid() != self._pid:
            return self.stream.write(text)
        with self._writing:
            *lines, self._line = (self._line + text).split("\n")
            if lines:
                self._screen.write("".join(f"{line}\n" for line in lines))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        if self._is_over or os.getpid() != self._pid:
            self.stream.flush()
            return
        with self._writing:
            line, self._line = self._line, ""
            if line:  # somebody wants to see it now, and below it come the rows
                self._screen.write(f"{line}\n")

    def end(self) -> None:
        """Pass on what comes to the stream itself; whoever has got hold of this may keep it."""
        with self._writing:
            self._is_over = True
            line, self._line = self._line, ""
        if line:
            self.stream.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _leads_to_a_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it was closed
        return False


def _replace(stream: object, by: object) -> None:
    """Have what goes to ``stream`` by ``sys`` and by handlers of ``logging`` go ``by`` another from now on."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is stream:
            setattr(sys, name, by)
    for logger in [logging.getLogger(), *list(logging.Logger.manager.loggerDict.values())]:
        for handler in list(getattr(logger, "handlers", ())):
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                handler.setStream(by)


def _enter_screen(stream: TextIO, row: Bar) -> Screen:
    """Return the screen that ``stream`` leads to, which may have rows of others."""
    with _lock:
        screen = next((screen for screen in _screens if screen.is_behind(stream)), None)
        if screen is None:
            screen = Screen(stream)
            try:
                screen.open()
            except BaseException:
                call_guarded(screen.close)
                raise
            _screens.append(screen)
        screen.rows.append(row)
        return screen


def _leave_screen(screen: Screen, row: Bar) -> None:
    with _lock:
        if row in screen.rows:
            screen.rows.remove(row)
        if not screen.rows and screen in _screens:
            _screens.remove(screen)
            screen.close()


def _forget() -> None:
    """In a forked child: the rows are the parent's."""
    global _lock
    _lock = make_rlock()
    _screens.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Bar:
    """The row of one run.

    Args:
        name: Of the run.
        total: How many items are expected, if that is known.
        stream: That leads to the terminal.
    """

    def __init__(self, name: str, total: int | None, stream: TextIO) -> None:
        self.name = name
        self._total = total
        self._done = 0
        self._counts = self._pace = ""
        self._screen = _enter_screen(stream, self)

    def update(self, done: int, counts: str, pace: str) -> None:
        """Draw it."""
        self._done, self._counts, self._pace = done, counts, pace
        self._screen.refresh()

    def end(self, last_words: str = "") -> None:
        """Write ``last_words`` in its place, and let go of the screen if no other run is on it."""
        try:
            if last_words:
                self._screen.write(f"{last_words}\n")
        finally:
            _leave_screen(self._screen, self)

    def draw(self, name_cells: int, cells: int) -> Text:
        """Return the row, in so many cells of a terminal; the bar has what is left."""
        turn = SPINNER[int(monotonic() * TURNS_A_SECOND) % len(SPINNER)]
        texts = [f"{turn} {set_cell_size(self.name, name_cells)}", self._counts, self._pace]
        bar_cells = min(BAR_CELLS, cells - sum(cell_len(text) + 1 for text in texts if text))
        row = Text(no_wrap=True, overflow="ellipsis")
        row.append(texts[0])
        if self._total and bar_cells >= LEAST_BAR_CELLS:
            full = min(bar_cells, bar_cells * self._done // self._total)
            row.append(" ").append("━" * full, "bar.complete").append("─" * (bar_cells - full), "bar.back")
        row.append(f" {self._counts} ").append(self._pace, "dim")
        row.truncate(cells, overflow="ellipsis")
        return row
