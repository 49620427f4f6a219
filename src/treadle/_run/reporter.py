"""Says in the log what the end of a group or an executor waits for, again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from traceback import format_list
from typing import Protocol

from treadle._core import clock
from treadle._core.describe import count_of
from treadle._core.register import WorkerState
from treadle._core.stacks import NOT_SHOWN, read_stacks, user_part
from treadle._core.tell import tell

# How long to wait in silence for calls that were asked to end; for those that hold the interpreter's exit, where the
# standard library's own tests have calls of a second end without a word; and for others, whose results somebody wants.
# It doubles with each report.
REPORT_SECONDS = 1.0
EXIT_REPORT_SECONDS = 2.0
PLAIN_REPORT_SECONDS = 5.0
MOST_CALLS = 3  # shown with their stacks; thirty of them tell no more
MOST_FRAMES = 10


class Source(Protocol):
    """Whose end is awaited: a group, an executor, a periodic task."""

    kind: str
    name: str
    noun: str  # what a person calls one of its calls
    stopped_at: float | None  # when its calls were asked to end

    def worker_states(self) -> Sequence[WorkerState]:
        """Return what its workers are doing."""

    def count_waiting(self) -> int:
        """Return how many of its calls wait for a worker."""

    def count_unfinished(self) -> int:
        """Return how many of its tasks have not ended."""

    def count_ended(self) -> int:
        """Return how many of its tasks have ended."""


class Reporter:
    """Names the calls that somebody waits for, at growing intervals.

    Calls that were asked to end are late from then on. Otherwise the silence begins anew whenever a call has begun or
    ended in it: a wait for a lot of work is no news, one in which nothing happens is.

    Args:
        source: Whose end is awaited.
        holds_exit: The interpreter exits, and waits for this.
    """

    def __init__(self, source: Source, holds_exit: bool = False) -> None:
        self._source = source
        self._holds_exit = holds_exit
        self._quiet_since = clock.now()
        self._seen = self._progress()
        self._reports = [0, 0]  # before the calls were asked to end, and after

    def due_at(self) -> float:
        """Return when to report next."""
        stopped_at = self._source.stopped_at
        if stopped_at is not None:
            return stopped_at + REPORT_SECONDS * 2.0 ** self._reports[1]
        silence = EXIT_REPORT_SECONDS if self._holds_exit else PLAIN_REPORT_SECONDS
        return self._quiet_since + silence * 2.0 ** self._reports[0]

    def report_if_due(self, interrupts: int, grace: float | None) -> None:
        """Report, if it is time; what was due several times is told once."""
        is_plain = self._source.stopped_at is None
        if not clock.has_come(self.due_at()):
            return
        if is_plain and (progress := self._progress()) != self._seen:
            self._seen, self._quiet_since = progress, clock.now()
            return
        is_first = self._reports == [0, 0]
        while clock.has_come(self.due_at()):
            self._reports[not is_plain] += 1
        # Who waits for work that takes long, as asked, is told where he will see it once, and not that it still lasts.
        is_urgent = is_first or not is_plain or self._holds_exit
        tell(logging.WARNING if is_urgent else logging.INFO, "%s", self._text(interrupts, grace))

    def _progress(self) -> tuple[object, ...]:
        """Return what changes when a call begins or ends."""
        calls = {(state.thread, state.index) for state in self._source.worker_states()}
        return self._source.count_ended(), calls

    def _text(self, interrupts: int, grace: float | None) -> str:
        source = self._source
        busy = [state for state in source.worker_states() if state.is_busy]
        calls, waiting = sum(state.index is not None for state in busy), source.count_waiting()
        verb = "holds the interpreter's exit, and waits" if self._holds_exit else "waits"
        asked = "" if source.stopped_at is None else ", asked to end"
        text = f"{source.kind} {source.name!r} {verb} for {count_of(calls, 'call')}{asked}"
        if waiting:
            text += f", and for {count_of(waiting, 'call')} not begun"
        elif not busy and (unfinished := source.count_unfinished()):
            text += f", and for {count_of(unfinished, source.noun)} between two attempts"
        lines = [f"{text} ({self._way_out(interrupts, grace)})"]
        stacks = read_stacks()
        for state in busy[:MOST_CALLS]:
            lines.append(f"  {state.describe('task')}")
            stack = stacks.get(state.ident or 0)
            frames = [f"  {NOT_SHOWN}"] if stack is None else format_list(user_part(stack)[-MOST_FRAMES:])
            lines += ("  " + line for frame in frames for line in frame.rstrip().splitlines())
        if len(busy) > MOST_CALLS:
            lines.append(f"  and {len(busy) - MOST_CALLS} more")
        return "\n".join(lines)

    def _way_out(self, interrupts: int, grace: float | None) -> str:
        is_asked = self._source.stopped_at is not None
        if is_asked and grace is not None:
            return f"what still runs after grace={grace:g} seconds is left behind"
        if threading.current_thread() is not threading.main_thread():
            return f"with grace=, a {self._source.kind} leaves calls behind"
        if not is_asked:
            return "Ctrl-C asks calls to end, Ctrl-C again leaves them behind"
        return f"Ctrl-C {'again' if interrupts else 'twice'} leaves them behind"
