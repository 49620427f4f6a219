"""The number of workers, found while calls are made: ``auto_workers``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from time import perf_counter

import treadle
from bench.benchmark import Benchmark, Check, Effort, Result, Table, cell
from bench.measure import Contender, Sample, interleave
from bench.show import failures, secs, spread, times
from treadle._crew import lessons

CALLS = 5_000
CALL_SECONDS = 0.002
PLACES = 20
NUMBERS = (4, 16, 20, 32, 64, 256)
AUTO = 'max_workers="auto"'
AGAIN = "the same, once more"


def _ask_a_server() -> Callable[[int], int]:
    """Return what waits as one does for a server that answers so many at a time, without what sockets cost."""
    places = threading.Semaphore(PLACES)

    def ask(item: int) -> int:
        with places:
            time.sleep(CALL_SECONDS)
        return item

    return ask


def _time(max_workers: int | None, forgets: bool = False) -> Callable[[], Sample]:
    """Return what measures a run; None: the number is to be found, from the beginning if it ``forgets``."""

    def take() -> Sample:
        if forgets:
            lessons._lessons.clear()
        began = perf_counter()
        with treadle.map(_ask_a_server(), range(CALLS), max_workers=max_workers or "auto") as run:
            if (answers := sum(1 for _ in run)) != CALLS:
                raise RuntimeError(f"{answers:,} of {CALLS:,} answers")
            workers = run.stats.workers
        return {"seconds": perf_counter() - began, "workers": workers}

    return take


def run_auto_workers(effort: Effort) -> Result:
    """Compare the number that is found with the best of several that are given."""
    contenders = [Contender(f"max_workers={number}", _time(number)) for number in NUMBERS]
    contenders += [Contender(AUTO, _time(None, forgets=True)), Contender(AGAIN, _time(None))]
    series = interleave(contenders, effort.rounds)
    fixed = [one for one in series.values() if one.name not in (AUTO, AGAIN) and one.median("seconds") is not None]
    best = min(fixed, key=lambda one: one.median("seconds") or 0.0)
    rows = [
        (one.name, cell(one.median("seconds"), secs), cell(one.ratio("seconds", best), times))
        for one in series.values()
    ]
    return Result(
        [
            Check(f"{name}, against the best number, {best.name}", "", cell(series[name].ratio("seconds", best), times))
            for name in (AUTO, AGAIN)
        ],
        [Table(("contender", "time", f"against {best.name}"), rows)],
        [
            f"A semaphore with {PLACES} places stands for the server.",
            *(spread(series[name], "seconds", secs) for name in (best.name, AUTO)),
            *failures(series.values()),
        ],
    )


BENCHMARKS = (
    Benchmark(
        "auto_workers",
        f"{CALLS:,} calls of {1000 * CALL_SECONDS:.0f} ms, of which {PLACES} are served at a time.",
        run_auto_workers,
    ),
)
