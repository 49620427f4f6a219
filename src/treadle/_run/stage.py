"""A stage of a pipeline: a run of its own, whose input is what the stage before it passes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from treadle._core import clock
from treadle._core.describe import describe, describe_function
from treadle._core.option_names import unexpected
from treadle._core.outcome import Outcome
from treadle._core.real_time import perf_counter
from treadle._core.settings import check_callable, check_count, check_seconds
from treadle._core.user_code import is_a
from treadle._run.failures import settled
from treadle._run.mapping import start_run
from treadle._run.options import Recipe, StageOptions, prepare
from treadle._run.run import Run
from treadle.errors import InvalidArgument, WrongType

OnError = Callable[[Outcome[Any, Any]], object]

# Hand-overs between stages come in bursts: with no more ahead than ``map`` has, workers go idle between them.
LEAD = 4

_NOTHING: Any = object()

# Options of ``map`` that a stage does not have, and what to do instead.
_ELSEWHERE = {
    "timeout": "for_each(timeout=) and start(timeout=) limit the whole pipeline, call_timeout= limits one call",
    "progress": "ask for .stats, from any thread",
    "intake": "each stage has a thread of its own for its input",
    "strict": "a stage has one input",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage does, checked; nothing of it has begun.

    Attributes:
        recipe: Of its runs.
        spreads: What a call returns is passed on one by one.
        on_error: Is given failed calls, which then end nothing.
        batch: What results are collected to, if they are: how many, and for how many seconds at most.
    """

    recipe: Recipe
    spreads: bool = False
    on_error: OnError | None = None
    batch: tuple[int, float | None] | None = None

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.recipe.settings.name

    def start(self, title: str, items: Iterator[Any], timeout: float | None) -> Run[Any, Any]:
        """Start a run of this stage, called ``title``, over ``items``."""
        settings = replace(self.recipe.settings, name=title, timeout=timeout, intake="thread", lead=LEAD)
        plan = replace(self.recipe.plan, context=copy_context())
        return start_run(Run, replace(self.recipe, settings=settings, plan=plan), items)

    @property
    def makes_calls(self) -> bool:
        """Whether it calls a function of the user's."""
        return self.recipe.plan.fn is not passed

    @property
    def is_plain(self) -> bool:
        """Whether each result of its run is passed on, as it is."""
        return not (self.spreads or self.batch) and self.on_error is None

    def results(self, run: Run[Any, Any]) -> Iterator[Any]:
        """Return what the stage passes on. As long as somebody holds that, the run goes on."""
        if self.batch is not None:
            return _batches(run, *self.batch)
        values = run if self.on_error is None else settled(run, self.on_error)
        return chain.from_iterable(values) if self.spreads else values


def mapping(
    method: str, fn: Callable[..., Any], on_error: OnError | None, options: dict[str, Any], role: str = "fn"
) -> Stage:
    """Return the stage that passes on what ``fn``, which ``method`` calls ``role``, returns."""
    known = (*StageOptions.__annotations__, "resource", "on_error", *(("timeout",) if role == "sink" else ()))
    for name in options:
        if name not in known:
            raise unexpected(f"{method}() of a pipeline", name, known, fn, _ELSEWHERE)
    if on_error is not None:
        check_callable("on_error", on_error)
    return Stage(prepare(fn, role=role, **options), on_error=on_error)


def spreading(method: str, fn: Callable[..., Any], on_error: OnError | None, options: dict[str, Any]) -> Stage:
    """Return the stage that passes on, one by one, what is in the iterables that ``fn`` returns."""
    return _wrapped(mapping(method, fn, on_error, options), _Listing)


def filtering(method: str, predicate: Callable[..., Any], on_error: OnError | None, options: dict[str, Any]) -> Stage:
    """Return the stage that passes on the items that ``predicate`` is true for."""
    return _wrapped(mapping(method, predicate, on_error, options, "predicate"), _Keeping)


def batching(size: int, timeout: float | None, name: str | None) -> Stage:
    """Return the stage that passes on lists of ``size`` items, or shorter ones after ``timeout`` seconds."""
    check_count("n", size, least=1)
    if timeout is not None:
        check_seconds("timeout", timeout)
        if timeout == 0:
            raise InvalidArgument("timeout", "0", "more than 0 seconds, or None for no limit")
    recipe = prepare(passed, name=f"batched({size})" if name is None else name, max_workers=1, buffersize=size)
    return Stage(recipe, batch=(size, timeout))


def passing(name: str) -> Stage:
    """Return the stage that passes on its items as they are."""
    return Stage(prepare(passed, name=name, max_workers=1))


def passed(item: Any) -> Any:
    """Return ``item``."""
    return item


def is_iterable(thing: object) -> bool:
    """Tell whether ``thing`` can be iterated, without doing so: that may mean a query, or a download."""
    return isinstance(thing, Iterable) or hasattr(type(thing), "__getitem__")


def _wrapped(stage: Stage, wrap: type[_Listing | _Keeping]) -> Stage:
    recipe = stage.recipe
    call = wrap(recipe.plan.fn)
    fn = call.awaiting if recipe.settings.engine == "coroutines" else call
    return replace(stage, recipe=replace(recipe, plan=replace(recipe.plan, fn=fn)), spreads=True)


class _Listing:
    """Consumes what a function returns where it was called: its work counts there."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What it is measured as."""
        return self._fn

    def __call__(self, *arguments: Any) -> list[Any]:
        return self._listed(self._fn(*arguments))

    async def awaiting(self, *arguments: Any) -> list[Any]:
        """Do the same where the function is to be awaited."""
        return self._listed(await self._fn(*arguments))

    def _listed(self, found: Any) -> list[Any]:
        if not is_iterable(found):
            given = f"{describe(found)} ({type(found).__name__})"
            raise WrongType(f"what {describe_function(self._fn)}() returns", given, "iterable")
        return list(found)


class _Keeping:
    """Returns the item alone, or nothing."""

    def __init__(self, predicate: Callable[..., Any]) -> None:
        self._predicate = predicate

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What it is measured as."""
        return self._predicate

    def __call__(self, item: Any, *resource: Any) -> tuple[Any, ...]:
        return (item,) if self._predicate(item, *resource) else ()

    async def awaiting(self, item: Any, *resource: Any) -> tuple[Any, ...]:
        """Do the same where the predicate is to be awaited."""
        return (item,) if await self._predicate(item, *resource) else ()


def _batches(run: Run[Any, Any], size: int, timeout: float | None) -> Iterator[list[Any]]:
    """Yield the results of ``run`` in lists; before an error, what there was before it."""
    results = _Reader(run)
    batch: list[Any] = []
    deadline: float | None = None
    while True:
        try:
            item = results.take(deadline)
        except Exception as error:
            del run, results  # they know the error, whose traceback leads here
            if batch:
                yield batch
            if is_a(error, StopIteration):
                return
            raise
        if item is not _NOTHING:
            if not batch and timeout is not None:
                deadline = clock.now() + timeout
            batch.append(item)
        if len(batch) == size or (item is _NOTHING and batch):
            yield batch
            batch, deadline = [], None


class _Reader:
    """Takes the results of a run one by one, and waits for each no longer than it is told."""

    def __init__(self, run: Run[Any, Any]) -> None:
        self._run = run  # as long as somebody reads, the run goes on
        self._results: Iterator[Any] = iter(())

    def take(self, deadline: float | None) -> Any:
        """Return the next result; ``_NOTHING`` if there is none by ``deadline``.

        Raises:
            StopIteration: There is no more.
        """
        try:
            while (result := next(self._results, _NOTHING)) is _NOTHING:
                batch = self._run._delivery.next_until(deadline)
                if batch is None:
                    return _NOTHING
                self._results = batch
            return result
        finally:
            del self  # the run knows the error that ends it, whose traceback leads here


class Gauge:
    """How many items have passed a place between two stages, and how long whoever takes them waited for them.

    One thread writes, anybody reads.
    """

    __slots__ = ("began", "count", "ended", "since", "waited")

    def __init__(self) -> None:
        self.began = perf_counter()
        self.ended: float | None = None
        self.count = 0
        self.waited = 0.0
        self.since: float | None = None  # it waits now

    def meter(self, items: Iterator[Any]) -> Iterator[Any]:
        """Yield ``items``, and measure."""
        self.since = perf_counter()
        try:
            for item in items:
                now = perf_counter()
                self.waited += now - self.since
                self.since = None
                self.count += 1
                yield item
                self.since = perf_counter()
        finally:
            del items  # a run knows the error that ended it, whose traceback leads here
            self.ended = now = perf_counter()
            if self.since is not None:
                since, self.since = self.since, None
                self.waited += now - since

    def share(self) -> float:
        """Return for which share of its time, from 0 to 1, whoever takes the items waited for them."""
        ended, since = self.ended, self.since
        now = perf_counter() if ended is None else ended
        waited = self.waited + (now - since if since is not None else 0.0)
        return max(0.0, min(1.0, waited / max(now - self.began, 1e-9)))
