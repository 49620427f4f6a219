"""Calls that any thread asks for and one thread makes: the one that owns a loop."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from types import CodeType
from typing import Any

from treadle._core import clock
from treadle._core.describe import describe_function
from treadle._core.real_time import perf_counter
from treadle._core.tell import tell
from treadle._core.user_code import get_traceback, is_a

# After so long the loop gets its turn, whatever still waits: half of a frame at 60 a second.
DRAIN_SECONDS = 0.008
# Who closes a window while work goes on is at no fault: only calls that come so long after its end are worth a warning.
LATE_SECONDS = 1.0
# A loop that has ended may never come to what it was asked: each time that so many wait it is asked once more.
ASK_AGAIN_CALLS = 10_000


class Inbox:
    """Calls of ``callback`` that wait for the thread of a loop.

    Without a lock. Who puts one in does so first and then looks whether a drain is asked for; a drain takes note that
    it has come and then looks what there is.

    Args:
        callback: Called by ``drain``.
        latest: Of the calls that wait, keep the latest only.
    """

    def __init__(self, callback: Callable[..., object], latest: bool) -> None:
        self._callback = callback
        self._waiting: deque[tuple[Context, tuple[Any, ...], dict[str, Any]]] = deque(maxlen=1 if latest else None)
        self._is_asked = False
        self._gone_at: float | None = None  # when it was found that there is no loop any more
        self._is_late_told = False
        self.ask: Callable[[], object] = lambda: None  # has ``drain`` called on the loop's thread; never blocks
        self.has_ended: Callable[[], bool] = lambda: False  # where a loop can tell

    def put(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Have ``callback(*args, **kwargs)`` called, in the context of whoever asks."""
        if self._gone_at is not None:
            self._note_late(self._gone_at)
            return
        self._waiting.append((copy_context(), args, kwargs))
        self._ask()

    def drain(self) -> None:
        """Make the calls that wait, for a moment; on the loop's thread, by its loop.

        An exception goes to the loop, which does with it what it does with all: the rest is left to the next drain.
        """
        self._is_asked = False
        began = perf_counter()
        while self._waiting and perf_counter() - began < DRAIN_SECONDS:
            try:
                context, args, kwargs = self._waiting.popleft()
            except IndexError:
                return
            if self._waiting:  # before the call, which may raise, or run the loop until a dialog is closed
                self._ask()
            context.run(self._callback, *args, **kwargs)

    def close(self) -> None:
        """Take nothing any more, as nobody will make the calls."""
        if self._gone_at is None:
            self._gone_at = clock.now()
        if lost := len(self._waiting):
            self._waiting.clear()
            name = describe_function(self._callback)
            tell(logging.INFO, "the loop that calls of %s are for has ended: dropped %d that waited", name, lost)

    def is_empty(self) -> bool:
        """Tell whether no call waits."""
        return not self._waiting

    def _ask(self) -> None:
        if self._is_asked and len(self._waiting) % ASK_AGAIN_CALLS and not self.has_ended():
            return
        self._is_asked = True
        try:
            self.ask()
        except RuntimeError as error:  # what asyncio, Qt and Tk raise when there is no loop any more
            if is_a(error, RecursionError) or _passed_through(error, Inbox.drain.__code__):
                self._is_asked = False  # it says nothing of the loop: whoever asks is at fault, or a call made at once
                raise
            self.close()
        except BaseException:
            self._is_asked = False  # the next one asks again
            raise

    def _note_late(self, gone_at: float) -> None:
        """Say once that somebody works on for a loop that has ended long ago."""
        if clock.has_come(gone_at + LATE_SECONDS) and not self._is_late_told:
            self._is_late_told = True
            tell(
                logging.WARNING,
                "calls of %s still come %.1f s after the end of the loop they are for, and are dropped",
                describe_function(self._callback),
                clock.now() - gone_at,
            )


def _passed_through(error: BaseException, code: CodeType) -> bool:
    """Tell whether ``error`` was raised in what a function with this code has called."""
    traceback = get_traceback(error)
    while traceback is not None and traceback.tb_frame.f_code is not code:
        traceback = traceback.tb_next
    return traceback is not None
