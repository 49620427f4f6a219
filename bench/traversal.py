"""Calls that find more work: ``traverse``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from time import perf_counter

import treadle
from bench.benchmark import Benchmark, Effort, Result, Table, at_most, cell
from bench.measure import Contender, Sample, Series, interleave
from bench.show import failures, micros, millis, spread, times

NODES = 20_000
CHAIN_NODES = 2_000
WORKERS = 16
SLEEPS = 2_000
SLEEP_SECONDS = 0.002
SLEEP_IDEAL_SECONDS = SLEEPS * SLEEP_SECONDS / WORKERS

LOOP = "one after the other"
STANDARD = "ThreadPoolExecutor, by hand"
TREADLE = "treadle.traverse"

Visit = Callable[[int], list[int]]
Traverse = Callable[[Visit], int]


def _star(node: int) -> list[int]:
    return list(range(1, NODES)) if node == 0 else []


def _tree(node: int) -> list[int]:
    return [child for child in (2 * node + 1, 2 * node + 2) if child < NODES]


def _chain(node: int) -> list[int]:
    return [node + 1] if node + 1 < CHAIN_NODES else []


def _slow_tree(node: int) -> list[int]:
    time.sleep(SLEEP_SECONDS)
    return [child for child in (2 * node + 1, 2 * node + 2) if child < SLEEPS]


SHAPES: dict[str, tuple[Visit, int]] = {
    "a star": (_star, NODES),
    "a tree": (_tree, NODES),
    "a chain": (_chain, CHAIN_NODES),
}


def _one_by_one(visit: Visit) -> int:
    seen, waiting = {0}, deque([0])
    while waiting:
        for child in visit(waiting.popleft()):
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return len(seen)


def _by_hand(visit: Visit) -> int:
    """Traverse as one does with the standard library: submit what was found as futures come in."""
    seen = {0}
    with ThreadPoolExecutor(WORKERS) as pool:
        futures: set[Future[list[int]]] = {pool.submit(visit, 0)}
        while futures:
            done, futures = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                fresh = set(future.result()) - seen
                seen |= fresh
                futures |= {pool.submit(visit, child) for child in fresh}
    return len(seen)


def _treadle(visit: Visit) -> int:
    return sum(1 for _ in treadle.traverse(visit, [0], max_workers=WORKERS))


def _time(traverse: Traverse, visit: Visit, nodes: int) -> Callable[[], Sample]:
    def take() -> Sample:
        began = perf_counter()
        if (visited := traverse(visit)) != nodes:
            raise RuntimeError(f"{visited:,} of {nodes:,} nodes")
        seconds = perf_counter() - began
        return {"call": seconds / nodes, "seconds": seconds}

    return take


def _measure(visit: Visit, nodes: int, traversals: dict[str, Traverse], rounds: int) -> dict[str, Series]:
    return interleave([Contender(name, _time(traverse, visit, nodes)) for name, traverse in traversals.items()], rounds)


def run_traverse(effort: Effort) -> Result:
    """Compare traversals of graphs whose visits cost nothing, and one whose visits wait, with the ideal."""
    rows, notes = [], []
    for shape, (visit, nodes) in SHAPES.items():
        # By hand, a wait looks at each future there is, so a star takes for ever.
        traversals = {LOOP: _one_by_one, TREADLE: _treadle} | ({} if visit is _star else {STANDARD: _by_hand})
        series = _measure(visit, nodes, traversals, effort.rounds)
        rows += [
            (f"{shape} of {nodes:,}", one.name, cell(one.median("call"), micros), cell(per_loop(one, series), times))
            for one in series.values()
        ]
        notes += [f"{shape}: {note}" for note in failures(series.values())]
    slow = _measure(_slow_tree, SLEEPS, {TREADLE: _treadle, STANDARD: _by_hand}, effort.rounds)
    slow_rows = [
        (one.name, cell(one.median("seconds"), millis), cell(one.ratio("seconds", SLEEP_IDEAL_SECONDS), times))
        for one in slow.values()
    ]
    ratio = slow[TREADLE].ratio("seconds", SLEEP_IDEAL_SECONDS)
    return Result(
        [
            at_most(
                f"a tree of {SLEEPS:,} visits of 2 ms, against the ideal {millis(SLEEP_IDEAL_SECONDS)}",
                1.25,
                ratio,
                times,
            )
        ],
        [
            Table(("graph", "contender", "a node", f"against {LOOP}"), rows),
            Table(("contender", "time", f"against {millis(SLEEP_IDEAL_SECONDS)}"), slow_rows),
        ],
        [spread(slow[TREADLE], "seconds", millis), *failures(slow.values()), *notes],
    )


def per_loop(one: Series, series: dict[str, Series]) -> float | None:
    return one.ratio("call", series[LOOP])


BENCHMARKS = (
    Benchmark(
        "traverse",
        f"Graphs traversed by {WORKERS} workers, each node once: visits that cost nothing, and a tree of "
        f"{SLEEPS:,} visits that sleep 2 ms.",
        run_traverse,
    ),
)
