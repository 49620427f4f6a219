"""What every test is held to: it leaves no thread and no child process behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from treadle._run import to_thread
from treadle.testing import assert_no_leaked_threads

PATIENCE_SECONDS = 10.0


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread or a child process behind, after giving them time to go."""
    children_before = _children()
    with assert_no_leaked_threads(PATIENCE_SECONDS):
        yield
        end_shared_pool()
    assert not _children() - children_before, f"{request.node.name} left child processes behind"


def end_shared_pool() -> None:
    """End the pool of ``treadle.to_thread``, whose threads would otherwise wait for work for a while."""
    pool, to_thread._pool = to_thread._pool, None
    if pool is not None:
        pool.shutdown(wait=False)


def _children() -> set[str]:
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(listing.read_text().split()) if listing.exists() else set()


class Gate:
    """Holds calls until it is opened; opened at the end of the test whatever happens."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._arrived = threading.Semaphore(0)

    def hold(self, item: object = None) -> object:
        """Announce the arrival, wait until the gate opens, and return ``item``."""
        self._arrived.release()
        assert self._open.wait(60), "the gate was never opened"
        return item

    def wait_for_arrivals(self, count: int = 1) -> None:
        """Wait until ``count`` calls have arrived."""
        for _ in range(count):
            assert self._arrived.acquire(timeout=PATIENCE_SECONDS), "nobody arrived at the gate"

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Return a gate that cannot stay shut."""
    gate = Gate()
    yield gate
    gate.open()
