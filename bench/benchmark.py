"""The words of this suite: a benchmark, its effort, and the result it comes back with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MISSING = "-"


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: Of contenders that run in this process.
        child_rounds: Of contenders that get a process of their own.
        peer_items: No-op calls of a contender that needs microseconds for each.
        streamed_items: Items of the benchmark ``stream``.
        crowd: Workers of the benchmark ``crowd``.
        stuck_seconds: How long the stuck calls of the peers last.
    """

    rounds: int
    child_rounds: int
    peer_items: int
    streamed_items: int
    crowd: int
    stuck_seconds: float


FULL = Effort(
    rounds=15,
    child_rounds=5,
    peer_items=10_000,
    streamed_items=10_000_000,
    crowd=10_000,
    stuck_seconds=4.0,
)
QUICK = Effort(
    rounds=3,
    child_rounds=1,
    peer_items=2_000,
    streamed_items=2_000_000,
    crowd=2_000,
    stuck_seconds=1.0,
)


@dataclass(frozen=True)
class Check:
    """One figure of Treadle's, and its goal if it has one (``is_met`` is None without)."""

    what: str
    goal: str
    measured: str
    is_met: bool | None = None

    @property
    def verdict(self) -> str:
        """``met``, ``missed`` or, without a goal, ``shown``."""
        return "shown" if self.is_met is None else "met" if self.is_met else "missed"


@dataclass(frozen=True)
class Table:
    """Contenders side by side."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Result:
    """What a benchmark found; ``notes`` stand beneath the tables."""

    checks: list[Check]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Benchmark:
    """Something to measure: ``work`` says what in one sentence, ``run`` does it."""

    name: str
    work: str
    run: Callable[[Effort], Result]


def cell(figure: float | None, show: Callable[[float], str]) -> str:
    """Return ``figure`` as ``show`` writes it, or the sign for a missing one."""
    return MISSING if figure is None else show(figure)


def at_most(what: str, goal: float, measured: float | None, show: Callable[[float], str]) -> Check:
    """Return the check that ``measured`` is ``goal`` or less, both as ``show`` writes them."""
    is_met = measured is not None and measured <= goal
    return Check(what, f"at most {show(goal)}", cell(measured, show), is_met)
