"""Where other threads are, read without harm while they go on."""

from __future__ import annotations

import gc
import os
import sys
import threading
from traceback import FrameSummary, StackSummary
from types import FrameType

from treadle._core.gil import is_gil_enabled

NOT_SHOWN = "(the stacks of other threads cannot be read safely without a GIL)"

_LIBRARY = os.path.dirname(threading.__file__)
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def place_of_caller() -> str:
    """Return where, outside of Treadle and ``threading``, the code is that has called us: file and line.

    If it is the standard library's, also where it was called from in turn.
    """
    places: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        is_library = os.path.dirname(os.path.dirname(file)) == _LIBRARY or os.path.dirname(file) == _LIBRARY
        if not (is_ours(file) or (places and is_library)):
            places.append(f"{file}:{frame.f_lineno}")
            if not is_library:
                break
        frame = frame.f_back
    return ", for ".join(places) or "an unknown place"


def calling_frame() -> FrameType | None:
    """Return the innermost frame outside of Treadle. To be asked and dropped: a frame keeps its variables alive."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame


def is_called_by_us() -> bool:
    """Tell whether the code that has called a function of Treadle's, past ``threading``, is Treadle's as well."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == threading.__file__ and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(_PACKAGE)


def user_part(stack: list[FrameSummary]) -> list[FrameSummary]:
    """Return a stack without the steps of Treadle and ``threading`` at its ends."""
    places = [at for at, frame in enumerate(stack) if not is_ours(frame.filename)]
    return stack[places[0] : places[-1] + 1] if places else []


def is_ours(file: str) -> bool:
    """Tell whether a file is Treadle's, or that of ``threading``, by which ours is started."""
    return file.startswith(_PACKAGE) or file == threading.__file__


def read_stacks() -> dict[int, list[FrameSummary]]:
    """Return the stack of each thread by its identifier, outermost frame first; none of others without a GIL.

    Asking a running thread's frame for its caller makes an object, and in Python 3.11 that may collect garbage,
    whose finalizers let that thread go on and leave the very frame: the interpreter crashes. Without a GIL
    nothing holds the other threads at all (CPython's own faulthandler shows none of them there, from 3.14 on).
    """
    frames = sys._current_frames()
    if not is_gil_enabled():
        me = threading.get_ident()
        frames = {me: frames[me]}
    collects = gc.isenabled()
    gc.disable()
    try:
        found: dict[int, list[tuple[str, int | None, str]]] = {}
        for ident, frame in frames.items():
            places = found[ident] = []
            caller = frame
            while caller is not None:
                places.append((caller.f_code.co_filename, caller.f_lineno, caller.f_code.co_name))
                caller = caller.f_back  # type: ignore[assignment]  # None at the end
    finally:
        if collects:
            gc.enable()
    return {
        ident: StackSummary.from_list([(file, line or 0, name, None) for file, line, name in reversed(places)])
        for ident, places in found.items()
    }
