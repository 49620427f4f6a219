"""What controllers have learnt in this process, by what was called and behind which limiter."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from types import BuiltinFunctionType, MethodType
from typing import Any

from treadle._crew.rounds import Lesson
from treadle._sync.limiter import Limiter

MAX_LESSONS = 1000

# The oldest first. Without a lock: the end of a run comes upon any thread, and each step here is atomic.
_lessons: dict[Hashable, Lesson] = {}


def subject_of(fn: Callable[..., Any], limiter: Limiter | None, engine: str) -> Hashable:
    """Return what a lesson is about. It holds neither the function nor the limiter.

    Functions of the same code are the same: a lambda in a loop is one, whatever it has closed over.
    """
    return _name_of(fn), None if limiter is None else weakref.ref(limiter), engine


def recall(subject: Hashable) -> Lesson | None:
    """Return what was learnt last about ``subject``."""
    return _lessons.get(subject)


def remember(subject: Hashable, lesson: Lesson | None) -> None:
    """Keep ``lesson``, and forget the oldest where there are too many."""
    if lesson is None:
        return
    _lessons.pop(subject, None)
    _lessons[subject] = lesson
    while len(_lessons) > MAX_LESSONS:
        with suppress(StopIteration, RuntimeError):  # others come and go meanwhile
            _lessons.pop(next(iter(_lessons)), None)


def _name_of(fn: Any) -> Hashable:
    while True:
        if isinstance(fn, partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            # Of what stands for another function it is that one.
            fn = getattr(fn.__self__, "__wrapped__", fn.__func__)
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        else:
            break
    if isinstance(fn, BuiltinFunctionType):  # it may hold the object that it is a method of
        return fn.__module__, fn.__qualname__
    return weakref.ref(getattr(fn, "__code__", fn if isinstance(fn, type) else type(fn)))
