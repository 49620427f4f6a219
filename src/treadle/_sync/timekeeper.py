"""The timekeeper: does things when their time has come, on one thread that lives while there are any."""

from __future__ import annotations

import heapq
import os
import threading
from collections.abc import Callable
from itertools import count

from treadle._core import clock
from treadle._sync.aside import guard, run_aside
from treadle._sync.parker import Parker

# So many cancelled timers may lie about before they are swept up, if they are more than half of all.
SWEEP_AT = 64


class Timer:
    """Something to be done at a time. ``cancel`` makes sure that it is not begun after that."""

    __slots__ = ("_keeper", "action", "is_cancelled", "may_block", "when")

    def __init__(self, keeper: Timekeeper, when: float, action: Callable[[], object], may_block: bool) -> None:
        self._keeper = keeper
        self.when = when
        self.action: Callable[[], object] | None = action
        self.may_block = may_block
        self.is_cancelled = False

    def cancel(self) -> None:
        """Do not do it, unless it is being done already. Takes the timekeeper's lock, which calls nobody."""
        self.is_cancelled = True
        self.action = None
        self._keeper.sweep()


class Timekeeper:
    """Keeps timers in a heap. Its lock protects the heap and the thread, and is held for moments."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._parker: Parker | None = None  # of the thread, while there is one

    def call_at(self, when: float, action: Callable[[], object], may_block: bool = False) -> Timer:
        """Call ``action`` at ``when``, by ``clock.now()``.

        Args:
            when: A time in the past means at once.
            action: Called on the timekeeper's thread. An error of it is logged.
            may_block: It may come upon code of the user's, and gets a thread of its own.

        Raises:
            RuntimeError: There is no thread to be had, so nothing will be done.
        """
        timer = Timer(self, when, action, may_block)
        with self._lock:
            heapq.heappush(self._heap, (when, next(self._order), timer))
            is_first = self._heap[0][2] is timer
            if (parker := self._parker) is None:
                parker = self._parker = Parker()
                try:
                    self._start(parker)
                except BaseException:  # the next one who finds a thread must not come upon it
                    timer.is_cancelled, timer.action = True, None
                    raise
            elif is_first:
                parker.wake()
        return timer

    def sweep(self) -> None:
        """Forget cancelled timers where they would keep the thread waiting, or are too many."""
        if self.pid != os.getpid():
            return
        with self._lock:
            heap = self._heap
            while heap and heap[0][2].is_cancelled:
                heapq.heappop(heap)
            if len(heap) > SWEEP_AT and sum(entry[2].is_cancelled for entry in heap[-SWEEP_AT:]) > SWEEP_AT // 2:
                self._heap = [entry for entry in heap if not entry[2].is_cancelled]
                heapq.heapify(self._heap)
            if not self._heap and self._parker is not None:
                self._parker.wake()

    def _start(self, parker: Parker) -> None:
        thread = threading.Thread(target=self._keep, args=(parker,), name="treadle-timekeeper", daemon=True)
        try:
            thread.start()
        except BaseException:
            self._parker = None
            raise

    def _keep(self, parker: Parker) -> None:
        while True:
            due: list[Timer] = []
            with self._lock:
                now = clock.now()
                while self._heap and (self._heap[0][0] <= now or self._heap[0][2].is_cancelled):
                    due.append(heapq.heappop(self._heap)[2])
                if not (self._heap or due):
                    self._parker = None
                    return
                seconds = self._heap[0][0] - now if self._heap else 0.0
            for timer in due:
                self._do(timer)
            if not due:
                parker.wait(seconds)

    def _do(self, timer: Timer) -> None:
        action = timer.action
        if action is None:
            return
        if timer.may_block:
            run_aside("timer", action)
        else:
            guard(action)


_keeper = Timekeeper()


def call_at(when: float, action: Callable[[], object], may_block: bool = False) -> Timer:
    """Call ``action`` at ``when``; see ``Timekeeper.call_at``."""
    global _keeper
    if _keeper.pid != os.getpid():  # the thread, and maybe a holder of the lock, stayed with the parent
        _keeper = Timekeeper()
    return _keeper.call_at(when, action, may_block)
