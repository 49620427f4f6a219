"""What every test is held to: it leaves no thread and no child process behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from tests.displays import find_tcl, virtual_display
from treadle._engines import process_start
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
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (left := _children() - children_before) and time.monotonic() < deadline:
        time.sleep(0.001)  # those that were let go say goodbye by themselves
    assert not left, f"{request.node.name} left child processes behind"


@pytest.fixture(autouse=True, scope="session")
def _ends_the_keeper() -> Iterator[None]:
    """The process that starts others stays for the next test that needs it."""
    yield
    process_start.end_keeper()


@pytest.fixture(scope="session")
def multiprocessing_helpers() -> None:
    """Start what multiprocessing and loky keep running as long as this process: no test leaves it behind."""
    for name in ("multiprocessing.forkserver", "multiprocessing.resource_tracker", "loky.backend.resource_tracker"):
        with suppress(ImportError):
            import_module(name).ensure_running()


def end_shared_pool() -> None:
    """End the pool of ``treadle.to_thread``, whose threads would otherwise wait for work for a while."""
    pool, to_thread._pool = to_thread._pool, None
    if pool is not None:
        pool.shutdown(wait=False)


def _children() -> set[str]:
    """Return our children, and in the place of the keeper its own."""
    found = _children_of(os.getpid())
    if process_start._keeper is not None:
        keeper = process_start._keeper[0]
        found = found - {str(keeper)} | _children_of(keeper)
    return found


def _children_of(pid: int) -> set[str]:
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    return set(listing.read_text().split()) if listing.exists() else set()


@pytest.fixture(scope="session")
def _display() -> Iterator[str | None]:
    """Start one display for all tests: of the session, so that no test is held to its process."""
    with virtual_display() as name:
        yield name


@pytest.fixture
def display(_display: str | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a display, which is in the environment too; skip the test where none can be started."""
    pytest.importorskip("tkinter")
    if _display is None:
        pytest.skip("no display: install xvfb")
    for name, value in {**find_tcl(), "DISPLAY": _display}.items():
        monkeypatch.setenv(name, value)
    return _display


class Gate:
    """Holds calls until it is opened; opened at the end of the test whatever happens."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._arrived = threading.Semaphore(0)
        self._inside: list[object] = []

    def hold(self, item: object = None) -> object:
        """Announce the arrival, wait until the gate opens, and return ``item``."""
        self._inside.append(None)
        self._arrived.release()
        try:
            assert self._open.wait(60), "the gate was never opened"
        finally:
            self._inside.pop()
        return item

    def holding(self) -> int:
        """Return how many calls it holds right now: whoever is free meanwhile has not waited for them."""
        return len(self._inside)

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
