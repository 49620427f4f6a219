"""Background work: ``every``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import treadle
from bench.benchmark import Benchmark, Check, Effort, Result, Table, cell
from bench.measure import Contender, Sample, interleave
from bench.show import count, failures, micros

SECONDS = 10.0
QUICK_SECONDS = 2.0
PERIOD_SECONDS = 0.01
ALLOWED_RUNS = 2  # more or fewer than there are periods
ROUNDS = 3
BARE = "a loop that sleeps"


def _summary(stamps: list[float], start: float, end: float) -> Sample:
    """Tell how many runs began in time, how late each was against its tick, and the last one."""
    late = [(stamp - start) % PERIOD_SECONDS for stamp in stamps]
    return {
        "runs": sum(stamp < end for stamp in stamps),
        "last": end - max(stamp for stamp in stamps if stamp < end),
        "late": sorted(late)[len(late) // 2],
        "latest": max(late),
    }


def _measure_every(seconds: float) -> Callable[[], Sample]:
    def take() -> Sample:
        stamps: list[float] = []
        start = time.monotonic()
        with treadle.every(PERIOD_SECONDS, lambda: stamps.append(time.monotonic())):
            time.sleep(seconds)
        return _summary(stamps, start, start + seconds)

    return take


def _measure_loop(seconds: float) -> Callable[[], Sample]:
    """What one writes without thinking of it: each turn of the loop adds its own length to the period."""

    def take() -> Sample:
        stamps: list[float] = []
        over = threading.Event()

        def loop() -> None:
            while not over.wait(PERIOD_SECONDS):
                stamps.append(time.monotonic())

        start = time.monotonic()
        thread = threading.Thread(target=loop)
        thread.start()
        time.sleep(seconds)
        over.set()
        thread.join()
        return _summary(stamps, start, start + seconds)

    return take


def run_every(effort: Effort) -> Result:
    """Count the runs of some seconds, and look how late they are against their ticks."""
    seconds = SECONDS if effort.child_rounds > 1 else QUICK_SECONDS
    contenders = [Contender("every", _measure_every(seconds)), Contender(BARE, _measure_loop(seconds))]
    series = interleave(contenders, min(effort.rounds, ROUNDS))
    wanted = round(seconds / PERIOD_SECONDS)
    runs, last = series["every"].median("runs"), series["every"].median("last")
    is_exact = runs is not None and abs(runs - wanted) <= ALLOWED_RUNS
    is_in_time = last is not None and last <= PERIOD_SECONDS
    rows = [
        (
            one.name,
            cell(one.median("runs"), count),
            cell(one.median("last"), micros),
            cell(one.median("late"), micros),
            cell(one.worst("latest"), micros),
        )
        for one in series.values()
    ]
    columns = ("contender", "runs", "the last before the end", "late against its tick", "the latest of all rounds")
    return Result(
        [
            Check(f"runs in {seconds:.0f} s", f"{wanted:,} ± {ALLOWED_RUNS}", cell(runs, count), is_exact),
            Check("the last run before the end", f"at most {micros(PERIOD_SECONDS)}", cell(last, micros), is_in_time),
        ],
        [Table(columns, rows)],
        [
            "Lateness is taken modulo the period: it says how well runs keep to the ticks, not how many were left out.",
            *failures(series.values()),
        ],
    )


BENCHMARKS = (
    Benchmark(
        "every", f"A function that notes the time, every {PERIOD_SECONDS * 1e3:.0f} ms for {SECONDS:.0f} s.", run_every
    ),
)
