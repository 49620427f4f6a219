"""How many workers there are: a number, or what a controller finds."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

from treadle._core.cores import usable_cores
from treadle._core.describe import describe
from treadle._core.settings import RunEngine, WorkersOption, check_count
from treadle._crew.controller import MAX_WORKERS, START_WORKERS, Knee
from treadle._crew.lessons import recall, remember
from treadle._crew.subject import subject_of
from treadle._engines.engine import CallPlan
from treadle._run.choosing import default_workers
from treadle._sync.limiter import Limiter
from treadle.errors import InvalidArgument

# A coroutine that waits costs a hundredth of a thread.
MAX_COROUTINES = 2048
# Their calls compute, or they would not be there; some wait as well.
PROCESSES_PER_CORE = 2


def count_workers(max_workers: WorkersOption | None, engine: RunEngine | None) -> int:
    """Return how many workers there are; where that is to be found, or was not said, by default.

    Raises:
        InvalidArgument: It is less than 1, or another word than ``"auto"``.
        WrongType: It is no whole number.
    """
    if max_workers is None or max_workers == "auto":
        return default_workers(engine)
    given: Any = max_workers
    if isinstance(given, str):
        hint = f"write max_workers={given}" if given.isdecimal() else ""
        raise InvalidArgument("max_workers", describe(given), "a whole number, or 'auto'", hint)
    check_count("max_workers", given, least=1)
    return max_workers


class Tuning:
    """The controller for calls by ``plan``, which begins where the last one for the same ended."""

    def __init__(self, engine: RunEngine, plan: CallPlan, limiter: Limiter | None) -> None:
        self.engine = engine if isinstance(engine, str) else type(engine).__name__
        self._subject = subject_of(plan.fn, limiter, engine, plan.resource, plan.initializer, plan.initargs)
        start, most = _bounds(engine)
        self.knee = Knee(start, most, usable_cores(), recall(self._subject))

    def end(self) -> None:
        """Keep what was learnt."""
        remember(self._subject, self.knee.lesson)

    @property
    def decision(self) -> str:
        """The number, and why."""
        return f"{self.knee.workers} workers, {self.knee.reason}"


def _bounds(engine: RunEngine) -> tuple[int, int]:
    """Return with how many workers to begin, and how many there are at most."""
    if isinstance(engine, Executor):
        from treadle._engines.executor import capacity

        room = capacity(engine)
        return room or START_WORKERS, room or MAX_WORKERS
    if engine == "processes":
        cores = usable_cores()
        return cores, PROCESSES_PER_CORE * cores
    return START_WORKERS, MAX_COROUTINES if engine == "coroutines" else MAX_WORKERS
