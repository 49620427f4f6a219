"""What a function shares with the rest of its program, as far as can be told without calling it.

In another process there is another copy of it: counts would be lost, and locks would lock nobody out. So such a
function is not moved without being asked. What it reaches is found in its bytecode: by a look at each instruction in
turn, with the things in hand that are on the stack. Jumps are ignored, as a statement brings all that it works on.
"""

from __future__ import annotations

import dis
import io
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, MutableSet
from concurrent.futures import Executor, Future
from functools import partial
from types import CodeType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any, NamedTuple

from treadle._core.user_code import call_guarded

MAX_FUNCTIONS = 200
MAX_PARTS = 100
_MUTATING = frozenset(
    {
        *("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem"),
        *("popleft", "remove", "reverse", "rotate", "setdefault", "sort", "update", "subtract"),
    }
)
_LEAVES_THE_STACK = frozenset({"POP_TOP", "NOP", "RESUME", "CACHE", "EXTENDED_ARG", "PRECALL", "KW_NAMES"})
_LOCAL_TYPES: tuple[type, ...] = (
    *(type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event, threading.Semaphore),
    *(threading.Barrier, threading.Thread, threading.local, queue.Queue, queue.SimpleQueue, io.IOBase, socket.socket),
    *(Executor, Future, GeneratorType),
)
# Of these places, what is an object and no function is for one process.
_LOCAL_PLACES = ("multiprocessing", "treadle._sync.", "treadle._run.")


class _Thing(NamedTuple):
    """Something that is shared: what a person calls it, and what it is."""

    label: str
    value: Any


class _Found(Exception):
    """Ends the search."""


def why_shared(fn: Callable[..., Any]) -> str | None:
    """Return what ``fn`` shares with the program that cannot be in two processes, or that it changes; None: nothing."""
    try:
        _Search(fn).look()
    except _Found as found:
        return str(found)
    except Exception:  # bytecode, or an object of the user's, that is like no other
        return None
    return None


class _Search:
    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self._package = str(getattr(_innermost(fn), "__module__", "")).partition(".")[0]
        self._ahead: deque[tuple[FunctionType, _Thing | None]] = deque()
        self._seen: set[tuple[int, int]] = set()

    def look(self) -> None:
        """Raise ``_Found`` for the first thing that is shared."""
        self._enter(self._fn, is_root=True)
        while self._ahead:
            function, owner = self._ahead.popleft()
            self._look_into(function, owner)

    def _enter(self, fn: Any, is_root: bool = False) -> None:
        """Look at a function, or what holds one, and have its code looked at."""
        if isinstance(fn, partial):
            for part in (*fn.args, *fn.keywords.values()):
                self._refuse_local(_Thing("an argument of partial()", part))
            self._enter(fn.func, is_root)
        elif isinstance(fn, MethodType):
            owner = _Thing("the object that the method is bound to", fn.__self__)
            self._refuse_local(owner)
            self._add(fn.__func__, None if isinstance(fn.__self__, type) else owner)
        elif isinstance(fn, FunctionType):
            self._add(fn, None)
        elif isinstance(fn, type):
            for method in vars(fn).values():
                self._add(getattr(method, "__func__", method), None)
        elif isinstance(wrapped := getattr(fn, "__wrapped__", None), FunctionType):
            self._add(wrapped, None)
        elif is_root and type(fn).__module__ != "builtins":
            owner = _Thing("the object that is called", fn)
            self._refuse_local(owner)
            self._add(_method(fn, "__call__"), owner)

    def _add(self, function: Any, owner: _Thing | None) -> None:
        key = id(function), id(None if owner is None else owner.value)
        if isinstance(function, FunctionType) and key not in self._seen and len(self._seen) < MAX_FUNCTIONS:
            self._seen.add(key)
            self._ahead.append((function, owner))
            self._enter(getattr(function, "__wrapped__", None))

    def _look_into(self, function: FunctionType, owner: _Thing | None) -> None:
        code = function.__code__
        free: dict[str, _Thing] = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            value, error = call_guarded(getattr, cell, "cell_contents")
            free[name] = _Thing(f"the variable {name!r} around it", None if error is not None else value)
        for thing in free.values():
            self._reach(thing)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._refuse_local(_Thing("a default", value))
        first: dict[str, _Thing | None] = {code.co_varnames[0]: owner} if owner is not None and code.co_argcount else {}
        self._read(code, function.__globals__, free, first)

    def _read(
        self, code: CodeType, around: dict[str, Any], free: dict[str, _Thing], own: dict[str, _Thing | None]
    ) -> None:
        _Reader(self, around, free, own).read(code)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                visible = {name: free[name] for name in inner.co_freevars if name in free}
                visible |= {name: thing for name in inner.co_freevars if (thing := own.get(name)) is not None}
                self._read(inner, around, visible, {})

    def _reach(self, thing: _Thing) -> None:
        """Take note that code can use ``thing``."""
        self._refuse_local(thing)
        if isinstance(thing.value, FunctionType | type) or hasattr(type(thing.value), "__wrapped__"):
            if self._is_of_ours(thing.value):
                self._enter(thing.value)
        elif isinstance(thing.value, MethodType | partial):
            self._enter(thing.value)

    def _use(self, thing: _Thing, name: str) -> None:
        """Take note that code takes the attribute ``name`` of ``thing``, to call it perhaps."""
        value = thing.value
        if isinstance(value, MutableMapping | MutableSequence | MutableSet) and name in _MUTATING:
            raise _Found(f"calls change {thing.label}")
        if not isinstance(value, type | ModuleType) and self._is_of_ours(type(value)):
            self._add(_method(value, name), thing)

    def _is_of_ours(self, thing: Any) -> bool:
        """Tell whether that is of the same package as the function: others keep their own house."""
        return str(getattr(thing, "__module__", "")).partition(".")[0] == self._package

    def _refuse_local(self, thing: _Thing) -> None:
        """Raise if ``thing``, or a part of it, cannot be in two processes."""
        for part in _parts(thing.value):
            kind = type(part)
            if issubclass(kind, _LOCAL_TYPES) or (
                kind.__module__.startswith(_LOCAL_PLACES) and not isinstance(part, FunctionType | type)
            ):
                raise _Found(f"calls share {thing.label} ({kind.__name__}), which cannot be in two processes")


class _Reader:
    """Reads one piece of code, and tells the search what it uses and changes."""

    def __init__(
        self, search: _Search, around: dict[str, Any], free: dict[str, _Thing], own: dict[str, _Thing | None]
    ) -> None:
        self._search = search
        self._around = around
        self._free = free
        self._locals: dict[str, _Thing | None] = own
        self._stack: list[_Thing | None] = []

    def read(self, code: CodeType) -> None:
        """Look at each instruction."""
        for step in dis.get_instructions(code):
            if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                raise _Found(f"calls assign to the global {step.argval!r}")
            if step.opname in ("STORE_DEREF", "DELETE_DEREF") and step.argval in self._free:
                raise _Found(f"calls assign to {self._free[step.argval].label}")
            if not self._follow(step):
                self._drop(step)

    def _follow(self, step: dis.Instruction) -> bool:
        """Do what an instruction does to the stack, if it is one of those that matter."""
        stack, name = self._stack, step.opname
        if name.startswith(("LOAD_GLOBAL", "LOAD_NAME")):
            self._push(step, self._global(step.argval))
        elif name in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
            self._push(step, self._free.get(step.argval) or self._locals.get(step.argval))
        elif name in ("LOAD_ATTR", "LOAD_METHOD"):
            self._push(step, self._attribute(self._pop(), step.argval), taken=1)
        elif name == "BINARY_SUBSCR" or (name == "BINARY_OP" and step.argrepr == "[]"):
            self._pop()
            container = self._pop()
            stack.append(container and _Thing(f"what is in {container.label}", None))
        elif name == "COPY":
            stack.append(self._at(step.arg or 1))
        elif name == "SWAP":
            self._swap(step.arg or 1)
        elif name in ("STORE_ATTR", "DELETE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"):
            depth = {"STORE_SUBSCR": 2, "DELETE_SUBSCR": 2, "STORE_SLICE": 3}.get(name, 1)
            if (thing := self._at(depth)) is not None:
                raise _Found(f"calls change {thing.label}")
            return False
        else:
            return self._follow_local(step)
        return True

    def _follow_local(self, step: dis.Instruction) -> bool:
        name = step.opname
        if "FAST" not in name:
            return False
        names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
        kinds = [part for part in name.split("_") if part in ("LOAD", "STORE", "DELETE")]
        for kind, variable in zip(kinds, names, strict=False):
            if kind == "LOAD":
                self._stack.append(self._locals.get(variable))
            elif kind == "STORE":
                self._locals[variable] = self._pop()
        return True

    def _push(self, step: dis.Instruction, thing: _Thing | None, taken: int = 0) -> None:
        more = dis.stack_effect(step.opcode, step.arg) - (1 - taken)
        self._stack += [thing, *[None] * max(0, more)]

    def _drop(self, step: dis.Instruction) -> None:
        """Let an instruction take what it takes, and bring something that nobody knows."""
        effect = dis.stack_effect(step.opcode, step.arg, jump=False)
        if effect > 0:
            self._stack += [None] * effect
            return
        for _ in range(-effect):
            self._pop()
        if self._stack and step.opname not in (
            "POP_TOP",
            "NOP",
            "RESUME",
            "CACHE",
            "EXTENDED_ARG",
            "PRECALL",
            "KW_NAMES",
        ):
            self._stack[-1] = None

    def _pop(self) -> _Thing | None:
        return self._stack.pop() if self._stack else None

    def _at(self, depth: int) -> _Thing | None:
        return self._stack[-depth] if len(self._stack) >= depth else None

    def _swap(self, depth: int) -> None:
        if len(self._stack) >= depth:
            self._stack[-1], self._stack[-depth] = self._stack[-depth], self._stack[-1]

    def _global(self, name: str) -> _Thing | None:
        if name not in self._around:
            return None
        thing = _Thing(f"the global {name!r}", self._around[name])
        self._search._reach(thing)
        return thing

    def _attribute(self, thing: _Thing | None, name: str) -> _Thing | None:
        if thing is None:
            return None
        self._search._use(thing, name)
        if isinstance(thing.value, ModuleType):
            found = _Thing(f"{name!r} of module {thing.value.__name__!r}", vars(thing.value).get(name))
        else:
            found = _Thing(f"{name!r} of {thing.label}", _attributes(thing.value).get(name))
        self._search._reach(found)
        return found


def _innermost(fn: Any) -> Any:
    while isinstance(fn, partial | MethodType):
        fn = fn.func if isinstance(fn, partial) else fn.__func__
    return fn if isinstance(fn, FunctionType | type) or hasattr(fn, "__wrapped__") else type(fn)


def _method(thing: Any, name: str) -> Any:
    """Return the function that is the method ``name`` of ``thing``, without asking it."""
    found = next((vars(kind)[name] for kind in type(thing).__mro__ if name in vars(kind)), None)
    return getattr(found, "__wrapped__", found) if not isinstance(found, FunctionType) else found


def _attributes(thing: Any) -> dict[str, Any]:
    found, _ = call_guarded(object.__getattribute__, thing, "__dict__")
    return found if isinstance(found, dict) else {}


def _parts(thing: Any) -> Iterator[Any]:
    """Yield ``thing`` and what is right in it."""
    yield thing
    if isinstance(thing, ModuleType | type | FunctionType):
        return
    if type(thing) in (list, tuple, set, frozenset, deque):
        yield from list(thing)[:MAX_PARTS]
    elif type(thing) is dict:
        yield from list(thing.values())[:MAX_PARTS]
    elif not type(thing).__module__.startswith(("builtins", "logging", "re", "functools")):
        yield from list(_attributes(thing).values())[:MAX_PARTS]
