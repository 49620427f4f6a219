"""How a limiter slows down when answers ask for it, and how it comes back to speed.

A first answer that means "slow down" cuts the rate; it comes back bit by bit (AIMD). If a call that began after that is
refused as well, and none has succeeded in between, a lower rate is not what is asked for: the server has a window, and
it is used up. Then no call passes for a while, half as long again as nothing has succeeded, with jitter, as others may
wait for the same server. After such a pause calls begin one by one, and come back to the rate as slowly as it was long.
So whatever the length of the window, it is missed by less than half of it, and asked for a dozen times at most.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import Any

from treadle._core.describe import describe
from treadle._core.retry import is_types
from treadle._core.tell import tell
from treadle._core.user_code import call_guarded, is_a
from treadle.errors import Cancelled, WrongType

Throttled = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Any], object]

# What is left of the rate, after an answer that means "slow down".
BACK_OFF = 0.7
# Answers to calls that began before the rate was cut ask for nothing new: so long, or twice a call, they are not heard.
DEAF_SECONDS = 0.1
DEAF_CALLS = 2.0
# How much of the rate comes back in a second; at twice the rate that it was cut to, there is no limit any more.
RECOVERY_A_SECOND = 0.2
ENOUGH = 2.0
# What "the rate so far" is measured over.
MEASURE_SECONDS = 1.0
LEAST_SECONDS = 0.001
ROUNDING = 1e-6  # seconds, or a share: sums of floats that should be the same are not
# A pause lasts so much of the time for which nothing has succeeded, give or take the jitter, and within bounds.
PAUSE_SHARE = 0.5
JITTER = 0.25
LEAST_PAUSE_SECONDS = 0.2
MOST_PAUSE_SECONDS = 60.0
# Calls come back to the rate for as long as they had paused, but no longer.
MOST_RAMP_SECONDS = 10.0
# A pause so long is worth a line in the log.
LONG_PAUSE_SECONDS = 1.0


class Brake:
    """A rate of its own beneath a limiter's: cut at once, given back bit by bit (AIMD).

    Called under the limiter's lock, but for ``is_asked_by``.

    Args:
        throttled: Which answers ask for it.

    Raises:
        WrongType: It says nothing of the kind.
    """

    def __init__(self, throttled: Throttled) -> None:
        if not (is_types(throttled) or (callable(throttled) and not isinstance(throttled, type))):
            what = "an exception type, a tuple of them, or a function of what a call came to"
            raise WrongType("throttled", describe(throttled), what)
        self.throttled = throttled
        self._has_misjudged = False  # it was logged that ``throttled`` failed
        self._rate = math.inf  # that it was cut to
        self._cut_at = 0.0
        self._deaf_until = -math.inf
        self._passed = 0  # calls since
        self._counted_from = -math.inf
        self._passed_before = 0  # in the time before that
        self._refused_since = math.inf  # when the first call was refused, if none has succeeded since
        self._open_at = -math.inf  # when that was, or the latest pause ends: calls from before are no news
        self._ramp = 0.0  # seconds for which calls come back to the rate, after a pause

    def is_asked_by(self, answer: object) -> bool:
        """Tell whether ``answer`` means "slow down"."""
        is_asked, error = call_guarded(self._judge, answer)
        if error is None:
            return bool(is_asked)
        if not (self._has_misjudged or is_a(error, Cancelled)):  # what it asked was to end: it is not at fault
            self._has_misjudged = True
            tell(logging.ERROR, "throttled=%s failed on %s", describe(self.throttled), describe(answer), error=error)
        return False

    def _judge(self, answer: object) -> bool:
        throttled = self.throttled
        return isinstance(answer, throttled) if isinstance(throttled, type | tuple) else bool(throttled(answer))

    def note_pass(self, now: float) -> None:
        """Take note that a call begins."""
        if now - self._counted_from > MEASURE_SECONDS - ROUNDING:
            is_next = now - self._counted_from < 2 * MEASURE_SECONDS - ROUNDING
            self._passed_before = self._passed if is_next else 0
            self._passed, self._counted_from = 0, now
        self._passed += 1

    def note_throttled(self, now: float, seconds: float) -> float:
        """Take note of an answer that means "slow down", to a call that took so many ``seconds``.

        Returns:
            Until when no call is to pass; in the past: they go on.
        """
        if now < self._deaf_until - ROUNDING:
            return -math.inf
        if self._refused_since == math.inf:
            self._refused_since = self._open_at = now
            self._ramp = 0.0
        elif now - seconds >= self._open_at:
            return self._pause(now, seconds)
        self._cut(now, seconds)
        return -math.inf

    def _pause(self, now: float, seconds: float) -> float:
        if self.rate(now) == math.inf:
            self._cut(now, seconds)
        self._rate = self.rate(now)
        pause = max(LEAST_PAUSE_SECONDS, min(PAUSE_SHARE * (now - self._refused_since), MOST_PAUSE_SECONDS))
        pause *= 1 + JITTER * (2 * random.random() - 1)
        self._cut_at = self._open_at = self._deaf_until = now + pause
        self._ramp = min(pause, MOST_RAMP_SECONDS)
        return self._open_at

    def note_success(self, now: float, seconds: float) -> None:
        """Take note of an answer that means nothing of the kind, to a call that took so many ``seconds``."""
        if now - seconds >= self._open_at:
            self._refused_since = math.inf

    @property
    def is_refused(self) -> bool:
        """Whether nothing has succeeded since a call was refused."""
        return self._refused_since < math.inf

    def _cut(self, now: float, seconds: float) -> None:
        self._deaf_until = now + max(DEAF_SECONDS, DEAF_CALLS * seconds)
        passed, measured = self._passed + self._passed_before, now - self._counted_from
        # At the beginning, those that have begun take as long as this one to make room for others.
        measured = measured + MEASURE_SECONDS if self._passed_before else max(measured, seconds, LEAST_SECONDS)
        if passed:
            self._rate = BACK_OFF * min(self.rate(now), passed / measured)
            self._cut_at = now

    def rate(self, now: float) -> float:
        """Return how many calls may begin in a second; infinite: as many as come."""
        grown = 1 + RECOVERY_A_SECOND * max(0.0, now - self._cut_at)
        return self._rate * grown if grown < ENOUGH - ROUNDING else math.inf

    def interval(self, now: float) -> float:
        """Return the seconds between two calls."""
        rate, since = self.rate(now), max(0.0, now - self._open_at)
        if since >= self._ramp or rate == math.inf:
            return 1 / rate
        # The rate grows evenly from nothing: this is when the next call is due.
        return max(1 / rate, math.sqrt(since * since + 2 * self._ramp / rate) - since)
