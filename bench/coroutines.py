"""Coroutine functions: ``coroutines``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

import treadle
from bench.benchmark import Benchmark, Effort, Result, Table, at_most, cell
from bench.measure import Contender, Sample, interleave
from bench.show import failures, micros, millis, spread, times

SLEEPERS = 10_000
SLEEP_SECONDS = 1.0
NOOPS = 20_000

GATHER = "asyncio.gather"
SEMAPHORE = "asyncio.gather behind a Semaphore"
TREADLE = "treadle.map"


async def _sleep(_: int) -> None:
    await asyncio.sleep(SLEEP_SECONDS)


async def _noop(item: int) -> int:
    return item


def _timed(action: Callable[[], object], calls: int) -> Callable[[], Sample]:
    def take() -> Sample:
        began = perf_counter()
        action()
        seconds = perf_counter() - began
        return {"seconds": seconds, "call": seconds / calls}

    return take


def _gather_sleepers() -> None:
    async def main() -> None:
        await asyncio.gather(*(_sleep(item) for item in range(SLEEPERS)))

    asyncio.run(main())


def _map_sleepers() -> None:
    list(treadle.map(_sleep, range(SLEEPERS), max_workers=SLEEPERS))


def _gather_noops() -> None:
    async def main() -> None:
        gate = asyncio.Semaphore(32)

        async def call(item: int) -> int:
            async with gate:
                return await _noop(item)

        await asyncio.gather(*(call(item) for item in range(NOOPS)))

    asyncio.run(main())


def _map_noops() -> None:
    list(treadle.map(_noop, range(NOOPS)))


def run_coroutines(effort: Effort) -> Result:
    """Compare a run of coroutines, on a loop of its own, with what one writes with asyncio alone."""
    asleep = interleave(
        [
            Contender(GATHER, _timed(_gather_sleepers, SLEEPERS)),
            Contender(TREADLE, _timed(_map_sleepers, SLEEPERS)),
        ],
        effort.rounds,
    )
    noop = interleave(
        [Contender(SEMAPHORE, _timed(_gather_noops, NOOPS)), Contender(TREADLE, _timed(_map_noops, NOOPS))],
        effort.rounds,
    )
    ratio = asleep[TREADLE].ratio("seconds", asleep[GATHER])
    rows = [(name, cell(each.median("seconds"), millis)) for name, each in asleep.items()]
    noop_rows = [(name, cell(each.median("call"), micros)) for name, each in noop.items()]
    return Result(
        [at_most(f"{SLEEPERS:,} coroutines asleep for {SLEEP_SECONDS:.0f} s, against {GATHER}", 1.3, ratio, times)],
        [
            Table(("contender", f"{SLEEPERS:,} asleep"), rows),
            Table(("contender", f"a no-op call, of {NOOPS:,}"), noop_rows),
        ],
        [
            "Loop and thread are started and ended in the time. The no-op calls are at most 32 at once.",
            spread(asleep[GATHER], "seconds", millis),
            *failures([*asleep.values(), *noop.values()]),
        ],
    )


BENCHMARKS = (
    Benchmark(
        "coroutines",
        f"{SLEEPERS:,} coroutines asleep for {SLEEP_SECONDS:.0f} s, all at once, and coroutines that do nothing.",
        run_coroutines,
    ),
)
