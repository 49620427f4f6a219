"""Room for those that others wait for: why tasks that wait for tasks do not deadlock.

A worker that waits holds its place in the crew. If what it waits for needs a place in the same crew, directly
or through other crews, nobody would ever go on. So each wait of Treadle's on a worker's thread says that it
waits, and for which task, if that has not begun. While a crew has such an awaited task, it lends out the places
of its blocked workers; what is lent is used for awaited tasks only. So the calls that are really being made stay
within ``max_workers``, and no place is lent where nobody waits.

Some waits are for what any thread might bring: an item in a channel, a change of a guarded value. Where all workers
of a crew of tasks are in such a wait, its tasks that have not begun are taken for awaited: first those that the calls
which wait have submitted, then the others as they came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from treadle._core.block import contextmanager
from treadle._core.cancellation import here
from treadle._core.chunk import Chunk
from treadle._core.describe import describe
from treadle._core.real_time import perf_counter
from treadle._crew.worker import ThreadWorker, Worker

if TYPE_CHECKING:
    from treadle._crew.crew import Crew

# How long a call waits for any thread before its worker's place is lent, at first; so much longer with each place lent.
PATIENCE_SECONDS = 0.02
PATIENCE_GROWTH = 1.5
MOST_PATIENCE_SECONDS = 5.0
MOST_LENT = 256  # places of workers that wait so
# Calls on top of one another on one thread; more would use up its stack, and get workers instead.
MAX_STACKED_CALLS = 16


class Awaited(Protocol):
    """Something to wait for: a task. Its chunk changes when the call is made again."""

    @property
    def _chunk(self) -> Chunk | None:
        """The chunk of the call, until the task has ended."""


class Room:
    """Who waits in a crew, and for what. Its fields change under the crew's lock."""

    def __init__(self, crew: Crew) -> None:
        self.spare = 0  # workers beyond max_workers that may be had now for what is awaited; read without the lock
        self.lends_to_any = False  # where all workers wait for any thread, a call that has not begun may be what helps
        self._crew = crew
        self._blocked = 0  # workers that wait
        self._for_any = 0  # of these, the ones that wait for what any thread might bring
        self._awaited: Counter[Awaited] = Counter()

    def has_place(self) -> bool:
        """Tell whether a worker beyond max_workers may be had."""
        crew = self._crew
        return len(crew.workers) < crew.max_workers + self.spare or self._is_stalled()

    def _is_stalled(self) -> bool:
        """Tell whether every worker waits for what any thread might bring: maybe a call that has not begun."""
        workers = len(self._crew.workers)
        return self.lends_to_any and 0 < self._for_any >= workers and workers < self._crew.max_workers + MOST_LENT

    def patience(self) -> float:
        """Return how long to wait for any thread before that is noted: the longer, the more places are lent already.

        What is waited for may be long in coming from elsewhere; then it is not to be waited for by ever more calls.
        """
        lent = len(self._crew.workers) - self._crew.max_workers
        return min(PATIENCE_SECONDS * PATIENCE_GROWTH ** max(0, lent), MOST_PATIENCE_SECONDS)

    def take_awaited(self, worker: Worker) -> tuple[Chunk | None, bool]:
        """Return a chunk that somebody waits for, for a worker on a lent place, and whether it is to leave if none."""
        crew = self._crew
        with crew.lock:
            if not crew.has_surplus():
                return None, False  # another one has just left
            for awaited in list(self._awaited):
                chunk = awaited._chunk
                if chunk is not None and crew.withdraw(chunk):
                    self.count()
                    return chunk, True
            is_lent = self.lends_to_any and len(crew.workers) - self._for_any <= crew.max_workers
            if is_lent:
                waiting = [other for other in crew.workers if other.waits_for_any]
                if (chunk := crew.take_for(waiting)) is not None:
                    return chunk, True
            self.spare = 0  # what is awaited is not in the queue; whoever puts it there counts again
            crew.workers.pop(worker, None)
            return None, True

    def note_wait(self, worker: Worker, change: int, is_for_any: bool) -> None:
        """Take note that ``worker`` waits once more, or once less."""
        crew = self._crew
        with crew.lock:
            before = (worker.waits > 0, worker.waits_for_any > 0)
            worker.waits += change
            worker.waits_for_any += change if is_for_any else 0
            if worker.is_abandoned:
                return
            self._blocked += (worker.waits > 0) - before[0]
            self._for_any += (worker.waits_for_any > 0) - before[1]
            self.count()
        if change > 0:
            crew.send_help()

    def forget(self, worker: Worker) -> None:
        """Take note that ``worker`` was left behind, maybe in a wait. Under the lock, before it is marked as such."""
        self._blocked -= worker.waits > 0
        self._for_any -= worker.waits_for_any > 0

    def note_awaited(self, awaited: Awaited, change: int) -> None:
        """Take note that one more worker, of whatever crew, waits for ``awaited``, or one less."""
        with self._crew.lock:
            self._awaited[awaited] += change
            if self._awaited[awaited] <= 0:
                del self._awaited[awaited]
            self.count()
        if change > 0:
            self._crew.send_help()

    def count(self) -> None:
        """Lend the places of blocked workers, if anything that others wait for has not begun. Under the lock."""
        chunks = [awaited._chunk for awaited in self._awaited]
        self.spare = self._blocked if any(chunk is not None and chunk.todo for chunk in chunks) else 0


@contextmanager
def making_room(crew: Crew | None = None, awaited: Awaited | None = None) -> Iterator[None]:
    """Say, while the block runs, that this thread waits: for a task of ``crew``, or for something else.

    On a thread that is no worker it does nothing. But a run's input is advanced for whoever waits for the run: what its
    feeder waits for is awaited as well.
    """
    worker = seat if isinstance(seat := here.seat, Worker) else None
    is_awaited = crew is not None and awaited is not None and (worker is not None or here.is_feeder)
    if crew is not None and awaited is not None and is_awaited:
        crew.room.note_awaited(awaited, +1)
    try:
        if worker is None:
            yield
            return
        worker.note_wait(+1, is_for_any=False)
        try:
            yield
        finally:
            worker.note_wait(-1, is_for_any=False)
    finally:
        if crew is not None and awaited is not None and is_awaited:
            crew.room.note_awaited(awaited, -1)


def call_for_help() -> None:
    """Let others take what waits behind the call that this worker makes, which lasts. On its thread, without a lock."""
    if isinstance(worker := here.seat, Worker):
        worker.crew.hurry()


def run_here(crew: Crew, chunk: Chunk) -> bool:
    """Make the call of ``chunk`` on this thread, if it is a worker of ``crew`` and nobody has begun it.

    Not where calls have a ``call_timeout``: two of them on one thread could not be told apart when it is stuck.
    Nor in a block that may be cancelled by itself: its end could not be felt in a call of somebody else's. Nor where
    each worker has a resource, which the call that waits is in the middle of using.
    """
    worker = here.seat
    if here.scope is not None:
        return False
    if not isinstance(worker, ThreadWorker) or worker.crew is not crew or worker.chunk is None:
        return False
    if not crew.stacks_calls:
        return False
    if len(worker.outer) >= MAX_STACKED_CALLS or (crew.attempts and crew.attempts.policy.call_timeout is not None):
        return False
    with crew.lock:
        if crew.is_stopping or worker.is_abandoned or not crew.withdraw(chunk):
            return False
        outer = worker.chunk
        worker.outer.append(outer)
        worker.chunk = chunk
    scope, here.scope = here.scope, None
    places, here.places = here.places, crew.places
    chunk.begun = perf_counter()
    try:
        worker.engine.make_calls(chunk)
    except BaseException as error:
        crew.mark_lost(chunk, describe(error))
        raise
    finally:
        here.scope, here.places = scope, places
        crew.hand_in(worker, chunk)
        with crew.lock:
            worker.chunk = worker.outer.pop()
    return True
