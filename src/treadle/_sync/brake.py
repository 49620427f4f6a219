"""How a limiter slows down when answers ask for it, and how it comes back to speed."""

from __future__ import annotations

import logging
import math
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

    def note_throttled(self, now: float, seconds: float) -> None:
        """Take note of an answer that means "slow down", to a call that took so many ``seconds``."""
        if now < self._deaf_until - ROUNDING:
            return
        self._deaf_until = now + max(DEAF_SECONDS, DEAF_CALLS * seconds)
        passed, measured = self._passed + self._passed_before, now - self._counted_from
        # At the beginning, those that have begun take as long as this one to make room for others.
        measured = measured + MEASURE_SECONDS if self._passed_before else max(measured, seconds, LEAST_SECONDS)
        if passed:
            self._rate = BACK_OFF * min(self.rate(now), passed / measured)
            self._cut_at = now

    def rate(self, now: float) -> float:
        """Return how many calls may begin in a second; infinite: as many as come."""
        grown = 1 + RECOVERY_A_SECOND * (now - self._cut_at)
        return self._rate * grown if grown < ENOUGH - ROUNDING else math.inf

    def interval(self, now: float) -> float:
        """Return the seconds between two calls."""
        return 1 / self.rate(now)
