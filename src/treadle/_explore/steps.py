"""Which steps of which code may be switched at: those that can touch what threads share."""

from __future__ import annotations

import contextlib
import dis
import functools
import os
import queue
import site
import sys
import sysconfig
import threading
from _thread import get_ident
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Protocol, TypeAlias

from treadle._core import block
from treadle._core.block import contextmanager

Trace: TypeAlias = Callable[[FrameType, str, Any], Any]
Step: TypeAlias = Callable[[FrameType], object]

# A bytecode instruction is atomic, with and without a GIL; between two of them anything may happen. Those that touch
# nothing but the frame's own variables and stack are left out: a switch before one is a switch before the next.
_TOUCHING = {
    *("LOAD_ATTR", "STORE_ATTR", "DELETE_ATTR", "LOAD_SUPER_ATTR", "LOAD_DEREF", "STORE_DEREF", "DELETE_DEREF"),
    *("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "STORE_NAME", "DELETE_NAME"),
    *("BINARY_SUBSCR", "STORE_SUBSCR", "DELETE_SUBSCR", "BINARY_SLICE", "STORE_SLICE", "BINARY_OP", "CONTAINS_OP"),
    *("CALL", "CALL_KW", "CALL_FUNCTION_EX", "FOR_ITER", "UNPACK_SEQUENCE", "UNPACK_EX", "BEFORE_WITH"),
    *("LIST_EXTEND", "SET_UPDATE", "DICT_UPDATE", "DICT_MERGE", "TO_BOOL"),
}
_NEVER_CHANGED = (ModuleType, FunctionType, BuiltinFunctionType, type)
_PLAIN_TESTS = {"COMPARE_OP", "CONTAINS_OP", "IS_OP", "UNARY_NOT", "TO_BOOL"}


def touching_offsets(code: CodeType, names: dict[str, Any]) -> frozenset[int]:
    """Return the offsets in ``code`` of the instructions that can touch what threads share.

    Args:
        code: Of a function, or of whatever else is run.
        names: Its globals; reading one that is a function, class or module is no such instruction.
    """
    offsets: set[int] = set()
    before = ""
    for step in dis.get_instructions(code):
        if step.opname in _TOUCHING:
            is_method = step.opname == "LOAD_ATTR" and "NULL|self" in step.argrepr
            is_known = step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and isinstance(
                names.get(str(step.argval), type), _NEVER_CHANGED
            )
            if not (is_method or is_known):
                offsets.add(step.offset)
        elif "_JUMP_" in step.opname and step.opname.endswith(("_IF_TRUE", "_IF_FALSE")) and before not in _PLAIN_TESTS:
            offsets.add(step.offset)  # before 3.13, this asks a container whether it is empty
        before = step.opname
    return frozenset(offsets)


class Explored:
    """Knows which code is explored.

    Args:
        modules: Names of modules and packages; None: all but the standard library, what is installed, and Treadle.
    """

    def __init__(self, modules: Iterable[str] | None) -> None:
        self._modules = None if modules is None else tuple(modules)
        self._offsets: dict[CodeType, frozenset[int]] = {}

    def is_explored(self, module: str, file: str) -> bool:
        """Tell whether the code of ``file``, which is ``module``, is explored."""
        if file.startswith(_OUR_PLACE):
            return False
        if self._modules is None:
            return not file.startswith(_places_of_others())
        return any(module == name or module.startswith(f"{name}.") for name in self._modules)

    def offsets_of(self, frame: FrameType) -> frozenset[int]:
        """Return the offsets, in the code that ``frame`` runs, of the steps to be switched at."""
        code, names = frame.f_code, frame.f_globals
        offsets = self._offsets.get(code)
        if offsets is None:
            is_explored = self.is_explored(names.get("__name__", ""), code.co_filename)
            offsets = self._offsets[code] = touching_offsets(code, names) if is_explored else frozenset()
        return offsets


@functools.cache  # not before it is needed: for this, sysconfig imports a module of the platform's
def _places_of_others() -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parents[1])}
    return ("<frozen", *sorted(f"{path}{os.sep}" for path in paths))


def is_machinery(file: str) -> bool:
    """Tell whether a frame of ``file`` is of no interest to whoever reads where threads stand."""
    return file.startswith(_MACHINERY)


_OUR_PLACE = f"{Path(__file__).parent}{os.sep}"
_MACHINERY = (_OUR_PLACE, threading.__file__, queue.__file__, contextlib.__file__, block.__file__)


class Stepper(Protocol):
    """Calls ``step`` before each step of explored code in threads that have called ``begin_thread``."""

    step: Step

    def begin_thread(self) -> None:
        """Begin with the calling thread."""

    def end_thread(self) -> None:
        """End with the calling thread."""


@contextmanager
def step_by(explored: Explored) -> Iterator[Stepper]:
    """Return what steps through explored code in this version of Python."""
    if not hasattr(sys, "monitoring"):
        yield _ByTrace(explored)
        return
    stepper = _ByMonitoring(explored)
    stepper.begin()
    try:
        yield stepper
    finally:
        stepper.end()


class _ByTrace:
    """By ``sys.settrace``, for Python 3.11."""

    def __init__(self, explored: Explored) -> None:
        self._explored = explored
        self._before: dict[int, Any] = {}
        self._traces: dict[frozenset[int], Trace] = {}
        self.step: Step = id

    def begin_thread(self) -> None:
        """Begin with the calling thread."""
        self._before[get_ident()] = sys.gettrace()
        sys.settrace(self._begin_call)

    def end_thread(self) -> None:
        """End with the calling thread."""
        sys.settrace(self._before.pop(get_ident()))

    def _begin_call(self, frame: FrameType, event: str, argument: Any) -> Trace | None:  # noqa: ARG002  # Python's way
        offsets = self._explored.offsets_of(frame)
        if not offsets:
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        trace = self._traces.get(offsets)
        if trace is None:
            trace = self._traces[offsets] = self._trace_of(offsets)
        return trace

    def _trace_of(self, offsets: frozenset[int]) -> Trace:
        def trace(frame: FrameType, event: str, argument: Any) -> Trace:  # noqa: ARG001  # as Python calls it
            if event == "opcode" and frame.f_lasti in offsets:
                self.step(frame)
            return trace

        return trace


class _ByMonitoring:
    """By ``sys.monitoring``, from Python 3.12 on.

    There ``sys.settrace`` changes the code of all threads whenever one begins: that costs a millisecond without a GIL,
    and 3.12.1 crashes.
    """

    def __init__(self, explored: Explored) -> None:
        self._explored = explored
        self._threads: set[int] = set()
        self._offsets: dict[CodeType, frozenset[int]] = {}
        self._tool = 0
        self.step: Step = id

    def begin_thread(self) -> None:
        """Begin with the calling thread."""
        self._threads.add(get_ident())

    def end_thread(self) -> None:
        """End with the calling thread."""
        self._threads.discard(get_ident())

    def begin(self) -> None:
        """Begin with the process."""
        monitoring = _monitoring()
        self._tool = next(tool for tool in _FREE_TOOLS if monitoring.get_tool(tool) is None)
        monitoring.use_tool_id(self._tool, "treadle.testing.explore")
        monitoring.restart_events()  # an exploration before this one did not explore the same code
        monitoring.register_callback(self._tool, monitoring.events.PY_START, self._begin_call)
        monitoring.register_callback(self._tool, monitoring.events.INSTRUCTION, self._begin_step)
        monitoring.set_events(self._tool, monitoring.events.PY_START)

    def end(self) -> None:
        """End with the process."""
        monitoring = _monitoring()
        monitoring.set_events(self._tool, 0)
        for code in self._offsets:
            monitoring.set_local_events(self._tool, code, 0)
        for event in (monitoring.events.PY_START, monitoring.events.INSTRUCTION):
            monitoring.register_callback(self._tool, event, None)
        monitoring.free_tool_id(self._tool)

    def _begin_call(self, code: CodeType, offset: int) -> Any:  # noqa: ARG002  # as Python calls it
        monitoring = _monitoring()
        if get_ident() in self._threads and (offsets := self._explored.offsets_of(sys._getframe(1))):
            # Nobody else is in the middle of this code: it is the first call.
            self._offsets[code] = offsets
            monitoring.set_local_events(self._tool, code, monitoring.events.INSTRUCTION)
        elif get_ident() not in self._threads:
            return None
        return monitoring.DISABLE

    def _begin_step(self, code: CodeType, offset: int) -> Any:
        if offset not in self._offsets[code]:
            return _monitoring().DISABLE
        if get_ident() in self._threads:
            self.step(sys._getframe(1))
        return None


# Not those set aside for debuggers, coverage, profilers and optimizers.
_FREE_TOOLS = (4, 3)


def _monitoring() -> Any:
    return sys.monitoring  # type: ignore[attr-defined, unused-ignore]  # from 3.12 on
