"""What workers are doing, as onlookers see it; nothing here takes a lock."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from treadle._core.chunk import Chunk
from treadle._core.describe import describe
from treadle._core.real_time import perf_counter
from treadle._core.register import WorkerState
from treadle._crew.worker import SharedThread, Worker


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A call that was being made when somebody looked; kept of those that were left behind."""

    thread: threading.Thread | SharedThread
    index: int
    item: object
    begun: float

    @property
    def kind(self) -> str:
        """What a person calls that which is left behind."""
        return "thread" if isinstance(self.thread, threading.Thread) else "coroutine"

    def state(self, is_abandoned: bool) -> WorkerState:
        """Return it as it stands now."""
        age, thread = perf_counter() - self.begun, self.thread
        return WorkerState(_name(thread), thread.ident, self.index, describe(self.item), age, is_abandoned)


def _name(thread: threading.Thread | SharedThread) -> str:
    """Return its name, and what holds up the event loop that it runs on."""
    if isinstance(thread, threading.Thread) or (place := thread.held_up()) is None:
        return thread.name
    return f"{thread.name}, whose event loop is held up at {place}"


def states_of(workers: list[Worker]) -> list[WorkerState]:
    """Return what each of ``workers`` is doing; takes no lock."""
    states: list[WorkerState] = []
    for worker in workers:
        chunk = worker.chunk
        call = None if chunk is None else in_hand(worker, chunk)
        if call is not None:
            states.append(call.state(is_abandoned=False))
        else:
            states.append(WorkerState(_name(worker.thread), worker.thread.ident, stage=_stage(worker, chunk)))
    return states


def _stage(worker: Worker, chunk: Chunk | None) -> str:
    """Return what a worker does that makes no call; nothing: it waits for work, or is on the way to it."""
    if worker.is_opening:
        return "gets ready"
    if worker.is_closing:
        return "closes what it has"
    if chunk is None or not chunk.items:
        return ""
    if chunk.trial is not None and chunk.trial.begun is None and not chunk.results:
        return "waits for its turn to make a call"
    return "tells others of a call that has ended"


def in_hand(worker: Worker, chunk: Chunk) -> LeftBehind | None:
    """Return what ``worker`` is doing with ``chunk``, or None if it is through with it."""
    if chunk.trial is not None and chunk.trial.begun is None:
        return None  # it waits for its turn
    items, begun = chunk.items, chunk.begun
    offset = len(chunk.results)
    if begun is None or offset >= len(items):
        return None
    return LeftBehind(worker.thread, chunk.start + offset, items[offset], begun)
