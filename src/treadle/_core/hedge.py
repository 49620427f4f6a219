"""When a slow call is started a second time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from treadle._core.describe import describe
from treadle._core.option_names import suggesting
from treadle.errors import InvalidArgument, WrongType

# So many calls must have ended before one knows what is slow.
ENOUGH_CALLS = 20


@suggesting
@dataclass(frozen=True, slots=True)
class Hedge:
    """Start a call that is much slower than its peers a second time, and take the first answer.

    Only for functions that may be called twice with the same item: reading a page, asking a replica. The item
    has one outcome; the slower call is cancelled, and left behind if it does not end within ``grace``. If one
    of the two fails, the other one's answer counts.

    Args:
        after: How long a call may take before: ``"p95"`` is longer than 95 in 100 of the calls that ended so
            far (nothing is hedged before 20 have), a number is seconds.
        max_extra: The extra calls, as a share of all calls begun, rounded up.

    Raises:
        InvalidArgument: An argument is outside its bounds.
        WrongType: An argument is not what it must be.

    The idea is that of "hedged requests" in Jeffrey Dean and Luiz André Barroso, "The Tail at Scale",
    Communications of the ACM 56(2), 2013.

    Example:
        >>> import treadle
        >>> list(treadle.map(abs, [-1, -2], hedge=treadle.Hedge(after=0.5)))
        [1, 2]
    """

    after: str | float = "p95"
    max_extra: float = 0.05

    def __post_init__(self) -> None:
        self._percent()
        if isinstance(self.max_extra, bool) or not isinstance(self.max_extra, int | float):
            raise WrongType("max_extra", describe(self.max_extra), "a share from 0 to 1")
        if not 0 <= self.max_extra <= 1:
            raise InvalidArgument("max_extra", str(self.max_extra), "a share from 0 to 1")

    def threshold(self, seconds: Sequence[float]) -> float | None:
        """Return after how long a call is slow, given how long others took; None: not known yet."""
        percent = self._percent()
        if percent is None:
            return float(self.after)
        if len(seconds) < ENOUGH_CALLS:
            return None
        ordered = sorted(seconds)
        return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * percent / 100) - 1)]

    def allowed(self, begun: int) -> int:
        """Return how many extra calls ``begun`` calls allow."""
        return math.ceil(begun * self.max_extra)

    def _percent(self) -> float | None:
        if isinstance(self.after, str):
            try:
                percent = float(self.after.removeprefix("p")) if self.after.startswith("p") else math.nan
            except ValueError:
                percent = math.nan
            if not 0 < percent < 100:
                raise InvalidArgument("after", describe(self.after), "seconds, or a percentile such as 'p95'")
            return percent
        if isinstance(self.after, bool) or not isinstance(self.after, int | float):
            raise WrongType("after", describe(self.after), "seconds, or a percentile such as 'p95'")
        if not self.after >= 0:
            raise InvalidArgument("after", str(self.after), "0 seconds or more, or a percentile such as 'p95'")
        return None
