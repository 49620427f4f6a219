"""Threads or processes: what follows from what was measured. Nothing is measured here, and nothing done.

Thresholds come from measurements of some twenty kinds of work on two cores, and are kept in one place, here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# What a call does, or which measurement has to tell.
Kind = Literal[
    "tiny", "waits", "holds the GIL", "computes without the GIL", "computes on several cores", "knock", "try two"
]

TINY_SECONDS = 5e-6
WAITING_SHARE = 0.15
HELD_SHARE = 0.5
COMPUTING_SHARE = 0.3
# Two threads that get less far than this get in each other's way.
POOR_GAIN = 1.3
BUSY_SHARE = 0.5
# One worker that keeps so many cores busy has threads of its own for it, as linear algebra has.
SEVERAL_CORES = 1.5

# To the first result of a process: the keeper's start, the process's, and the imports of a small module.
START_SECONDS = 0.08
# Where the keeper runs already.
WARM_START_SECONDS = 0.03
# A message to a process and back; so many seconds of calls travel in one.
MESSAGE_SECONDS = 30e-6
PORTION_SECONDS = 0.010
ITEM_SECONDS = 0.3e-6
# Less is not worth it: the measurement may be wrong, and processes need memory.
WORTHWHILE_GAIN = 1.2
# Calls that wait as well leave room for more processes than there are cores, each of which takes time to start.
PROCESSES_PER_CORE = 4
FURTHER_START_SECONDS = 0.015


@dataclass(frozen=True, slots=True)
class Measures:
    """What calls on one thread were found to take.

    Attributes:
        calls: That have ended.
        seconds: That they took together, with what has passed of the one that has not.
        computing: The share of that in which they had a processor.
        held: The share of it in which the GIL was held; None: not measured.
        gain: How much further two threads get than one; None: not tried. Infinite: there is no work for two.
        cores: That the whole process kept busy meanwhile; None: not measured.
    """

    calls: int
    seconds: float
    computing: float
    held: float | None = None
    gain: float | None = None
    cores: float | None = None

    @property
    def mean(self) -> float:
        """Seconds for a call; where none has ended, what has passed."""
        return self.seconds / max(1, self.calls)


def judge(found: Measures) -> Kind:
    """Return what the calls do, or what is to be measured first."""
    if found.calls and found.mean < TINY_SECONDS:
        return "tiny"
    if found.computing < WAITING_SHARE:
        return "waits"
    if found.cores is not None and found.cores >= SEVERAL_CORES and found.computing >= BUSY_SHARE:
        return "computes on several cores"
    if found.held is None:
        return "knock"
    if found.held >= HELD_SHARE and found.computing > COMPUTING_SHARE:
        return "holds the GIL"
    if found.gain is None:
        return "try two"
    # They let go of the GIL so often that no knock meets it held, and spend their time asking for it.
    if found.gain <= POOR_GAIN and found.computing >= BUSY_SHARE:
        return "holds the GIL"
    return "computes without the GIL"


@dataclass(frozen=True, slots=True)
class Bill:
    """What processes would cost and bring.

    Attributes:
        gain: How many times as fast as threads they would be, once they run.
        pays: Whether that makes up for their start, with the calls that are left.
    """

    gain: float
    pays: bool


def make_out(
    found: Measures,
    pickling: float,
    left: int | None,
    workers: int,
    start: float = START_SECONDS,
    cores: int | None = None,
) -> Bill:
    """Return what it comes to if calls that hold the GIL move to processes.

    Args:
        found: On threads.
        pickling: Seconds to pickle an argument and a result.
        left: Calls that have not begun; None: nobody knows, and there may be many.
        workers: Processes.
        start: Seconds until they make calls.
        cores: That they have together; None: one each.
    """
    # With a GIL the whole of the threads does no more than one that never waits.
    on_threads = found.mean * max(found.computing, found.held or 0.0)
    handing_over = ITEM_SECONDS + MESSAGE_SECONDS * min(1.0, found.mean / PORTION_SECONDS)
    # Both sides pickle and unpickle once; ours does so for all processes, one after the other.
    in_processes = max(
        (found.mean + 2 * pickling) / workers,
        (found.mean * found.computing + 2 * pickling) / (cores or workers),
        2 * pickling + handing_over,
    )
    gain = on_threads / in_processes
    saved = None if left is None else left * (on_threads - in_processes) - start
    return Bill(gain, gain >= WORTHWHILE_GAIN and (saved is None or saved > 0))
