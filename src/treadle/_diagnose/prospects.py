"""What follows from what ``diagnose`` has measured: the speeds that were not, and what to use. Nothing is done here.

Whether calls wait, compute or hold the GIL, and whether processes pay, is ``deciding``'s to say, as it is for
``engine="auto"``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from treadle._crew.deciding import WORTHWHILE_GAIN, Measures, judge, make_out
from treadle._diagnose.diagnosis import DiagnosedEngine, DiagnosedKind, Pickling, Speed, amount, shown_seconds

# Twice the workers for less than this more is past the knee: what is not measured is then taken for no faster.
FLAT_GAIN = 1.15
# The fewest workers that come so near to the best are enough.
NEAR_ENOUGH = 0.9
# A thread or coroutine that waits; measured in the facts that deciding goes by.
THREAD_BYTES = 36_000
COROUTINE_BYTES = 4_000


@dataclass(frozen=True, slots=True)
class Findings:
    """All that judgement goes by.

    Attributes:
        found: On one worker; ``gain`` is that of a second one.
        measured: Speeds, by real calls.
        pickling: What it takes to send calls to processes, and what stands in the way.
        cores: That may be used.
        most_workers: That may be tried.
        left: Items there will be; None: nobody knows.
        start: Seconds until processes make calls.
        has_gil: Whether one thread computes at a time.
        has_processes: Whether this system has them.
        is_async: The function is awaited.
    """

    found: Measures
    measured: tuple[Speed, ...]
    pickling: Pickling
    cores: int
    most_workers: int
    left: int | None
    start: float
    has_gil: bool = True
    has_processes: bool = True
    is_async: bool = False

    @property
    def basis(self) -> DiagnosedEngine:
        """What makes calls where nothing speaks for something else."""
        return "coroutines" if self.is_async else "threads"

    @property
    def most(self) -> int:
        """How many workers could have something to do."""
        return self.most_workers if self.left is None else max(1, min(self.most_workers, self.left))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to use, and why."""

    engine: DiagnosedEngine
    workers: int
    why: str


def kind_of(it: Findings) -> DiagnosedKind:
    """Return what the calls do. Without a GIL nobody holds one; on an event loop whoever computes holds the loop."""
    if it.is_async:
        does = judge(replace(it.found, held=it.found.computing, gain=math.inf))
        return "waits" if does in ("waits", "tiny") else "holds the GIL"
    does = judge(it.found if it.has_gil else replace(it.found, held=0.0, gain=math.inf))
    return "unknown" if does == "knock" or does == "try two" else does  # mypy follows this one


def numbers_of(most: int) -> list[int]:
    """Return 1, 2, 4, ... up to ``most``, which is the last."""
    return [2**power for power in range(most.bit_length()) if 2**power < most] + [most]


def expect(it: Findings, engine: DiagnosedEngine, workers: int) -> float:
    """Return how many calls a second are to be expected, going by one worker alone."""
    found = it.found
    on_several = kind_of(it) == "computes on several cores"
    busy = found.mean * ((on_several and found.cores) or found.computing)
    seconds = found.mean / workers
    if engine == "coroutines":
        return 1 / max(seconds, busy)
    if engine == "processes":
        # As if they computed all the time: then the gain is against that time itself.
        bill = make_out(replace(found, computing=1.0), it.pickling.seconds, None, workers)
        return 1 / max(found.mean / bill.gain, busy / it.cores)
    held = _share_held(it) if it.has_gil else 0.0
    return 1 / max(seconds, found.mean * held, busy / it.cores)


def _share_held(it: Findings) -> float:
    held = it.found.held or 0.0
    if kind_of(it) == "holds the GIL":
        return max(held, it.found.computing)
    return min(held, it.found.computing)


def speeds_of(it: Findings) -> tuple[Speed, ...]:
    """Return all speeds, those that were measured and those that are to be expected."""
    loop = [speed for speed in it.measured if speed.engine == "loop"]
    rows = loop + _speeds(it, it.basis, numbers_of(most_workers(it)))
    if it.has_processes and not it.is_async:
        most = max(4, it.cores) if it.left is None else min(max(4, it.cores), max(1, it.left))
        rows += _speeds(it, "processes", numbers_of(most))
    base = rows[0].per_second if rows else 1.0
    return tuple(replace(row, gain=row.per_second / base) for row in rows)


def most_workers(it: Findings) -> int:
    """Return how many workers are worth a try: for calls that compute, about as many as there are cores."""
    kind = kind_of(it)
    if kind in ("waits", "unknown"):
        return it.most
    return min(it.most, 2 if kind == "tiny" else max(4, it.cores))


def _speeds(it: Findings, engine: DiagnosedEngine, numbers: Iterable[int]) -> list[Speed]:
    measured = {speed.workers: speed for speed in it.measured if speed.engine == engine}
    memory = _memory_of_one(engine, measured.values())
    if not it.found.calls:
        return list(measured.values())
    return [
        measured.get(workers)
        or Speed(
            engine=engine,
            workers=workers,
            per_second=_extrapolate(it, engine, workers, measured),
            gain=0.0,
            memory=None if memory is None else workers * memory,
            start=None,
            is_measured=False,
        )
        for workers in sorted({*numbers, *measured})
    ]


def _extrapolate(it: Findings, engine: DiagnosedEngine, workers: int, measured: dict[int, Speed]) -> float:
    """Return the rate to be expected, which goes on from the nearest that was measured."""
    if not measured:
        return expect(it, engine, workers)
    nearest = max((number for number in measured if number < workers), default=min(measured))
    factor = expect(it, engine, workers) / expect(it, engine, nearest)
    if nearest < workers and is_past_knee(measured, nearest):
        factor = min(factor, 1.0)
    return measured[nearest].per_second * factor


def is_past_knee(measured: dict[int, Speed], workers: int) -> bool:
    """Tell whether so many workers brought next to nothing beside the next fewer that were measured."""
    fewer = max((number for number in measured if number < workers), default=None)
    if fewer is None:
        return False
    doublings = math.log2(workers / fewer)
    return measured[workers].per_second < measured[fewer].per_second * float(FLAT_GAIN**doublings)


def _memory_of_one(engine: DiagnosedEngine, measured: Iterable[Speed]) -> int | None:
    """Return the bytes of one worker, by the most that were measured; a process depends on what it imports."""
    known = [(speed.workers, speed.memory) for speed in measured if speed.memory]
    if engine == "processes":
        return max(known)[1] // max(known)[0] if known else None
    least = THREAD_BYTES if engine == "threads" else COROUTINE_BYTES
    return max(least, max(known)[1] // max(known)[0]) if known else least


# What to use


def give_verdict(it: Findings, speeds: Iterable[Speed]) -> Verdict:
    """Return what to use: the engine as ``engine="auto"`` would decide, the number of workers by the speeds."""
    kind = kind_of(it)
    rows = list(speeds)
    if not it.found.calls:
        return Verdict(it.basis, 1, f"no call has ended in {shown_seconds(it.found.seconds)}: see first where it hangs")
    if it.is_async:
        return _stay(it, rows, _why_coroutines(it, kind))
    if kind == "tiny":
        took = shown_seconds(it.found.mean)
        return Verdict("loop", 1, f"a call takes {took}: to hand it over would cost more than to make it")
    if kind == "waits":
        return _stay(it, rows, "while one call waits, others can go on: threads wait side by side")
    if kind == "unknown":
        return _stay(it, rows, "there were too few calls to tell whether they hold the GIL")
    if kind == "computes on several cores":
        return _stay(it, rows, f"each call computes on {it.found.cores:.1f} cores already")
    if kind == "computes without the GIL":
        why = "calls let others go on beside them" if it.has_gil else "without a GIL, threads compute side by side"
        return _stay(it, rows, why)
    return _weigh(it, rows)


def _weigh(it: Findings, speeds: list[Speed]) -> Verdict:
    """Decide on calls that hold the GIL."""
    holds = "calls hold the GIL, so threads take turns at computing"
    if not it.has_processes:
        return _stay(it, speeds, f"{holds}, and there are no processes on this system")
    if it.cores < 2:
        return _stay(it, speeds, f"{holds}, and with one core so would processes")
    if it.pickling.problems:
        return _stay(it, speeds, f"{holds}, and they cannot be made in processes as they are")
    workers = it.cores if it.left is None else max(1, min(it.cores, it.left))
    bill = make_out(it.found, it.pickling.seconds, it.left, workers, it.start)
    if bill.pays:
        what = f"{amount(workers, 'processes')} with a GIL each"
        return Verdict("processes", workers, f"{holds}; {what} {_claim(it, speeds, 'processes', workers, bill.gain)}")
    if bill.gain < WORTHWHILE_GAIN:
        return _stay(it, speeds, f"{holds}, and {amount(workers, 'processes')} would not get further")
    took = shown_seconds((it.left or 0) * it.found.mean)
    return _stay(it, speeds, f"{holds}, and for {took} of work processes would not make up for their start")


def _why_coroutines(it: Findings, kind: DiagnosedKind) -> str:
    if kind == "waits":
        return "its calls are awaited on one event loop, where many wait at once"
    return (
        f"its calls are awaited, but compute {it.found.computing:.0%} of their time, and while one does, all others on "
        "the event loop stand still: let a plain function compute, in processes or by treadle.to_thread"
    )


def _stay(it: Findings, speeds: list[Speed], why: str) -> Verdict:
    """Return as few workers of what makes calls anyway as come near the best.

    For calls that compute they follow from the cores and the GIL; measured speeds say as much of what else the machine
    had to do. How many can wait at a time, nothing but those can tell.
    """
    if it.left == 1 and not it.is_async:
        return Verdict("loop", 1, "there is one call to make")
    rates = {row.workers: row.per_second for row in speeds if row.engine == it.basis}
    if kind_of(it) not in ("waits", "unknown") and not it.is_async:
        rates = {workers: expect(it, it.basis, workers) for workers in rates}
    best = max(rates.values())
    workers = min(number for number, rate in rates.items() if rate >= NEAR_ENOUGH * best)
    gain = rates[workers] / rates[min(rates)]
    if gain < WORTHWHILE_GAIN and not it.is_async:
        return Verdict("loop", 1, f"{why}, and more than one at a time come no further")
    claim = _claim(it, speeds, it.basis, workers, gain)
    return Verdict(it.basis, workers, f"{why}; {amount(workers, it.basis)} {claim} as one")


def _claim(it: Findings, speeds: list[Speed], engine: DiagnosedEngine, workers: int, gain: float) -> str:
    """Return how fast so many workers are to be, and where the table says another thing, that as well."""
    measured = {(row.engine, row.workers): row.per_second for row in speeds if row.is_measured}
    one, many = measured.get((it.basis, 1)), measured.get((engine, workers))
    if one and many and not 1 / WORTHWHILE_GAIN < many / one / gain < WORTHWHILE_GAIN:
        return f"came {many / one:.1f} times as far in these few calls, and should be about {gain:.1f} times as fast"
    return f"are about {gain:.1f} times as fast"


def contradiction(verdict: Verdict, speeds: Iterable[Speed]) -> str | None:
    """Return what is to be said where measuring has found something else that is clearly faster."""
    measured = {(speed.engine, speed.workers): speed for speed in speeds if speed.is_measured}
    if not measured:
        return None
    base = next(iter(measured.values())) if verdict.engine == "loop" else None  # a loop, or one at a time
    chosen = measured.get((verdict.engine, verdict.workers), base)
    best = max(measured.values(), key=lambda row: row.per_second)
    if chosen is None or best.engine == chosen.engine or best.per_second < WORTHWHILE_GAIN * chosen.per_second:
        return None
    factor = best.per_second / chosen.per_second
    what = amount(best.workers, best.engine)
    return f"In these few calls {what} came {factor:.1f} times as far as what is proposed here: measure a longer run"
