"""Groups, executor, cancellation and limiter: ``group``, ``round_trip``, ``cancel``, ``nested``, ``limiter``."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from time import perf_counter

import treadle
from bench.benchmark import Benchmark, Check, Effort, Result, Table, at_most, cell
from bench.measure import Contender, Sample, Series, interleave
from bench.show import count, failures, micros, millis, spread, times

GROUP_TASKS = 1_000
CHEAPER = 1.5

ROUND_TRIPS = 2_000

SLEEPERS = 1_000
SETTLE_SECONDS = 0.3  # from the last arrival, until all are asleep

DEPTH = 50
NESTED_WORKERS = 2

RATE = 200.0
BURST = 1
LIMITED_SECONDS = 5.0
LIMITED_WORKERS = 64
LIMITED_CALL_SECONDS = 0.1
FAILS_EVERY = 5  # the first try of each fifth item
LEAST_SHARE = 0.97

GROUP = "TaskGroup"
POOL = "PoolExecutor"
STANDARD = "ThreadPoolExecutor"
BARE = "Event and threads"


def _noop() -> None:
    pass


# Groups


def _time_group() -> Sample:
    began = perf_counter()
    with treadle.TaskGroup() as group:
        tasks = [group.submit(_noop) for _ in range(GROUP_TASKS)]
    for task in tasks:
        task.result()
    return {"call": (perf_counter() - began) / GROUP_TASKS}


def _time_pool(make: Callable[[], Executor]) -> Callable[[], Sample]:
    def take() -> Sample:
        began = perf_counter()
        with make() as pool:
            futures = [pool.submit(_noop) for _ in range(GROUP_TASKS)]
            for future in futures:
                future.result()
        return {"call": (perf_counter() - began) / GROUP_TASKS}

    return take


def run_group(effort: Effort) -> Result:
    """Compare a group of no-op tasks with the standard library's executor, made and shut down for them."""
    contenders = [
        Contender(STANDARD, _time_pool(ThreadPoolExecutor)),
        Contender(GROUP, _time_group),
        Contender(POOL, _time_pool(treadle.PoolExecutor)),
    ]
    series = interleave(contenders, effort.rounds)
    ratio = series[GROUP].ratio("call", series[STANDARD])
    return Result(
        [at_most(f"a no-op task in a group, against {STANDARD}'s submit and result", 1 / CHEAPER, ratio, times)],
        [_against(series, "call", STANDARD, "a task", micros)],
        [
            "Each with its own default number of workers, from opening it to having closed it, results read.",
            spread(series[STANDARD], "call", micros),
            *failures(series.values()),
        ],
    )


# The executor


def _time_round_trips(make: Callable[[], Executor]) -> Callable[[], Sample]:
    def take() -> Sample:
        with make() as pool:
            pool.submit(_noop).result()
            began = perf_counter()
            for _ in range(ROUND_TRIPS):
                wait([pool.submit(_noop)])
            return {"call": (perf_counter() - began) / ROUND_TRIPS}

    return take


def run_round_trip(effort: Effort) -> Result:
    """Compare the way there and back on an executor that has a worker already."""
    contenders = [
        Contender(STANDARD, _time_round_trips(ThreadPoolExecutor)),
        Contender(POOL, _time_round_trips(treadle.PoolExecutor)),
    ]
    series = interleave(contenders, effort.rounds)
    ratio = series[POOL].ratio("call", series[STANDARD])
    return Result(
        [at_most(f"submit, then concurrent.futures.wait, against {STANDARD}", 1.0, ratio, times)],
        [_against(series, "call", STANDARD, "a round trip", micros)],
        [spread(series[STANDARD], "call", micros), *failures(series.values())],
    )


def _nest(pool: Executor, depth: int) -> int:
    return 0 if depth == 0 else 1 + int(pool.submit(_nest, pool, depth - 1).result())


def _time_nested() -> Sample:
    with treadle.PoolExecutor(max_workers=NESTED_WORKERS) as pool:
        began = perf_counter()
        if (depth := _nest(pool, DEPTH)) != DEPTH:
            raise RuntimeError(f"it came back from depth {depth}")
        return {"seconds": perf_counter() - began}


def run_nested(effort: Effort) -> Result:
    """Show that tasks that wait for tasks come to an end, where the standard library's executor waits for ever."""
    nested = interleave([Contender(POOL, _time_nested)], effort.rounds, limit_seconds=20.0)[POOL]
    seconds = nested.median("seconds")
    measured = "it does not" if seconds is None else f"it completes, in {millis(seconds)}"
    what = f"depth {DEPTH} on {NESTED_WORKERS} workers"
    return Result([Check(what, "completes", measured, seconds is not None)], [], failures([nested]))


# Cancellation


class Arrivals:
    """Tells when all sleepers are on their way to sleep."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._are_here = threading.Event()

    def note(self) -> None:
        if next(self._numbers) == SLEEPERS:
            self._are_here.set()

    def wait(self) -> None:
        if not self._are_here.wait(30):
            raise RuntimeError("not all sleepers came")
        time.sleep(SETTLE_SECONDS)


def _time_bare_end() -> Sample:
    arrivals, end = Arrivals(), threading.Event()

    def sleep() -> None:
        arrivals.note()
        end.wait()

    threads = [threading.Thread(target=sleep) for _ in range(SLEEPERS)]
    for thread in threads:
        thread.start()
    arrivals.wait()
    began = perf_counter()
    end.set()
    for thread in threads:
        thread.join()
    return {"seconds": perf_counter() - began}


def _time_cancelled_end() -> Sample:
    arrivals = Arrivals()

    def sleep() -> None:
        arrivals.note()
        treadle.sleep(3600)

    with treadle.TaskGroup(max_workers=SLEEPERS) as group:
        for _ in range(SLEEPERS):
            group.submit(sleep)
        arrivals.wait()
        began = perf_counter()
        group.cancel()
    return {"seconds": perf_counter() - began}


def run_cancel(effort: Effort) -> Result:
    """Compare the end of a group that is cancelled with that of bare threads which wait for one event."""
    contenders = [Contender(BARE, _time_bare_end), Contender(GROUP, _time_cancelled_end)]
    series = interleave(contenders, effort.rounds)
    ratio = series[GROUP].ratio("seconds", series[BARE])
    return Result(
        [at_most(f"cancelling {SLEEPERS:,} tasks, against setting an Event and joining threads", 1.5, ratio, times)],
        [_against(series, "seconds", BARE, "time", millis)],
        [
            "From the cancellation until every task has ended and every thread has gone.",
            spread(series[BARE], "seconds", millis),
            *failures(series.values()),
        ],
    )


# The limiter


class PlannedError(Exception):
    """What first tries fail with."""


def _stamps_of_limited_calls() -> list[float]:
    """Return when each call of some seconds began, as the called function saw it."""
    stamps: list[float] = []
    tried: set[int] = set()

    def call(item: int) -> None:
        stamps.append(time.monotonic())
        if item % FAILS_EVERY == 0 and item not in tried:
            tried.add(item)
            raise PlannedError
        time.sleep(LIMITED_CALL_SECONDS)

    limiter = treadle.Limiter(max_per_second=RATE, burst=BURST)
    retry = treadle.Retry(retry_on=PlannedError, backoff=0.1)
    with treadle.map(call, itertools.count(), max_workers=LIMITED_WORKERS, retry=retry, limiter=limiter) as run:
        for _ in run:
            if time.monotonic() > stamps[0] + LIMITED_SECONDS + 2 * LIMITED_CALL_SECONDS:
                break
    stamps.sort()
    return [stamp for stamp in stamps if stamp <= stamps[0] + LIMITED_SECONDS]


def _measure_limiter() -> Sample:
    stamps = _stamps_of_limited_calls()
    share = len(stamps) / (BURST + RATE * LIMITED_SECONDS)
    exceeded, earliest = _exceeded_windows(stamps)
    return {"share": share, "exceeded": exceeded, "early": earliest, "calls": len(stamps)}


def _exceeded_windows(stamps: Sequence[float]) -> tuple[int, float]:
    """Return in how many windows from one call to another there were too many, and by how much too early."""
    exceeded, earliest = 0, 0.0
    for last, end in enumerate(stamps):
        for first in range(last):
            needed = (last - first + 1 - BURST) / RATE
            if (early := needed - (end - stamps[first])) > 1e-9:  # what a clock in floats cannot tell apart
                exceeded, earliest = exceeded + 1, max(earliest, early)
    return exceeded, earliest


def run_limiter(effort: Effort) -> Result:
    """Count the calls that a limiter lets through, first tries and retries alike, and look at every window."""
    series = interleave([Contender("Limiter", _measure_limiter)], effort.child_rounds)["Limiter"]
    share, exceeded = series.median("share"), series.worst("exceeded")
    is_within = share is not None and share >= LEAST_SHARE and (series.worst("share") or 0.0) <= 1.0
    rows = [
        (f"{number}", count(one["calls"]), f"{one['share']:.2%}", count(one["exceeded"]), micros(one["early"]))
        for number, one in enumerate(series.samples, 1)
    ]
    what = f"calls in {LIMITED_SECONDS:.0f} s, of what is allowed"
    return Result(
        [
            Check(what, f"from {LEAST_SHARE:.0%} to 100%", cell(share, lambda part: f"{part:.1%}"), is_within),
            Check(
                "windows with more than is allowed, in the worst round", "none", cell(exceeded, count), exceeded == 0
            ),
        ],
        [Table(("round", "calls", "of what is allowed", "windows exceeded", "earliest call, too early by"), rows)],
        [
            f"Allowed in t seconds: {BURST} + {RATE:.0f} t. Stamps are taken in the first line of the called function.",
            "Windows are those from any call to any later one.",
            *failures([series]),
        ],
    )


def _against(series: dict[str, Series], figure: str, baseline: str, column: str, show: Callable[[float], str]) -> Table:
    rows = [
        (one.name, cell(one.median(figure), show), cell(one.ratio(figure, series[baseline]), times))
        for one in series.values()
    ]
    return Table(("contender", column, f"against {baseline}"), rows)


BENCHMARKS = (
    Benchmark("group", f"{GROUP_TASKS:,} no-op tasks, submitted one by one, and their results.", run_group),
    Benchmark(
        "round_trip", "A no-op task submitted and waited for, one after the other, on a warm executor.", run_round_trip
    ),
    Benchmark("cancel", f"{SLEEPERS:,} sleeping tasks in a group with as many workers, cancelled.", run_cancel),
    Benchmark("nested", f"Tasks that submit a task to their own executor and wait for it, {DEPTH} deep.", run_nested),
    Benchmark(
        "limiter",
        f"{RATE:.0f} calls a second for {LIMITED_SECONDS:.0f} s, {LIMITED_WORKERS} workers in map, "
        f"each {FAILS_EVERY}th item's first try failing.",
        run_limiter,
    ),
)
