"""How soon one is free again when calls are stuck: ``fail_stuck``, ``ctrl_c``. Each in a fresh process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.benchmark import MISSING, Benchmark, Check, Effort, Result, Table, at_most, cell
from bench.launch import interrupt_child, run_child
from bench.measure import Contender, Sample, Series, interleave
from bench.peers import PEERS, TREADLE, Peer
from bench.show import failures, secs

STUCK_SECONDS = 60.0
SEEN_GOAL_SECONDS = 0.3
EXIT_GOAL_SECONDS = 0.6
PLACES = ("before", "after")
GRACE = (
    "Of Treadle's time 0.25 s are its `grace`, in which running calls may still end and be accounted for; "
    "with `grace=0` it does not wait."
)
# Peers mostly sleep out their stuck calls, so two at a time disturb each other little.
SIDE_BY_SIDE = 2


def _fail(peer: Peer, place: str, stuck_seconds: float) -> Callable[[], Sample]:
    def take() -> Sample:
        report = run_child("fail_stuck", peer.key, place, stuck_seconds)
        failed_at = report["failed_at"]
        return {"seen": report["seen_at"] - failed_at, "exit": report["exited_at"] - failed_at}

    return take


def _interrupt(peer: Peer, stuck_seconds: float) -> Callable[[], Sample]:
    def take() -> Sample:
        report = interrupt_child("ctrl_c", peer.key, stuck_seconds)
        since = report["interrupted_at"]
        return {**report, "seen": report["seen_at"] - since, "exit": report["exited_at"] - since}

    return take


def _take_once(contenders: Sequence[Contender]) -> list[Series]:
    """Let each contender do its work once, a few of them side by side."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        taken = pool.map(lambda contender: interleave([contender], rounds=1), contenders)
        return [series for one in taken for series in one.values()]


def _promptness(series: Series, occasion: str) -> list[Check]:
    return [
        at_most(f"the caller is free, {occasion}", SEEN_GOAL_SECONDS, series.median("seen"), secs),
        at_most(f"the process has exited, {occasion}", EXIT_GOAL_SECONDS, series.median("exit"), secs),
    ]


def _row(name: str, stuck_seconds: float, *series: Series) -> tuple[str, ...]:
    figures = [cell(one.median(figure), secs) for one in series for figure in ("seen", "exit")]
    return (name, f"{stuck_seconds:.0f} s", *figures)


def _worst(series: Sequence[Series]) -> str:
    samples = [sample for one in series for sample in one.samples]
    seen, left = (max((sample[figure] for sample in samples), default=0.0) for figure in ("seen", "exit"))
    return f"Treadle's worst of {len(samples)} rounds: {secs(seen)} and {secs(left)}."


def _account(series: Series) -> Check:
    what = "every item taken has one outcome: delivered + rest()"
    if series.failure:
        return Check(what, "in every round", MISSING, is_met=False)
    exact = sum(sample["exact"] for sample in series.samples)
    last = series.samples[-1]
    example = f"{last['delivered']:.0f} + {last['rest']:.0f} = {last['taken']:.0f} taken"
    is_met = exact == len(series.samples)
    return Check(what, "in every round", f"in {exact:.0f} of {len(series.samples)} ({example})", is_met)


def run_fail_stuck(effort: Effort) -> Result:
    """Measure the time from a failure to its error and to the exit, the stuck call before and after it."""
    mine = {place: Contender(place, _fail(TREADLE, place, STUCK_SECONDS)) for place in PLACES}
    own = interleave(list(mine.values()), effort.child_rounds)
    stuck_seconds = effort.stuck_seconds
    contenders = [Contender(peer.name, _fail(peer, place, stuck_seconds)) for peer in PEERS for place in PLACES]
    taken = _take_once(contenders)
    pairs = list(zip(taken[::2], taken[1::2], strict=True))
    rows = [_row(TREADLE.name, STUCK_SECONDS, *own.values())]
    rows += [_row(before.name, stuck_seconds, before, after) for before, after in pairs]
    columns = [f"{what}, stuck {place}" for place in PLACES for what in ("error", "exit")]
    return Result(
        [check for place in PLACES for check in _promptness(own[place], f"stuck item {place} the failing one")],
        [Table(("contender", "a call is stuck for", *columns), rows)],
        [_worst(list(own.values())), GRACE, *failures([*own.values(), *taken])],
    )


def run_ctrl_c(effort: Effort) -> Result:
    """Measure the time from Ctrl-C to ``KeyboardInterrupt`` and to the exit, and check the account."""
    name = TREADLE.name
    own = interleave([Contender(name, _interrupt(TREADLE, STUCK_SECONDS))], effort.child_rounds)[name]
    stuck_seconds = effort.stuck_seconds
    taken = _take_once([Contender(peer.name, _interrupt(peer, stuck_seconds)) for peer in PEERS])
    checks = _promptness(own, "after Ctrl-C")
    checks.append(_account(own))
    rows = [_row(name, STUCK_SECONDS, own), *(_row(one.name, stuck_seconds, one) for one in taken)]
    return Result(
        checks,
        [Table(("contender", "calls are stuck for", "KeyboardInterrupt seen", "exit"), rows)],
        [_worst([own]), GRACE, *failures([own, *taken])],
    )


BENCHMARKS = (
    Benchmark("fail_stuck", "One call fails while another is stuck, with 4 workers.", run_fail_stuck),
    Benchmark("ctrl_c", "Ctrl-C while the calls of all 4 workers are stuck and 100 items wait.", run_ctrl_c),
)
