"""Which engine makes the calls of a run, group or executor, and what follows from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from treadle._core.describe import describe
from treadle._core.settings import DEFAULT_MAX_WORKERS, EngineName, check_count
from treadle._crew.chunking import IN_PROCESSES, ON_THREADS, Pace
from treadle._engines.engine import CallPlan, Engine
from treadle._engines.inline import InlineEngine
from treadle.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """How the calls of one crew are made.

    Attributes:
        name: For people.
        make_engine: Makes the engine of one worker.
        pace: How many calls to hand over at once.
    """

    name: str
    make_engine: Callable[[], Engine]
    pace: Pace


def check_engine(engine: EngineName, max_tasks_per_child: int | None) -> None:
    """Raise unless there is such an engine, and it can do what is asked of it."""
    if engine not in ("threads", "processes"):
        raise InvalidArgument("engine", describe(engine), "'threads' or 'processes'")
    if max_tasks_per_child is not None:
        check_count("max_tasks_per_child", max_tasks_per_child, least=1)
        if engine != "processes":
            raise InvalidArgument("max_tasks_per_child", str(max_tasks_per_child), "None where engine is 'threads'")
    if engine == "processes" and not hasattr(os, "fork"):
        raise InvalidArgument("engine", "'processes'", "'threads' on this system, which has no fork server")


def default_workers(engine: EngineName) -> int:
    """Return how many workers there are where nobody says how many."""
    return DEFAULT_MAX_WORKERS if engine == "threads" else usable_cores()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_engine(engine: EngineName, plan: CallPlan) -> EngineChoice:
    """Return how the calls of ``plan`` are made by ``engine``.

    Raises:
        NotPicklable: What is to be sent to a process cannot be.
    """
    if engine == "threads":
        return EngineChoice(engine, lambda: InlineEngine(plan), ON_THREADS)
    from treadle._engines.process import ProcessEngine, wrap_plan  # not for whoever has only threads

    parcel = wrap_plan(plan)
    return EngineChoice(engine, lambda: ProcessEngine(plan, parcel), IN_PROCESSES)
