"""Each call sees the submitter's context variables, and nothing it sets is seen by anybody else."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

# Types whose equal values cannot be told apart by what a call could do to them.
_INTERCHANGEABLE = (bool, int, float, complex, str, bytes, type(None))


def detects_changes(base: Context) -> bool:
    """Tell whether ``copy != base`` sees every change to a copy of ``base`` that anybody could notice.

    The comparison is a pointer comparison as long as nothing was set (a context is an immutable tree), so
    one test after each call costs far less than a context for each call. Where something was set, values
    are compared: exact for values that compare by identity and for plain immutable ones, but an equal list
    put in the place of a list would go unseen.
    """
    return all(
        type(value).__eq__ is object.__eq__ or type(value) in _INTERCHANGEABLE for value in base.values()
    )


def isolated(fn: Callable[[Any], Any], base: Context) -> Callable[[Any], Any]:
    """Return ``fn`` such that each call runs in its own copy of ``base``."""

    def call(item: Any) -> Any:
        return base.copy().run(fn, item)

    return call
