"""Calls that any thread asks for and one thread makes: the one that owns a loop."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from time import perf_counter
from typing import Any

from treadle._core.describe import describe_function

_logger = logging.getLogger("treadle")

# After so long the loop gets its turn, whatever still waits: half of a frame at 60 a second.
DRAIN_SECONDS = 0.008


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
        self._is_gone = False
        self._is_loss_told = False
        self.ask: Callable[[], object] = lambda: None  # has ``drain`` called on the loop's thread; never blocks

    def put(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Have ``callback(*args, **kwargs)`` called, in the context of whoever asks."""
        if self._is_gone:
            self._say_lost(1)
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
        self._is_gone = True
        if lost := len(self._waiting):
            self._waiting.clear()
            self._say_lost(lost)

    def is_empty(self) -> bool:
        """Tell whether no call waits."""
        return not self._waiting

    def _ask(self) -> None:
        if self._is_asked:
            return
        self._is_asked = True
        try:
            self.ask()
        except RuntimeError:  # what asyncio, Qt and Tk raise when there is no loop any more
            self.close()
        except BaseException:
            self._is_asked = False  # the next one asks again
            raise

    def _say_lost(self, count: int) -> None:
        if not self._is_loss_told:
            self._is_loss_told = True
            _logger.warning(
                "the loop that calls of %s are for has ended: %d dropped, and so is whatever comes",
                *(describe_function(self._callback), count),
            )
