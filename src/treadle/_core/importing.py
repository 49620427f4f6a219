"""Imports that are under way: which module a thread imports right now, and which one it waits for another to import.

A module is locked while a thread imports it. Whoever else needs it (an import in a call, or pickle, which looks its
functions and classes up) waits for the end of that import, which may itself wait for what that thread was to bring.
"""

from __future__ import annotations

import importlib
import math
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from treadle._core.block import contextmanager
from treadle._core.gil import is_gil_enabled
from treadle._core.real_time import monotonic, sleep
from treadle.errors import ProcessRefused

_receiver = 0  # the thread of a process that takes what was sent out of its pickle, and imports what that needs
# How often a thread that imports something looks whether others wait for that.
LOOK_SECONDS = 0.25
STEP_SECONDS = 0.001


def module_being_imported() -> str | None:
    """Return the innermost module whose top level runs on this thread; None: it imports nothing."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            spec = frame.f_globals.get("__spec__")
            if spec is not None and getattr(spec, "_initializing", False):
                return str(spec.name)
        frame = frame.f_back
    return None


def look_seconds() -> float:
    """Return after how long this thread is to look again what it waits for; for ever, unless it imports something."""
    return math.inf if module_being_imported() is None else LOOK_SECONDS


@contextmanager
def receiving() -> Iterator[None]:
    """Say, while the block runs, that this thread takes out of its pickle what its process was sent."""
    global _receiver
    _receiver = threading.get_ident()
    try:
        yield
    finally:
        _receiver = 0


def check_not_receiving() -> None:
    """Raise where processes must not be started.

    Raises:
        ProcessRefused: This thread imports what its process was sent; those would import it as well, and so on.
    """
    if _receiver == threading.get_ident():
        name = module_being_imported()
        what = "the program" if name is None else f"module {name!r}"
        instead = "move that into a function, or below `if __name__ == '__main__':`"
        raise ProcessRefused(f"{what} starts processes while it is imported in one", instead)


def let_imports_end(seconds: float) -> None:
    """Wait until no other thread is at a step of Python's importing, but not for longer than ``seconds``.

    For the exit of the interpreter: it stops daemon threads wherever they are, and then waits for ever for a lock
    that one of them has taken for such a step.
    """
    deadline = monotonic() + seconds
    while is_gil_enabled() and _anybody_imports() and monotonic() < deadline:
        sleep(STEP_SECONDS)


def _anybody_imports() -> bool:
    me = threading.get_ident()
    frames = [frame for ident, frame in sys._current_frames().items() if ident != me]
    return any(frame.f_code.co_filename.startswith("<frozen importlib") for frame in frames)


def import_waited_for(ident: int) -> tuple[str, int] | None:
    """Return the module whose import that thread waits for, and the thread that imports it; None: it does not.

    Takes no lock. Where Python does not say so in the usual place, nobody is seen to wait.
    """
    bootstrap: Any = getattr(importlib, "_bootstrap", None)
    try:
        locks = getattr(bootstrap, "_blocking_on", {}).get(ident)
    except RuntimeError:  # it changes
        return None
    lock = locks[-1] if isinstance(locks, list) and locks else locks
    name, owner = getattr(lock, "name", None), getattr(lock, "owner", None)
    return (name, owner) if isinstance(name, str) and isinstance(owner, int) and owner != ident else None
