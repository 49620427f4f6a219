"""``treadle.pipeline``: the plan of stages. What runs is a ``Flow``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Generic, TypeVar, Unpack, cast, overload

from treadle._core.coroutine_function import CoroutineFunction
from treadle._core.describe import describe, show_own
from treadle._core.option_names import suggesting
from treadle._core.outcome import Outcome
from treadle._core.settings import check_seconds
from treadle._run.failures import Failures, OnError, check_on_error
from treadle._run.flow import Flow, FlowAccount, start_flow
from treadle._run.options import StageOptions
from treadle._run.pipeline_stats import PipelineStats
from treadle._run.stage import Stage, batching, filtering, is_iterable, mapping, passing, spreading
from treadle._run.unread import Unread
from treadle.errors import WrongType

T = TypeVar("T")
R = TypeVar("R")
Resource = TypeVar("Resource")


class Pipeline(Generic[T]):
    """A source and the stages that its items pass through: a plan, which iterating it or ``for_each()`` carries out.

    ``treadle.pipeline()`` makes it. Each method that adds a stage returns another pipeline; this one stays as it is.

    Each stage is a run as ``treadle.map`` makes it, with a crew of its own and the options of ``map``; its input is
    what the stage before it passes on, taken by a thread of its own as far as the stage's bound allows. So a slow stage
    holds back those before it, down to the source, and an endless source is fine.

    The first failure ends all of it. The results before it still pass through the stages after it; the stages before it
    end at once: their calls are asked to end, and the source is advanced no further. Then the exception reaches whoever
    iterates, unchanged, with a note that names the item and the stage. If several stages fail, the failure that comes
    first in the order of the results is raised (so one further down the pipeline, while it works off what was before),
    and a note names the others.

    Example:
        >>> import treadle
        >>> lengths = treadle.pipeline(["one", "three", ""]).filter(bool).map(len, max_workers=4)
        >>> list(lengths)
        [3, 5]
    """

    def __init__(self, source: Iterable[Any], stages: tuple[Stage, ...], name: str) -> None:
        self._source = source
        self._stages = stages
        self._name = name
        self._latest: FlowAccount | None = None  # of the flow started last
        self._unread: Unread | None = None  # until it is started, or goes on as a longer one

    def __del__(self) -> None:
        unread = getattr(self, "_unread", None)
        if unread is not None and not sys.is_finalizing():  # one that is left at exit may have had no occasion
            unread.warn_of_plan()

    def __repr__(self) -> str:
        return show_own(
            self, lambda: f"{self._name!r}: {' -> '.join(['source', *(stage.name for stage in self._stages)])}"
        )

    @overload
    def map(
        self,
        fn: CoroutineFunction[[T], R],
        /,
        *,
        on_error: Callable[[Outcome[T, R]], object] | None = None,
        **options: Unpack[StageOptions],
    ) -> Pipeline[R]: ...
    @overload
    def map(
        self,
        fn: CoroutineFunction[[T, Resource], R],
        /,
        *,
        resource: Callable[[], AbstractAsyncContextManager[Resource] | AbstractContextManager[Resource]],
        on_error: Callable[[Outcome[T, R]], object] | None = None,
        **options: Unpack[StageOptions],
    ) -> Pipeline[R]: ...
    @overload
    def map(
        self,
        fn: CoroutineFunction[[T, Resource], R],
        /,
        *,
        resource: Callable[[], Resource],
        on_error: Callable[[Outcome[T, R]], object] | None = None,
        **options: Unpack[StageOptions],
    ) -> Pipeline[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[T], R],
        /,
        *,
        on_error: Callable[[Outcome[T, R]], object] | None = None,
        **options: Unpack[StageOptions],
    ) -> Pipeline[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[T, Resource], R],
        /,
        *,
        resource: Callable[[], AbstractContextManager[Resource]],
        on_error: Callable[[Outcome[T, R]], object] | None = None,
        **options: Unpack[StageOptions],
    ) -> Pipeline[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[T, Resource], R],
        /,
        *,
        resource: Callable[[], Resource],
        on_error: Callable[[Outcome[T, R]], object] | None = None,
        **options: Unpack[StageOptions],
    ) -> Pipeline[R]: ...
    @suggesting
    def map(
        self,
        fn: Callable[..., Any],
        /,
        *,
        on_error: Callable[[Outcome[Any, Any]], object] | None = None,
        **options: Any,
    ) -> Pipeline[Any]:
        """Add a stage that passes on what ``fn`` returns for each item.

        Args:
            fn: Called on the stage's worker threads, from several at once.
            on_error: Given the ``Outcome`` of each call that failed or timed out (after its retries); the item is then
                left out, and the pipeline goes on. Called by the thread that takes the stage's results (the next
                stage's feeder, or whoever iterates), in their order, one at a time. What it raises ends the pipeline.
            options: Those of ``treadle.map`` but ``timeout``, ``progress``, ``intake`` and ``strict``.

        Raises:
            InvalidArgument: An option is outside its bounds.
            WrongType: An argument is not what it must be.

        Example:
            >>> import treadle
            >>> bad = []
            >>> list(treadle.pipeline(["1", "x", "3"]).map(int, on_error=bad.append, max_workers=2))
            [1, 3]
            >>> [(outcome.item, type(outcome.error).__name__) for outcome in bad]
            [('x', 'ValueError')]
        """
        return self._with(mapping, "map", fn, on_error, options)

    @suggesting
    def filter(
        self,
        predicate: Callable[[T], object],
        /,
        *,
        on_error: Callable[[Outcome[T, Any]], object] | None = None,
        **options: Unpack[StageOptions],
    ) -> Pipeline[T]:
        """Add a stage that passes on the items that ``predicate`` returns something true for.

        The predicate is called on the stage's workers; see ``map`` for the options.

        Example:
            >>> import treadle
            >>> list(treadle.pipeline(range(5)).filter(lambda number: number % 2))
            [1, 3]
        """
        return self._with(filtering, "filter", predicate, on_error, dict(options))

    @overload
    def flat_map(
        self,
        fn: CoroutineFunction[[T], Iterable[R]],
        /,
        *,
        on_error: Callable[[Outcome[T, Any]], object] | None = None,
        **options: Unpack[StageOptions],
    ) -> Pipeline[R]: ...
    @overload
    def flat_map(
        self,
        fn: Callable[[T], Iterable[R]],
        /,
        *,
        on_error: Callable[[Outcome[T, Any]], object] | None = None,
        **options: Unpack[StageOptions],
    ) -> Pipeline[R]: ...
    @suggesting
    def flat_map(
        self,
        fn: Callable[..., Any],
        /,
        *,
        on_error: Callable[[Outcome[T, Any]], object] | None = None,
        **options: Unpack[StageOptions],
    ) -> Pipeline[R]:
        """Add a stage that passes on, one by one, what is in the iterables that ``fn`` returns.

        The iterable is consumed on the worker that called ``fn``, to its end: so a generator's work is done there, and
        all that comes of one item is in memory at once. The stage's bound counts the items that go in.

        Example:
            >>> import treadle
            >>> list(treadle.pipeline(["a b", "c"]).flat_map(str.split))
            ['a', 'b', 'c']
        """
        return self._with(spreading, "flat_map", fn, on_error, dict(options))

    @suggesting
    def batched(self, n: int, /, *, timeout: float | None = None, name: str | None = None) -> Pipeline[list[T]]:
        """Add a stage that passes on lists of ``n`` items; the last may be shorter.

        Before an exception, of the source or of a stage, what was collected before it is passed on.

        Args:
            n: Items in a list, at least 1.
            timeout: Seconds after the first item of a list at which it is passed on as it is. What comes before
                the list is asked for, as the next stage has no room for it, waits in the stage (``n + 1`` items
                at most) and not in a list.
            name: For stats, logs and thread names.

        Raises:
            InvalidArgument: An option is outside its bounds.

        Example:
            >>> import treadle
            >>> list(treadle.pipeline(range(5)).batched(2))
            [[0, 1], [2, 3], [4]]
        """
        return cast("Pipeline[list[T]]", self._with(batching, n, timeout, name))

    @overload
    def for_each(
        self,
        sink: Callable[[T], object],
        /,
        *,
        timeout: float | None = None,
        on_error: OnError = "cancel",
        **options: Unpack[StageOptions],
    ) -> PipelineStats: ...
    @overload
    def for_each(
        self,
        sink: Callable[[T, Resource], object],
        /,
        *,
        resource: Callable[[], AbstractContextManager[Resource]],
        timeout: float | None = None,
        on_error: OnError = "cancel",
        **options: Unpack[StageOptions],
    ) -> PipelineStats: ...
    @overload
    def for_each(
        self,
        sink: Callable[[T, Resource], object],
        /,
        *,
        resource: Callable[[], Resource],
        timeout: float | None = None,
        on_error: OnError = "cancel",
        **options: Unpack[StageOptions],
    ) -> PipelineStats: ...
    @suggesting
    def for_each(
        self,
        sink: Callable[..., object],
        /,
        *,
        timeout: float | None = None,
        on_error: OnError = "cancel",
        **options: Any,
    ) -> PipelineStats:
        """Run the pipeline to its end, ``sink`` being its last stage, and return the stats.

        Returns when every item has come through; what ``sink`` returns is dropped.

        Args:
            sink: Called on workers of its own, up to ``max_workers`` at once: 1 for what is not safe to call from
                several threads.
            timeout: Seconds for all of it.
            on_error: What a failed call of ``sink`` does, as in ``treadle.for_each``. ``"cancel"``: it ends all.
                ``"collect"``: all goes on, and in the end those failures are raised as one ``ExceptionGroup``. A
                function: see ``map``.
            options: As in ``map``.

        Raises:
            ExceptionGroup: Some calls of ``sink`` failed, with ``on_error="collect"``.
            TimeoutError: It took longer than ``timeout``.
            InvalidArgument: An option is outside its bounds.
            WrongType: An argument is not what it must be.

        Example:
            >>> import treadle
            >>> sizes = []
            >>> stats = treadle.pipeline(["a", "bc"]).map(len).for_each(sizes.append, max_workers=1)
            >>> sizes, stats.stages[-1].succeeded
            ([1, 2], 2)
        """
        check_on_error(on_error)
        with Failures(f"the last stage of pipeline {self._name!r}") as failures:
            told = None if on_error == "cancel" else failures.add if on_error == "collect" else on_error
            whole = self._with(mapping, "for_each", sink, told, options, "sink")
            with whole.start(timeout=timeout) as flow:
                self._latest = whole._latest
                try:
                    stats = flow.wait()
                finally:
                    del flow, whole, told  # they know the error that ended the flow, whose traceback leads here
        return stats

    @suggesting
    def start(self, *, timeout: float | None = None) -> Flow[T]:
        """Start all stages, and return the ``Flow`` to iterate. ``iter(pipeline)`` does the same.

        Args:
            timeout: Seconds for all of it, from now; a result that is not there by then raises ``TimeoutError``.

        Raises:
            InvalidArgument: ``timeout`` is negative or not a number.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        self._unread = None
        stages = self._stages or (passing(self._name),)
        flow: Flow[T] = start_flow(self._name, stages, self._source, timeout)
        self._latest = flow._account
        return flow

    def __iter__(self) -> Flow[T]:
        return self.start()

    @property
    def name(self) -> str:
        """The pipeline's name, as stats, logs and threads show it."""
        return self._name

    @property
    def stats(self) -> PipelineStats:
        """The account of the flow that this pipeline started last, with no stages before the first one was started.

        May be asked at any time, from any thread.
        """
        return PipelineStats(self._name) if self._latest is None else self._latest.stats()

    def _with(self, make: Callable[..., Stage], *given: Any) -> Pipeline[Any]:
        self._unread = None  # also where there is no such stage, which whoever asked for it is told
        longer: Pipeline[Any] = Pipeline(self._source, (*self._stages, make(*given)), self._name)
        longer._unread = Unread(f"pipeline {self._name!r}", "iterate it, or call its for_each() or start()")
        return longer


@suggesting
def pipeline(source: Iterable[T], /, *, name: str = "pipeline") -> Pipeline[T]:
    """Return a pipeline from ``source``, to which stages are to be added.

    Nothing is taken from the source before the pipeline is iterated, or ``for_each()`` is called. Then a thread of the
    pipeline's advances it (one at a time, but not the one that made it), in the context of whoever started it.
    An exception that it raises surfaces after the results before it. Several producers feed a pipeline through a
    ``Channel``.

    Args:
        source: Any iterable, also an endless one, or one that blocks.
        name: For stats, logs and thread names.

    Raises:
        WrongType: ``source`` is not iterable.

    Example:
        >>> import treadle
        >>> words = treadle.pipeline(["b a", "c"], name="words").flat_map(str.split).map(str.upper)
        >>> sorted(words)
        ['A', 'B', 'C']
    """
    if not isinstance(name, str):
        raise WrongType("name", describe(name), "a string")
    if not is_iterable(source):
        raise WrongType("source", f"{describe(source)} ({type(source).__name__})", "iterable")
    return Pipeline(source, (), name)
