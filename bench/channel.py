"""Items through a queue, between threads: ``channel``."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

import treadle
from bench.benchmark import Benchmark, Effort, Result, Table, at_most, cell
from bench.measure import Contender, Sample, interleave
from bench.show import failures, micros, spread, times

ITEMS = 1_000_000
SIDES = 2  # producers, and as many consumers
MAXSIZE = 256
FASTER = 1.5

CHANNEL = "Channel"
QUEUE = "queue.Queue"
UNBOUNDED = "queue.SimpleQueue"


class Conveyor(Protocol):
    def put(self, item: int) -> None: ...

    def get(self) -> int: ...


def _time_items(make: Callable[[], Conveyor]) -> Callable[[], Sample]:
    def take() -> Sample:
        conveyor = make()
        share = ITEMS // SIDES
        sums = []

        def produce() -> None:
            put = conveyor.put
            for item in range(share):
                put(item)

        def consume() -> None:
            get = conveyor.get
            sums.append(sum(get() for _ in range(share)))

        threads = [threading.Thread(target=side, daemon=True) for side in (produce, consume) for _ in range(SIDES)]
        began = perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = perf_counter() - began
        if sum(sums) != SIDES * sum(range(share)):
            raise RuntimeError("what came out is not what was put in")
        return {"item": seconds / ITEMS}

    return take


def run_channel(effort: Effort) -> Result:
    """Compare a channel with the standard library's queue, with and without a bound."""
    contenders = [
        Contender(QUEUE, _time_items(lambda: queue.Queue(MAXSIZE))),
        Contender(CHANNEL, _time_items(lambda: treadle.Channel(MAXSIZE))),
        Contender(UNBOUNDED, _time_items(queue.SimpleQueue)),
    ]
    series = interleave(contenders, effort.child_rounds)
    ratio = series[CHANNEL].ratio("item", series[QUEUE])
    rows = [
        (one.name, cell(one.median("item"), micros), cell(one.ratio("item", series[QUEUE]), times))
        for one in series.values()
    ]
    return Result(
        [at_most(f"an item through a channel, against {QUEUE}", 1 / FASTER, ratio, times)],
        [Table(("contender", "an item", f"against {QUEUE}"), rows)],
        [
            f"One put and one get. {UNBOUNDED} has no bound: nobody ever waits for room.",
            spread(series[QUEUE], "item", micros),
            *failures(series.values()),
        ],
    )


BENCHMARKS = (
    Benchmark(
        "channel",
        f"{ITEMS:,} items from {SIDES} producers to {SIDES} consumers, at most {MAXSIZE} of them in between.",
        run_channel,
    ),
)
