"""Functions whose first step no Ctrl-C can keep from being made.

A ``with`` statement owes a call of ``__exit__``, a ``finally`` one of ``release``. But a function of Python looks for
signals before its first step, so Ctrl-C may raise where nothing is done and no ``try`` is entered yet: what was taken
stays taken for good, in some of a hundred interrupts of a tight loop. A function of C does not look there.

The look belongs to the instruction ``RESUME`` at the beginning of every function (CPython 3.11 and later). It is left
out where that stands behind an ``await``, which its argument says. Here it says so at the beginning as well. From there
on a ``try`` has to see to it that every step which is owed is made, twice if need be.
"""

from __future__ import annotations

import opcode
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_RESUME = opcode.opmap.get("RESUME")
_UNIT_BYTES = 2  # an instruction and its argument; before RESUME none is longer
_WHERE_MASK, _BEHIND_YIELD_FROM = 3, 2  # of the argument: after 0 and 1 there is a look, after 2 and 3 there is none


def starts_uninterrupted(fn: F) -> F:
    """Have ``fn`` make its first step whatever signal has come; as it is, where the interpreter knows no such thing."""
    code: Any = fn.__code__
    steps = bytearray(code.co_code)
    for at in range(0, len(steps), _UNIT_BYTES):
        if steps[at] == _RESUME:
            steps[at + 1] = steps[at + 1] & ~_WHERE_MASK | _BEHIND_YIELD_FROM
            fn.__code__ = code.replace(co_code=bytes(steps))
            break
    return fn


def is_interruptible(code: Any) -> bool:
    """Return True if Ctrl-C may raise before the first step of a function with this ``code``."""
    steps = code.co_code
    places = (at for at in range(0, len(steps), _UNIT_BYTES) if steps[at] == _RESUME)
    first = next(places, None)
    return first is None or steps[first + 1] & _WHERE_MASK < _BEHIND_YIELD_FROM
