"""Work that flows through several stages: ``pipeline``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import treadle
from bench.benchmark import MISSING, Benchmark, Check, Effort, Result, Table, at_most, cell
from bench.measure import Contender, Sample, interleave
from bench.peers import PYPELN, STREAMABLE
from bench.show import failures, millis, spread, times

ITEMS = 10_000
STAGES = 3
WORKERS = 16
CALL_SECONDS = 0.001
IDEAL_SECONDS = ITEMS * CALL_SECONDS / WORKERS

TREADLE = "Treadle"
UNORDERED = "Treadle, ordered=False"
BARE = "bare threads"


def _nap(item: int) -> int:
    time.sleep(CALL_SECONDS)
    return item


def _treadle(ordered: bool) -> Callable[[], Iterable[Any]]:
    def start() -> Iterable[Any]:
        pipeline = treadle.pipeline(range(ITEMS))
        for _ in range(STAGES):
            pipeline = pipeline.map(_nap, max_workers=WORKERS, ordered=ordered)
        return pipeline

    return start


def _pypeln() -> Any:
    import pypeln

    stage: Any = range(ITEMS)
    for _ in range(STAGES):
        stage = pypeln.thread.map(_nap, stage, workers=WORKERS, maxsize=WORKERS)
    return stage


def _streamable() -> Any:
    from streamable import stream

    flow = stream(range(ITEMS))
    for _ in range(STAGES):
        flow = flow.map(_nap, concurrency=WORKERS)
    return flow


def _time(start: Callable[[], Iterable[Any]]) -> Callable[[], Sample]:
    def take() -> Sample:
        began = perf_counter()
        delivered = sum(1 for _ in start())
        seconds = perf_counter() - began
        if delivered != ITEMS:
            raise RuntimeError(f"{delivered:,} results of {ITEMS:,} items")
        return {"seconds": seconds}

    return take


def _time_bare() -> Sample:
    """Measure what as many threads as one stage has need for their sleeps alone: the machine's ideal."""

    def sleep() -> None:
        for _ in range(ITEMS // WORKERS):
            time.sleep(CALL_SECONDS)

    threads = [threading.Thread(target=sleep) for _ in range(WORKERS)]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": perf_counter() - began}


def run_pipeline(effort: Effort) -> Result:
    """Compare short waiting calls in three stages with the ideal, and the peers with both."""
    contenders = [
        Contender(BARE, _time_bare),
        Contender(TREADLE, _time(_treadle(ordered=True))),
        Contender(UNORDERED, _time(_treadle(ordered=False))),
        Contender(PYPELN.name, _time(_pypeln)),
        Contender(STREAMABLE.name, _time(_streamable)),
    ]
    series = interleave(contenders, effort.rounds)
    bare, mine = series[BARE], series[TREADLE]
    rows = [
        (
            one.name,
            cell(one.median("seconds"), millis),
            cell(one.ratio("seconds", IDEAL_SECONDS), times),
            cell(one.ratio("seconds", bare), times),
        )
        for one in series.values()
    ]
    return Result(
        [
            at_most(f"against the ideal {millis(IDEAL_SECONDS)}", 1.25, mine.ratio("seconds", IDEAL_SECONDS), times),
            Check(f"against {BARE}", MISSING, cell(mine.ratio("seconds", bare), times)),
        ],
        [Table(("contender", "time", f"against {millis(IDEAL_SECONDS)}", f"against {BARE}"), rows)],
        [
            f"The ideal: {ITEMS:,} calls of {millis(CALL_SECONDS)} by {WORKERS} workers, all stages at the same time.",
            f"{BARE}: {WORKERS} threads that sleep as often as one stage does, and do nothing else.",
            f"{PYPELN.name}: {WORKERS} items between two stages; its results are not ordered.",
            spread(mine, "seconds", millis),
            *failures(series.values()),
        ],
    )


BENCHMARKS = (
    Benchmark(
        "pipeline",
        f"{ITEMS:,} items through {STAGES} stages of {WORKERS} workers, {millis(CALL_SECONDS)} of sleep in each.",
        run_pipeline,
    ),
)
