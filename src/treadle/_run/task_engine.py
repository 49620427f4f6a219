"""How the calls of tasks are made: by which crew, on which engine, and by how many workers."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from treadle._core.coroutine_function import is_coroutine_function
from treadle._core.describe import describe_function
from treadle._core.raw import make_rlock
from treadle._core.settings import EngineOption, RunEngine
from treadle._crew.account import Account
from treadle._crew.chunking import ChunkSizer
from treadle._crew.crew import Crew
from treadle._crew.policy import Policy
from treadle._engines.engine import CallPlan
from treadle._run.choosing import choose_engine, engine_for
from treadle._run.task import make_call, make_call_here
from treadle._run.tuning import Tuning
from treadle.errors import WrongType

if TYPE_CHECKING:
    from treadle._run.bridge import SharedLoop


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a group, an executor or a periodic task is made of, checked.

    Attributes:
        kind: What a person calls the owner: ``group``, ``executor``, ``periodic``.
        name: Of the owner.
        max_workers: Of its crew.
        policy: What its calls are held to.
        refuse: Returns the error for a submission after the end, given the name and the reason.
        initializer: Called by each worker before its first call, where there is one.
        initargs: Its arguments.
        resource: Opens what each worker has for itself, and calls get as their last positional argument.
        idle_seconds: After which workers leave; by default they stay until the crew stops.
        prefix: Of the names of the threads.
        engine: How calls are made; None: as the first one needs it.
        max_tasks_per_child: Calls after which a process is replaced, where calls are made in processes.
        is_tuned: The number of workers is found while calls are made.
    """

    kind: str
    name: str
    max_workers: int
    policy: Policy
    refuse: Callable[[str, str], Exception]
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    resource: Callable[[], Any] | None = None
    idle_seconds: float = math.inf
    prefix: str | None = None
    engine: EngineOption | None = None
    max_tasks_per_child: int | None = None
    is_tuned: bool = False


class TaskSizer(ChunkSizer):
    """Each task travels alone, and is worth a worker: nothing is known of it from the ones before."""

    is_learning = False

    def is_worth_sharing(self, calls: int, gil: bool) -> bool:  # noqa: ARG002  # the signature is ChunkSizer's
        """Tell whether any task waits."""
        return calls > 0


class TaskEngine:
    """Makes crews for tasks, and chooses the engine when the first function is known."""

    def __init__(self, spec: TaskSpec) -> None:
        self._spec = spec
        self._plan = CallPlan(
            make_call,
            copy_context(),
            initializer=spec.initializer,
            initargs=spec.initargs,
            resource=spec.resource,
            brings_context=True,
            max_tasks_per_child=spec.max_tasks_per_child,
        )
        # Protects all below. Reentrant, as a handler or a finalizer may come upon its holder: each step looks first.
        self._choosing = make_rlock()
        self._crew: Crew | None = None
        self._engine: RunEngine | None = None
        self._tuning: Tuning | None = None
        self._loop: SharedLoop | None = None

    def make_crew(self, account: Account) -> Crew:
        """Return a crew that has no worker yet; what was chosen for the one before is forgotten."""
        spec = self._spec
        self._engine = self._tuning = self._loop = None
        crew = self._crew = Crew(
            name=spec.name,
            max_workers=spec.max_workers,
            make_engine=None,
            sizer=TaskSizer(spec.max_workers, chunksize=1, buffersize=None),
            account=account,
            policy=spec.policy,
            idle_seconds=spec.idle_seconds,
            prefix=spec.prefix,
        )
        # What a worker has for itself is in use by the call that waits on its stack: another call gets another worker.
        crew.stacks_calls = spec.resource is None
        crew.room.lends_to_any = True
        # The standard library's meaning of an initializer that fails. What else a worker may lack (a process, its
        # resource), it lacks for a while.
        crew.is_patient = spec.initializer is None or spec.resource is not None
        if spec.engine is not None:
            self._choose(spec.engine)
        return crew

    def close_after_fork(self) -> None:
        """In a forked child: a thread that is not there may hold the parent's lock, and the loop's is not there."""
        self._choosing = make_rlock()
        self._loop = None

    def prepare_for(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """See to it that calls of ``fn`` can be made, and return what is to be called for it.

        Raises:
            WrongType: ``fn`` is to be awaited where nothing is, or the other way round.
        """
        if self._engine is None:
            self._choose(engine_for(None, fn, "fn"))
        if self._spec.is_tuned and self._tuning is None:
            self._tune(fn)
        return fn if is_coroutine_function(fn) is (self._engine == "coroutines") else self._bridge(fn)

    def stop_tuning(self) -> None:
        """Keep what was learnt about the number of workers."""
        if self._tuning is not None:
            self._tuning.end()

    @property
    def decision(self) -> str | None:
        """How many workers there are, and why, where that is found by measuring."""
        return None if self._tuning is None else f"{self._tuning.engine}; {self._tuning.decision}"

    def _choose(self, engine: RunEngine) -> None:
        """Let calls be made by ``engine``, unless one is chosen already."""
        with self._choosing:
            if self._engine is not None or self._crew is None:
                return
            plan = self._plan if engine != "coroutines" else replace(self._plan, fn=make_call_here)
            choice = choose_engine(engine, plan, self._spec.name, max_workers=0)
            if self._engine is None:
                self._crew.equip(choice.make_engine, choice.make_worker)
                self._engine = engine

    def _tune(self, fn: Callable[..., Any]) -> None:
        """Let the number of workers be found, beginning with what is known of ``fn``."""
        with self._choosing:
            if self._tuning is None and self._engine is not None and self._crew is not None:
                self._tuning = Tuning(self._engine, replace(self._plan, fn=fn), self._spec.policy.limiter)
                self._crew.tune(self._tuning.knee)

    def _bridge(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is to be called for a function of the other kind than the first one that came."""
        spec, is_awaited = self._spec, engine_for(None, fn, "fn") == "coroutines"  # raises for what nobody can call
        if not is_awaited and spec.engine == "coroutines":  # which takes what turns out to return one
            return fn
        if spec.engine is None and spec.resource is None and self._crew is not None:
            from treadle._run.bridge import Awaited, Threaded  # asyncio is slow to import

            return Awaited(fn, self._shared_loop()) if is_awaited else Threaded(fn, self._crew)
        what = f"the {'coroutine' if is_awaited else 'plain'} function {describe_function(fn)}"
        how = f"this {spec.kind} makes its calls on {self._engine}"
        hint = "without engine= and resource= it takes both kinds"
        raise WrongType("fn", what, f"a {'plain' if is_awaited else 'coroutine'} function, as {how}", hint)

    def _shared_loop(self) -> SharedLoop:
        """Return what has the loop for coroutines where calls are made on threads."""
        from treadle._run.bridge import SharedLoop

        with self._choosing:
            if self._loop is None:
                self._loop = SharedLoop(f"treadle-{self._spec.name}-loop")
            return self._loop
