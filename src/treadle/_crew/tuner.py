"""Has a crew follow a controller: passes on how its calls went, and sets the number of its workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from treadle._core.chunk import Chunk
from treadle._core.real_time import perf_counter, thread_time
from treadle._crew.controller import Knee
from treadle._crew.rounds import Round
from treadle._crew.worker import ThreadWorker, Worker

if TYPE_CHECKING:
    from treadle._crew.muster import Muster


class Tuner:
    """Between a crew, whose workers report all at once, and a controller, which is told one thing after the other.

    Nobody waits to report: whoever finds the controller free passes on what there is, the others leave theirs.

    Args:
        crew: Whose workers are many or few.
        knee: Says how many.
    """

    def __init__(self, crew: Muster, knee: Knee) -> None:
        self.knee = knee
        self._crew = crew
        self._reports: deque[Round | float] = deque()  # a number: when an answer came that meant to slow down
        self._is_over = False
        self._passing_on = threading.Lock()  # protects the controller; taken before the crew's
        self._here = threading.local()  # this thread's processor time, when it began its chunk

    def note_begun(self, worker: Worker) -> None:
        """Take note that ``worker`` begins a chunk. On its thread."""
        if not hasattr(self._here, "began"):
            worker.free_since = None  # since it told a tuner before this one
        self._here.began = thread_time()

    def note_done(self, worker: Worker, chunk: Chunk, calls: int) -> None:
        """Take note that ``calls`` of a chunk were made, and settled. On the worker's thread, without a lock."""
        if chunk.begun is None or worker.is_abandoned or worker.outer or self._crew.is_stopping:
            return
        if not hasattr(self._here, "began"):  # it was begun when there was no tuner, and as many as somebody else said
            return
        cores = 0.0
        if isinstance(worker, ThreadWorker):  # on a loop, all have one thread
            cores = thread_time() - self._here.began
        crew, began, ended = self._crew, worker.free_since, perf_counter()
        worker.free_since = ended
        is_throttled = chunk.trial is not None and chunk.trial.is_throttled
        self._reports.append(
            Round(
                began=chunk.begun if began is None else began,
                ended=ended,
                calls=0 if is_throttled else calls,
                workers=len(crew.workers),
                busy=crew.at_work(),
                cores=cores,
            )
        )
        if is_throttled:
            self._reports.append(ended)
        self._pass_on()

    def note_throttled(self) -> None:
        """Take note that a call that was left behind meant to slow down. Without a lock."""
        self._reports.append(perf_counter())
        self._pass_on()

    def close_after_fork(self) -> None:
        """Make the lock anew in a forked child: a thread that is not there may hold the parent's."""
        self._passing_on = threading.Lock()

    def stop(self) -> None:
        """Change nothing any more."""
        with self._passing_on:
            self._is_over = True

    def _pass_on(self) -> None:
        while self._reports and not self._is_over and self._passing_on.acquire(blocking=False):
            try:
                while self._reports and not self._is_over:
                    self._tell(self._reports.popleft())
                if not self._is_over:
                    self.follow()
            finally:
                self._passing_on.release()

    def _tell(self, report: Round | float) -> None:
        if isinstance(report, Round):
            self.knee.note(report, self._open_since)
        else:
            self.knee.note_throttled(report)

    def _open_since(self) -> Iterator[float]:
        """Tell since when each worker has asked for the calls that it is making."""
        for worker in list(self._crew.workers):
            chunk = worker.chunk
            since = worker.free_since or (None if chunk is None else chunk.begun)
            if since is not None and not worker.is_idle:
                yield since

    def follow(self) -> None:
        """Let the crew have as many workers as the controller says."""
        crew, wanted = self._crew, self.knee.workers
        if crew.max_workers == wanted:
            return
        crew.sizer.resize(wanted)  # first the bound: who hears of more workers takes more items
        if (most := crew.resize(wanted)) < wanted:  # the system gives no more threads
            self.knee.limit(most)
            crew.sizer.resize(most)
