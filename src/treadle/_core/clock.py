"""The one clock that deadlines, delays and rates go by: monotonic, and replaceable in tests.

How long a call took is measured with ``real_time.perf_counter()`` instead: that is an observation, not a policy.
"""

from __future__ import annotations

from typing import Protocol

from treadle._core.real_time import monotonic


class Permit(Protocol):
    """What a thread waits on: a lock that somebody else releases."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait until it is released, or for ``timeout`` seconds; tell which it was."""

    def release(self) -> None:
        """Let whoever waits go on."""


class Clock(Protocol):
    """Tells the time, and waits for it to come."""

    def now(self) -> float:
        """Return seconds since some moment; never less than before."""

    def left_until(self, when: float) -> float:
        """Return the seconds until ``when``; 0, if it has come."""

    def after(self, seconds: float) -> float:
        """Return when ``seconds`` have passed since the calling thread looked at this clock last."""

    def wait(self, permit: Permit, seconds: float) -> bool:
        """Wait until ``permit`` is released or ``seconds`` have passed; tell which it was."""


class SystemClock:
    """The machine's monotonic clock."""

    now = staticmethod(monotonic)

    def left_until(self, when: float) -> float:
        """Return the seconds until ``when``; 0, if it has come."""
        return max(0.0, when - monotonic())

    def after(self, seconds: float) -> float:
        """Return when ``seconds`` have passed since the calling thread looked at this clock last: just now."""
        return monotonic() + seconds

    def wait(self, permit: Permit, seconds: float) -> bool:
        """Wait until ``permit`` is released or ``seconds`` have passed; tell which it was."""
        return permit.acquire(timeout=seconds)


_clock: Clock = SystemClock()


def now() -> float:
    """Return the time of the clock in use."""
    return _clock.now()


def after(seconds: float) -> float:
    """Return when ``seconds`` have passed since the calling thread looked at the clock last."""
    return _clock.after(seconds)


def left_until(when: float) -> float:
    """Return the seconds until ``when``; 0, if it has come.

    Whatever goes by the clock asks it with this or ``has_come``, and does not compare by itself: sums of floats that
    should be the same moment are not, and a clock that is turned by hand knows which are.
    """
    return _clock.left_until(when)


def has_come(when: float) -> bool:
    """Tell whether ``when`` is now, or was before."""
    return _clock.left_until(when) <= 0


def in_use() -> Clock:
    """Return the clock in use."""
    return _clock


def use(clock: Clock) -> Clock:
    """Go by ``clock`` from now on, and return the one that was in use."""
    global _clock
    before, _clock = _clock, clock
    return before
