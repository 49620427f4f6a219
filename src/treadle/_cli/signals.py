"""Signals: the first ends the run in good order, the second at once, the third leaves whatever is open."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

import treadle
from treadle._cli.standard_error import say

# After the first signal, when it is said what is waited for.
TELL_SECONDS = 1.0
# After the second signal, when so long not a line could be written: whoever should read them does not.
STALLED_SECONDS = 1.0
SHOW_CURSOR = b"\x1b[?25h"


class Signals:
    """Takes the signals that ask to stop, from now on; SIGUSR1 shows what the workers do.

    A handler interrupts the main thread anywhere, so it takes no lock and raises nothing: it puts the signal
    into a queue that is made for this, and a thread of its own ends the run. So no outcome is lost between
    its delivery and its line, after a second signal neither.

    Attributes:
        number: The signal that asked to stop, if one has.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._seen = 0
        self._asked: SimpleQueue[int] = SimpleQueue()
        self._is_written = threading.Event()
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may install handlers; whoever runs us elsewhere has their own
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._take)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, lambda *_: treadle.dump())

    def end(self, run: treadle.Run[Any, Any], lines_written: Callable[[], int]) -> None:
        """Have ``run`` ended by signals, also by those that have come already.

        Args:
            run: Whose outcomes the main thread writes.
            lines_written: Returns how many it has written.
        """
        threading.Thread(target=self._end, args=(run, lines_written), name="treadle-signals", daemon=True).start()

    def all_is_written(self) -> None:
        """Take note that every outcome was written."""
        self._is_written.set()

    def _end(self, run: treadle.Run[Any, Any], lines_written: Callable[[], int]) -> None:
        self._asked.get()
        run._course.ask_to_stop(None)
        try:
            self._asked.get(timeout=TELL_SECONDS)
        except Empty:
            if not self._is_written.is_set():
                running = run.stats.running
                calls = f"; calls that still run: {running:,}" if running else ""
                say(f"treadle: stopping{calls}; a second Ctrl-C waits no longer")
            self._asked.get()
        run._course.end_at_once()
        before = -1
        while (written := lines_written()) != before:
            before = written
            if self._is_written.wait(STALLED_SECONDS):
                return
        left = run.stats.taken - written
        say(f"treadle: nobody reads the results; {left:,} were not written")
        _leave(self.number or 0)

    def _take(self, number: int, _: FrameType | None) -> None:
        self._seen += 1
        if self._seen == 1:
            self.number = number
        if self._seen > 2:
            _leave(number)
        self._asked.put(number)


def _leave(number: int) -> None:
    """End the program here and now, as it asks to end by signal ``number`` for the third time."""
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, SHOW_CURSOR)  # which a display may have hidden
    os._exit(128 + number)
