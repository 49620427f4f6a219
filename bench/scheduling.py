"""How well workers are kept busy, or kept back: ``sleep_2ms``, ``tiny_then_slow``, ``stalled``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Literal

import treadle
from bench.benchmark import MISSING, Benchmark, Check, Effort, Result, Table, at_most, cell
from bench.launch import run_child
from bench.measure import Contender, Sample, interleave
from bench.peers import PEERS, STREAMING_PEERS, TREADLE, Peer
from bench.show import count, failures, millis, times

SLEEPS = 1_000
SLEEP_SECONDS = 0.002
SLEEP_WORKERS = 16
SLEEP_IDEAL_SECONDS = SLEEPS * SLEEP_SECONDS / SLEEP_WORKERS
MEASURED_IDEAL = "ideal by measured sleep"

TINY_CALLS = 3_000
SLOW_CALLS = 24
SLOW_SECONDS = 0.020
SLOW_WORKERS = 4
SLOW_IDEAL_SECONDS = SLOW_CALLS * SLOW_SECONDS / SLOW_WORKERS

Intake = Literal["caller", "thread"]
INTAKES: tuple[Intake, ...] = ("caller", "thread")
BOUNDS = ((1, 0), (2, 3), (4, 4), (8, 100), (16, 0))
CONSUMED = (1, 1_000)
SETTLE_SECONDS = 0.2


def _time_peer(peer: Peer, fn: Callable[[int], object], items: int, workers: int) -> Callable[[], Sample]:
    def take() -> Sample:
        began = perf_counter()
        with peer.open(fn, range(items), workers) as results:
            delivered = sum(1 for _ in results)
            seconds = perf_counter() - began
        if delivered != items:
            raise RuntimeError(f"{delivered:,} results of {items:,} items")
        return {"seconds": seconds}

    return take


def _sleep(item: int) -> None:
    time.sleep(SLEEP_SECONDS)


def _measure_sleep() -> Sample:
    """Measure what a sleep of 2 ms really takes here, and so how long the calls would at least."""
    taken = []
    for _ in range(40):
        began = perf_counter()
        time.sleep(SLEEP_SECONDS)
        taken.append(perf_counter() - began)
    return {"seconds": median(taken) * SLEEPS / SLEEP_WORKERS}


def run_sleep(effort: Effort) -> Result:
    """Compare short waiting calls with the ideal, and the peers with both."""
    contenders = [Contender(MEASURED_IDEAL, _measure_sleep)]
    contenders += [Contender(peer.name, _time_peer(peer, _sleep, SLEEPS, SLEEP_WORKERS)) for peer in (TREADLE, *PEERS)]
    series = interleave(contenders, effort.rounds)
    measured_ideal, mine = series[MEASURED_IDEAL], series[TREADLE.name]
    rows = [
        (
            one.name,
            cell(one.median("seconds"), millis),
            cell(one.ratio("seconds", SLEEP_IDEAL_SECONDS), times),
            cell(one.ratio("seconds", measured_ideal), times),
        )
        for one in series.values()
    ]
    return Result(
        [
            at_most(
                f"against the ideal {millis(SLEEP_IDEAL_SECONDS)}",
                1.1,
                mine.ratio("seconds", SLEEP_IDEAL_SECONDS),
                times,
            ),
            Check(
                "against the ideal by measured sleep",
                MISSING,
                cell(mine.ratio("seconds", measured_ideal), times),
            ),
        ],
        [
            Table(
                ("contender", "time", f"against {millis(SLEEP_IDEAL_SECONDS)}", f"against {MEASURED_IDEAL}"),
                rows,
            )
        ],
        failures(series.values()),
    )


def _tiny_then_slow(item: int) -> None:
    if item >= TINY_CALLS:
        time.sleep(SLOW_SECONDS)


def run_tiny_then_slow(effort: Effort) -> Result:
    """Compare calls that suddenly become slow with the ideal, and the peers with both."""
    items = TINY_CALLS + SLOW_CALLS
    contenders = [
        Contender(peer.name, _time_peer(peer, _tiny_then_slow, items, SLOW_WORKERS)) for peer in (TREADLE, *PEERS)
    ]
    series = interleave(contenders, effort.rounds)
    rows = [
        (
            one.name,
            cell(one.median("seconds"), millis),
            cell(one.ratio("seconds", SLOW_IDEAL_SECONDS), times),
        )
        for one in series.values()
    ]
    ratio = series[TREADLE.name].ratio("seconds", SLOW_IDEAL_SECONDS)
    return Result(
        [at_most(f"against the ideal {millis(SLOW_IDEAL_SECONDS)}", 1.1, ratio, times)],
        [Table(("contender", "time", f"against {millis(SLOW_IDEAL_SECONDS)}"), rows)],
        failures(series.values()),
    )


class Counted(Iterator[int]):
    """An endless input that counts what is taken from it."""

    def __init__(self) -> None:
        self.taken = 0

    def __next__(self) -> int:
        self.taken += 1
        return self.taken


def _taken_beyond(max_workers: int, buffersize: int, intake: Intake, consumed: int) -> int:
    """Return how many items are taken beyond the last result of a consumer that stops after ``consumed``."""
    source = Counted()
    with treadle.map(abs, source, max_workers=max_workers, buffersize=buffersize, intake=intake) as run:
        for _ in range(consumed):
            next(run)
        before = -1
        while source.taken != before:
            before = source.taken
            time.sleep(SETTLE_SECONDS)
    return before - consumed


def run_stalled(effort: Effort) -> Result:
    """Count the items taken while nobody takes results: for several bounds, and of the peers."""
    rows: list[tuple[str, ...]] = []
    excess = 0
    for max_workers, buffersize in BOUNDS:
        for intake in INTAKES:
            bound = max_workers + buffersize
            taken = [_taken_beyond(max_workers, buffersize, intake, consumed) for consumed in CONSUMED]
            excess = max(excess, *(beyond - bound for beyond in taken))
            settings = f"max_workers={max_workers}, buffersize={buffersize}, intake={intake!r}"
            rows.append((settings, str(bound), *(str(beyond) for beyond in taken)))
    measured = "always within" if excess <= 0 else f"{excess} too many"
    columns = ("setting", "bound", *(f"taken beyond result {consumed:,}" for consumed in CONSUMED))
    peer_table, notes = _stalled_peers()
    return Result(
        [
            Check(
                "items taken beyond the last result",
                "at most max_workers + buffersize",
                measured,
                excess <= 0,
            )
        ],
        [Table(columns, rows), peer_table],
        notes,
    )


def _stalled_peers() -> tuple[Table, list[str]]:
    def take_of(peer: Peer) -> Callable[[], Sample]:
        return lambda: run_child("stalled", peer.key)

    contenders = [Contender(peer.name, take_of(peer)) for peer in (TREADLE, *STREAMING_PEERS)]
    series = interleave(contenders, rounds=1)
    rows = [
        (
            one.name,
            cell(one.median("first_seconds"), millis),
            cell(one.median("taken"), count),
            cell(one.median("items"), count),
        )
        for one in series.values()
    ]
    columns = ("contender, 4 workers, calls of 10 ms", "first result after", "taken 1 s later", "of items")
    return Table(columns, rows), failures(series.values())


BENCHMARKS = (
    Benchmark(
        "sleep_2ms",
        f"{SLEEPS:,} calls of time.sleep({SLEEP_SECONDS}) with {SLEEP_WORKERS} workers.",
        run_sleep,
    ),
    Benchmark(
        "tiny_then_slow",
        f"{TINY_CALLS:,} tiny calls, then {SLOW_CALLS} of 20 ms, with {SLOW_WORKERS} workers.",
        run_tiny_then_slow,
    ),
    Benchmark("stalled", "A consumer that stops taking results, over an endless input.", run_stalled),
)
