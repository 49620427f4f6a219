"""Is the GIL held? Knock at random times, and see who opens.

A thread that sleeps for a moment is late when it wakes if another one holds the GIL, as that is asked to let go only
after ``sys.getswitchinterval()``. So the share of late wake-ups is the share of time that the GIL is held. It is blind
to calls that let go of it very often; see ``deciding``.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable

from treadle._core.processor import seconds_in_line
from treadle._core.real_time import perf_counter, sleep

# Out of step with everything, and short: a call of a millisecond is looked at several times.
SLEEP_SECONDS = (0.0002, 0.0008)
LATE_SECONDS = 0.0004
MAX_SECONDS = 0.080
MIN_KNOCKS = 6
MAX_KNOCKS = 60
# Wald's sequential test: a free GIL is found held by chance so often, and a held one at least so often.
HELD_WHEN_FREE = 0.15
HELD_WHEN_HELD = 0.6
SURE = 2.5
_FOR_HELD = math.log(HELD_WHEN_HELD / HELD_WHEN_FREE)
_FOR_FREE = math.log((1 - HELD_WHEN_HELD) / (1 - HELD_WHEN_FREE))


class Over(Exception):
    """The run has ended: there is nothing to knock at, and to find out, any more."""


class Knocks:
    """What the knocks so far have shown."""

    def __init__(self) -> None:
        self.count = 0
        self.held = 0
        self.late = 0.0  # seconds, of those
        self._evidence = 0.0

    @property
    def are_enough(self) -> bool:
        """Whether more of them would change nothing."""
        return self.count >= MAX_KNOCKS or (self.count >= MIN_KNOCKS and abs(self._evidence) > SURE)

    def add(self, is_busy: Callable[[], object]) -> None:
        """Knock once more; ``is_busy`` is asked afterwards: that a GIL is free which nobody wants shows nothing."""
        late = knock()
        if late > LATE_SECONDS or is_busy():
            self.note(late)

    def note(self, late: float) -> None:
        """Take note of one more, which was so many seconds late."""
        is_held = late > LATE_SECONDS
        self.count += 1
        self._evidence += _FOR_HELD if is_held else _FOR_FREE
        if is_held:
            self.held += 1
            self.late += late

    def share(self, in_line: float = 0.0) -> float:
        """Return how often the GIL was held.

        Args:
            in_line: Seconds that the one who knocked waited for a processor instead.
        """
        return self.held / self.count * max(0.0, 1.0 - in_line / self.late) if self.held else 0.0


def knock() -> float:
    """Sleep for a moment, and return how late it was in the end."""
    seconds = random.uniform(*SLEEP_SECONDS)
    began = perf_counter()
    sleep(seconds)
    return perf_counter() - began - seconds


def probe(wait_until_busy: Callable[[], object], is_busy: Callable[[], object]) -> float:
    """Return the share of time that the GIL is held while what is looked at goes on, by others than this thread.

    Args:
        wait_until_busy: Called before each knock. What it raises is raised.
        is_busy: Asked after it, whether somebody could have held it.
    """
    knocks, thread, seconds = Knocks(), threading.get_native_id(), 0.0
    before = seconds_in_line(thread)
    while not knocks.are_enough and seconds < MAX_SECONDS:
        wait_until_busy()
        began = perf_counter()
        knocks.add(is_busy)
        seconds += perf_counter() - began
    return knocks.share(seconds_in_line(thread) - before)
