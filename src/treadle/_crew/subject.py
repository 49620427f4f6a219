"""What a lesson is about: what is called, and what it is bound to, such as the server that it asks.

Two calls are about the same if they are of the same code and bound to the same: ``self``, arguments of a ``partial``,
what a function has closed over, its defaults; and have the same limiter, resource, initializer, executor. Numbers and
texts are the same if they are equal, and so are tuples, lists and dicts of them; objects are the same if they are
identical. For that no method of an object is called, and none is kept alive: a weak reference stands for each.

What cannot be weakly referenced could only be known by its ``id``, which the next object may inherit, and with it a
lesson that is wrong. So whatever holds it stands for it, if that can be referenced (a function, a partial); otherwise
there is nothing that a lesson could be about, and none is kept. That costs the next run some measuring.
"""

from __future__ import annotations

import dis
import sys
import weakref
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    EllipsisType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    NoneType,
    WrapperDescriptorType,
)
from typing import Any

from treadle._engines.resource import Resource
from treadle._sync.limiter import Limiter

# What is made of more parts is no value to be compared.
MAX_PARTS = 100
_VALUES = frozenset({int, float, complex, bool, NoneType, EllipsisType, range})
_TEXTS = frozenset({str, bytes})
_SEQUENCES = frozenset({tuple, list})
_SETS = frozenset({set, frozenset})
_DESCRIPTORS = frozenset({MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType})
# Their values never change, cannot be weakly referenced, and have a hash of the standard library's.
_MODULES_OF_VALUES = frozenset({"datetime", "decimal", "fractions", "ipaddress", "pathlib", "pathlib._local", "uuid"})


class Identity(weakref.ref[Any]):
    """Stands for an object, without keeping it alive or asking it anything; equal only for the same one."""

    __slots__ = ("_number",)

    def __init__(self, thing: Any) -> None:
        self._number = id(thing)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Identity) and (thing := self()) is not None and thing is other()


@dataclass(frozen=True, slots=True)
class Subject:
    """What a lesson is about.

    Attributes:
        key: Equal where the subject is the same.
        identities: What in it stands for objects.
    """

    key: Hashable
    identities: tuple[Identity, ...] = field(default=(), compare=False)

    @property
    def is_gone(self) -> bool:
        """Whether no call can be about it any more."""
        return any(identity() is None for identity in self.identities)


class _Unknown(Exception):
    """There is something that can be compared only with itself, and cannot be referenced."""


def subject_of(
    fn: Callable[..., Any], limiter: Limiter | None, engine: str | Executor, *others: object
) -> Subject | None:
    """Return what a lesson about calls of ``fn`` is about; None: it could not be told from another.

    Args:
        fn: What is called.
        limiter: Behind which.
        engine: By which the calls are made.
        others: What else they have, such as a resource.
    """
    reader = _Reader()
    try:
        key = tuple(reader.read(thing) for thing in (fn, limiter, engine, *others))
    except (_Unknown, RecursionError):
        return None
    return Subject(key, tuple(reader.identities))


class _Reader:
    def __init__(self) -> None:
        self.identities: list[Identity] = []
        self._left = MAX_PARTS
        self._functions: list[Any] = []  # that are being read, from the outside to the inside

    def read(self, thing: Any) -> Hashable:
        """Return what stands for ``thing``.

        Raises:
            _Unknown: Nothing does.
        """
        kind = type(thing)
        self._left -= 1
        if self._left < 0:
            raise _Unknown
        if kind in _VALUES:
            return kind, thing
        if kind in _TEXTS:  # they may be long, or secret
            return kind, len(thing), hash(thing)
        if kind is FunctionType:
            return self._holder(thing, self._function)
        if kind is partial:
            return self._holder(thing, lambda held: self._all(kind, (held.func, held.args, held.keywords)))
        if kind is MethodType or kind is BuiltinFunctionType or kind is MethodWrapperType:
            return self._method(thing)
        if kind in _DESCRIPTORS:
            return kind, self._identity(thing.__objclass__), thing.__name__
        if kind is Resource:
            return self._all(kind, (thing.factory,))
        if _stands_for_another(kind):
            return self.read(thing.__wrapped__)
        return self._value(thing, kind)

    def _value(self, thing: Any, kind: type) -> Hashable:
        if kind in _SEQUENCES:
            return self._all(kind, list(thing))
        if kind in _SETS or kind is dict:
            try:
                parts = list(thing.items() if kind is dict else thing)
            except RuntimeError:  # it changes meanwhile
                raise _Unknown from None
            return kind, frozenset(map(self.read, parts))
        if issubclass(kind, tuple):  # a named one; its own methods are not asked
            return self._all(self._identity(kind), list(tuple.__iter__(thing)))
        if issubclass(kind, int):
            return self._identity(kind), int.__add__(thing, 0)
        if (name := _module_of(kind)) in _MODULES_OF_VALUES and vars(sys.modules[name]).get(kind.__name__) is kind:
            return kind, hash(thing)
        return self._identity(thing)

    def _all(self, kind: Any, parts: Iterable[Any]) -> Hashable:
        return (kind, *map(self.read, parts))

    def _identity(self, thing: Any) -> Identity:
        try:
            found = Identity(thing)
        except TypeError:
            raise _Unknown from None
        self.identities.append(found)
        return found

    def _holder(self, thing: Any, read: Callable[[Any], Hashable]) -> Hashable:
        """Return what stands for ``thing``: what it is made of, or if that cannot be told, the thing itself."""
        left, known = self._left, len(self.identities)
        try:
            return read(thing)
        except _Unknown:
            self._left = left
            del self.identities[known:]
            return self._identity(thing)

    def _function(self, fn: FunctionType) -> Hashable:
        if (depth := _place_in(self._functions, fn)) is not None:  # it calls itself
            return depth
        code = fn.__code__
        # What it assigns to in its closure is what it has come to so far, and not what it is bound to.
        own = (
            {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_DEREF"}
            if fn.__closure__
            else ()
        )
        cells = [cell for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True) if name not in own]
        self._functions.append(fn)
        try:
            closed_over = tuple(map(self._cell, cells))
            defaults = self.read(fn.__defaults__), self.read(fn.__kwdefaults__)
        finally:
            self._functions.pop()
        return self._identity(code), closed_over, defaults

    def _cell(self, cell: Any) -> Hashable:
        try:
            content = cell.cell_contents
        except ValueError:  # it is empty
            return None
        return self.read(content)

    def _method(self, method: Any) -> Hashable:
        owner = method.__self__
        kind = type(owner)
        if _stands_for_another(kind):
            return self.read(owner)
        name = self.read(method.__func__) if type(method) is MethodType else method.__qualname__
        return type(method), owner.__name__ if kind is ModuleType else self.read(owner), name


def _module_of(kind: type) -> str:
    """Return the name of its module, without a word from its metaclass, which may be the user's."""
    name = type.__dict__["__module__"].__get__(kind)
    return name if type(name) is str and name in sys.modules else ""


def _stands_for_another(kind: type) -> bool:
    """Tell whether it is one of ours, which stands in the place of a function of the user's."""
    return _module_of(kind).startswith("treadle.") and hasattr(kind, "__wrapped__")


def _place_in(things: list[Any], wanted: Any) -> int | None:
    return next((place for place, thing in enumerate(things) if thing is wanted), None)
