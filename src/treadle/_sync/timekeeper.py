"""The timekeeper: does things when their time has come, on one thread that lives while there are any.

It takes no lock. A finalizer, or a signal handler, may come upon a thread between any two steps, also of those that set
a timer; and what it does may set timers, or cancel them. So whoever wants something leaves a note; the heap is the
timekeeper's thread alone.

Nothing is forgotten, as each side writes first and looks second, by steps that are atomic with and without a GIL:

- Who sets a timer puts it where it will be found, and then looks whether a thread is on duty, and until when it sleeps.
- The thread says until when it sleeps, and then looks once more for what has come; it goes off duty, and then looks
  once more.
- Who finds no thread on duty starts one. Where several do, the first to arrive is on duty, and the others leave.
"""

from __future__ import annotations

import heapq
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from treadle._core import clock
from treadle._sync.aside import guard, run_aside, start_thread
from treadle._sync.parker import Parker

# So many cancelled timers may lie about before they are swept up.
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
        """Do not do it, unless it is being done already. Takes no lock."""
        self.action = None
        if not self.is_cancelled:
            self.is_cancelled = True
            self._keeper.note_cancelled(self)

    def do(self) -> None:
        """Do it, unless it was cancelled."""
        action, self.action = self.action, None  # it may hold much, and whoever set the timer may keep that for long
        if action is None:
            return
        if self.may_block:
            run_aside("timer", action)
        else:
            guard(action)


class Timekeeper:
    """Keeps timers in a heap."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._arrived: deque[Timer] = deque()
        self._on_duty: dict[str, Parker] = {}  # at most one: of the thread, while there is one
        self._unwanted = 0  # cancelled since the last sweep, about
        self._order = count()
        # The thread's alone.
        self._heap: list[tuple[float, int, Timer]] = []
        # Until when it sleeps; while it is awake it looks by itself. Read by others.
        self._sleeps_until = -math.inf

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
        self._arrived.append(timer)
        try:
            self._rouse(when)
        except BaseException:  # whoever finds a thread next must not come upon it
            timer.is_cancelled, timer.action = True, None
            with suppress(ValueError, IndexError):  # the latter where others come meanwhile
                self._arrived.remove(timer)
            raise
        return timer

    def leave(self, action: Callable[[], object]) -> bool:
        """Have ``action`` called at once, on the timekeeper's thread; False: as soon as there is a thread to be had.

        For who must not do it here: a finalizer, or a handler, whose thread may hold the lock that it takes.
        """
        self._arrived.append(Timer(self, -math.inf, action, False))
        try:
            self._rouse(-math.inf)
        except (RuntimeError, MemoryError):
            return False
        return True

    def note_cancelled(self, timer: Timer) -> None:
        """Have cancelled timers forgotten where they keep the thread waiting, or are too many."""
        self._unwanted += 1
        is_waited_for = timer.when <= self._sleeps_until
        if (is_waited_for or self._has_many_unwanted()) and (parker := self._on_duty.get("thread")) is not None:
            parker.wake()

    def _has_many_unwanted(self) -> bool:
        return self._unwanted > max(SWEEP_AT, len(self._heap) // 2)

    def _rouse(self, when: float) -> None:
        """See to it that a thread looks at what has come, by ``when``."""
        parker = self._on_duty.get("thread")
        if parker is None:
            thread = threading.Thread(target=self._keep, name="treadle-timekeeper", daemon=True)
            try:
                start_thread(thread)
            except (RuntimeError, MemoryError):
                if not self._on_duty:  # otherwise another has one
                    raise
        elif when < self._sleeps_until:
            parker.wake()

    def _keep(self) -> None:
        parker = Parker()
        while self._on_duty.setdefault("thread", parker) is parker:
            try:
                while self._take_in() or self._heap:
                    if not self._do_what_is_due():
                        self._sleep(parker)
            finally:
                del self._on_duty["thread"]
            if not self._has_arrivals():
                return

    def _has_arrivals(self) -> bool:
        try:
            self._arrived[0]  # not len(), which is not ordered with others' steps where there is no GIL
        except IndexError:
            return False
        return True

    def _take_in(self) -> bool:
        """Put what has come into the heap, and tell whether there was anything."""
        is_news = False
        while True:
            try:
                timer = self._arrived.popleft()
            except IndexError:
                return is_news
            is_news = True
            if not timer.is_cancelled:
                heapq.heappush(self._heap, (timer.when, next(self._order), timer))

    def _do_what_is_due(self) -> bool:
        """Do what is due, sweep up what is cancelled, and tell whether there was anything."""
        if self._has_many_unwanted():
            self._unwanted = 0
            self._heap = [entry for entry in self._heap if not entry[2].is_cancelled]
            heapq.heapify(self._heap)
        due: list[Timer] = []
        while self._heap and (self._heap[0][2].is_cancelled or clock.has_come(self._heap[0][0])):
            due.append(heapq.heappop(self._heap)[2])
        for timer in due:
            timer.do()
        return bool(due)

    def _sleep(self, parker: Parker) -> None:
        """Wait for the first of the timers, or for news."""
        if not self._heap:
            return
        self._sleeps_until = when = self._heap[0][0]
        if not (self._take_in() or self._heap[0][2].is_cancelled or self._has_many_unwanted()):
            parker.wait(clock.left_until(when))
        self._sleeps_until = -math.inf


_keeper = Timekeeper()


def call_at(when: float, action: Callable[[], object], may_block: bool = False) -> Timer:
    """Call ``action`` at ``when``; see ``Timekeeper.call_at``."""
    return _present().call_at(when, action, may_block)


def leave(action: Callable[[], object]) -> bool:
    """Have ``action`` called by somebody else, at once; see ``Timekeeper.leave``."""
    return _present().leave(action)


def _present() -> Timekeeper:
    global _keeper
    if _keeper.pid != os.getpid():  # the thread stayed with the parent
        _keeper = Timekeeper()
    return _keeper
