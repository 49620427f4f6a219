"""``deciding``: Treadle left to decide, against the oracle, and others by their defaults."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean
from time import perf_counter

from bench.benchmark import Benchmark, Check, Effort, Result, Table
from bench.deciding import peers
from bench.deciding.judged import JUDGED
from bench.deciding.oracle import Setting, count, search
from bench.deciding.tuned import TUNED
from bench.deciding.workload import SIZES, Job, Size, Workload
from bench.measure import Contender, Sample, interleave
from treadle._crew import lessons

FINALISTS = 2
MAX_ROUNDS = 3
# Who takes so many times as long as the oracle is not waited for.
PEERS_PATIENCE = 4
AUTO = "auto"
AUTO_WORKERS = "threads, auto"
DEFAULT = "threads, 32"
# Geometric mean and worst share of the oracle's speed, by the number of items.
GOALS: dict[Size, tuple[float | None, float]] = {30: (None, 0.3), 1_000: (0.9, 0.7), 100_000: (0.9, 0.7)}


@dataclass
class Found:
    """What was measured for one workload: seconds of the oracle, and of all others by name."""

    workload: str
    is_here_only: bool
    setting: Setting
    oracle: float
    seconds: dict[str, float | None] = field(default_factory=dict)

    def share(self, name: str) -> float | None:
        """Return how fast ``name`` is, as a share of the oracle's speed."""
        seconds = self.seconds[name]
        return None if seconds is None else self.oracle / seconds


def measure(workload: Workload, size: Size, rounds: int) -> Found:
    """Find the oracle for one workload, and compare."""
    job = workload.make(size)
    settings = {str(setting): setting for setting in search(job, FINALISTS)}
    contenders = [Contender(name, _time_setting(job, setting)) for name, setting in settings.items()]
    contenders += [
        Contender(AUTO, _time_auto(job, engine="auto")),
        Contender(AUTO_WORKERS, _time_auto(job, engine="threads")),
        Contender(DEFAULT, _time(lambda: count(job, **job.options))),
    ]
    series = interleave(contenders, rounds)
    medians = {name: one.median("seconds") for name, one in series.items()}
    oracle, best = min((medians[name] or math.inf, name) for name in settings)
    found = Found(workload.name, job.is_here_only, settings[best], oracle)
    found.seconds = {name: medians[name] for name in (AUTO, AUTO_WORKERS, DEFAULT)}
    for peer in peers.PEERS:
        found.seconds[peer] = peers.measure(peer, workload.name, size, PEERS_PATIENCE * oracle)
    return found


def _time_setting(job: Job, setting: Setting) -> Callable[[], Sample]:
    options = {"engine": setting.engine, "max_workers": setting.workers, "chunksize": setting.chunk}
    return _time(lambda: count(job, **options, **job.options))


def _time_auto(job: Job, engine: str) -> Callable[[], Sample]:
    def decide() -> None:
        lessons._lessons.clear()  # what the last round has learnt
        count(job, engine=engine, max_workers="auto", **job.auto_options())

    return _time(decide)


def _time(work: Callable[[], None]) -> Callable[[], Sample]:
    def take() -> Sample:
        began = perf_counter()
        work()
        return {"seconds": perf_counter() - began}

    return take


# The table


def _run(workloads: Sequence[Workload], size: Size) -> Callable[[Effort], Result]:
    def run(effort: Effort) -> Result:
        """Measure all workloads, with so many items."""
        found = []
        for workload in workloads:
            found.append(measure(workload, size, min(MAX_ROUNDS, effort.rounds)))
            print("  ", *_row(found[-1]), sep=" | ", flush=True)  # it takes long
        return Result(_checks(size, found), [_table(size, found)], NOTES)

    return run


def _checks(size: Size, found: Sequence[Found]) -> list[Check]:
    shares = [one.share(AUTO) or 0.0 for one in found]
    mean, worst = geometric_mean([max(share, 1e-3) for share in shares]), min(shares)
    wanted_mean, wanted_worst = GOALS[size]
    what = f"speed left to decide, {size:,} items, as a share of the oracle's"
    return [
        _at_least(f"{what}: geometric mean of {len(shares)}", wanted_mean, mean),
        _at_least(f"{what}: worst", wanted_worst, worst),
    ]


def _at_least(what: str, goal: float | None, measured: float) -> Check:
    if goal is None:
        return Check(what, "", _share(measured))
    return Check(what, f"at least {_share(goal)}", _share(measured), measured >= goal)


def _table(size: Size, found: Sequence[Found]) -> Table:
    names = (AUTO, AUTO_WORKERS, DEFAULT, *peers.PEERS)
    rows = [_row(one) for one in found]
    for title, merge in (("geometric mean", geometric_mean), ("worst", min)):
        rows.append((title, "", "", *(_merged(name, found, merge) for name in names)))
    return Table((f"{size:,} items", "the oracle", "takes", *names), rows)


def _merged(name: str, found: Sequence[Found], merge: Callable[[Sequence[float]], float]) -> str:
    shares = [one.share(name) or 1 / PEERS_PATIENCE for one in found if not _is_impossible(one, name)]
    return _share(merge(shares)) if shares else "-"


def _row(one: Found) -> tuple[str, ...]:
    return (one.workload, str(one.setting), f"{one.oracle:.3f} s", *(_cell(one, name) for name in one.seconds))


def _cell(one: Found, name: str) -> str:
    share = one.share(name)
    if share is not None:
        return _share(share)
    return "-" if _is_impossible(one, name) else f"< {_share(1 / PEERS_PATIENCE)}"


def _is_impossible(one: Found, name: str) -> bool:
    return name in peers.IN_PROCESSES and one.is_here_only


def _share(share: float) -> str:
    return f"{share:.2f}"


NOTES = """\
The oracle is the best of all settings of `treadle.map`: threads and processes, 1, 2, 4, ... 256 workers, 1, 16 or 256 \
items in a chunk. All were tried in the same run, each until it took 1.15 times as long as the best; the best two were \
then measured again, in turn with the others.
All other columns are shares of its speed. "auto" is `engine="auto", max_workers="auto"`, which has forgotten what it \
had learnt; "threads, auto" is `max_workers="auto"` alone; "threads, 32" is `map` without options.
A loop, `ThreadPoolExecutor()`, `joblib.Parallel(n_jobs=-1)` and `mpire.WorkerPool()` are what one writes without \
knowing better; each was measured once, after it had got ready. Below 0.25 nobody waited for them.
A dash: the calls share something that cannot leave the process.
""".splitlines()

# What thresholds are tuned on is measured only when it is asked for, and is no part of the page.
TUNED_ON = {size: f"deciding_tuned_{size}" for size in SIZES}

BENCHMARKS = (
    *(
        Benchmark(
            f"deciding_{size}",
            f"{size:,} calls each of {len(JUDGED)} kinds, and nothing said about how to make them.",
            _run(JUDGED, size),
        )
        for size in SIZES
    ),
    *(
        Benchmark(TUNED_ON[size], "The same with the work that thresholds were tuned on.", _run(TUNED, size))
        for size in SIZES
    ),
)
