"""Functions that return what is to be awaited, for type checkers and at run time."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from inspect import iscoroutinefunction
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

_PLAIN = (FunctionType, BuiltinFunctionType, MethodType, type)


class CoroutineFunction(Protocol[P, R_co]):
    """A function whose calls are awaited.

    A protocol, not a ``Callable``: where no overload fits, mypy shows the errors of the first whose arguments look
    alike. Any function looks like a ``Callable``, so for plain ones a coroutine function was said to be expected.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Return what is to be awaited."""
        ...


def is_coroutine_function(fn: Any) -> bool:
    """Tell whether what ``fn`` returns is to be awaited, as far as can be told without calling it."""
    if iscoroutinefunction(fn):
        return True
    if isinstance(fn, _PLAIN):  # most are, and there is nothing more to look at
        return False
    while isinstance(fn, partial):
        fn = fn.func
    return iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004  # what kind it is
