"""When a failed call is made again."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from treadle._core.describe import describe
from treadle._core.option_names import suggesting
from treadle._core.real_time import time
from treadle._core.settings import check_callable, check_count, check_seconds
from treadle._core.user_code import call_guarded
from treadle.errors import InvalidArgument, WrongType

RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object]


@suggesting
@dataclass(frozen=True, slots=True)
class Retry:
    """Make a call that failed again, after a delay in which it holds no worker.

    The delays grow from ``backoff`` by doubling, up to ``max_delay``, and are spread at random over the whole
    span from 0 ("full jitter"), so that many calls that failed together do not come back together. What a
    server asks for in ``Retry-After`` is the least delay, and with a ``limiter`` it pauses all its calls. The
    error of the last attempt carries a note for each one before, and the outcome says how many ``attempts``
    there were.

    Args:
        max_attempts: Calls for one item at most, the first included.
        retry_on: The types of exceptions worth another attempt, or a function that is given the exception
            and says so. A call that went beyond ``call_timeout`` has ``CallTimedOut``, a ``TimeoutError``.
            Calls that were cancelled are never made again.
        backoff: Seconds before the second attempt, at most; it doubles with each.
        max_delay: Seconds that a delay may last, whatever a server asks for.
        jitter: The share of the delay that is random: 1 (full jitter) to 0 (none).
        retry_after: Given the exception, returns the seconds that the server asks for, or None. By default
            looks for a ``Retry-After`` in ``error.response.headers`` and ``error.headers``, as the exceptions
            of ``requests``, ``httpx`` and ``urllib`` have them.

    Raises:
        InvalidArgument: An argument is outside its bounds.
        WrongType: An argument is not what it must be.

    The formula is "Full Jitter" of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Example:
        >>> import treadle
        >>> answers = iter([ConnectionError("busy"), "hello"])
        >>> def ask(question):
        ...     answer = next(answers)
        ...     if isinstance(answer, Exception):
        ...         raise answer
        ...     return answer
        >>> run = treadle.map(ask, ["?"], retry=treadle.Retry(retry_on=OSError, backoff=0.01))
        >>> [(outcome.value, outcome.attempts) for outcome in run.outcomes()]
        [('hello', 2)]
    """

    max_attempts: int = 3
    retry_on: RetryOn = Exception
    backoff: float = 0.5
    max_delay: float = 60.0
    jitter: float = 1.0
    retry_after: Callable[[BaseException], float | None] | None = None

    def __post_init__(self) -> None:
        check_count("max_attempts", self.max_attempts, least=1)
        check_seconds("backoff", self.backoff)
        check_seconds("max_delay", self.max_delay)
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, int | float):
            raise WrongType("jitter", describe(self.jitter), "a number from 0 to 1")
        if not 0 <= self.jitter <= 1:
            raise InvalidArgument("jitter", str(self.jitter), "a number from 0 to 1")
        if not (is_types(self.retry_on) or (callable(self.retry_on) and not isinstance(self.retry_on, type))):
            raise WrongType(
                "retry_on",
                describe(self.retry_on),
                "an exception type, a tuple of them, or a function of the exception",
                "" if callable(self.retry_on) else "give the classes themselves, not their names",
            )
        if self.retry_after is not None:
            check_callable("retry_after", self.retry_after)

    def is_wanted(self, error: BaseException, attempt: int) -> bool:
        """Tell whether to make another attempt after ``attempt``. What the user's function raises is raised."""
        if attempt >= self.max_attempts:
            return False
        if isinstance(self.retry_on, type | tuple):
            return isinstance(error, self.retry_on)
        return bool(self.retry_on(error))

    def asked_delay(self, error: BaseException) -> float | None:
        """Return the seconds that the server asks for, within bounds. What the user's function raises is raised."""
        if self.retry_after is None:
            wanted, _ = call_guarded(find_retry_after, error)  # an error that refuses to be asked asks for nothing
        else:
            wanted = self.retry_after(error)
        if wanted is None:
            return None
        seconds = float(wanted)  # whatever kind of number it is: others are to add it to a time
        return min(seconds, self.max_delay) if seconds > 0 else None  # neither NaN nor a time in the past

    def delay(self, attempt: int, asked: float | None) -> float:
        """Return the seconds to wait after ``attempt`` attempts, ``asked`` at least."""
        doubled = self.backoff * 2.0 ** min(attempt - 1, 64)
        longest = min(self.max_delay, doubled)
        return max(asked or 0.0, longest * (1 - self.jitter * random.random()))


def find_retry_after(error: BaseException) -> float | None:
    """Return the seconds that a ``Retry-After`` header on ``error`` or its response asks for, if there is one."""
    for holder in (getattr(error, "response", None), error):
        get = getattr(getattr(holder, "headers", None), "get", None)
        if get is not None:
            found = _parse_retry_after(get("Retry-After"))
            if found is not None:
                return found
    return None


def _parse_retry_after(value: Any) -> float | None:
    """Return the seconds in a header that has either a number or a date (RFC 9110, 10.2.3); None for nonsense."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        try:
            when = parsedate_to_datetime(str(value))
        except (ValueError, TypeError, OverflowError):
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        seconds = when.timestamp() - time()
    return seconds if math.isfinite(seconds) else None


def is_types(given: object) -> bool:
    """Tell whether ``given`` is a type of exceptions, or several in a tuple."""
    types = given if isinstance(given, tuple) else (given,)
    return bool(types) and all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in types)
