"""Waits that a cancellation ends, and what a call can do about being cancelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from treadle._core import clock
from treadle._core.block import contextmanager
from treadle._core.cancellation import Scope, current_scope, enter, here, leave
from treadle._core.coroutine import is_call_cancelled
from treadle._core.settings import check_callable, check_seconds
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._sync import timekeeper
from treadle._sync.parker import Parker
from treadle._sync.timekeeper import Timer
from treadle.errors import BlocksEventLoop


def wait(parker: Parker, seconds: float | None = None, poll_seconds: float = math.inf) -> bool:
    """Wait to be woken, or for ``seconds``; tell which it was. See ``Parker.wait_watchfully``.

    Raises:
        Cancelled: What runs here was asked to end, before the wait or during it.
    """
    scope = current_scope()
    if scope is None:
        return parker.wait_watchfully(seconds, poll_seconds)
    with scope.waking(parker.wake):
        return parker.wait_watchfully(seconds, poll_seconds)


class WaitForOthers:
    """A wait for what some other thread may bring, nobody knows which; while its block runs.

    Where the call of a worker waits so, what it waits for may be brought by a call that waits for a worker. So after a
    while the worker lends its place: see the README of ``_crew``. Whoever does not wait for long pays nothing for that.
    """

    __slots__ = ("_is_noted", "_seat")

    def __enter__(self) -> Self:
        self._seat = here.seat
        self._is_noted = False
        return self

    def wait(self, parker: Parker, seconds: float | None = None) -> bool:
        """As ``wait`` above. It may end early, for no reason."""
        patience = math.inf if self._seat is None or self._is_noted else self._seat.patience()
        is_news = wait(parker, seconds, patience)
        if not is_news and patience != math.inf:
            self.note()
        return is_news

    def note(self) -> None:
        """Take note that the wait lasts."""
        if self._seat is not None and not self._is_noted:
            self._is_noted = True
            self._seat.note_wait(+1, is_for_any=True)

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_noted and self._seat is not None:
            self._is_noted = False
            self._seat.note_wait(-1, is_for_any=True)


def refuse_on_loop(what: str, instead: str) -> None:
    """Raise where calls are coroutines: ``what`` would hold up their event loop; ``instead`` is to be used there.

    Raises:
        BlocksEventLoop: They are.
    """
    if here.is_loop:
        raise BlocksEventLoop(what, instead)


def sleep(seconds: float) -> None:
    """Sleep like ``time.sleep``, but end at once when the call that runs here is cancelled.

    Args:
        seconds: 0 or more.

    Raises:
        BlocksEventLoop: This is the call of a coroutine.
        Cancelled: What runs here was asked to end, before the sleep or during it.
        InvalidArgument: ``seconds`` is negative or not a number.

    Example:
        >>> import treadle
        >>> treadle.sleep(0.01)
    """
    check_seconds("seconds", seconds)
    refuse_on_loop("treadle.sleep()", "`await asyncio.sleep()`")
    deadline = clock.now() + seconds
    parker = Parker()
    wait(parker, seconds)
    while (left := clock.left_until(deadline)) > 0:  # a wait may end for no reason
        wait(parker, left)


@contextmanager
def on_cancel(callback: Callable[..., object], /, *args: Any) -> Iterator[None]:
    """Have ``callback(*args)`` called if the call that runs here is cancelled while the block runs.

    This is how a wait that Treadle cannot see is made to end: ``on_cancel(sock.shutdown, socket.SHUT_RDWR)``
    around a ``recv()``, or ``on_cancel(process.kill)`` around a ``wait()``. The callback runs on another
    thread, or at once if the cancellation was before. It is called at most once, has ended when the block is
    left, and is not called after that. An exception it raises is logged. Where nothing can be cancelled, it is
    never called.

    Args:
        callback: Should be quick, and not wait for the block to end.
        args: Its arguments.

    Example:
        >>> import threading, treadle
        >>> def wait_for(event):
        ...     with treadle.on_cancel(event.set):
        ...         return event.wait()
        >>> with treadle.TaskGroup() as group:
        ...     waiting = group.submit(wait_for, threading.Event())
        ...     group.cancel()
    """
    check_callable("callback", callback)
    scope = current_scope()
    if scope is None:
        yield
        return
    registration = scope.add(lambda: callback(*args))
    try:
        yield
    finally:
        if not scope.remove(registration):
            registration.wait_until_over()
        elif here.is_loop and is_call_cancelled():  # the block had ended by that before anybody came to call it
            registration.run()


@contextmanager
def shield(seconds: float) -> Iterator[None]:
    """Let the block run on for up to ``seconds`` although the call that runs here is, or gets, cancelled.

    For the steps that must not be cut short: to roll back, to say goodbye to a server. After ``seconds``,
    counted from the beginning of the block, the cancellation is felt inside it as well; after the block, at the
    next check or wait. It does not make anybody wait longer: a run that ends gives its calls ``grace`` seconds,
    shielded or not.

    Args:
        seconds: 0 or more.

    Raises:
        BlocksEventLoop: This is the call of a coroutine: asyncio's cancellation cannot be held back from a block.
        InvalidArgument: ``seconds`` is negative or not a number.

    Example:
        >>> import treadle
        >>> with treadle.shield(0.5):
        ...     treadle.sleep(0.01)
    """
    check_seconds("seconds", seconds)
    refuse_on_loop("treadle.shield()", "`await asyncio.shield()` for what must not be cut short")
    outer = current_scope()
    if outer is None:
        yield
        return
    deadline = clock.now() + seconds
    inner = Scope()
    timers: list[Timer] = []

    def pass_on() -> None:
        timers.append(timekeeper.call_at(deadline, lambda: inner.cancel(outer.reason), may_block=True))

    registration = outer.add(pass_on)
    with entered(inner):
        try:
            yield
        finally:
            if not outer.remove(registration):
                registration.wait_until_over()
            for timer in timers:
                timer.cancel()


@contextmanager
def entered(scope: Scope) -> Iterator[None]:
    """Make ``scope`` the innermost one of this thread while the block runs."""
    enter(scope)
    try:
        yield
    finally:
        leave(scope)
