"""Which engine makes the calls of a run, group or executor, and what follows from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any, get_args

from treadle._core.cores import usable_cores
from treadle._core.coroutine_function import is_coroutine_function
from treadle._core.describe import describe_function
from treadle._core.greenlets import ARE_THREADS_GREENLETS
from treadle._core.importing import check_not_receiving
from treadle._core.settings import DEFAULT_MAX_WORKERS, EngineName, RunEngine, check_count, not_among
from treadle._crew.chunking import BY_AN_EXECUTOR, IN_PROCESSES, ON_A_LOOP, ON_THREADS, Pace
from treadle._crew.room import call_for_help
from treadle._crew.worker import ThreadWorker, Worker
from treadle._engines.engine import AwaitedEngine, CallPlan, Engine
from treadle._engines.inline import InlineEngine
from treadle.errors import InvalidArgument, WrongType

if TYPE_CHECKING:
    from treadle._crew.crew import Crew
    from treadle._crew.decider import Decider

# There, asyncio takes all greenlets for one thread, on which one loop can run at a time.
UNDER_GREENLETS = "under gevent or eventlet"

ENGINES: tuple[EngineName, ...] = get_args(EngineName)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """How the calls of one crew are made.

    Attributes:
        name: For people.
        make_engine: Makes the engine of one worker.
        pace: How many calls to hand over at once.
        make_worker: Makes the worker that owns such an engine.
        decider: Finds out where calls are made best, where nobody has said so.
    """

    name: str
    make_engine: Callable[[], Engine | AwaitedEngine]
    pace: Pace
    make_worker: Callable[[Crew, Any, str], Worker] = ThreadWorker
    decider: Decider | None = None


def check_engine(engine: RunEngine | None, max_tasks_per_child: int | None, may_be_found: bool = False) -> None:
    """Raise unless there is such an engine, and it can do what is asked of it.

    ``may_be_found``: it may be ``"auto"``.
    """
    names = (*ENGINES, "auto") if may_be_found else ENGINES
    if engine not in (None, *names) and not isinstance(engine, Executor):
        raise not_among("engine", engine, names, "a concurrent.futures.Executor")
    if max_tasks_per_child is not None:
        check_count("max_tasks_per_child", max_tasks_per_child, least=1)
        if engine not in ("processes", "auto"):
            raise InvalidArgument(
                "max_tasks_per_child", str(max_tasks_per_child), "None where engine is not 'processes'"
            )
    if engine == "coroutines" and ARE_THREADS_GREENLETS:
        raise InvalidArgument("engine", "'coroutines'", f"'threads' {UNDER_GREENLETS}")
    if engine == "processes" and not _has_processes():
        where = UNDER_GREENLETS if ARE_THREADS_GREENLETS else "on this system, which has no fork server"
        raise InvalidArgument("engine", "'processes'", f"'threads' {where}")


def _has_processes() -> bool:
    # The sockets of greenlets do not block, and neither does the end that a process gets, which is to wait there.
    return hasattr(os, "fork") and not ARE_THREADS_GREENLETS


def default_workers(engine: RunEngine | None) -> int:
    """Return how many workers there are where nobody says how many.

    As many calls wait at once on an event loop as on threads: it is for the sake of who is asked, not of us.
    """
    if isinstance(engine, Executor):
        from treadle._engines.executor import capacity

        return capacity(engine) or DEFAULT_MAX_WORKERS
    return usable_cores() if engine == "processes" else DEFAULT_MAX_WORKERS


def engine_for(engine: RunEngine | None, fn: Callable[..., Any], role: str) -> RunEngine:
    """Return the engine for ``fn``, the ``role`` of a call, where ``engine`` was asked for, or none.

    Raises:
        WrongType: ``fn`` is a coroutine function, and ``engine`` awaits nothing, or it would not be awaited anywhere.
    """
    if isasyncgenfunction(fn):
        what = f"the asynchronous generator function {describe_function(fn)}"
        raise WrongType(role, what, "a function that returns what it comes to")
    if not is_coroutine_function(fn):
        return engine or "threads"
    if ARE_THREADS_GREENLETS:
        raise WrongType(role, f"the coroutine function {describe_function(fn)}", f"a plain function {UNDER_GREENLETS}")
    if engine in (None, "auto", "coroutines"):
        return "coroutines"
    what = f"the coroutine function {describe_function(fn)}"
    raise WrongType(role, what, f"a plain function where engine={engine!r}", "without engine= it is awaited")


def choose_engine(engine: RunEngine, plan: CallPlan, name: str, max_workers: int) -> EngineChoice:
    """Return how the calls of ``plan`` are made by ``engine``; ``name`` is that of the run, group or executor.

    Raises:
        InvalidArgument: The workers are an executor's own, and cannot be got ready.
        NotPicklable: What is to be sent to a process cannot be.
        ProcessRefused: A process imports what it was sent, and that starts processes.
    """
    if isinstance(engine, Executor):
        return _choose_executor(engine, plan)
    if engine == "threads":
        return EngineChoice(engine, lambda: InlineEngine(plan), ON_THREADS)
    if engine == "auto":
        from treadle._crew.decider import Decider

        decider = Decider(plan, name, max_workers, usable_cores() if _has_processes() else 0)
        return EngineChoice(engine, decider.make_engine, ON_THREADS, decider=decider)
    if engine == "coroutines":
        from treadle._crew.slot import slots_on  # asyncio is slow to import
        from treadle._engines.coroutine import CoroutineEngine
        from treadle._sync.event_loop import LoopHost

        host = LoopHost(f"treadle-{name}-loop")
        make_engine = partial(CoroutineEngine, plan, host.post)
        return EngineChoice(engine, make_engine, ON_A_LOOP, slots_on(host, plan.context))
    from treadle._engines.process import ProcessEngine, wrap_plan  # not for whoever has only threads

    check_not_receiving()
    parcel = wrap_plan(plan)
    return EngineChoice(engine, lambda: ProcessEngine(plan, parcel, call_for_help), IN_PROCESSES)


def _choose_executor(executor: Executor, plan: CallPlan) -> EngineChoice:
    from treadle._engines.executor import Dispatch, ExecutorEngine

    for option, given in (("initializer", plan.initializer), ("resource", plan.resource)):
        if given is not None:
            what = "None where engine is an executor, whose workers are its own: give it to that, or open it in fn"
            raise InvalidArgument(option, describe_function(given), what)
    dispatch = Dispatch(executor, plan)
    return EngineChoice(type(executor).__name__, lambda: ExecutorEngine(dispatch), BY_AN_EXECUTOR)
