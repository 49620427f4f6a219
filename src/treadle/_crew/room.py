"""Room for those that others wait for: why tasks that wait for tasks do not deadlock.

A worker that waits holds its place in the crew. If what it waits for needs a place in the same crew, directly
or through other crews, nobody would ever go on. So each wait of Treadle's on a worker's thread says that it
waits, and for which task, if that has not begun. While a crew has such an awaited task, it lends out the places
of its blocked workers; what is lent is used for awaited tasks only. So the calls that are really being made stay
within ``max_workers``, and no place is lent where nobody waits.
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
        self.spare = 0  # workers beyond max_workers that may be had now; read without the lock
        self._crew = crew
        self._blocked = 0
        self._awaited: Counter[Awaited] = Counter()

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
            self.spare = 0  # what is awaited is not in the queue; whoever puts it there counts again
            crew.workers.pop(worker, None)
            return None, True

    def note_blocked(self, change: int) -> None:
        """Take note that one more worker waits, or one less."""
        with self._crew.lock:
            self._blocked += change
            self.count()
        if change > 0:
            self._crew.send_help()

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

    On a thread that is no worker it does nothing.
    """
    seat = here.seat
    if not isinstance(seat, Worker):
        yield
        return
    if crew is not None and awaited is not None:
        crew.room.note_awaited(awaited, +1)
    seat.crew.room.note_blocked(+1)
    try:
        yield
    finally:
        seat.crew.room.note_blocked(-1)
        if crew is not None and awaited is not None:
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
