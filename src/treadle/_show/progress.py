"""Progress of a run: a bar on a terminal, a plain line now and then elsewhere.

The display looks at the run's ``Stats`` from a thread of its own; the calls do not know of it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Protocol, TextIO

from treadle._core.describe import describe_error, shorten
from treadle._core.outcome import Stats
from treadle._core.real_time import monotonic
from treadle._core.settings import Progress
from treadle._core.tell import tell
from treadle._core.user_code import call_guarded

LIVE_SECONDS = 0.1
PLAIN_SECONDS = 30.0
CALLBACK_SECONDS = 0.2
MAX_NAME_CHARS = 40


class Display(Protocol):
    """Shows one run. ``seconds`` is how often it wants to be told."""

    seconds: float

    def show(self, stats: Stats) -> None:
        """Show the state of the run."""

    def finish(self, stats: Stats) -> None:
        """Show the last state, and let go of the screen."""

    def give_up(self) -> None:
        """Let go of the screen, as it cannot be shown any more."""


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
    name = shorten(name, MAX_NAME_CHARS)
    display, error = call_guarded(_make_display, name, progress, total)
    if display is None:
        _tell_given_up(name, error)
        return lambda: None
    watcher = _Watcher(_Careful(name, display), stats)
    _, error = call_guarded(watcher.start)
    if error is not None:  # no thread to be had: there is a last line at least
        _tell_given_up(name, error)
    return watcher.finish


def _make_display(name: str, progress: Progress, total: int | None) -> Display:
    return _Callback(progress) if callable(progress) else choose_display(name, total, sys.stderr)


def choose_display(name: str, total: int | None, stream: TextIO) -> Display:
    """Return a bar for a terminal, if rich is installed and nothing forbids it; plain lines otherwise."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        try:
            return _Bar(name, total, stream)
        except ImportError:
            pass
    return _Lines(name, total, stream)


def describe_counts(stats: Stats, total: int | None, is_over: bool = False) -> str:
    """Return the counts of a run in words, those that matter only.

    Args:
        stats: Of the run.
        total: How many items were expected, if that is known.
        is_over: What was not taken by now never will be.
    """
    done = _done(stats)
    text = f"{done:,} of {total:,} done" if total is not None else f"{done:,} done"
    for word in ("failed", "timed_out", "retried", "cancelled", "not_started", "abandoned"):
        if count := getattr(stats, word):
            text += f", {count:,} {word.replace('_', ' ')}"
    if is_over and total is not None and total > stats.taken:
        text += f", {total - stats.taken:,} not read"
    return text


def _done(stats: Stats) -> int:
    return stats.succeeded + stats.failed + stats.timed_out


def _rate(stats: Stats) -> float:
    return _done(stats) / stats.seconds if stats.seconds else 0.0


def _last_words(stats: Stats, total: int | None) -> str:
    return f"ended after {stats.seconds:.1f} s: {describe_counts(stats, total, is_over=True)}"


def _eta(stats: Stats, total: int | None) -> str:
    done = _done(stats)
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
        self._has_failed = False

    def show(self, stats: Stats) -> None:
        _, error = call_guarded(self._function, stats)
        if error is not None and not self._has_failed:  # once: it is called several times a second
            self._has_failed = True
            tell(logging.ERROR, "the progress function failed", error=error)

    finish = show

    def give_up(self) -> None: ...


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
        self._say(_last_words(stats, self._total))

    def give_up(self) -> None: ...

    def _say(self, text: str) -> None:
        print(f"{self._name}: {text}", file=self._stream, flush=True)


class _Bar:
    """A live bar, drawn by rich."""

    seconds = LIVE_SECONDS

    def __init__(self, name: str, total: int | None, stream: TextIO) -> None:
        from treadle._show.bar import Bar

        self._name = name
        self._total = total
        self._bar = Bar(name, total, stream)

    def show(self, stats: Stats) -> None:
        counts = describe_counts(stats, self._total)
        self._bar.update(_done(stats), counts, f"{_rate(stats):,.1f}/s{_eta(stats, self._total)}")

    def finish(self, stats: Stats) -> None:
        self._bar.end(f"{self._name}: {_last_words(stats, self._total)}")

    def give_up(self) -> None:
        self._bar.end()


class _Careful:
    """Passes on to a display, until that fails: a terminal that is gone or a full disk must not cost a result."""

    def __init__(self, name: str, display: Display) -> None:
        self.seconds = display.seconds
        self._name = name
        self._display: Display | None = display

    def show(self, stats: Stats) -> None:
        if self._display is not None:
            self._try(self._display.show, stats)

    def finish(self, stats: Stats) -> None:
        if self._display is not None:
            self._try(self._display.finish, stats)

    def give_up(self) -> None:
        display, self._display = self._display, None
        if display is not None:
            call_guarded(display.give_up)

    def _try(self, what: Callable[[Stats], None], stats: Stats) -> None:
        _, error = call_guarded(what, stats)
        if error is not None:
            self.give_up()
            _tell_given_up(self._name, error)


def _tell_given_up(name: str, error: BaseException | None) -> None:
    reason = "" if error is None else describe_error(error)
    tell(logging.WARNING, "the progress of run %r cannot be shown: %s", name, reason)


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
        if self is not threading.current_thread() and self.ident is not None:
            self.join(timeout=1.0)
        self._display.finish(self._stats())
