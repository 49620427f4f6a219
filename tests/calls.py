"""Calls for tests to make: one that heeds its cancellation, and says how far it is."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

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


class FileGate:
    """Holds calls until it is opened, in whatever process they are made: what they share is a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, item: object = None) -> object:
        """Announce the arrival, wait until the gate is open, and return ``item``."""
        (self._folder / f"arrived-{os.getpid()}-{threading.get_ident()}-{time.perf_counter_ns()}").touch()
        deadline = time.monotonic() + 6 * PATIENCE_SECONDS
        while not (self._folder / "open").exists():
            assert time.monotonic() < deadline, "the gate was never opened"
            time.sleep(0.001)
        return item

    def wait_for_arrivals(self, count: int = 1) -> list[int]:
        """Wait until ``count`` calls have arrived, and return the numbers of their processes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(arrived := sorted(self._folder.glob("arrived-*"))) < count:
            assert time.monotonic() < deadline, "nobody arrived at the gate"
            time.sleep(0.001)
        return [int(path.name.split("-")[1]) for path in arrived]

    def open(self) -> None:
        """Let everybody through, now and later."""
        (self._folder / "open").touch()


class Meter:
    """Counts how many are inside at the same time."""

    def __init__(self) -> None:
        self.most = 0
        self.passed = 0
        self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.passed += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1
