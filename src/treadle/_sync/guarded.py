"""Guarded: a value that is reachable only while its lock is held."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from treadle._core import clock
from treadle._core.describe import describe_function
from treadle._core.option_names import suggesting
from treadle._core.settings import check_callable, check_seconds
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._sync import cancelling
from treadle._sync.circle import taken_twice
from treadle._sync.locks import Lock
from treadle._sync.parker import Parker
from treadle._sync.shared import Shared
from treadle.errors import NotHeld

T = TypeVar("T")

ONLY_IN_A_BLOCK = "the value of a Guarded is reached in a block: `with guarded as handle:`, and there by handle.value"


class _ItsLock(Lock):
    """The lock of a ``Guarded``, which no RLock can replace."""

    instead = "in a block of a Guarded use its handle only, and do not enter it again"

    __slots__ = ()


@suggesting
class Guarded(Shared, Generic[T]):
    """A value that is reachable only while its lock is held, so that nobody forgets the lock.

    ``with guarded as handle:`` gives the block a handle, whose ``value`` can be read, assigned to and changed in
    place. One block runs at a time. The handle is of no use after its block, nor in another thread. For a single
    step there are ``update()``, ``set()`` and ``copy()``.

    The lock is a ``treadle.Lock``: who waits for it can be cancelled, and where waiting would never end, also by
    entering the block twice in one thread, ``Deadlock`` is raised. An exception leaves the block, and the value as
    it is then.

    Python cannot keep a block from giving the value itself away. So hand the value over when you make it, keep no
    reference to one that can be changed, and take ``copy()`` out.

    Args:
        value: What is guarded.
        name: For errors; they also say where it was made.

    Example:
        >>> import treadle
        >>> counter = treadle.Guarded(0)
        >>> def count(_):
        ...     with counter as c:
        ...         c.value += 1
        >>> for _ in treadle.map(count, range(1000)):
        ...     pass
        >>> counter.copy()
        1000
    """

    __slots__ = ("__weakref__", "_handle", "_lock", "_value", "_waiting")

    def __init__(self, value: T, *, name: str | None = None) -> None:
        self._lock = _ItsLock(name)  # protects all of this
        self._value = value
        self._handle: Held[T] | None = None  # of the block that runs now
        self._waiting: dict[Parker, None] = {}  # each enters under the lock, and leaves by itself

    def __repr__(self) -> str:
        """Return what it is, without the value, for which it would have to wait."""
        return f"<treadle.Guarded by {self._lock.describe()}>"

    if not TYPE_CHECKING:  # which finds the slip by itself

        @property
        def value(self) -> None:
            """Refuse: the handle of a block has it."""
            raise AttributeError(ONLY_IN_A_BLOCK)

        @value.setter
        def value(self, _: object) -> None:
            raise AttributeError(ONLY_IN_A_BLOCK)

        def __getattr__(self, name: str) -> None:
            """Refuse: what the value has is reached by the handle."""
            raise AttributeError(f"'Guarded' object has no attribute {name!r}; {ONLY_IN_A_BLOCK}")

        def _refuse(self, *_: object) -> None:
            """Refuse: what the value can do is reached by the handle."""
            raise TypeError(ONLY_IN_A_BLOCK)

        __getitem__ = __setitem__ = __delitem__ = __iter__ = __contains__ = __iadd__ = __isub__ = _refuse

    def __enter__(self) -> Held[T]:
        """Wait until no other block runs, and return the handle for this one.

        Raises:
            Cancelled: What runs here was asked to end.
            Deadlock: This thread is in a block of it already, or waiting would never end.
        """
        self._lock.__enter__()
        try:
            handle = self._handle = Held(self)
        except BaseException:  # Ctrl-C
            self._lock.release()
            raise
        return handle

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave()
        except BaseException:  # Ctrl-C: each step may be done twice
            self._leave()
            raise

    def update(self, fn: Callable[[T], T]) -> T:
        """Make ``fn(value)`` the value, in one step, and return it.

        Args:
            fn: Given the value; returns the new one. An exception of its own reaches you, and the value stays. It
                must not use this ``Guarded`` itself. To change a value in place, use a block.

        Raises:
            Cancelled: What runs here was asked to end, before ``fn`` was called.
            Deadlock: This thread is in a block of it, or waiting would never end.
            WrongType: ``fn`` cannot be called.

        Example:
            >>> import treadle
            >>> treadle.Guarded(20).update(lambda value: value + 1)
            21
        """
        check_callable("fn", fn)
        with self as handle:
            handle.value = value = fn(self._value)
        return value

    def set(self, value: T) -> None:
        """Make ``value`` the value.

        Raises:
            Cancelled: What runs here was asked to end; nothing was set.
            Deadlock: This thread is in a block of it, or waiting would never end.
        """
        with self as handle:
            handle.value = value

    def copy(self) -> T:
        """Return a deep copy of the value, as it is at one moment: changing it changes nothing here.

        The lock is held while it is made. Of a big value take what you need in a block.

        Raises:
            Cancelled: What runs here was asked to end.
            Deadlock: This thread is in a block of it, or waiting would never end.

        Example:
            >>> import treadle
            >>> scores = treadle.Guarded({"Ada": [1]})
            >>> scores.copy()["Ada"].append(2)
            >>> scores.copy()
            {'Ada': [1]}
        """
        with self._lock:
            return copy.deepcopy(self._value)

    def wait_for(self, predicate: Callable[[T], object], timeout: float | None = None) -> None:
        """Wait until ``predicate(value)`` holds. After that it may change again; ``Held.wait_for`` keeps the lock.

        Args:
            predicate: Called under the lock, now and after every block, ``update()`` and ``set()``. It must be quick,
                and change nothing. An exception of its own reaches you.
            timeout: Seconds, 0 or more, the wait for the lock included; None: no limit.

        Raises:
            Cancelled: What runs here was asked to end.
            Deadlock: This thread is in a block of it, or waiting for the lock would never end.
            InvalidArgument: ``timeout`` is negative or not a number.
            TimeoutError: It did not come to that in time.
            WrongType: ``predicate`` cannot be called.

        Example:
            >>> import treadle
            >>> ready = treadle.Guarded(0)
            >>> with treadle.TaskGroup() as group:
            ...     _ = group.submit(ready.set, 3)
            ...     ready.wait_for(lambda count: count >= 3, timeout=10)
        """
        deadline = _check_wait(predicate, timeout)
        cancelling.refuse_on_loop("waiting for a guarded value", "`await treadle.to_thread(...)`")
        place = Parker()
        try:
            with cancelling.WaitForOthers() as others:
                while not self._look(predicate, place, deadline):
                    others.wait(place, _left(deadline))
        finally:
            self._waiting.pop(place, None)

    def _look(self, predicate: Callable[[T], object], place: Parker, deadline: float) -> bool:
        """Tell whether it has come to that; if not, ``place`` is woken by the next change."""
        left = _left(deadline)
        if self._lock._is_owned():  # whatever time it has, it would not come
            raise taken_twice(self._lock.describe(), self._lock.instead)
        if not self._lock.acquire(timeout=-1 if left is None else min(left, threading.TIMEOUT_MAX)):
            raise TimeoutError(f"{self._lock.describe()}, which guards the value, was not free in time")
        try:
            if predicate(self._value):
                return True
            if left == 0:
                raise _too_late(predicate)
            self._waiting[place] = None
            return False
        finally:
            self._lock.release()

    def _wait_in_block(self, handle: Held[T], predicate: Callable[[T], object], deadline: float) -> None:
        """Wait with the lock given back, and have it again at the end."""
        if predicate(self._value):
            return
        cancelling.refuse_on_loop("waiting for a guarded value", "`await treadle.to_thread(...)`")
        place = Parker()
        self._announce()  # what the block has changed so far
        try:
            self._waiting[place] = None
            with cancelling.WaitForOthers() as others:
                while True:
                    if (left := _left(deadline)) == 0:
                        raise _too_late(predicate)
                    self._wait_without_lock(handle, others, place, left)
                    if predicate(self._value):
                        return
        finally:
            self._waiting.pop(place, None)

    def _wait_without_lock(
        self, handle: Held[T], others: cancelling.WaitForOthers, place: Parker, left: float | None
    ) -> None:
        self._handle = None
        try:
            self._lock.release()
            others.wait(place, left)
        finally:
            if not self._lock._is_owned():
                self._lock._acquire_restore(1)
            self._handle = handle

    def _leave(self) -> None:
        if self._lock._is_owned():  # if not, wait_for() in the block did not get it back, and has said so
            self._announce()
            self._handle = None
            self._lock.release()

    def _announce(self) -> None:
        """Have those who wait for a change look again. Under the lock."""
        if self._waiting:
            for place in list(self._waiting):
                place.wake()


class Held(Generic[T]):
    """The handle to a guarded value: valid in the block that it was made for, and in its thread."""

    __slots__ = ("_guarded", "_thread")

    def __init__(self, guarded: Guarded[T]) -> None:
        self._guarded = guarded
        self._thread = threading.get_ident()

    def __repr__(self) -> str:
        return f"<handle of {self._guarded!r}>"

    @property
    def value(self) -> T:
        """The guarded value, to read, to assign to, or to change in place.

        Raises:
            NotHeld: The block is over, or this is another thread.
        """
        return self._held()._value

    @value.setter
    def value(self, value: T) -> None:
        self._held()._value = value

    def wait_for(self, predicate: Callable[[T], object], timeout: float | None = None) -> None:
        """Wait until ``predicate(value)`` holds. Meanwhile others may enter; when it returns, the lock is held again.

        Whatever ends the wait, the block goes on, or is left, with the lock held. To get it back is not counted in
        the timeout, and not cancelled.

        Args:
            predicate: Called under the lock, now and after each change. It must be quick, and change nothing. An
                exception of its own reaches you.
            timeout: Seconds, 0 or more; None: no limit.

        Raises:
            Cancelled: What runs here was asked to end.
            Deadlock: The lock could never have been had again. The handle is of no use any more.
            InvalidArgument: ``timeout`` is negative or not a number.
            NotHeld: The block is over, or this is another thread.
            TimeoutError: It did not come to that in time.
            WrongType: ``predicate`` cannot be called.

        Example:
            >>> import treadle
            >>> basket = treadle.Guarded([])
            >>> def fill():
            ...     with basket as b:
            ...         b.value.append("apple")
            >>> with treadle.TaskGroup() as group, basket as b:
            ...     _ = group.submit(fill)
            ...     b.wait_for(lambda fruit: fruit, timeout=10)
            ...     print(b.value.pop())
            apple
        """
        guarded = self._held()
        guarded._wait_in_block(self, predicate, _check_wait(predicate, timeout))

    def _held(self) -> Guarded[T]:
        guarded = self._guarded
        if self._thread != threading.get_ident():
            raise NotHeld(guarded._lock.describe(), "in a thread that is not in its block")
        if guarded._handle is not self:
            raise NotHeld(guarded._lock.describe(), "after its block")
        return guarded


def _check_wait(predicate: Callable[[T], object], timeout: float | None) -> float:
    """Check the arguments of a wait, and return its deadline."""
    check_callable("predicate", predicate)
    if timeout is None:
        return math.inf
    check_seconds("timeout", timeout)
    return clock.now() + timeout


def _left(deadline: float) -> float | None:
    return None if deadline == math.inf else clock.left_until(deadline)


def _too_late(predicate: object) -> TimeoutError:
    return TimeoutError(f"{describe_function(predicate)}(value) did not hold in time")
