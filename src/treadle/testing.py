"""Tools for testing threaded code: force or explore its order, turn the clock, prove that nothing is left behind.

Races are forced or searched for, and time is turned by hand; neither is slept for. Nothing here is needed to use
Treadle.
"""

from __future__ import annotations

import math
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from treadle._core import clock
from treadle._core.block import contextmanager as _contextmanager
from treadle._core.clock import Clock as _Clock
from treadle._core.clock import Permit as _Permit
from treadle._core.option_names import suggesting as _suggesting
from treadle._core.real_time import monotonic as _monotonic
from treadle._core.real_time import sleep as _sleep
from treadle._core.stacks import read_stacks as _read_stacks
from treadle._core.uninterrupted import starts_uninterrupted as _starts_uninterrupted
from treadle._explore.explore import Standstill, explore
from treadle.errors import InvalidArgument as _InvalidArgument

__all__ = ["ManualClock", "Standstill", "Turnstile", "assert_no_leaked_threads", "explore"]

DEFAULT_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.001
# Two moments of a manual clock that are no further apart are the same, which comes of different sums.
SAME_SECONDS = 1e-8
SAME_SHARE = 2.0**-48
DIGITS = 9  # to which sums are rounded, so that errors do not add up


@_suggesting
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

    @_contextmanager
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


@_suggesting
class ManualClock:
    """A clock that stands still until it is turned: tests of deadlines, delays and rates take no time.

    In its ``with`` block, whatever Treadle does by the clock goes by this one: ``timeout``, ``call_timeout``,
    ``grace``, the delays of ``Retry``, the rate of a ``Limiter``, ``sleep()``, ``shield()``. How long a call
    took is still measured by the real one.

    It begins at a full second, the next of the machine's monotonic clock. A wait of 10 seconds is over when it has been
    turned by 2.7 three times and by 1.9, although such sums of floats may come to a little less.

    Args:
        timeout: Real seconds after which ``wait_for_sleepers`` fails, so that a broken test ends.

    Example:
        >>> import treadle
        >>> from treadle.testing import ManualClock
        >>> with ManualClock() as clock, treadle.TaskGroup() as group:
        ...     nap = group.submit(treadle.sleep, 3600)
        ...     clock.wait_for_sleepers()
        ...     clock.advance(3600)
        >>> nap.done()
        True
    """

    def __init__(self, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        self._now = float(math.ceil(_monotonic()))
        self._changed = threading.Condition()
        self._sleepers: dict[int, tuple[float, _Permit]] = {}
        self._seen = threading.local()  # .at: the time that a thread was told last
        self._before: _Clock | None = None

    def __enter__(self) -> Self:
        self._before = clock.use(self)
        return self

    @_starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._put_back()
        except BaseException:  # Ctrl-C: each step may be done twice
            self._put_back()
            raise

    def _put_back(self) -> None:
        assert self._before is not None
        clock.use(self._before)
        with self._changed:
            self._wake(lambda _: True)  # they go on by the clock that was in use before

    def now(self) -> float:
        """Return the time it shows, in seconds."""
        self._seen.at = now = self._now
        return now

    def left_until(self, when: float) -> float:
        """Return the seconds until ``when``; 0, if it has come.

        If only rounding keeps it from having come, the clock goes on by so much: then it has, for all.
        """
        left = when - self.now()
        if 0 < left <= self._rounding():
            with self._changed:
                self._set(when)
            left = when - self.now()
        return max(0.0, left)

    def after(self, seconds: float) -> float:
        """Return when ``seconds`` have passed since the calling thread looked at this clock last."""
        at: float = getattr(self._seen, "at", self._now)
        return at + seconds

    def advance(self, seconds: float) -> None:
        """Turn it forward, and wake those whose time has come. It cannot go back, as no monotonic clock can."""
        if not seconds >= 0:
            raise _InvalidArgument("seconds", str(seconds), "0 or more: a monotonic clock does not go back")
        with self._changed:
            self._set(round(self._now + seconds, DIGITS))

    def wait_for_sleepers(self, count: int = 1) -> None:
        """Wait until at least ``count`` threads (the main thread not counted) wait for this clock.

        A thread that waits for the next of several deadlines, such as the one that keeps all timers, is one.

        Raises:
            TimeoutError: They did not come within ``timeout`` real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._sleepers) >= count, self._timeout):
                raise TimeoutError(f"{len(self._sleepers)} threads sleep by this clock, not {count}")

    def wait(self, permit: _Permit, seconds: float) -> bool:
        """Wait until ``permit`` is released or the clock was turned by ``seconds``; tell which it was."""
        me = threading.get_ident()
        if seconds <= 0:
            return permit.acquire(blocking=False)
        with self._changed:
            # From the time that the thread knows: if the clock was turned since, the wait is so much shorter.
            when = self.after(seconds)
            if when <= self._now + self._rounding():
                self._set(when)
                return permit.acquire(blocking=False)
            if clock.in_use() is not self:  # just taken out of use: whoever waits looks again
                return False
            self._sleepers[me] = (when, permit)
            self._changed.notify_all()
        try:
            permit.acquire()
        finally:
            with self._changed:
                self._sleepers.pop(me, None)
        return self._now < when

    def _rounding(self) -> float:
        return max(SAME_SECONDS, SAME_SHARE * self._now)

    def _set(self, now: float) -> None:
        """Show ``now``, unless it is later already, and wake those whose time has come. Under the lock."""
        soon = [when for when, _ in self._sleepers.values() if when <= now + self._rounding()]
        self._now = max(self._now, now, *soon)
        self._wake(lambda when: when <= self._now)

    def _wake(self, is_due: Callable[[float], bool]) -> None:
        for sleeper, (when, permit) in list(self._sleepers.items()):
            if is_due(when):
                del self._sleepers[sleeper]
                with suppress(RuntimeError):  # somebody else has woken it already
                    permit.release()


@_contextmanager
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
    deadline = _monotonic() + timeout
    while (left := _alive_since(before)) and _monotonic() < deadline:
        for thread in left:
            if thread.ident is None:  # it is being started, and cannot be joined yet
                _sleep(POLL_SECONDS)
            else:
                thread.join(max(0.0, deadline - _monotonic()))
    assert not left, f"threads left behind:{''.join(map(_describe, left))}"


def _alive_since(before: set[threading.Thread]) -> list[threading.Thread]:
    new = set(threading.enumerate()) - before - {threading.current_thread()}
    return sorted((thread for thread in new if thread.is_alive() or thread.ident is None), key=lambda t: t.name)


def _describe(thread: threading.Thread) -> str:
    stack = "".join(traceback.format_list(_read_stacks().get(thread.ident or 0, [])))
    return f"\n{thread.name}\n{stack}"
