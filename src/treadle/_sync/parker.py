"""A place where one thread waits until somebody wakes it."""

from __future__ import annotations

import math
import threading
import time
from typing import Protocol

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
        self._permit = threading.Lock()  # locked: no wake-up is kept
        self._permit.acquire()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait to be woken, or for ``seconds``; tell which it was."""
        if seconds is None:
            return self._permit.acquire()
        return self._permit.acquire(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX))

    def wait_watchfully(self, seconds: float | None = None) -> bool:
        """As ``wait``, but sure to be interrupted by Ctrl-C in the main thread.

        A signal that comes a moment before ``acquire`` begins does not end it (seen in three of eight runs
        without a GIL), and on Windows none does; so nobody waits for long without looking up.
        """
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > WATCHFUL_SECONDS:
            if self._permit.acquire(timeout=WATCHFUL_SECONDS):
                return True
        return self.wait(left)

    def wake(self) -> None:
        """Let the next or the present wait end."""
        try:
            self._permit.release()
        except RuntimeError:  # a wake-up is kept already
            pass
