"""Arguments that a function does not take, and what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, Signature, signature, unwrap
from typing import Any

from treadle._core.describe import describe_function
from treadle._core.stacks import is_ours
from treadle._core.user_code import call_guarded, get_traceback, is_a


def explain_item(error: BaseException, fn: Callable[..., Any], item: Any, is_spread: bool, has_resource: bool) -> str:
    """Return what to write instead where a run has called ``fn`` with what it does not take; empty: it has not.

    Args:
        error: What the call came to.
        fn: The function.
        item: What it was called with.
        is_spread: The item is a tuple of arguments.
        has_resource: There was another argument, the last.
    """
    taken = _taken_by(fn, error)
    is_tuple = isinstance(item, tuple | list)
    if taken is None:
        return ""
    if is_spread and not is_tuple:
        if isinstance(item, Iterable):
            return ""
        return f"{_describe(fn, taken)}; starmap spreads each item over these, so it must be a tuple of arguments"
    args: Sequence[Any] = item if is_spread else (item,)
    last = (None,) if has_resource else ()
    if _fits(taken, (*args, *last)):
        return ""
    says = _describe(fn, taken)
    if has_resource and _fits(taken, args):
        return f"{says}; resource= adds another argument, the last"
    if is_spread:
        return f"{says}, and got the parts of the item, one by one"
    if is_tuple and _fits(taken, (*item, *last)):
        return f"{says}, and got one argument, the item; treadle.starmap spreads it over the parameters"
    more = "map takes a second iterable for a second argument, functools.partial sets others"
    return f"{says}, and got one argument, the item; {more}"


def explain_call(
    error: BaseException, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], instead: str
) -> str:
    """Return ``instead``, what to write, and what ``fn`` takes, where it does not take these arguments."""
    taken = _taken_by(fn, error)
    return "" if taken is None or _fits(taken, args, kwargs) else f"{_describe(fn, taken)}; {instead}"


def _taken_by(fn: Callable[..., Any], error: BaseException) -> Signature | None:
    """Return what ``fn`` takes, if ``error`` may say that it got something else: raised before its first line."""
    if not is_a(error, TypeError) or not _is_raised_by_us(error):
        return None
    return call_guarded(signature, fn)[0]  # one in C may not say


def _is_raised_by_us(error: BaseException) -> bool:
    """Tell whether the innermost step of its traceback is one of ours, cut off or not."""
    step = get_traceback(error)
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is None or is_ours(step.tb_frame.f_code.co_filename)


def _fits(taken: Signature, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> bool:
    try:
        taken.bind(*args, **(kwargs or {}))
    except TypeError:
        return False
    return True


def _describe(fn: Callable[..., Any], taken: Signature) -> str:
    names = [parameter.replace(annotation=Parameter.empty) for parameter in taken.parameters.values()]
    return f"{describe_function(unwrap(fn))} takes {Signature(names)}"
