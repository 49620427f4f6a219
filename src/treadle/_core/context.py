"""Each call sees the submitter's context variables, and nothing it sets is seen by anybody else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context, ContextVar
from types import FunctionType, ModuleType
from typing import Any

from treadle._core.cancellation import has_entered


def isolated(fn: Callable[[Any], Any], base: Context) -> Callable[[Any], Any]:
    """Return ``fn`` such that each call runs in its own copy of ``base``. Copying one is cheap at any size."""

    def call(item: Any) -> Any:
        context = base.copy()
        try:
            return context.run(fn, item)
        finally:
            if has_entered in context:
                has_entered.set(True)  # for whoever makes the calls

    return call


def is_plain(context: Context) -> bool:
    """Return True if nothing is set in ``context`` that a call could see."""
    return len(context) == (has_entered in context)


def variable_in_sight(fn: Callable[..., Any], context: Context) -> str | None:
    """Return the name of a variable set in ``context`` that ``fn`` may well look at, as far as can be told.

    Nearly every context has variables of some library's, which change no result; those of the function's own module, of
    modules that it uses and of its closure may. And ``decimal`` computes by its own, wherever it is used.
    """
    for variable in context:
        if variable.name == "decimal_context" and _computes_otherwise(context[variable]):
            return variable.name
    if not context:
        return None
    found = (thing for function in _functions_in(fn) for thing in _in_reach(function))
    return next((thing.name for thing in found if isinstance(thing, ContextVar) and thing in context), None)


def _computes_otherwise(context: Any) -> bool:
    """Tell whether that context of ``decimal`` is another than that of a fresh process."""
    decimal = sys.modules.get("decimal")
    if decimal is None or not isinstance(context, decimal.Context):
        return False
    plain = decimal.DefaultContext
    names = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")
    return any(getattr(context, name) != getattr(plain, name) for name in names)


def _functions_in(fn: Any) -> Iterator[FunctionType]:
    """Yield the functions of Python that ``fn`` is, or wraps."""
    parts = [fn, getattr(fn, "func", None), getattr(fn, "__func__", None), getattr(fn, "__wrapped__", None)]
    if not isinstance(fn, type | FunctionType):
        parts += [getattr(type(fn), "__call__", None), *getattr(fn, "__dict__", {}).values()]  # noqa: B004
    yield from (part for part in parts if isinstance(part, FunctionType))


def _in_reach(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty one
            yield cell.cell_contents
    everything = function.__globals__
    yield from list(everything.values())
    for name in function.__code__.co_names:
        if isinstance(module := everything.get(name), ModuleType):
            yield from list(vars(module).values())
