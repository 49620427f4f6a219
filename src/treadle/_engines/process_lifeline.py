"""How a process ends with the one that has forked it, whatever it is busy with: it is killed by the system itself.

Linux does that on demand. It means the thread that has forked: the keeper has one, and ends with it. Elsewhere a thread
of the process waits for the end of a pipe that only its parent holds, which takes the GIL now and then.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1


class Lifeline:
    """Made by the parent, before it forks; its children ``hold`` on to it."""

    def __init__(self) -> None:
        self._parent = os.getpid()
        self._prctl = find_prctl()
        # The other end is held by the parent alone, and nothing is ever written.
        self._pipe: tuple[int, int] | None = None if self._prctl is not None else os.pipe()

    def hold(self) -> None:
        """End with the parent from now on. Called by the child, on its main thread."""
        if self._pipe is not None:
            reading, writing = self._pipe
            os.close(writing)
            _thread.start_new_thread(_wait_for_end, (reading,))
        else:
            self.renew()

    def renew(self) -> None:
        """Hold on after the process may have changed its user: the system then forgets that it was asked."""
        if self._prctl is not None:
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self._parent:  # it was faster
                os.kill(os.getpid(), signal.SIGKILL)

    def close(self) -> None:
        """Close the parent's own."""
        for fd in self._pipe or ():
            os.close(fd)


def find_prctl() -> Callable[..., Any] | None:
    """Return the function of the system that sets a signal for the death of the parent; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
        return prctl if prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0) == 0 else None
    except (ImportError, OSError, AttributeError):
        return None


def _wait_for_end(pipe: int) -> None:
    with suppress(OSError):
        os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGKILL)
