"""A place where one thread waits until somebody wakes it."""

from __future__ import annotations

import threading
from typing import Protocol


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
        """Wait to be woken, or for ``seconds``; tell which it was. Ctrl-C interrupts it in the main thread."""
        if seconds is None:
            return self._permit.acquire()
        return self._permit.acquire(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX))

    def wake(self) -> None:
        """Let the next or the present wait end."""
        try:
            self._permit.release()
        except RuntimeError:  # a wake-up is kept already
            pass
