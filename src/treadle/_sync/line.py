"""A line of threads that wait for the same thing, the first of whom is called when there is some.

Nobody is given anything: others only call, and whoever is called looks for itself. So each thread changes its
own place alone, and one that leaves without having taken anything (a timeout, a cancellation, Ctrl-C) leaves
nothing undone but the call it may have had, which it passes on.

No wake-up is lost, because of one invariant: *while anybody stands in line, as many have been called and have not
looked yet as there are things to be had, or more*.

- One stands in line only after having looked and seen nothing to be had, under the lock.
- Whoever adds one thing calls one, under the same hold of the lock.
- One that was called takes one thing, or finds nothing left, or leaves and calls another.
- Others who take something without standing in line only make it less.

Those called have gone out of the line and go on by themselves; once the last has looked, either the line is
empty or nothing is to be had.

Something may also be added without the lock, if each side writes first and looks second: who adds something looks
whether anybody stands in line, and then calls one under the lock; who stands in line looks once more. Both use a
container whose operations are atomic, on a build without a GIL by a lock of its own, so one of them comes first and
is seen by the other. What was added and not yet called for counts as called.

It is also safe from Ctrl-C, which in the main thread may come after any function call: to call comes first, and
the one step that changes something comes last, so an interrupt between the two has only called somebody in vain.
Where something is changed first, an interrupt calls as well.
"""

from __future__ import annotations

import _thread
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Final, Literal, TypeAlias, TypeVar

from treadle._core import clock
from treadle._core.raw import refuse_to_wait
from treadle._sync import cancelling
from treadle._sync.parker import Parker

R = TypeVar("R")


class Nothing(Enum):
    """What an attempt comes back with for which the time has not come."""

    YET = 0


NOTHING_YET: Final = Nothing.YET
Attempt: TypeAlias = Callable[[Parker], R | Literal[Nothing.YET]]


class Line:
    """Those who wait, in the order in which they came. Used under ``lock``, except for ``wait`` and ``leave``.

    Args:
        lock: Protects the line and what is waited for; held for moments.
    """

    __slots__ = ("_lock", "waiting")

    def __init__(self, lock: _thread.RLock) -> None:
        self._lock = lock
        self.waiting: OrderedDict[Parker, None] = OrderedDict()  # any of whom leaves in constant time

    def call_first(self) -> None:
        """Have the first in line look whether its time has come."""
        for parker in self.waiting:
            parker.wake()
            del self.waiting[parker]
            return

    def wait(self, attempt: Attempt[R], has_more: Callable[[], bool], timeout: float | None, complaint: str) -> R:
        """Wait until ``attempt`` succeeds, and return what it comes back with.

        Args:
            attempt: Given the caller's place. Under the lock it either takes what is waited for, or enters the
                place into ``waiting`` and returns ``NOTHING_YET``.
            has_more: Tells, under the lock, whether there is something for the next in line.
            timeout: Seconds; None: no limit.
            complaint: The text of the ``TimeoutError``, without the time.

        Raises:
            Cancelled: What runs here was asked to end; nothing was taken.
            TimeoutError: The time came first; nothing was taken.
        """
        cancelling.refuse_on_loop("waiting for a channel", "its nowait methods, or `await treadle.to_thread(...)`")
        deadline = None if timeout is None else clock.now() + timeout
        left = None
        place = Parker()
        try:
            with cancelling.WaitForOthers() as others:
                while (result := attempt(place)) is NOTHING_YET:
                    if deadline is not None and (left := clock.left_until(deadline)) <= 0:
                        raise TimeoutError(f"{complaint} within {timeout} seconds")
                    refuse_to_wait(self._lock, "what it waits for")
                    others.wait(place, left)
            return result
        finally:
            try:
                self.leave(place, has_more)
            except BaseException:  # Ctrl-C: each step may be done twice
                self.leave(place, has_more)
                raise

    def leave(self, place: Parker, has_more: Callable[[], bool]) -> None:
        """Go out of the line, and call the next if there is more."""
        with self._lock:
            self.waiting.pop(place, None)
            if self.waiting and has_more():
                self.call_first()
