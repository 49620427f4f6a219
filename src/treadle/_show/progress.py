"""Progress of a run: a bar on a terminal, a plain line now and then elsewhere.

The display looks at the run's ``Stats`` from a thread of its own; the calls do not know of it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from treadle._core.outcome import Stats
from treadle._core.real_time import monotonic
from treadle._core.settings import Progress
from treadle._core.tell import tell
from treadle._core.user_code import call_guarded

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LIVE_SECONDS = 0.1
PLAIN_SECONDS = 30.0
CALLBACK_SECONDS = 0.2


class Display(Protocol):
    """Shows one run. ``seconds`` is how often it wants to be told."""

    seconds: float

    def show(self, stats: Stats) -> None:
        """Show the state of the run."""

    def finish(self, stats: Stats) -> None:
        """Show the last state, and let go of the screen."""


def show_progress(name: str, progress: Progress, stats: Callable[[], Stats], total: int | None) -> Callable[[], None]:
    """Begin to show a run, and return what is to be called at its end.

    Args:
        name: Of the run.
        progress: True, or a function to be called with ``Stats``.
        stats: Returns the run's state.
        total: How many items are expected, if that is known.
    """
    if not callable(progress) and sys.stderr is None:  # no place to show anything
        return lambda: None
    display = _Callback(progress) if callable(progress) else choose_display(name, total, sys.stderr)
    watcher = _Watcher(display, stats)
    watcher.start()
    return watcher.finish


def choose_display(name: str, total: int | None, stream: TextIO) -> Display:
    """Return a bar for a terminal, if rich is installed and nothing forbids it; plain lines otherwise."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        try:
            return _Bar(name, total, stream)
        except ImportError:
            pass
    return _Lines(name, total, stream)


def describe_counts(stats: Stats, total: int | None) -> str:
    """Return the counts of a run in words, those that matter only."""
    done = stats.succeeded + stats.failed + stats.timed_out
    text = f"{done:,} of {total:,} done" if total is not None else f"{done:,} done"
    for word in ("failed", "timed_out", "retried", "cancelled", "not_started", "abandoned"):
        if count := getattr(stats, word):
            text += f", {count:,} {word.replace('_', ' ')}"
    return text


def _rate(stats: Stats) -> float:
    return (stats.succeeded + stats.failed + stats.timed_out) / stats.seconds if stats.seconds else 0.0


def _eta(stats: Stats, total: int | None) -> str:
    done = stats.succeeded + stats.failed + stats.timed_out
    if total is None or not done or done >= total:
        return ""
    left = int((total - done) * stats.seconds / done)
    minutes, seconds = divmod(left, 60)
    hours, minutes = divmod(minutes, 60)
    return f", {hours}:{minutes:02}:{seconds:02} left" if hours else f", {minutes}:{seconds:02} left"


class _Callback:
    """Tells a function of the user's."""

    seconds = CALLBACK_SECONDS

    def __init__(self, function: Callable[[Stats], object]) -> None:
        self._function = function

    def show(self, stats: Stats) -> None:
        _, error = call_guarded(self._function, stats)
        if error is not None:
            tell(logging.ERROR, "the progress function failed", error=error)

    finish = show


class _Lines:
    """Plain lines: one at the start, one every half minute, one at the end."""

    seconds = PLAIN_SECONDS

    def __init__(self, name: str, total: int | None, stream: TextIO) -> None:
        self._name = name
        self._total = total
        self._stream = stream
        self._say("started" if total is None else f"started, {total:,} items")

    def show(self, stats: Stats) -> None:
        counts = describe_counts(stats, self._total)
        self._say(f"{counts}, {_rate(stats):,.1f} a second{_eta(stats, self._total)}")

    def finish(self, stats: Stats) -> None:
        self._say(f"ended after {stats.seconds:.1f} s: {describe_counts(stats, self._total)}")

    def _say(self, text: str) -> None:
        print(f"{self._name}: {text}", file=self._stream, flush=True)


class _Bar:
    """A live bar, drawn by rich."""

    seconds = LIVE_SECONDS

    def __init__(self, name: str, total: int | None, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._total = total
        self._bar: RichProgress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[counts]}"),
            TextColumn("[dim]{task.fields[pace]}"),
            console=Console(file=stream, get_time=monotonic),
            auto_refresh=False,
            redirect_stdout=False,  # what the program prints there stays there; standard error goes above the bar
        )
        self._task: TaskID = self._bar.add_task(name, total=total, counts="", pace="")
        self._bar.start()

    def show(self, stats: Stats) -> None:
        self._update(stats, f"{_rate(stats):,.1f}/s{_eta(stats, self._total)}")

    def finish(self, stats: Stats) -> None:
        self._update(stats, f"{_rate(stats):,.1f}/s, {stats.seconds:.1f} s")
        self._bar.stop()

    def _update(self, stats: Stats, pace: str) -> None:
        done = stats.succeeded + stats.failed + stats.timed_out
        counts = describe_counts(stats, self._total)
        self._bar.update(self._task, completed=done, counts=counts, pace=pace, refresh=True)


class _Watcher(threading.Thread):
    """Looks at the run now and then, and once more at its end."""

    def __init__(self, display: Display, stats: Callable[[], Stats]) -> None:
        super().__init__(name="treadle-progress", daemon=True)
        self._display = display
        self._stats = stats
        self._over = threading.Event()

    def run(self) -> None:
        due = monotonic()
        while not self._over.wait(max(0.0, due + self._display.seconds - monotonic())):
            due = monotonic()
            self._display.show(self._stats())

    def finish(self) -> None:
        """End the display. Waits for it, unless the display itself is ending the run."""
        self._over.set()
        if self is not threading.current_thread():
            self.join(timeout=1.0)
        self._display.finish(self._stats())
