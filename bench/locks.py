"""Locks: ``lock``, what a ``with`` block of a lock costs that nobody else wants."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

import treadle
from bench.benchmark import Benchmark, Check, Effort, Result, Table, at_most, cell
from bench.measure import Contender, Sample, Series, interleave
from bench.show import failures, micros, spread, times

BLOCKS = 200_000
UNROLLED = 5  # so that the loop itself weighs little
SLICES = 10  # the quickest counts: what disturbs a machine only ever adds

LOCK = "threading.Lock"
RLOCK = "threading.RLock"
OURS = "treadle.Lock"
OUR_RLOCK = "treadle.RLock"


def _time(make: Callable[[], AbstractContextManager[Any]]) -> Callable[[], Sample]:
    def take() -> Sample:
        lock = make()
        return {"block": min(_time_slice(lock, BLOCKS // SLICES) for _ in range(SLICES))}

    return take


def _time_slice(lock: AbstractContextManager[Any], blocks: int) -> float:
    began = perf_counter()
    for _ in range(blocks // UNROLLED):
        with lock:
            pass
        with lock:
            pass
        with lock:
            pass
        with lock:
            pass
        with lock:
            pass
    return (perf_counter() - began) / blocks


def run_lock(effort: Effort) -> Result:
    """Compare an empty ``with`` block of each kind of lock."""
    makers: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        LOCK: threading.Lock,
        RLOCK: threading.RLock,
        OURS: treadle.Lock,
        OUR_RLOCK: treadle.RLock,
    }
    series = interleave([Contender(name, _time(make)) for name, make in makers.items()], effort.rounds)
    rows = [
        (one.name, cell(one.median("block"), micros), cell(one.ratio("block", series[LOCK]), times))
        for one in series.values()
    ]
    return Result(
        [_at_most_twice(series, OURS, LOCK), _at_most_twice(series, OUR_RLOCK, RLOCK)],
        [Table(("lock", "a block", f"against {LOCK}"), rows)],
        [
            "Nobody waits for the lock; what finds deadlocks costs only those who have to wait.",
            spread(series[LOCK], "block", micros),
            *failures(series.values()),
        ],
    )


def _at_most_twice(series: dict[str, Series], ours: str, theirs: str) -> Check:
    ratio = series[ours].ratio("block", series[theirs])
    return at_most(f"an empty block of {ours}, against {theirs}", 2.0, ratio, times)


BENCHMARKS = (Benchmark("lock", "An empty with block of a lock that nobody else wants.", run_lock),)
