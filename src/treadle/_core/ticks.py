"""When something that is done again and again is due: moments at a fixed distance, none of which is made up for."""

from __future__ import annotations

import math
import random

# After each failure in a row the distance to the next run doubles, up to so many ticks and up to so long; never
# below one tick, however long that is.
MAX_BACKOFF_TICKS = 64
MAX_BACKOFF_SECONDS = 60.0
ROUNDING_SHARE = 1e-6  # of a period: who is so little late is not late


class Ticks:
    """Tick number ``n`` is at ``start + n * seconds``, whenever the ones before were taken: so nothing drifts.

    Not locked: its owner sees to it that one thread at a time uses it.

    Args:
        start: The first tick, by ``clock.now()``.
        seconds: From one to the next.
        jitter: The share of ``seconds`` by which each may come late, at random.
        backoff: Seconds that the distance may grow to after failures in a row.
    """

    def __init__(self, start: float, seconds: float, jitter: float, backoff: float = MAX_BACKOFF_SECONDS) -> None:
        self._start = start
        self._seconds = seconds
        self._jitter = jitter
        self._most_steps = min(MAX_BACKOFF_TICKS, max(1.0, backoff // seconds))
        self.expected: int = 0  # the number of the next one, unless its time passes before somebody can take it
        self._taken = -1
        self.missed: int = 0

    def after(self, now: float, took: float = math.inf) -> tuple[int, float]:
        """Return the number and the time of the next tick: the one expected, or the first that is not over.

        A tick is over once it has passed. But if the run before it ``took`` less than a period, it was not that run but
        the machine that was late: then a tick is over when the next one comes. The very first is never over.
        """
        number = self.expected
        when = self._at(number)
        patience = self._seconds * (1 - ROUNDING_SHARE if took < self._seconds else ROUNDING_SHARE)
        if number and now - when > patience:
            number = max(number, math.ceil((now - self._start) / self._seconds - ROUNDING_SHARE))
            when = max(self._at(number), now)
        return number, when

    def take(self, number: int, when: float, now: float) -> None:
        """Take the tick that ``after`` returned; one that comes late by whole periods is the latest of those."""
        number += max(0, int((now - when) / self._seconds + ROUNDING_SHARE))
        self.missed += number - self.expected
        self._taken = number
        self.expected = number + 1

    def expect(self, failures: int) -> float:
        """Expect the tick that follows on so many failures in a row, and return how far off it is from the last."""
        steps = int(min(2.0 ** min(failures, 100), self._most_steps))
        self.expected = self._taken + steps
        return steps * self._seconds

    def _at(self, number: int) -> float:
        late = self._jitter * random.random() if self._jitter else 0.0
        return self._start + (number + late) * self._seconds
