"""Is the GIL held? Knock at random times, and see who opens.

A thread that sleeps for a moment is late when it wakes if another one holds the GIL, as that is asked to let go only
after ``sys.getswitchinterval()``. So the share of late wake-ups is the share of time that the GIL is held. It is blind
to calls that let go of it very often; see ``deciding``.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable

from treadle._core.processor import seconds_in_line

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


class Knocks:
    """What the knocks so far have shown."""

    def __init__(self) -> None:
        self.count = 0
        self.held = 0
        self._evidence = 0.0

    @property
    def share(self) -> float:
        """How often the GIL was held."""
        return self.held / self.count if self.count else 0.0

    @property
    def are_enough(self) -> bool:
        """Whether more of them would change nothing."""
        return self.count >= MAX_KNOCKS or (self.count >= MIN_KNOCKS and abs(self._evidence) > SURE)

    def note(self, is_held: bool) -> None:
        """Take note of one more."""
        self.count += 1
        self.held += is_held
        self._evidence += _FOR_HELD if is_held else _FOR_FREE


def knock() -> bool:
    """Sleep for a moment, and tell whether the GIL was held at its end."""
    seconds, thread = random.uniform(*SLEEP_SECONDS), threading.get_native_id()
    before, began = seconds_in_line(thread), time.perf_counter()
    time.sleep(seconds)
    late = time.perf_counter() - began - seconds
    return late > LATE_SECONDS and late - (seconds_in_line(thread) - before) > LATE_SECONDS


def probe(wait_until_busy: Callable[[], object], is_busy: Callable[[], bool]) -> float:
    """Return the share of time that the GIL is held while what is looked at goes on, by others than this thread.

    Args:
        wait_until_busy: Called before each knock. What it raises is raised.
        is_busy: Asked after it: that a GIL is free which nobody wants shows nothing.
    """
    knocks, seconds = Knocks(), 0.0
    while not knocks.are_enough and seconds < MAX_SECONDS:
        wait_until_busy()
        began = time.perf_counter()
        is_held = knock()
        seconds += time.perf_counter() - began
        if is_held or is_busy():
            knocks.note(is_held)
    return knocks.share
