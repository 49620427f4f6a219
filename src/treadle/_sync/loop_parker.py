"""Where a coroutine waits until somebody wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from treadle._core.cancellation import current_scope, here
from treadle._core.coroutine import Inside, go_inside, inside


class LoopParker:
    """One coroutine waits here; any thread may wake it. A wake-up that comes first is kept, one, not more.

    A wait may also end for no reason: whoever waits looks again at what it waits for.

    Args:
        post: Has a function called on the loop's thread, from any; by default, that of the loop that runs here.
    """

    __slots__ = ("_is_woken", "_post", "_waiting")

    def __init__(self, post: Callable[[Callable[[], object]], object] | None = None) -> None:
        self._post = asyncio.get_running_loop().call_soon_threadsafe if post is None else post
        # Both are the loop's own: no other thread touches them.
        self._is_woken = False
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait to be woken, or for ``seconds`` by the loop's clock; tell which it was."""
        if not self._is_woken:
            loop = asyncio.get_running_loop()
            self._waiting = waiting = loop.create_future()
            timer = None if seconds is None else loop.call_later(seconds, _end, waiting)
            try:
                await waiting
            finally:
                self._waiting = None
                if timer is not None:
                    timer.cancel()
        is_woken, self._is_woken = self._is_woken, False
        return is_woken

    async def wait_cancellably(self, seconds: float | None = None) -> None:
        """Wait to be woken, or for ``seconds`` by the loop's clock.

        Raises:
            Cancelled: What runs here was asked to end, before the wait or during it.
        """
        scope = current_scope()
        if scope is None:
            await self.wait(seconds)
            return
        with scope.waking(self.wake):
            await self.wait(seconds)

    def wake(self) -> None:
        """Let the next or the present wait end."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._post(self._wake_here)

    def _wake_here(self) -> None:
        self._is_woken = True
        if self._waiting is not None:
            _end(self._waiting)


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def keep_to_coroutine() -> None:
    """Have places in limiters, from now on, be those of the coroutine that runs here, and not of its thread."""
    if inside() is None:
        go_inside(Inside(asyncio.get_running_loop(), None, here.places))
