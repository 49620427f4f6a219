"""What many workers and many items weigh: ``crowd``, ``stream``. Each turn in a fresh process."""

from __future__ import annotations

from collections.abc import Callable

from bench.benchmark import Benchmark, Effort, Result, Table, at_most, cell
from bench.launch import CHILD_LIMIT_SECONDS, StillThere, run_child
from bench.measure import Contender, Sample, interleave
from bench.peers import EXECUTOR, STREAMABLE, TREADLE, Peer, thread_pool
from bench.show import count, failures, kilobytes, megabytes, micros, secs, times

THREADS = "threading.Thread, bare"
# Of contenders that take microseconds a call, or keep every item in memory.
FEW_ITEMS = 200_000
CUT_OFF = (
    f"A round that was cut off counts as {CHILD_LIMIT_SECONDS:.0f} s. Thousands of threads that wait for the GIL at "
    "once keep the processor busy with waiting, whoever started them."
)
GROWTH = (
    "Growth: the peak at the end, less what was resident after the first 100,000 items, "
    "or after a tenth where that is fewer."
)


def _child(*args: object) -> Callable[[], Sample]:
    return lambda: run_child(*(str(arg) for arg in args))


def _crowd_turn(script: str, key: str, calls: int) -> Callable[[], Sample]:
    """Return a turn that counts as ``CHILD_LIMIT_SECONDS`` if it takes longer: crowds do not always disperse."""

    def turn() -> Sample:
        try:
            return run_child(script, key, calls)
        except StillThere:
            return {"seconds": CHILD_LIMIT_SECONDS}

    return turn


def run_crowd(effort: Effort) -> Result:
    """Compare 10,000 calls asleep with bare threads, and two peers with both."""
    keys = {THREADS: "threads"} | {peer.name: peer.key for peer in (TREADLE, EXECUTOR, STREAMABLE)}
    series, weights = (
        interleave([Contender(name, _crowd_turn(script, key, effort.crowd)) for name, key in keys.items()], rounds)
        for script, rounds in (("crowd", effort.child_rounds), ("crowd_memory", 1))
    )
    bare, mine = series[THREADS], series[TREADLE.name]
    rows = [
        (
            one.name,
            cell(one.median("seconds"), secs),
            cell(one.ratio("seconds", bare), times),
            cell(one.worst("seconds"), secs),
            cell(weights[one.name].median("kilobytes"), kilobytes),
        )
        for one in series.values()
    ]
    return Result(
        [
            at_most(
                f"time of {effort.crowd:,} calls, against bare threads",
                1.3,
                mine.ratio("seconds", bare),
                times,
            ),
            at_most("memory a worker", 40.0, weights[TREADLE.name].median("kilobytes"), kilobytes),
        ],
        [Table(("contender", "time", "against bare threads", "worst round", "memory a worker"), rows)],
        [
            "Memory is measured apart, at the moment when all calls have begun and none has ended.",
            CUT_OFF,
            *failures([*series.values(), *weights.values()]),
        ],
    )


def run_stream(effort: Effort) -> Result:
    """Measure how memory grows over a long input, and the same of three peers over a shorter one."""
    items = effort.streamed_items
    entries: list[tuple[Peer, int]] = [
        (TREADLE, items),
        (thread_pool(chunksize=1024), items // 10),
        (EXECUTOR, FEW_ITEMS),
        (STREAMABLE, FEW_ITEMS),
    ]
    contenders = [Contender(peer.name, _child("stream", peer.key, total)) for peer, total in entries]
    series = interleave(contenders, rounds=1)
    rows = [
        (
            peer.name,
            count(total),
            cell(series[peer.name].median("megabytes"), megabytes),
            cell(series[peer.name].median("seconds"), secs),
            cell(series[peer.name].median("call"), micros),
        )
        for peer, total in entries
    ]
    growth = series[TREADLE.name].median("megabytes")
    return Result(
        [at_most(f"memory growth over {items:,} items", 20.0, growth, megabytes)],
        [Table(("contender", "items", "memory growth", "time", "an item"), rows)],
        [
            GROWTH,
            *failures(series.values()),
        ],
    )


BENCHMARKS = (
    Benchmark("crowd", "10,000 calls that sleep for 1 s, all at once, with as many workers.", run_crowd),
    Benchmark("stream", "A generator streamed through no-op calls, results discarded.", run_stream),
)
