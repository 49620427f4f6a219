"""Being on time: a thread wakes up late, so it is to wake up earlier, and to look at the clock for the rest."""

from __future__ import annotations

from treadle._core.real_time import monotonic

# It looks at the clock for no longer than that, and no more than half of the time between two calls.
LEAST_SECONDS = 0.00002
MOST_SECONDS = 0.0004
MOST_SHARE = 0.5
# How much of what the latest was late is in what the next one is expected to be.
LEARNING = 0.1
# That much more than the mean is enough for most of them.
DEVIATIONS = 2.0


class Lead:
    """How much earlier than at its time a thread is to wake up. Used without a lock: each value is a safe one.

    Args:
        interval: Seconds between two calls; 0: there is no time to be kept.
    """

    __slots__ = ("_deviation", "_mean", "_most")

    def __init__(self, interval: float) -> None:
        self._most = min(MOST_SECONDS, MOST_SHARE * interval)
        self._mean, self._deviation = self._most / 2, self._most / 8

    @property
    def seconds(self) -> float:
        """Return it."""
        return min(max(self._mean + DEVIATIONS * self._deviation, LEAST_SECONDS), self._most)

    def be_on_time(self, woken_at: float, start: float) -> None:
        """Return at ``start``, or at once if that has passed; learn from a thread that was to wake up at ``woken_at``.

        Of those that were held up for long there is nothing to be learnt.
        """
        late = monotonic() - woken_at
        if 0 <= late < MOST_SECONDS:
            self._deviation += LEARNING * (abs(late - self._mean) - self._deviation)
            self._mean += LEARNING * (late - self._mean)
        while monotonic() < start:
            pass
