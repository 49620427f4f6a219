"""Calls in processes: ``process_chunk_1``, ``process_chunk_64``, ``process_array``, ``process_cores``."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing
from time import perf_counter

import treadle
from bench.benchmark import Benchmark, Effort, Result, Table, at_most, cell
from bench.launch import run_child
from bench.measure import Contender, Sample, Series, interleave
from bench.overhead import noop
from bench.show import failures, micros, millis, spread, times

WORKERS = 2
# The first calls come before the processes are there, and before anything is known of them.
WARM_UP_CALLS = 2_000
CALLS = {1: 4_000, 64: 100_000}
ARRAY_MEGABYTES = 100
CORES = 2
BURNS = 60
BURN_STEPS = 400_000

STANDARD = "ProcessPoolExecutor.map"
TREADLE = "Treadle"
PIPE = "one copy through a pipe"
ONE = "one process"
TWO = "two processes"

_READER = """
import os, sys
size = int(sys.argv[1])
view = memoryview(bytearray(size))
print("ready", flush=True)
at = 0
with open(0, "rb", buffering=0) as pipe:
    while at < size:
        at += pipe.readinto(view[at:])
print("done", flush=True)
"""


# A call


def _time_treadle(chunksize: int) -> Sample:
    calls = CALLS[chunksize]
    items = iter(range(WARM_UP_CALLS + calls))
    with treadle.map(noop, items, engine="processes", chunksize=chunksize, max_workers=WORKERS) as run:
        for _ in range(WARM_UP_CALLS):
            next(run)
        began = perf_counter()
        delivered = len(list(run))
        seconds = perf_counter() - began
    assert delivered == calls
    return {"call": seconds / calls}


def _time_standard(pool: Executor, chunksize: int) -> Sample:
    calls = CALLS[chunksize]
    began = perf_counter()
    delivered = len(list(pool.map(noop, range(calls), chunksize=chunksize)))
    seconds = perf_counter() - began
    assert delivered == calls
    return {"call": seconds / calls}


def _run_calls(chunksize: int, goal: float) -> Callable[[Effort], Result]:
    def run(effort: Effort) -> Result:
        """Compare a no-op call on warm processes with the standard library's."""
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
            list(pool.map(noop, range(WARM_UP_CALLS)))
            contenders = [
                Contender(STANDARD, lambda: _time_standard(pool, chunksize)),
                Contender(TREADLE, lambda: _time_treadle(chunksize)),
            ]
            series = interleave(contenders, effort.rounds)
        ratio = series[TREADLE].ratio("call", series[STANDARD])
        return Result(
            [at_most(f"a no-op call, {chunksize} in a chunk, against {STANDARD}", goal, ratio, times)],
            [_against(series, "call", STANDARD, "a call", micros)],
            [
                f"{WORKERS} processes each, by a fork server, which have made calls before.",
                "Both send ahead of the answers: Treadle several tiny chunks in one message, the other one by one.",
                spread(series[STANDARD], "call", micros),
                *failures(series.values()),
            ],
        )

    return run


# An array


def _time_pipe() -> Sample:
    size = ARRAY_MEGABYTES * 1_000_000
    view = memoryview(bytes(size))
    command = [sys.executable, "-c", _READER, str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        with closing(reader.stdin), closing(reader.stdout):
            reader.stdout.readline()
            began = perf_counter()
            at = 0
            while at < size:
                at += reader.stdin.write(view[at:]) or 0
            reader.stdout.readline()
            return {"seconds": perf_counter() - began}


def run_array(effort: Effort) -> Result:
    """Compare a call with a large array for its argument with the array's way through a pipe."""
    contenders = [
        Contender(PIPE, _time_pipe),
        Contender(TREADLE, lambda: run_child("array", ARRAY_MEGABYTES)),
    ]
    series = interleave(contenders, effort.child_rounds)
    what = f"a call with {ARRAY_MEGABYTES} MB of NumPy for its argument"
    return Result(
        [
            at_most(f"{what}, against {PIPE}", 1.3, series[TREADLE].ratio("seconds", series[PIPE]), times),
            at_most("peak memory of both processes, against the array", 2.2, series[TREADLE].median("peak"), times),
        ],
        [_against(series, "seconds", PIPE, "time", millis)],
        ["In a process that is there already.", spread(series[PIPE], "seconds", millis), *failures(series.values())],
    )


# Work


def _burn(steps: int) -> int:
    total = 0
    for step in range(steps):
        total += step
    return total


def _time_burns(workers: int) -> Callable[[], Sample]:
    def take() -> Sample:
        began = perf_counter()
        results = list(treadle.map(_burn, [BURN_STEPS] * BURNS, engine="processes", max_workers=workers))
        seconds = perf_counter() - began
        assert len(results) == BURNS
        return {"seconds": seconds}

    return take


def run_cores(effort: Effort) -> Result:
    """Compare work that computes in one process with the same in two."""
    contenders = [Contender(ONE, _time_burns(1)), Contender(TWO, _time_burns(CORES))]
    series = interleave(contenders, effort.rounds)
    ratio = series[TWO].ratio("seconds", series[ONE])
    return Result(
        [at_most("time of pure-Python work in two processes, against one", 1 / 1.85, ratio, times)],
        [_against(series, "seconds", ONE, "time", millis)],
        ["The start of the processes is included.", spread(series[ONE], "seconds", millis), *failures(series.values())],
    )


def _against(series: dict[str, Series], figure: str, baseline: str, column: str, show: Callable[[float], str]) -> Table:
    rows = [
        (one.name, cell(one.median(figure), show), cell(one.ratio(figure, series[baseline]), times))
        for one in series.values()
    ]
    return Table(("contender", column, f"against {baseline}"), rows)


BENCHMARKS = (
    Benchmark("process_chunk_1", "No-op calls in two processes, answered one at a time.", _run_calls(1, 0.5)),
    Benchmark("process_chunk_64", "No-op calls in two processes, answered 64 at a time.", _run_calls(64, 0.25)),
    Benchmark("process_array", f"A call with an array of {ARRAY_MEGABYTES} MB, in a process.", run_array),
    Benchmark("process_cores", f"{BURNS} calls of some 20 ms that compute, in one process and in two.", run_cores),
)
