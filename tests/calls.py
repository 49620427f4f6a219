"""Calls for tests to make: one that heeds its cancellation, and says how far it is."""

from __future__ import annotations

import threading

import treadle

PATIENCE_SECONDS = 10.0
FOR_EVER_SECONDS = 100_000.0


class Nap:
    """Sleeps for ever, says when it has begun, and counts how often it was cancelled."""

    def __init__(self) -> None:
        self._cancellations: list[treadle.Cancelled] = []
        self._begun = threading.Semaphore(0)

    def __call__(self, item: object = None) -> object:
        self._begun.release()
        try:
            treadle.sleep(FOR_EVER_SECONDS)
        except treadle.Cancelled as cancelled:
            self._cancellations.append(cancelled)
            raise
        return item

    @property
    def cancelled(self) -> int:
        """How many of its calls were cancelled."""
        return len(self._cancellations)

    def wait_until_begun(self, count: int = 1) -> None:
        """Wait until ``count`` calls more have begun."""
        for _ in range(count):
            assert self._begun.acquire(timeout=PATIENCE_SECONDS), "the nap never began"
