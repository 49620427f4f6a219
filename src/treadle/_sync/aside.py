"""Code of the user's that must not hold us, nor run under a lock of ours: it gets a thread of its own."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from treadle._core.tell import tell
from treadle._core.user_code import call_guarded


class Startable(Protocol):
    """A thread, or what stands for one."""

    def start(self) -> None:
        """Begin to run."""


def run_aside(name: str, action: Callable[[], object]) -> None:
    """Run ``action`` on a daemon thread; right here if there is no thread to be had. Its error is logged."""
    thread = threading.Thread(target=guard, args=(action,), name=f"treadle-{name}", daemon=True)
    try:
        start_thread(thread)
    except (RuntimeError, MemoryError):  # Python 3.12 and later start none at exit
        guard(action)


def start_thread(thread: Startable) -> None:
    """Start ``thread``.

    Raises:
        KeyboardInterrupt: Ctrl-C, meanwhile; the thread may run. In ``threading``'s wait for that it may come out in
            the disguise of another error.
        MemoryError: There is no thread to be had.
        RuntimeError: There is no thread to be had.
    """
    handled = sys.exception()  # what is handled around this call is every error's context
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        interrupt = error.__context__
        if isinstance(interrupt, KeyboardInterrupt) and interrupt is not handled:
            raise interrupt from None
        raise


def guard(action: Callable[[], object]) -> None:
    """Run ``action``; its error is logged. Only what interrupts the main thread goes through."""
    _, error = call_guarded(action)
    if error is not None:
        tell(logging.ERROR, "something that was run on the side failed", error=error)
