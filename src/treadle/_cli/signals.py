"""Signals: the first ends the run in good order, the second at once, the third leaves whatever is open."""

from __future__ import annotations

import os
import signal
import threading
from queue import SimpleQueue
from types import FrameType
from typing import Any

import treadle


class Stopped(BaseException):
    """A second signal: stop at once."""


class Signals:
    """Takes the signals that ask to stop, from now on; SIGUSR1 shows what the workers do.

    A handler interrupts the main thread anywhere, so it takes no lock and raises nothing: it puts the signal
    into a queue that is made for this, and a thread of its own closes the run. So no outcome is lost between
    its delivery and its line.

    Attributes:
        number: The signal that asked to stop, if one has.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._seen = 0
        self._asked: SimpleQueue[int] = SimpleQueue()
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may install handlers; whoever runs us elsewhere has their own
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._take)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, lambda *_: treadle.dump())

    def close_on_first(self, run: treadle.Run[Any, Any]) -> None:
        """Have ``run`` closed by the first signal, also one that has come already."""

        def wait() -> None:
            self._asked.get()
            run.close()

        threading.Thread(target=wait, name="treadle-signals", daemon=True).start()

    def _take(self, number: int, _: FrameType | None) -> None:
        self._seen += 1
        if self._seen == 1:
            self.number = number
            self._asked.put(number)
        elif self._seen == 2:
            raise Stopped
        else:
            os._exit(128 + number)
