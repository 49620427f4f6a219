"""What a controller is told, what it makes of that, and what it leaves to the next one."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Level:
    """What a number of workers came to: calls a second, and how far off that may be, as a share of it."""

    workers: int
    rate: float
    error: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a controller has learnt, for the next one.

    Attributes:
        workers: The number to begin with.
        is_settled: More of them brought nothing; otherwise it was still growing.
    """

    workers: int
    is_settled: bool


@dataclass(slots=True)  # not frozen, which takes three times as long to make
class Round:
    """What one worker did in one go.

    Attributes:
        began: When it asked for calls to make, or was sent for, in seconds of any clock that goes on evenly.
        ended: When these were made.
        calls: How many; 0 where they came to nothing, such as a refusal.
        workers: How many workers there were at the end.
        busy: How many of them had something to do.
        cores: Seconds of processor time that the calls took.
    """

    began: float
    ended: float
    calls: int
    workers: int
    busy: int
    cores: float = 0.0


@dataclass(slots=True)
class Window:
    """Rounds that began since the number of workers changed last: from a worker's asking for calls to their end."""

    workers: int
    rounds: int = 0
    calls: int = 0
    seconds: float = 0.0
    squares: float = 0.0
    busy: float = 0.0
    cores: float = 0.0
    seconds_open: float = 0.0  # by which rounds that have not ended are longer than the mean

    def add(self, seconds: float, calls: int, busy: int, cores: float) -> None:
        """Take note of a round with so many ``calls``."""
        self.rounds += 1
        self.calls += calls
        self.seconds += seconds
        self.squares += seconds * seconds
        self.busy += busy
        self.cores += cores

    @property
    def latency(self) -> float:
        """Seconds for a call. Those that came to nothing, and those that do not end, count for the time alone.

        Without the latter, a server that keeps some waiting while it serves others again and again would seem fast.
        """
        return (self.seconds + self.seconds_open) / max(self.calls, 0.5)

    @property
    def mean_busy(self) -> float:
        """Workers that had something to do, on the average."""
        return self.busy / self.rounds

    @property
    def rate(self) -> float:
        """Calls a second, by Little's law."""
        return self.workers / max(self.latency, 1e-9)

    @property
    def error(self) -> float:
        """How far the rate may be off: its standard error, as a share of it."""
        mean = self.seconds / self.rounds
        variance = max(0.0, self.squares / self.rounds - mean * mean)
        return math.sqrt(variance / self.rounds) / max(mean, 1e-9)

    @property
    def computing(self) -> float:
        """How many cores the calls keep busy."""
        return self.cores / max(self.seconds + self.seconds_open, 1e-9) * self.workers
