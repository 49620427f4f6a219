"""Whether a call has been asked to end, and who must be told when it is.

A *scope* is what can be cancelled: one call, the block of a group, a shielded block. Each thread has a current
one, the innermost; a scope made while another is current is cancelled with it, by whoever makes it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from itertools import count
from typing import Any, Protocol

from treadle._core.block import contextmanager
from treadle._core.coroutine import go_inside, inside
from treadle._core.real_time import sleep
from treadle._core.tell import tell
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._core.user_code import call_guarded
from treadle.errors import Cancelled

_keys = count()

WAKE_AT_ONCE = 16
WAKE_PAUSE_SECONDS = 0.0005


class Registration:
    """One callback of a scope. ``is_over`` once it has run to its end."""

    __slots__ = ("_callback", "_over", "_process", "key", "thread")

    def __init__(self, callback: Callable[[], object]) -> None:
        self.key = next(_keys)
        self.thread = 0
        self._callback = callback
        self._process = os.getpid()
        self._over = threading.Lock()  # held until the callback has run
        self._over.acquire()

    def run(self) -> None:
        """Run the callback; an error of it is logged, and keeps no other from running."""
        self.thread = threading.get_ident()
        try:
            _, error = call_guarded(self._callback)
            if error is not None:
                tell(logging.ERROR, "a callback for a cancellation failed", error=error)
        finally:
            self._over.release()

    def wait_until_over(self) -> None:
        """Wait until the callback has run to its end, unless it is the callback that asks, or that is the parent's."""
        if self.thread != threading.get_ident() and self._process == os.getpid():
            with self._over:
                pass


class Scope:
    """Something that can be cancelled, once and for good.

    Without a lock: who cancels sets the flag first and then takes the callbacks one by one; who adds a callback
    does it the other way round. Taking one out of a dict is atomic, so each is run by one thread, once.

    Wakers must be lock-free and quick, as they are called by whoever cancels, under whatever lock; callbacks
    may be anything, and are called without one.
    """

    __slots__ = ("_callbacks", "_wakers", "is_cancelled", "is_over", "outer", "reason")

    def __init__(self) -> None:
        self.outer: Scope | None = None  # of the block around this one, once it is entered
        self.is_over = False  # its block was left, wherever
        self.is_cancelled = False
        self.reason = ""
        self._wakers: dict[int, Callable[[], object]] = {}
        self._callbacks: dict[int, Registration] = {}

    def cancel(self, reason: str) -> None:
        """Ask to end: set the flag, wake who waits, and run the callbacks here, the latest first."""
        self.flag(reason)
        self.run_callbacks()

    def flag(self, reason: str) -> bool:
        """Set the flag and wake who waits; never blocks. Tell whether callbacks are still to be run."""
        self.mark(reason)
        self.wake()
        return bool(self._callbacks)

    def mark(self, reason: str) -> None:
        """Set the flag."""
        if not self.is_cancelled:
            self.reason = reason
            self.is_cancelled = True

    def wake(self) -> None:
        """Wake who waits, so that they see the flag."""
        for wake in list(self._wakers.values()):
            wake()

    def run_callbacks(self) -> None:
        """Run the callbacks that nobody has run yet."""
        while True:
            try:
                registration = self._callbacks.popitem()[1]
            except KeyError:
                return
            registration.run()

    def check(self) -> None:
        """Raise if the scope is cancelled.

        Raises:
            Cancelled: It is.
        """
        if self.is_cancelled:
            raise Cancelled(self.reason)

    def add(self, callback: Callable[[], object]) -> Registration:
        """Have ``callback`` called when the scope is cancelled; at once, if it is already."""
        registration = Registration(callback)
        self._callbacks[registration.key] = registration
        if self.is_cancelled and self._callbacks.pop(registration.key, None) is not None:
            registration.run()
        return registration

    def remove(self, registration: Registration) -> bool:
        """Take a callback back; False: it has run, or is running right now."""
        return self._callbacks.pop(registration.key, None) is not None

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have ``wake`` called if the scope is cancelled while the block runs, or was before.

        Raises:
            Cancelled: It is, before the block or after it.
        """
        key = next(_keys)
        self._wakers[key] = wake
        try:
            self.check()
            yield
        finally:
            self._wakers.pop(key, None)
        self.check()


def cancel_all(scopes: list[Scope], reason: str) -> None:
    """Cancel ``scopes``: first wake all who wait, then run the callbacks, which may take their time.

    Thousands that wake at once fight for the GIL, and for the locks that they all come for; so they are woken a
    few at a time.
    """
    for scope in scopes:
        scope.mark(reason)
    for number, scope in enumerate(scopes, 1):
        scope.wake()
        if number % WAKE_AT_ONCE == 0:
            sleep(WAKE_PAUSE_SECONDS)
    for scope in scopes:
        scope.run_callbacks()


class Seat(Protocol):
    """Where a call is made: what knows the call's scope."""

    def call_scope(self) -> Scope | None:
        """Return the scope of the call being made here, by the thread that makes it."""

    def current_task(self) -> Any:
        """Return the task whose call is being made here; None if it belongs to no task."""

    def patience(self) -> float:
        """Return how long a call may wait for others, nobody knows which, before that is noted."""

    def note_wait(self, change: int, is_for_any: bool) -> None:
        """Take note that the call being made here waits (+1), or does so no more (-1).

        Args:
            change: One more, or one less: waits may be nested.
            is_for_any: For what any other thread might bring.
        """


# Set in the context of a call that enters a block: so whoever makes calls need look only after one that did.
has_entered: ContextVar[bool] = ContextVar("treadle_has_entered")


class _Here(threading.local):
    """What the present thread is in the middle of."""

    scope: Scope | None = None  # the innermost block entered since the call began
    seat: Seat | None = None
    is_loop = False  # it runs an event loop of ours, which must not be held up
    is_feeder = False  # it advances the input of a run, for whose results a call may wait
    own_places: tuple[Any, ...] = ()  # in limiters, but for those of coroutines

    @property
    def places(self) -> tuple[Any, ...]:
        """In limiters, that the present call holds; or on an event loop, the present coroutine."""
        found = inside()
        return self.own_places if found is None else found.places

    @places.setter
    def places(self, places: tuple[Any, ...]) -> None:
        found = inside()
        if found is None:
            self.own_places = places
            if places and self.seat is not None:
                has_entered.set(True)
        else:
            go_inside(found.at(found.chunk, places))


here = _Here()


def current_scope() -> Scope | None:
    """Return the innermost scope of this thread; None where nothing can be cancelled."""
    scope = here.scope
    if scope is not None and scope.is_over:
        scope = _drop_what_is_over()
    if scope is None and (seat := here.seat) is not None:
        scope = seat.call_scope()
    return scope


def enter(scope: Scope) -> None:
    """Make ``scope`` the innermost one of this thread."""
    scope.outer = _drop_what_is_over()
    here.scope = scope
    if here.seat is not None:
        has_entered.set(True)


@starts_uninterrupted
def leave(scope: Scope) -> None:
    """Make ``scope`` no thread's any more.

    Blocks held by generators are left in any order, and on any thread; the thread that entered one finds out.
    """
    scope.is_over = True
    _drop_what_is_over()


def _drop_what_is_over() -> Scope | None:
    scope = here.scope
    while scope is not None and scope.is_over:
        scope = scope.outer
    here.scope = scope
    return scope


class Around:
    """What this thread is in the middle of as it begins to make calls: they have no part in it, but for its places.

    Nor has a call any part in what one before it has entered and not left: a block may be held by a generator that
    lives on.
    """

    __slots__ = ("_places", "_scope")

    def __init__(self) -> None:
        self._scope, self._places = here.scope, here.own_places
        here.scope = None

    def take_out(self) -> list[str]:
        """Take this thread out of what the call just made has entered and not left, and return what that is."""
        left: list[str] = []
        if _drop_what_is_over() is not None:
            here.scope = None
            left.append("a shield() or a TaskGroup")
        for place in [place for place in here.own_places if place not in self._places]:
            here.own_places = tuple(other for other in here.own_places if other is not place)
            place.note_left_open()
            left.append(f"a place in {place.limiter!r}")
        return left

    def put_back(self) -> None:
        """Be in the middle of it again."""
        here.scope = self._scope


def check_cancelled() -> None:
    """Raise ``Cancelled`` if the call that runs here, or the group's block, has been asked to end.

    A cheap test for the steps of long work: in a call of ``map``, of a task, in the block of a ``TaskGroup``.
    Anywhere else it does nothing. Let ``Cancelled`` pass: whoever asked for the end takes care of it.

    Raises:
        Cancelled: The run, task or group was closed, cancelled, has failed, or is out of time.

    Example:
        >>> import treadle
        >>> def count_to(limit):
        ...     for number in range(limit):
        ...         treadle.check_cancelled()
        ...     return limit
        >>> list(treadle.map(count_to, [10, 20]))
        [10, 20]
    """
    scope = current_scope()
    if scope is not None and scope.is_cancelled:
        raise Cancelled(scope.reason)
