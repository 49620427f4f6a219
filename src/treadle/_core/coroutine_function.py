"""Is what a function returns to be awaited?"""

from __future__ import annotations

from functools import partial
from inspect import iscoroutinefunction
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

_PLAIN = (FunctionType, BuiltinFunctionType, MethodType, type)


def is_coroutine_function(fn: Any) -> bool:
    """Tell whether what ``fn`` returns is to be awaited, as far as can be told without calling it."""
    if iscoroutinefunction(fn):
        return True
    if isinstance(fn, _PLAIN):  # most are, and there is nothing more to look at
        return False
    while isinstance(fn, partial):
        fn = fn.func
    return iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004  # what kind it is
