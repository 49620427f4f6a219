"""What all calls of a crew take, read while they are made."""

from __future__ import annotations

from typing import TypeAlias

from treadle._crew.deciding import Measures
from treadle._engines.movable import Gauge

# Calls that have ended, the seconds that calls took so far, and those of a processor.
Totals: TypeAlias = tuple[int, float, float]


class Gauges:
    """The gauges of all workers that there have been. Workers add theirs, anybody may read."""

    def __init__(self) -> None:
        self._gauges: dict[Gauge, None] = {}
        self._before: Totals = (0, 0.0, 0.0)
        self._in_line_before = 0.0

    def start_over(self) -> None:
        """Leave what was so far out of what calls take."""
        self._before, self._in_line_before = self.since(), self.seconds_in_line()

    def add(self, gauge: Gauge) -> None:
        """Read this one too, from now on."""
        self._gauges[gauge] = None

    def clear(self) -> None:
        """Forget all of them."""
        self._gauges.clear()

    def lately(self) -> Totals:
        """Return what there is since one started over."""
        return self.since(self._before)

    def since(self, before: Totals = (0, 0.0, 0.0)) -> Totals:
        """Return what there is beyond ``before``."""
        readings = [gauge.read() for gauge in list(self._gauges)]
        calls, seconds, computing = zip(*readings, strict=True) if readings else ((), (), ())
        return sum(calls) - before[0], sum(seconds) - before[1], sum(computing) - before[2]

    def measures(self) -> Measures:
        """Return what calls take, as far as one can tell by now."""
        calls, seconds, computing = self.lately()
        return Measures(calls, seconds, computing / self.undisturbed_seconds())

    def undisturbed_seconds(self) -> float:
        """Return the seconds that calls took since one started over, but for those in line for a processor."""
        _, seconds, computing = self.lately()
        return max(computing, seconds - (self.seconds_in_line() - self._in_line_before), 1e-9)

    def seconds_in_line(self) -> float:
        """Return how long calls could not go on because others had the processors; to be asked while threads live."""
        return sum(gauge.seconds_in_line() for gauge in list(self._gauges))

    def busy(self) -> int:
        """Return how many workers make calls."""
        return sum(gauge.is_busy for gauge in list(self._gauges))

    @property
    def opening(self) -> float:
        """Seconds that it took a worker to get ready, at most."""
        return max((gauge.opening for gauge in list(self._gauges)), default=0.0)
