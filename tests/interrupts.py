"""Ctrl-C at every moment: a step is made again and again, interrupted a little later each time."""

from __future__ import annotations

import dis
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from treadle._core.uninterrupted import is_interruptible

Check: TypeAlias = Callable[[], None]


class Interrupt:
    """Raises ``KeyboardInterrupt`` at one of the moments at which Ctrl-C can: after a call, or as a function begins."""

    def __init__(self, at: int) -> None:
        self.left = at
        self._after_call: dict[Any, bool] = {}

    def __call__(self, frame: Any, event: str, _: object) -> Any:
        if not any(part in frame.f_code.co_filename for part in ("/_sync/", "/_core/")):
            return None
        frame.f_trace_opcodes = True
        begins = event == "call" and is_interruptible(frame.f_code)
        if begins or (event == "opcode" and self._after_call.get(frame)):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        if event == "exception":
            self._after_call[frame] = False  # a call that raises is not followed by a look for signals
        if event == "return":
            self._after_call[frame.f_back] = False  # nor is one of a Python function
        if event == "opcode":
            name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            self._after_call[frame] = name.startswith("CALL") or name == "JUMP_BACKWARD"
        return self


class Interrupted:
    """Expects a real Ctrl-C in its block, also where whoever started the tests ignores it, as behind a shell's ``&``.

    The coverage of the block is not measured: see ``programs.start``.
    """

    def __enter__(self) -> None:
        self._before = sys.gettrace(), signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.settrace(None)

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> bool:
        trace, handler = self._before
        signal.signal(signal.SIGINT, handler)
        sys.settrace(trace)
        assert kind is not None, "it was not interrupted"
        return issubclass(kind, KeyboardInterrupt)


def interrupt_everywhere(prepare: Callable[[], tuple[Callable[[], object], Check]], least: int = 6) -> None:
    """Make a step, interrupted at each of its moments in turn, ``least`` or more, and check each time what is left."""
    before = sys.gettrace()
    for at in range(1, 1000):
        step, check = prepare()
        interrupt = Interrupt(at)
        sys.settrace(interrupt)
        try:
            step()
        except (KeyboardInterrupt, TimeoutError):
            pass
        finally:
            sys.settrace(before)
        check()
        assert sys.exception() is None
        if interrupt.left > 0:
            assert at >= least, "it was never interrupted"
            return
    raise AssertionError("it never came to its end")
