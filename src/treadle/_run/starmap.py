"""``treadle.starmap``: the arguments of each call come as a tuple."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar, TypeVarTuple, Unpack, overload

from treadle._core.coroutine_function import CoroutineFunction
from treadle._core.option_names import check_names, suggesting
from treadle._run.mapping import iterate, never_read, start_run, total_of
from treadle._run.options import StarmapOptions, prepare
from treadle._run.run import Run

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")


# Tuples of a length that is known come first: what they hold is checked. Last, any pairs there may be.
@overload
def starmap(
    fn: Callable[[*Arguments], Coroutine[Any, Any, R]],
    pairs: Iterable[tuple[*Arguments]],
    /,
    **options: Unpack[StarmapOptions],
) -> Run[tuple[*Arguments], R]: ...
@overload
def starmap(
    fn: CoroutineFunction[..., R],
    pairs: Iterable[Iterable[Any]],
    /,
    *,
    resource: Callable[[], Any] | None = None,
    **options: Unpack[StarmapOptions],
) -> Run[Any, R]: ...
@overload
def starmap(
    fn: Callable[[*Arguments], R],
    pairs: Iterable[tuple[*Arguments]],
    /,
    **options: Unpack[StarmapOptions],
) -> Run[tuple[*Arguments], R]: ...
@overload
def starmap(
    fn: Callable[..., R],
    pairs: Iterable[Iterable[Any]],
    /,
    *,
    resource: Callable[[], Any] | None = None,
    **options: Unpack[StarmapOptions],
) -> Run[Any, R]: ...
@suggesting
def starmap(
    fn: Callable[..., Any],
    pairs: Iterable[Iterable[Any]],
    /,
    *,
    resource: Callable[[], Any] | None = None,
    **options: Any,
) -> Run[Any, Any]:
    """Call ``fn(*pair)`` for each of ``pairs``, many at a time, and return the ``Run``; for the rest it is ``map``.

    ``map(fn, xs, ys)`` takes one iterable for each argument, ``starmap(fn, pairs)`` one whose items are tuples of
    arguments, as ``itertools.starmap`` and ``multiprocessing.Pool.starmap`` do.

    Args:
        fn: See ``map``.
        pairs: Tuples of arguments, of whatever length ``fn`` takes, or other iterables of them.
        resource: See ``map``; its calls get it behind the arguments.
        options: Those of ``map`` but ``strict``.

    Raises:
        InvalidArgument: An option is outside its bounds.
        WrongType: An argument is not what it must be.

    Example:
        >>> import treadle
        >>> list(treadle.starmap(pow, [(2, 5), (3, 2)]))
        [32, 9]
    """
    check_names(starmap, fn, options, StarmapOptions)
    recipe = prepare(fn, spread=True, resource=resource, **options)
    return start_run(Run, recipe, iterate("pairs", pairs), total_of((pairs,)), never_read(recipe))
