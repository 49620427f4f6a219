"""Says so where tasks wait, in a way that Treadle does not see, for tasks that wait for a worker.

``queue.get()``, an event, a lock of ``threading``: a worker in one of these holds its place, and what it waits for may
be brought by a task that has not begun, for want of a place. What can be seen from outside: every worker has been in
the same call for long, at the same line, and has submitted a task that has not begun, or waits for another thread.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import weakref
from concurrent.futures import _base
from traceback import FrameSummary, format_list
from typing import TYPE_CHECKING, TypeAlias

from treadle._core import clock
from treadle._core.chunk import Chunk
from treadle._core.describe import count_of
from treadle._core.real_time import perf_counter
from treadle._core.stacks import read_stacks, user_part
from treadle._core.tell import tell
from treadle._crew.onlook import in_hand
from treadle._crew.worker import Worker
from treadle._sync import timekeeper
from treadle._sync.aside import run_aside
from treadle._sync.timekeeper import Timer

if TYPE_CHECKING:
    from treadle._run.task_book import TaskBook

LOOK_SECONDS = 0.8
MOST_LOOK_SECONDS = 30.0  # between two looks, where all is well
# How often the same is seen before it is told: where each call has submitted a task that waits for a worker, and where
# each waits for another thread, which may be one that has nothing to do with us.
LOOKS_AT_PARENTS = 3
LOOKS_AT_WAITS = 7
MOST_CALLS = 3  # shown
MOST_FRAMES = 10
# Whoever is in one of these waits for another thread.
_WAITING = (threading.__file__, queue.__file__, _base.__file__)

_Place: TypeAlias = tuple[Chunk, tuple[tuple[str, int | None], ...] | None]


class Starvation:
    """Looks now and then, while tasks of ``book`` wait, whether its workers still do something. Tells once.

    The book holds it, and a timer does so weakly.
    """

    def __init__(self, book: TaskBook) -> None:
        self._book = weakref.ref(book)
        self._timers: dict[str, Timer] = {}  # at most one: of who comes first, as several may want it at once
        self._seconds = LOOK_SECONDS
        self._seen: dict[Worker, _Place] = {}
        self._looks = 0  # at what was seen
        self._is_told = False

    def note_waiting(self) -> None:
        """Take note that a task waits for a worker."""
        if not (self._timers or self._is_told):
            self._seconds = LOOK_SECONDS
            self._look_later()

    def end(self) -> None:
        """Look no more."""
        if (timer := self._timers.pop("next", None)) is not None:
            timer.cancel()

    def _look_later(self) -> None:
        look = weakref.WeakMethod(self._look)
        try:
            timer = timekeeper.call_at(clock.after(self._seconds), lambda: (found := look()) and found())
        except (RuntimeError, MemoryError):  # no thread to be had: the next task that waits tries again
            return
        if self._timers.setdefault("next", timer) is not timer:
            timer.cancel()
        if (book := self._book()) is None or book.closed is not None:  # whoever ended it has not seen this timer
            self.end()

    def _look(self) -> None:
        """Look what the workers do, on the timekeeper's thread."""
        self.end()  # this timer, or one that was set meanwhile: then another look is set below
        book = self._book()
        if book is None or book.closed is not None or not book.crew.count_waiting():
            self._seen, self._looks = {}, 0
            return
        stacks = read_stacks()
        seen = _look_at(list(book.crew.workers), stacks)
        self._looks = self._looks + 1 if seen and seen == self._seen else 1
        self._seen = seen
        if self._looks >= _looks_needed(book, seen, stacks):
            self._is_told = True
            text = _describe(book, seen, stacks)
            run_aside(f"{book.name}-starvation", lambda: tell(logging.WARNING, "%s", text))
            return
        self._seconds = min(2 * self._seconds, MOST_LOOK_SECONDS) if self._looks > LOOKS_AT_WAITS else LOOK_SECONDS
        self._look_later()


def _look_at(workers: list[Worker], stacks: dict[int, list[FrameSummary]]) -> dict[Worker, _Place]:
    """Return what each worker is in the middle of; nothing, if one of them is not in a call."""
    seen: dict[Worker, _Place] = {}
    for worker in workers:
        chunk = worker.chunk
        if chunk is None or in_hand(worker, chunk) is None or _is_in_seen_wait(worker):
            return {}
        stack = stacks.get(worker.thread.ident or 0)
        seen[worker] = chunk, None if stack is None else tuple((frame.filename, frame.lineno) for frame in stack)
    return seen


def _is_in_seen_wait(worker: Worker) -> bool:
    """Tell whether the worker waits for what will come by itself, as far as Treadle can see."""
    return worker.waits > worker.waits_for_any


def _looks_needed(book: TaskBook, seen: dict[Worker, _Place], stacks: dict[int, list[FrameSummary]]) -> float:
    """Return how often this is to be seen: each of the workers may wait for one of the tasks that have not begun."""
    if not seen or len(seen) < book.crew.max_workers:
        return math.inf
    waiting = [chunk for task in list(book.unfinished) if (chunk := task._chunk) is not None and chunk.todo]
    submitters = {chunk.submitter() for chunk in waiting}
    if all(chunk in submitters for chunk, _ in seen.values()):
        return LOOKS_AT_PARENTS
    waits = (worker.waits_for_any or _waits_for_thread(stacks.get(worker.thread.ident or 0)) for worker in seen)
    return LOOKS_AT_WAITS if all(waits) else math.inf


def _waits_for_thread(stack: list[FrameSummary] | None) -> bool:
    return stack is not None and stack[-1].filename in _WAITING


def _describe(book: TaskBook, seen: dict[Worker, _Place], stacks: dict[int, list[FrameSummary]]) -> str:
    ages = [perf_counter() - chunk.begun for chunk, _ in seen.values() if chunk.begun is not None]
    waiting = count_of(book.crew.count_waiting(), "task")
    workers = f"all {count_of(len(seen), 'worker')} have" if len(seen) > 1 else "its only worker has"
    since = f"been in the same {'calls' if len(seen) > 1 else 'call'} for {min(ages, default=0.0):.1f} s"
    advice = (
        "If those are what the calls wait for, nobody goes on: wait by task.result(), by concurrent.futures.wait() or "
        "with a treadle.Channel, which make room, or have more workers"
    )
    lines = [f"{book.kind} {book.name!r} may be starved: {workers} {since}, and {waiting} cannot begin. {advice}"]
    for state in book.worker_states()[:MOST_CALLS]:
        lines.append("  " + state.describe("task"))
        stack = user_part(stacks.get(state.ident or 0, []))[-MOST_FRAMES:]
        lines += ("  " + line for frame in format_list(stack) for line in frame.rstrip().splitlines())
    if len(seen) > MOST_CALLS:
        lines.append(f"  and {len(seen) - MOST_CALLS} more")
    return "\n".join(lines)
