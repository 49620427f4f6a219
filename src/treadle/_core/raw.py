"""The RLock that all of Treadle's own steps are protected by, and what it knows about itself."""

from __future__ import annotations

import _thread
import re
import sys
import threading
from typing import Any

from treadle._core.greenlets import ARE_THREADS_GREENLETS
from treadle.errors import Deadlock

_STATE = re.compile(r"owner=(\d+) count=(\d+)")


_Real: Any = _thread.RLock


class _KeptRLock(_Real):  # type: ignore[misc]  # typeshed has it for final, but it is not
    """One that no Ctrl-C leaves taken as a block is entered.

    From Python 3.14 on, ``with`` calls ``__enter__`` by an instruction that looks for signals when the lock is taken,
    and the block is not entered yet: it came to that in 11 of 400 interrupts of a tight loop.
    """

    def __enter__(self) -> bool:
        before = self._recursion_count()
        try:
            self.acquire()
            return True
        except BaseException:
            if self._recursion_count() > before:
                self.release()
            raise


_Own: Any = _KeptRLock if sys.version_info >= (3, 14) else _Real


def make_rlock() -> Any:
    """Return a new RLock that tells threads apart as ``threading`` does, be they greenlets."""
    if ARE_THREADS_GREENLETS:
        return threading.RLock()
    return _Own() if _thread.RLock is _Real else _thread.RLock()  # replaced while orders of steps are explored


def is_mine(lock: Any) -> bool:
    """Tell whether this thread holds ``lock``, a ``threading.RLock``.

    Where nobody takes it twice, what asks is a finalizer or a signal handler, which has come upon its own thread in the
    middle of a step. It must not go on as if the step were done, and cannot wait for that either.
    """
    mine: bool = lock._is_owned()  # as threading.Condition asks it
    return mine


def refuse_to_wait(lock: Any, what: str) -> None:
    """Raise where a signal handler or a finalizer would wait for others, who need ``lock``, which its own thread holds.

    Raises:
        Deadlock: It would. ``what`` is waited for.
    """
    if is_mine(lock):
        raise Deadlock(
            f"deadlock: a signal handler, or a finalizer, has interrupted its thread at a step of {what}, and would "
            "wait for steps of others, which cannot be made meanwhile; have it wait for nothing"
        )


def owner_and_count(lock: Any) -> tuple[int, int]:
    """Return the thread that holds such an RLock (0: none), and how often it has taken it.

    Where it is the interpreter's, its repr() is the only way to ask it for another thread than our own.
    """
    if ARE_THREADS_GREENLETS:  # it is written in Python
        return lock._owner or 0, lock._count
    found = _STATE.search(_thread.RLock.__repr__(lock))
    assert found is not None
    return int(found[1]), int(found[2])
