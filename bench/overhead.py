"""What a call costs beyond itself: ``noop``, ``noop_chunk1``, ``noop_outcomes``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

import treadle
from bench.benchmark import MISSING, Benchmark, Check, Effort, Result, Table, at_most, cell
from bench.measure import Contender, Sample, Series, interleave
from bench.peers import EXECUTOR, JOBLIB, MPIRE, PEBBLE, PYPELN, STREAMABLE, TREADLE, Peer, thread_pool
from bench.show import failures, micros, spread, times

ITEMS = 100_000
CHUNKSIZES = (64, 256, 1024)
SLOW_PEERS = (EXECUTOR, JOBLIB, MPIRE, PEBBLE, STREAMABLE, PYPELN)
FOR_LOOP = "for-loop"
OUTCOMES = "Treadle, outcomes()"
# Turns of milliseconds are cheap, and steadier in numbers.
MORE = 4


def noop(item: object) -> object:
    """Return nothing of interest."""


def _time_for_loop() -> Sample:
    items = range(ITEMS)
    results: list[object] = []
    began = perf_counter()
    for item in items:
        results.append(noop(item))  # the loop that `map` replaces, not a comprehension
    return {"call": (perf_counter() - began) / ITEMS}


def _time_peer(peer: Peer, items: int) -> Callable[[], Sample]:
    """Return a turn that measures from making the pool to the last result, without taking it down."""

    def take() -> Sample:
        began = perf_counter()
        with peer.open(noop, range(items), None) as results:
            delivered = len(list(results))
            seconds = perf_counter() - began
        if delivered != items:
            raise RuntimeError(f"{delivered:,} results of {items:,} items")
        return {"call": seconds / items}

    return take


def _time_list(start: Callable[[Iterable[int]], Iterable[object]], items: int) -> Callable[[], Sample]:
    def take() -> Sample:
        began = perf_counter()
        delivered = len(list(start(range(items))))
        seconds = perf_counter() - began
        assert delivered == items
        return {"call": seconds / items}

    return take


def _rows(series: Iterable[Series], baseline: Series) -> list[tuple[str, ...]]:
    return [(one.name, cell(one.median("call"), micros), cell(one.ratio("call", baseline), times)) for one in series]


def _table(rows: Sequence[tuple[str, ...]], baseline: Series) -> Table:
    return Table(("contender", "a call", f"against {baseline.name}"), rows)


def run_noop(effort: Effort) -> Result:
    """Compare defaults with a for-loop, and the peers with both."""
    loop = Contender(FOR_LOOP, _time_for_loop)
    chunked = [thread_pool(chunksize) for chunksize in CHUNKSIZES]
    quick = [Contender(peer.name, _time_peer(peer, ITEMS)) for peer in (TREADLE, *chunked)]
    slow = [Contender(peer.name, _time_peer(peer, effort.peer_items)) for peer in SLOW_PEERS]
    near = interleave([loop, *quick], MORE * effort.rounds)
    far = interleave([loop, *slow], effort.rounds)
    ratio = near[TREADLE.name].ratio("call", near[FOR_LOOP])
    rows = _rows(_without_slower(near, [peer.name for peer in chunked]), near[FOR_LOOP])
    rows += _rows([far[contender.name] for contender in slow], far[FOR_LOOP])
    return Result(
        [at_most("a no-op call, against a for-loop", 3.0, ratio, times)],
        [_table(rows, near[FOR_LOOP])],
        [
            f"ThreadPool.imap: the best chunksize of {', '.join(str(size) for size in CHUNKSIZES)}.",
            f"Contenders that take microseconds a call made {effort.peer_items:,} of them.",
            "Measured to the last result; taking the pool down, which some take 0.1 s for, is left out.",
            spread(near[FOR_LOOP], "call", micros),
            *failures([*near.values(), *far.values()]),
        ],
    )


def _without_slower(series: dict[str, Series], names: list[str]) -> list[Series]:
    """Return all series, but of those in ``names`` only the fastest."""
    best = min(names, key=lambda name: series[name].median("call") or float("inf"))
    return [one for name, one in series.items() if name not in names or name == best]


def run_noop_chunk1(effort: Effort) -> Result:
    """Compare one call at a time with the standard library's executor."""
    items = 2 * effort.peer_items
    contenders = [
        Contender(EXECUTOR.name, _time_peer(EXECUTOR, items)),
        Contender(TREADLE.name, _time_list(lambda source: treadle.map(noop, source, chunksize=1), items)),
    ]
    series = interleave(contenders, effort.rounds)
    executor = series[EXECUTOR.name]
    ratio = series[TREADLE.name].ratio("call", executor)
    return Result(
        [at_most("a no-op call with chunksize=1, against ThreadPoolExecutor.map", 0.5, ratio, times)],
        [_table(_rows(series.values(), executor), executor)],
        [spread(executor, "call", micros), *failures(series.values())],
    )


def run_noop_outcomes(effort: Effort) -> Result:
    """Show what an ``Outcome`` for each call costs."""
    contenders = [
        Contender(FOR_LOOP, _time_for_loop),
        Contender(TREADLE.name, _time_list(lambda source: treadle.map(noop, source), ITEMS)),
        Contender("Treadle, outcomes()", _time_list(lambda source: treadle.map(noop, source).outcomes(), ITEMS)),
    ]
    series = interleave(contenders, effort.rounds)
    loop = series[FOR_LOOP]
    ratio = series[OUTCOMES].ratio("call", loop)
    return Result(
        [Check("a no-op call through outcomes(), against a for-loop", MISSING, cell(ratio, times))],
        [_table(_rows(series.values(), loop), loop)],
        [spread(loop, "call", micros), *failures(series.values())],
    )


BENCHMARKS = (
    Benchmark("noop", f"{ITEMS:,} no-op calls with the defaults, results in a list.", run_noop),
    Benchmark("noop_chunk1", "No-op calls handed over one at a time, default number of workers.", run_noop_chunk1),
    Benchmark("noop_outcomes", f"{ITEMS:,} no-op calls, an Outcome for each.", run_noop_outcomes),
)
