"""Can calls be sent to a process, and what does it cost? Found by pickling a real one."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from treadle._core.context import variable_in_sight
from treadle._core.real_time import perf_counter
from treadle._diagnose.diagnosis import Pickling
from treadle._engines.process_pickling import Parcel, wrap
from treadle.errors import NotPicklable

# The first may have to import something, and is left out if there is time for another.
TRIES = 3
TRY_SECONDS = 0.010


def try_pickling(
    fn: Callable[..., Any], resource: Callable[[], Any] | None, sample: tuple[Any, Any] | None
) -> Pickling:
    """Return what it takes to send calls of ``fn``, such as the ``sample`` of an item and its result."""
    context = copy_context()
    problems: list[str] = []
    _wrap(fn, "the function", problems)
    if resource is not None:
        _wrap(resource, "the resource", problems)
    if (name := variable_in_sight(fn, context)) is not None:
        problems.append(f"calls may look at the context variable {name!r}, and such do not travel to processes")
    if sample is None:
        return Pickling(problems=tuple(problems))
    item, result = sample
    seconds, spent = float("inf"), 0.0
    for _ in range(TRIES):
        found: list[str] = []
        began = perf_counter()
        sizes = _wrap(item, "the argument", found), _wrap(result, "the result", found)
        seconds = min(seconds, perf_counter() - began)
        spent += perf_counter() - began
        if found or spent > TRY_SECONDS:
            break
    return Pickling(seconds, *sizes, (*problems, *found))


def _wrap(value: Any, what: str, problems: list[str]) -> int | None:
    """Return the bytes that ``value`` travels as; if it cannot, say why."""
    try:
        return _size(wrap(value, what))
    except NotPicklable as error:
        problems.append(f"{error.what}: {error.reason}")
    except BaseException as error:  # what a ``__reduce__`` may raise
        problems.append(f"{what}: {type(error).__name__} while it is pickled")
    return None


def _size(parcel: Parcel) -> int:
    return sum(memoryview(part).nbytes for part in parcel)
