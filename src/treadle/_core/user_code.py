"""The one door to code of the user's that is called where ours must go on.

Such code is a policy (``retry_on``, ``throttled``), a callback, a ``repr``, a log handler: it may raise anything, be
cancelled in a wait of Treadle's, and its exceptions may lie about what they are. Nothing of that may leave an item
without an outcome or a thread without an end. Only what interrupts the main thread goes through.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any, TypeGuard, TypeVar

K = TypeVar("K")
R = TypeVar("R")

get_traceback = BaseException.__dict__["__traceback__"].__get__  # an attribute of that name may be anything


def call_guarded(fn: Callable[..., R], *args: Any) -> tuple[R | None, BaseException | None]:
    """Return what ``fn(*args)`` returns and None, or None and what it raises.

    Raises:
        KeyboardInterrupt: Ctrl-C, or else what a signal handler raises, on the main thread.
    """
    try:
        return fn(*args), None
    except BaseException as error:
        if is_interrupt(error):
            raise
        return None, error


def is_a(thing: object, kind: type[K]) -> TypeGuard[K]:
    """Return True if ``thing`` is of this ``kind``, by its type alone: ``isinstance`` may run code of the user's."""
    return issubclass(type(thing), kind)


def is_interrupt(error: BaseException) -> bool:
    """Return True if ``error`` interrupts the main thread: it is Ctrl-C, or raised by a handler of another signal.

    To be asked where ``error`` was caught, on the same thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if is_a(error, KeyboardInterrupt):
        return True
    handlers = [_code_of(signal.getsignal(number)) for number in signal.valid_signals()]
    traceback = get_traceback(error)
    while traceback is not None:
        if any(traceback.tb_frame.f_code is handler for handler in handlers):
            return True
        traceback = traceback.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    """Return the code of a signal handler, where it is a function or a method of Python."""
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    return code if isinstance(code, CodeType) else None
