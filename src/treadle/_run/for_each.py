"""``treadle.for_each``: calls for what they do, not for what they return."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar, Unpack, overload

from treadle._core.coroutine_function import CoroutineFunction
from treadle._core.option_names import check_names, suggesting
from treadle._core.outcome import Stats
from treadle._run.failures import Failures, OnError, check_on_error, settled
from treadle._run.mapping import map as start_map
from treadle._run.options import MapOptions
from treadle._run.run import Run

A = TypeVar("A")
B = TypeVar("B")
Resource = TypeVar("Resource")


@overload
def for_each(
    fn: Callable[[A], object],
    iterable: Iterable[A],
    /,
    *,
    on_error: OnError = "cancel",
    **options: Unpack[MapOptions],
) -> Stats: ...
@overload
def for_each(
    fn: Callable[[A, B], object],
    first: Iterable[A],
    second: Iterable[B],
    /,
    *,
    on_error: OnError = "cancel",
    **options: Unpack[MapOptions],
) -> Stats: ...
@overload
def for_each(
    fn: Callable[[A, Resource], object],
    iterable: Iterable[A],
    /,
    *,
    resource: Callable[[], AbstractContextManager[Resource]],
    on_error: OnError = "cancel",
    **options: Unpack[MapOptions],
) -> Stats: ...
@overload
def for_each(
    fn: CoroutineFunction[[A, Resource], object],
    iterable: Iterable[A],
    /,
    *,
    resource: Callable[[], AbstractAsyncContextManager[Resource] | Coroutine[Any, Any, Resource]],
    on_error: OnError = "cancel",
    **options: Unpack[MapOptions],
) -> Stats: ...
@overload
def for_each(
    fn: Callable[[A, Resource], object],
    iterable: Iterable[A],
    /,
    *,
    resource: Callable[[], Resource],
    on_error: OnError = "cancel",
    **options: Unpack[MapOptions],
) -> Stats: ...
@overload
def for_each(
    fn: Callable[..., object],
    first: Iterable[Any],
    second: Iterable[Any],
    /,
    *more: Iterable[Any],
    on_error: OnError = "cancel",
    resource: Callable[[], Any] | None = None,
    **options: Unpack[MapOptions],
) -> Stats: ...
@suggesting
def for_each(
    fn: Callable[..., object],
    /,
    *iterables: Iterable[Any],
    on_error: OnError = "cancel",
    ordered: bool = False,
    resource: Callable[[], Any] | None = None,
    **options: Any,
) -> Stats:
    """Call ``fn`` with the items of ``iterables``, many at a time, to the end of all of them, and return the account.

    For calls that are made for what they do: what they return is dropped as it comes, so memory stays flat however many
    items there are. ``map`` is for results, and makes no further calls while nobody reads them.

    Args:
        fn: See ``map``, also for ``iterables``.
        iterables: Advanced by this thread while it waits, or with ``intake="thread"`` by one of its own.
        on_error: What a failed call does. ``"cancel"``: it ends all, as in ``map``, and its exception is raised as it
            is. ``"collect"``: the others go on, and in the end all failures are raised as one ``ExceptionGroup``, each
            with a note that names the item. Of more than 100 failures, the later ones come without the local variables
            of their frames; of more than 10,000, the rest is counted in a note of the group. A function: it is given
            the ``Outcome`` of each call that failed or timed out, by this thread, and all goes on, unless it raises.
        ordered: The first failure is the one that comes first in the input, instead of the one that happened first.
        resource: See ``map``.
        options: Those of ``map``.

    Raises:
        ExceptionGroup: Some calls failed, with ``on_error="collect"``. What ended the run early joins them.
        BaseException: What the first call to fail raised, or the input.
        TimeoutError: It took longer than ``timeout``.
        InvalidArgument: An option is outside its bounds.
        WrongType: An argument is not what it must be.

    Example:
        >>> import treadle
        >>> seen = []
        >>> treadle.for_each(seen.append, range(1000)).succeeded, len(seen)
        (1000, 1000)
    """
    check_names(for_each, fn, options, MapOptions)
    check_on_error(on_error)
    start: Callable[..., Run[Any, Any]] = start_map  # its overloads tell apart what makes no difference here
    run = start(fn, *iterables, ordered=ordered, resource=resource, **options)
    try:
        with run:
            if on_error == "cancel":
                run.wait()
            else:
                with Failures(f"run {run.name!r}") as failures:
                    told = failures.add if on_error == "collect" else on_error
                    deque(settled(run, told), maxlen=0)
        return run.stats
    finally:
        del run  # it knows the error that ended it, whose traceback leads here
