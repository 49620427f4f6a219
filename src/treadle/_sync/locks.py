"""``Lock`` and ``RLock``: as those of ``threading``, but they tell of a deadlock instead of hanging in it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

from treadle._core import clock
from treadle._core.describe import describe
from treadle._core.greenlets import check_patched_first
from treadle._core.option_names import suggesting
from treadle._core.raw import make_rlock, owner_and_count
from treadle._core.real_time import sleep
from treadle._core.stacks import place_of_caller
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._sync import cancelling
from treadle._sync.circle import gone, name_of, taken_twice
from treadle._sync.parker import Parker
from treadle._sync.shared import Shared
from treadle._sync.wait_graph import GOES_ON, Needs, Wait, is_gone
from treadle.errors import Deadlock, InvalidArgument, WrongType

# Whoever was told of a deadlock, and gives a lock back on the way out, lets the others have it before it may try again:
# otherwise it would take it before the one just woken gets to run, and be told again, for ever.
GIVE_WAY_SECONDS = 0.001
# A thread that waits looks up so often whether the lock's holder is still alive; after so many times, at most, it looks
# for a circle once more.
LOOK_UP_SECONDS = 1.0
MAX_LOOKS = 64


class _Waiter(Parker):
    """Where one thread waits for a lock. After a fork, the child has only the place, and not the thread."""

    __slots__ = ("process",)

    def __init__(self) -> None:
        super().__init__()
        self.process = os.getpid()


class _OwnedLock(Shared):
    """What both kinds have in common.

    Who holds the lock is known to the interpreter's own RLock below, which sets it in one step with taking it, and
    clears it in one step with giving it back. So it costs nothing here, and an interrupt cannot come in between.
    (Notes of our own cost as much again as the rest of a ``with`` block, and a ``with`` shall cost at most twice
    what ``threading.Lock`` does.) To ask it for another thread than our own, its repr() is the only way.

    Whoever waits first joins the line and then tries once more; whoever gives the lock back does it first and then
    looks at the line, and wakes the first. So none sleeps beside a lock that is free. The one woken has no right to
    the lock: another may be faster, and will wake it again. It leaves the line when it has the lock, or gives up,
    and then wakes the next in its stead.
    """

    verb: ClassVar[str] = "holds"
    kind: ClassVar[str]

    __slots__ = ("__weakref__", "_line", "_made_at", "_name", "_raw", "_release", "_try")

    def __init__(self, name: str | None = None) -> None:
        if name is not None and not isinstance(name, str):
            raise WrongType("name", describe(name), "a string")
        check_patched_first()
        self._name = name
        self._made_at = place_of_caller()
        self._renew()

    def _renew(self) -> None:
        self._raw: Any = make_rlock()
        self._try: Callable[..., bool] = self._raw.acquire
        self._release = self._raw.release
        self._line: list[_Waiter] = []

    def __repr__(self) -> str:
        owner, count = self._state()
        times = "" if count == 1 else f" {count} times"
        state = f"held{times} by thread {name_of(owner)!r}" if owner else "free"
        return f"<{self.describe()}, {state}>"

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, waiting for it; tell whether it was had.

        Args:
            blocking: False: do not wait.
            timeout: Seconds to wait at most; -1: as long as it takes.

        Raises:
            Deadlock: Waiting for it, without a timeout, would never end.
            Cancelled: What runs here was asked to end while it waited.
            InvalidArgument: ``timeout`` is negative, or given although ``blocking`` is False.
        """
        if timeout != -1 and not (blocking and 0 <= timeout <= threading.TIMEOUT_MAX):
            raise InvalidArgument("timeout", str(timeout), "from 0 to threading.TIMEOUT_MAX, and -1 if not blocking")
        return self._take() or (blocking and self._wait(None if timeout == -1 else timeout))

    @starts_uninterrupted
    def release(self) -> None:
        """Give the lock back.

        Raises:
            RuntimeError: This thread does not hold it.
        """
        self.__exit__(None, None, None)

    def locked(self) -> bool:
        """Tell whether any thread holds it."""
        return self._state()[1] > 0

    def __enter__(self) -> bool:
        """Take the lock, waiting for it as long as it takes; raises as ``acquire`` does."""
        return self._take() or self._wait(None)

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._release()
        except RuntimeError:
            self._check_excuse(error)
        finally:
            if self._line:
                self._wake_next()
                if kind is not None and issubclass(kind, Deadlock):
                    sleep(GIVE_WAY_SECONDS)

    # What the wait graph asks

    def holders(self) -> Needs:
        """Return the thread that holds it."""
        owner = self._state()[0]
        return (any, (owner,)) if owner else GOES_ON

    def describe(self) -> str:
        """Return what it is, and where it was made."""
        name = "" if self._name is None else f" {self._name!r}"
        return f"{self.kind}{name} made at {self._made_at}"

    def _check_excuse(self, error: BaseException | None) -> None:
        """Raise that it is not ours to give back, unless ``error`` says why: a condition could not have it back."""
        if not issubclass(type(error), Deadlock | KeyboardInterrupt):
            raise  # noqa: PLE0704  # what is handled by whoever asks

    # What threading.Condition asks

    def _is_owned(self) -> bool:
        is_owned: bool = self._raw._is_owned()
        return is_owned

    def _release_save(self) -> int:
        """Give it back altogether, and return how often this thread had taken it."""
        count = self._state()[1]
        for _ in range(count):
            self.release()
        return count

    def _acquire_restore(self, count: int) -> None:
        """Take it as often as it was taken. A cancellation waits: what follows believes that it holds the lock."""
        if not self._take():
            self._wait(None, is_cancellable=False)
        for _ in range(count - 1):
            self._try(False)

    def _at_fork_reinit(self) -> None:
        """Be free, whoever held it in the parent; as ``threading``'s locks do it in a forked child."""
        self._renew()

    # How it is taken

    def _take(self) -> bool:
        """Take it, if it can be had now."""
        try:
            return self._try(False)
        except BaseException:  # Ctrl-C, a moment after: where it succeeds, the lock is ours
            if self._is_owned():
                self.release()
            raise

    def _wait(self, timeout: float | None, is_cancellable: bool = True) -> bool:
        """Wait for it, in line; tell whether it was had."""
        was_ours = self._is_owned()
        waiter = _Waiter()
        try:
            self._line.append(waiter)
            try:
                return self._wait_in_line(waiter, timeout, is_cancellable)
            finally:
                self._line.remove(waiter)
                if not self._is_owned():
                    self._wake_next()
        except BaseException:  # Ctrl-C, when it had just been had
            if self._is_owned() and not was_ours:
                self.release()
            raise

    def _wait_in_line(self, waiter: _Waiter, timeout: float | None, is_cancellable: bool) -> bool:
        wait_a_while = cancelling.wait if is_cancellable else Parker.wait_watchfully
        deadline = None if timeout is None else clock.now() + timeout
        looks, next_search = 0, 0
        with cancelling.WaitForOthers() as others, Wait(self, waiter, timeout, is_cancellable) as wait:
            while not self._take():
                if looks:
                    others.note()
                if deadline is None:
                    # Whoever closes a circle looks for it. So this does seldom: thousands may wait, each for the next.
                    if looks >= next_search:
                        wait.check()
                        next_search = looks + min(looks + 1, MAX_LOOKS)
                    self._check_holder()
                    # Woken, it looks for a circle as well: meanwhile another wait may have stood in its place.
                    looks = next_search if wait_a_while(waiter, None, LOOK_UP_SECONDS) else looks + 1
                elif (left := clock.left_until(deadline)) > 0:
                    wait_a_while(waiter, left)
                else:
                    return False
        return True

    def _check_holder(self) -> None:
        """Raise if the thread that holds it has ended."""
        owner = self._state()[0]
        # Asked twice: it may have given the lock back and ended in between, or its number may be a new thread's.
        if owner and is_gone(owner) and owner == self._state()[0] and is_gone(owner):
            raise gone(self.describe(), owner)

    def _wake_next(self) -> None:
        """Wake the first in line."""
        line = self._line[:]
        for waiter in line:
            if waiter.process == os.getpid():
                waiter.wake()
                return

    def _state(self) -> tuple[int, int]:
        """Return the thread that holds it (0: none), and how often it has taken it."""
        return owner_and_count(self._raw)


@suggesting
class RLock(_OwnedLock):
    """A lock that the thread which holds it may take again, as ``threading.RLock``, and that tells of deadlocks.

    It is free when it was given back as often as it was taken, which only the thread that holds it may do. Who comes
    first need not be served first. Where waiting would never end, as the threads wait for each other in a circle
    of locks, tasks and groups, the last of them to arrive is told by ``Deadlock``, and the others go on.

    Waits are ended by a cancellation, and by Ctrl-C in the main thread. ``threading.Condition(lock)`` works.

    Args:
        name: For errors; they also say where the lock was made.

    Raises:
        WrongType: ``name`` is not a string.

    Example:
        >>> import treadle
        >>> lock = treadle.RLock()
        >>> with lock, lock:
        ...     print("twice")
        twice
    """

    kind = "RLock"

    __slots__ = ()

    def __enter__(self) -> bool:
        """Take the lock, waiting for it as long as it takes; raises as ``acquire`` does."""
        try:  # ``_take``, without the price of a call
            if self._try(False):
                return True
        except BaseException:
            if self._is_owned():
                self.release()
            raise
        return self._wait(None)


@suggesting
class Lock(_OwnedLock):
    """A lock that one thread holds at a time, as ``threading.Lock``, and that tells of deadlocks.

    Only the thread that holds it may give it back. Who comes first need not be served first. Where waiting would
    never end, as a thread waits for itself, or several for each other in a circle of locks, tasks and groups, the
    last of them to arrive is told by ``Deadlock``, and the others go on. A wait with a timeout ends by itself, and
    is no part of a deadlock.

    Waits are ended by a cancellation, and by Ctrl-C in the main thread. ``threading.Condition(lock)`` works.

    Args:
        name: For errors; they also say where the lock was made.

    Raises:
        WrongType: ``name`` is not a string.

    Example:
        >>> import treadle
        >>> lock = treadle.Lock()
        >>> with lock:
        ...     print(lock.acquire(timeout=0.01))
        False
        >>> try:
        ...     with lock, lock:
        ...         print("never reached")
        ... except treadle.Deadlock:
        ...     print("it would have waited for itself")
        it would have waited for itself
    """

    kind = "Lock"
    instead: ClassVar[str] = "an RLock can be taken again"

    __slots__ = ("_is_free",)

    def _renew(self) -> None:
        super()._renew()
        self._is_free = True  # a hint, for the thread that has just taken ``_raw``: it was not its own before

    def __enter__(self) -> bool:
        """Take the lock, waiting for it as long as it takes; raises as ``acquire`` does."""
        try:
            if self._try(False):
                if self._is_free:
                    self._is_free = False
                    return True
                if self._settle():
                    return True
        except BaseException:  # Ctrl-C
            self._undo()
            raise
        return self._wait(None)

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_free = True
        try:
            self._release()
        except RuntimeError:  # it is another thread's
            self._is_free = False
            self._check_excuse(error)
        finally:
            if self._line:
                self._wake_next()
                if kind is not None and issubclass(kind, Deadlock):
                    sleep(GIVE_WAY_SECONDS)

    @starts_uninterrupted
    def release(self) -> None:
        """Give the lock back.

        Raises:
            RuntimeError: This thread does not hold it.
        """
        try:
            self.__exit__(None, None, None)
        except RuntimeError:
            raise RuntimeError("cannot release a lock that this thread does not hold") from None

    def _take(self) -> bool:
        """Take it, if it can be had now."""
        try:
            if self._try(False):
                if self._is_free:
                    self._is_free = False
                    return True
                return self._settle()
        except BaseException:
            self._undo()
            raise
        return False

    def _settle(self) -> bool:
        """Tell whether what was just taken was free; put it back if it was this thread's own."""
        if self._state()[1] == 1:  # somebody who tried to release another's has left the hint wrong
            self._is_free = False
            return True
        self._release()
        return False

    def _undo(self) -> None:
        """Put back what an interrupt has kept us from noting as taken."""
        if self._is_owned() and (self._is_free or self._state()[1] > 1):
            self._release()
            self._wake_next()

    def _wait(self, timeout: float | None, is_cancellable: bool = True) -> bool:
        if timeout is None and self._is_owned():
            check_patched_first()  # made before: then it may be another greenlet's
            raise taken_twice(self.describe(), self.instead)
        return super()._wait(timeout, is_cancellable)
