"""The crew: the workers of one run, what waits for them, and who helps whom."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from treadle._core.chunk import Chunk
from treadle._crew.chunking import ChunkSizer
from treadle._crew.gil import is_gil_enabled
from treadle._crew.worker import Worker
from treadle._engines.engine import Engine
from treadle.errors import WorkerLost

_logger = logging.getLogger("treadle")


class Account(Protocol):
    """Whoever the crew works for. All methods are called under the crew's lock."""

    def note_settled(self, chunk: Chunk) -> None:
        """Take note that all calls of ``chunk`` are made."""

    def note_split(self, tail: Chunk) -> None:
        """Take note that ``tail`` was split off an earlier chunk."""

    def note_expired(self) -> None:
        """Take note that the crew's deadline has passed."""

    def note_broken(self, error: BaseException) -> None:
        """Take note that a worker could not get ready, and that the crew is of no use."""

    def note_quieter(self) -> None:
        """Take note that a worker of a stopping crew has ended its call, or left."""


class Crew:
    """Up to ``max_workers`` workers, started as work waits for them.

    Whoever hands in a chunk sends one worker on its way, and each that arrives and sees more work sends the
    next: so a burst of tiny calls, which the first worker has done before a second could arrive, starts no
    more threads than it can use.

    ``lock`` protects everything here, the chunks' fields that say so, and the account. It is held for
    moments, never while code of the user's runs.
    """

    def __init__(
        self,
        name: str,
        max_workers: int,
        make_engine: Callable[[], Engine],
        sizer: ChunkSizer,
        account: Account,
        deadline: float | None = None,
    ) -> None:
        self.lock = threading.Lock()
        self.sizer = sizer
        self.workers: dict[Worker, None] = {}
        self.busy = 0
        self.is_stopping = False
        self.close_errors: list[BaseException] = []
        self._name = name
        self._max_workers = max_workers
        self._make_engine = make_engine
        self._account = account
        self._deadline = deadline
        self._queue: deque[Chunk] = deque()
        self._queued_items = 0
        self._idle: list[Worker] = []
        self._is_one_on_its_way = False
        self._opening = 0
        self._large_in_hand = 0
        self._started = 0
        self._gil = is_gil_enabled()

    # What the run asks of its crew

    def submit(self, chunk: Chunk) -> None:
        """Have the calls of ``chunk`` made."""
        with self.lock:
            if self.is_stopping:
                return  # the account has the chunk: its items were not started
            self._queue.append(chunk)
            self._queued_items += len(chunk.items)
            helper = self._choose_helper()
        if helper is not None:
            self._send(helper)

    def extend_last(self, index: int, item: object, size: int) -> bool:
        """Add ``item`` to the last chunk that waits, if it has fewer than ``size`` items and ends at ``index``."""
        with self.lock:
            chunk = self._queue[-1] if self._queue else None
            if chunk is None or len(chunk.items) >= size or chunk.start + len(chunk.items) != index:
                return False
            chunk.items.append(item)
            chunk.todo.insert(0, item)
            self._queued_items += 1
            helper = self._choose_helper()
        if helper is not None:
            self._send(helper)
        return True

    def can_stall(self) -> bool:
        """Tell whether work may wait behind a call that turned out slow. Called under the lock."""
        if self._queue:
            return bool(self._idle) or len(self.workers) < self._max_workers
        return self._large_in_hand > 0

    def hurry(self) -> None:
        """Forget how fast calls used to be, and send help to whoever has calls waiting."""
        with self.lock:
            self.sizer.mean = None
            helper = self._choose_helper()
        if helper is not None:
            self._send(helper)

    def chunks_in_hand(self) -> list[Chunk]:
        """Return the chunks whose calls are being made. Called under the lock, or by a mere onlooker."""
        return [worker.chunk for worker in list(self.workers) if worker.chunk is not None]

    def stop(self) -> None:
        """Begin no further call, and let every worker leave. Called under the lock."""
        self.is_stopping = True
        self._queue.clear()
        self._queued_items = 0
        self._idle.clear()
        for worker in self.workers:
            if worker.chunk is not None:
                worker.chunk.todo.clear()
                worker.engine.interrupt()
            worker.parker.wake()

    def abandon(self) -> list[Worker]:
        """Give up on the workers that are still in a call, and return them. Called under the lock."""
        left_behind = [worker for worker in self.workers if worker.chunk is not None]
        for worker in left_behind:
            assert worker.chunk is not None
            worker.abandoned = True
            worker.chunk.freeze()
            del self.workers[worker]
        self.busy -= len(left_behind)
        return left_behind

    def close_after_fork(self) -> None:
        """Forget the workers, who do not exist in a forked child. The old lock may be held by one of them."""
        self.lock = threading.Lock()
        self.is_stopping = True
        for chunk in self.chunks_in_hand():
            chunk.todo.clear()  # the child may have been forked by a call
        self._queue.clear()
        self._idle.clear()
        self.workers.clear()
        self.busy = 0

    # What a worker says to its crew

    def exchange(self, worker: Worker, finished: Chunk | None) -> Chunk | None:
        """Hand in what ``worker`` has finished, and return what it is to do next; None: leave."""
        weight = 0
        if finished is not None:
            finished.ended = perf_counter()
            weight = self.sizer.weigh(finished)
        while True:
            with self.lock:
                if finished is not None:
                    self._settle(worker, finished, weight)
                    finished = None
                self._note_arrival(worker)
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    self._account.note_expired()
                if self.is_stopping or worker.abandoned:
                    return None
                chunk = self._take()
                if chunk is not None:
                    self._hand_over(chunk, worker)
                    helper = self._choose_helper()
                else:
                    helper = None
                    self._idle.append(worker)
            if chunk is None:
                worker.parker.wait()
                continue
            if helper is not None:
                self._send(helper)
            return chunk

    def report_opening(self, worker: Worker) -> None:
        """Take note that ``worker`` runs, and is getting ready, which may take long: others may start meanwhile."""
        with self.lock:
            self._note_arrival(worker)
            worker.is_opening = True
            self._opening += 1
            helper = self._choose_helper()
        if helper is not None:
            self._send(helper)

    def report_unopened(self, worker: Worker, error: BaseException) -> None:
        """Take note that ``worker`` could not get ready: a run without its resources is no run."""
        with self.lock:
            self._note_arrival(worker)
            self._account.note_broken(error)

    def report_lost(self, worker: Worker, error: BaseException) -> None:
        """Take note that ``worker`` dies: the item in its hands failed, the others wait again."""
        _logger.error("worker %s of run %r died: %r", worker.thread.name, self._name, error)
        with self.lock:
            self._note_arrival(worker)
            chunk = worker.chunk
            if chunk is None or worker.abandoned:
                return
            rest = chunk.split(len(chunk.todo))
            if len(chunk.results) < len(chunk.items):
                chunk.fail(WorkerLost(self._name, chunk.start + len(chunk.results), repr(error)))
                chunk.results.append(None)
            self._settle(worker, chunk, weight=0)
            if rest is not None:
                self._account.note_split(rest)
                if not self.is_stopping:
                    self._queue.appendleft(rest)
                    self._queued_items += len(rest.items)
            self.workers.pop(worker, None)
            helper = self._choose_helper()
        if helper is not None:
            self._send(helper)

    def report_left(self, worker: Worker, error: BaseException | None) -> None:
        """Take note that ``worker`` has gone; ``error`` is what closing its engine raised."""
        with self.lock:
            self.workers.pop(worker, None)
            if error is not None:
                self.close_errors.append(error)
            self._account.note_quieter()
        if error is not None:
            _logger.error("run %r: closing the resource of %s failed", self._name, worker.thread.name, exc_info=error)

    # Under the lock

    def _note_arrival(self, worker: Worker) -> None:
        if worker.is_on_its_way:
            worker.is_on_its_way = self._is_one_on_its_way = False
        if worker.is_opening:
            worker.is_opening = False
            self._opening -= 1

    def _hand_over(self, chunk: Chunk, worker: Worker) -> None:
        worker.chunk = chunk
        self.busy += 1
        if len(chunk.items) > 1:
            worker.has_large = True
            self._large_in_hand += 1
        chunk.begun = perf_counter()

    def _settle(self, worker: Worker, chunk: Chunk, weight: int) -> None:
        worker.chunk = None
        if worker.abandoned:
            return  # its account is closed
        self.busy -= 1
        if worker.has_large:
            worker.has_large = False
            self._large_in_hand -= 1
        chunk.end = "done"
        self.sizer.observe(chunk, weight)
        self._account.note_settled(chunk)
        if self.is_stopping:
            self._account.note_quieter()

    def _take(self) -> Chunk | None:
        if self._queue:
            chunk = self._queue.popleft()
            self._queued_items -= len(chunk.items)
            return chunk
        victim = self._longest_in_hand()
        if victim is None or not self.sizer.is_worth_sharing(len(victim.todo), self._gil):
            return None
        # Half of it: the rest stays with its owner, and either part can be split again.
        tail = victim.split((len(victim.todo) + 1) // 2)
        if tail is not None:
            self._account.note_split(tail)
        return tail

    def _longest_in_hand(self) -> Chunk | None:
        if self._large_in_hand == 0:
            return None
        return max(self.chunks_in_hand(), key=lambda chunk: len(chunk.todo), default=None)

    def _choose_helper(self) -> Worker | None:
        """Return a worker to send for the work that waits, at most one at a time; new ones are not started yet."""
        if self._is_one_on_its_way or self.is_stopping:
            return None
        if not self._idle and len(self.workers) >= self._max_workers:
            return None
        if self._queue:
            if len(self._queue) <= self._opening:
                return None  # those who are getting ready will take it
            waiting = self._queued_items
        else:
            longest = self._longest_in_hand()
            waiting = len(longest.todo) if longest is not None else 0
        if waiting == 0 or (self.busy and not self.sizer.is_worth_sharing(waiting, self._gil)):
            return None
        self._is_one_on_its_way = True
        if self._idle:
            worker = self._idle.pop()
            worker.is_on_its_way = True
            return worker
        worker = Worker(self, self._make_engine(), f"treadle-{self._name}-{self._started}")
        self._started += 1
        self.workers[worker] = None
        return worker

    # Without the lock

    def _send(self, worker: Worker) -> None:
        if worker.thread.ident is not None:
            worker.parker.wake()
            return
        try:
            worker.thread.start()
        except (RuntimeError, MemoryError) as error:
            self._make_do_without(worker, error)

    def _make_do_without(self, worker: Worker, error: BaseException) -> None:
        """Go on with the workers there are: the system gives us no further thread."""
        with self.lock:
            self._is_one_on_its_way = False
            self.workers.pop(worker, None)
            enough = len(self.workers)
            if enough == 0:
                self._account.note_broken(error)
            already_said = self._max_workers <= enough
            self._max_workers = max(1, enough)
        if enough and not already_said:
            _logger.warning("run %r goes on with %d workers: no further thread starts (%s)", self._name, enough, error)
