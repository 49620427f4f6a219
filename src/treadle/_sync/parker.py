"""A place where one thread waits until somebody wakes it."""

from __future__ import annotations

import math
import threading
from typing import Protocol

from treadle._core import clock
from treadle._core.greenlets import check_patched_first

WATCHFUL_SECONDS = 0.05


class Waker(Protocol):
    """Whoever can be woken: a parked thread, or a coroutine waiting on its loop."""

    def wake(self) -> None:
        """Let the next or the present wait end. Never blocks, may be called from any thread, any number of times."""


class Parker:
    """One thread waits here; any thread may wake it. A wake-up that comes first is kept, one, not more.

    A wait may also end for no reason: whoever waits looks again at what it waits for.
    """

    __slots__ = ("_permit",)

    def __init__(self) -> None:
        check_patched_first()
        self._permit = threading.Lock()  # locked: no wake-up is kept
        self._permit.acquire()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait to be woken, or for ``seconds``; tell which it was."""
        if seconds is None:
            return self._permit.acquire()
        return clock.in_use().wait(self._permit, min(max(0.0, seconds), threading.TIMEOUT_MAX))

    def rest(self, seconds: float) -> bool:
        """As ``wait``, by the machine's clock, whatever the clock in use says."""
        return self._permit.acquire(True, seconds)

    def wait_watchfully(self, seconds: float | None = None, poll_seconds: float = math.inf) -> bool:
        """As ``wait``, but sure to be interrupted by Ctrl-C in the main thread.

        A signal that comes a moment before ``acquire`` begins does not end it (seen in three of eight runs
        without a GIL), and on Windows none does; so the main thread never waits for long without looking up.

        Args:
            seconds: By the clock in use; None: for ever.
            poll_seconds: Return after so long by the machine's clock, whatever the clock in use says.
        """
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main and poll_seconds == math.inf:
            return self.wait(seconds)
        deadline = math.inf if seconds is None else clock.after(seconds)
        longest = WATCHFUL_SECONDS if is_main else threading.TIMEOUT_MAX
        while poll_seconds > 0 and (left := clock.left_until(deadline)) > 0:
            slice_seconds = min(left, poll_seconds, longest)
            if self._permit.acquire(timeout=slice_seconds):
                return True
            poll_seconds -= slice_seconds
        return self._permit.acquire(blocking=False)

    def wake(self) -> None:
        """Let the next or the present wait end."""
        try:
            self._permit.release()
        except RuntimeError:  # a wake-up is kept already
            pass
