"""Tools for testing threaded code: force an order, and prove that nothing is left behind.

Races are forced, never slept for. Nothing here is needed to use Treadle.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Turnstile", "assert_no_leaked_threads"]

DEFAULT_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.001


class Turnstile:
    """Lets threads through in the order of their numbers, so that a test decides who goes first.

    Whoever comes with a number waits until all numbers below it have passed, whatever thread brings them.

    Args:
        timeout: Seconds after which a wait fails with the built-in ``TimeoutError``, so that a broken test
            ends instead of hanging.

    Example:
        >>> import threading
        >>> from treadle.testing import Turnstile
        >>> turnstile, order = Turnstile(), []
        >>> def late():
        ...     with turnstile(1):
        ...         order.append("late")
        >>> thread = threading.Thread(target=late)
        >>> thread.start()
        >>> with turnstile(0):
        ...     order.append("early")
        >>> thread.join()
        >>> order
        ['early', 'late']
    """

    def __init__(self, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        self._next = 0
        self._turn = threading.Condition()

    @contextmanager
    def __call__(self, number: int) -> Iterator[None]:
        """Wait for this number's turn; the next number's comes when the block is left.

        Raises:
            TimeoutError: The turn did not come in time.
        """
        self.wait_for(number)
        try:
            yield
        finally:
            self.advance(number)

    def wait_for(self, number: int) -> None:
        """Wait until all numbers below ``number`` have passed.

        Raises:
            TimeoutError: They did not in time.
        """
        with self._turn:
            if not self._turn.wait_for(lambda: self._next >= number, self._timeout):
                raise TimeoutError(f"turn {number} did not come within {self._timeout} s; it is turn {self._next}")

    def advance(self, number: int) -> None:
        """Let the number after ``number`` through."""
        with self._turn:
            self._next = max(self._next, number + 1)
            self._turn.notify_all()


@contextmanager
def assert_no_leaked_threads(timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Iterator[None]:
    """Fail if threads that were started in the block are alive after it.

    Threads get ``timeout`` seconds to end by themselves.

    Raises:
        AssertionError: Some did not; it names them and shows their stacks.

    Example:
        >>> import treadle
        >>> from treadle.testing import assert_no_leaked_threads
        >>> with assert_no_leaked_threads():
        ...     list(treadle.map(abs, [-1, -2]))
        [1, 2]
    """
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + timeout
    while (left := _alive_since(before)) and time.monotonic() < deadline:
        for thread in left:
            if thread.ident is None:  # it is being started, and cannot be joined yet
                time.sleep(POLL_SECONDS)
            else:
                thread.join(max(0.0, deadline - time.monotonic()))
    assert not left, f"threads left behind:{''.join(map(_describe, left))}"


def _alive_since(before: set[threading.Thread]) -> list[threading.Thread]:
    new = set(threading.enumerate()) - before - {threading.current_thread()}
    return sorted((thread for thread in new if thread.is_alive() or thread.ident is None), key=lambda t: t.name)


def _describe(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
    return f"\n{thread.name}\n{stack}"
