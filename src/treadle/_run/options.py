"""The options that ``map`` and its kin have in common: for type checkers, and checked and put together once."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypedDict

from treadle._core.describe import describe_function
from treadle._core.hedge import Hedge
from treadle._core.retry import Retry
from treadle._core.settings import (
    DEFAULT_GRACE_SECONDS,
    Intake,
    Progress,
    RunEngine,
    Settings,
    WorkersOption,
    as_initargs,
    check_callable,
)
from treadle._crew.policy import Policy
from treadle._engines.engine import CallPlan
from treadle._engines.resource import as_resource, spares
from treadle._run.choosing import check_engine, engine_for
from treadle._run.tuning import count_workers
from treadle._sync.limiter import Limiter


class StageOptions(TypedDict, total=False):
    """The options of whatever makes calls as ``map`` does, for type checkers; what they mean stands there."""

    max_workers: WorkersOption | None
    ordered: bool
    buffersize: int | None
    chunksize: int | None
    call_timeout: float | None
    retry: Retry | None
    limiter: Limiter | None
    hedge: Hedge | None
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    name: str | None
    grace: float
    max_abandoned: int | None
    engine: RunEngine | None
    max_tasks_per_child: int | None


class RunOptions(StageOptions, total=False):
    """The options of whatever is a run by itself."""

    timeout: float | None
    progress: Progress


class StarmapOptions(RunOptions, total=False):
    """The options of ``starmap``."""

    intake: Intake


class MapOptions(StarmapOptions, total=False):
    """The options of ``map``."""

    strict: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """A function and the options it was given with, checked."""

    settings: Settings
    policy: Policy
    plan: CallPlan


def prepare(
    fn: Callable[..., Any],
    *,
    role: str = "fn",
    spread: bool = False,
    resource: Callable[[], Any] | None = None,
    max_workers: WorkersOption | None = None,
    ordered: bool = True,
    buffersize: int | None = None,
    chunksize: int | None = None,
    call_timeout: float | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    limiter: Limiter | None = None,
    hedge: Hedge | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    intake: Intake = "caller",
    progress: Progress = False,
    name: str | None = None,
    grace: float = DEFAULT_GRACE_SECONDS,
    max_abandoned: int | None = None,
    engine: RunEngine | None = None,
    max_tasks_per_child: int | None = None,
) -> Recipe:
    """Check the options of ``treadle.map``, and put together what a run is made of.

    ``role`` is the function's name in messages; ``spread`` is as in ``CallPlan``.

    Raises:
        InvalidArgument: An option is outside its bounds.
        WrongType: An argument is not what it must be.
    """
    check_callable(role, fn)
    for option, thing in (("initializer", initializer), ("resource", resource)):
        if thing is not None:
            check_callable(option, thing)
    check_engine(engine, max_tasks_per_child, may_be_found=True)
    engine = engine_for(engine, fn, role)
    workers = count_workers(max_workers, engine)
    settings = Settings(
        max_workers=workers,
        is_tuned=max_workers == "auto",
        ordered=ordered,
        buffersize=buffersize,
        chunksize=chunksize,
        timeout=timeout,
        intake=intake,
        progress=progress,
        name=describe_function(fn) if name is None else name,
        grace=grace,
        max_abandoned=workers if max_abandoned is None else max_abandoned,
        engine=engine,
    )
    policy = make_policy(workers, resource, grace, max_abandoned, call_timeout, retry, limiter, hedge)
    plan = CallPlan(
        fn,
        copy_context(),
        spread=spread,
        initializer=initializer,
        initargs=as_initargs(initargs),
        resource=as_resource(resource, retry),
        max_tasks_per_child=max_tasks_per_child,
        chunksize=chunksize,
    )
    return Recipe(settings, policy, plan)


def make_policy(
    workers: int,
    resource: Callable[[], Any] | None,
    grace: float | None,
    max_abandoned: int | None,
    call_timeout: float | None,
    retry: Retry | None,
    limiter: Limiter | None,
    hedge: Hedge | None,
) -> Policy:
    """Return what calls are held to, by the options of ``map``, a group or an executor with so many workers."""
    return Policy(
        call_timeout=call_timeout,
        retry=retry,
        limiter=limiter,
        hedge=hedge,
        grace=DEFAULT_GRACE_SECONDS if grace is None else grace,
        max_abandoned=workers if max_abandoned is None else max_abandoned,
        spares=spares(resource),
    )
