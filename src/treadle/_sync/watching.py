"""Plain locks of ``threading``, watched: they hang in a deadlock as ever, but somebody is told."""

from __future__ import annotations

import _thread
import logging
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ClassVar, NoReturn, TypeAlias

from treadle._core.raw import make_rlock, owner_and_count
from treadle._core.settings import check_callable
from treadle._core.stacks import is_called_by_us, place_of_caller
from treadle._core.tell import tell
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._core.user_code import call_guarded
from treadle._sync.circle import told
from treadle._sync.wait_graph import GOES_ON, Needs, Wait
from treadle.errors import Deadlock

Callback: TypeAlias = Callable[[Deadlock], object]

# Protects the replacement of the factories, and who is open. Never waited for with another lock in hand.
_lock = _thread.allocate_lock()
_is_hooked = False
_open: tuple[_Watch, ...] = ()  # whoever makes a lock reads it as it is
_originals: tuple[Any, Any] = (threading.Lock, threading.RLock)


class _Watch:
    """One block of ``watch_locks``."""

    def __init__(self, callback: Callback | None) -> None:
        self.callback = callback
        self._was_entered = False

    def __enter__(self) -> None:
        if self._was_entered:
            raise RuntimeError("a block of watch_locks() is entered once; call it again for another")
        self._was_entered = True
        try:
            _change(self, is_opened=True)
        except BaseException:  # Ctrl-C: each step may be done twice
            _change(self, is_opened=False)
            raise

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            _change(self, is_opened=False)
        except BaseException:
            _change(self, is_opened=False)
            raise

    def __del__(self) -> None:
        if not self._was_entered:
            text = "watch_locks() by itself watches nothing: write `with treadle.watch_locks():` around what it is for"
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def watch_locks(callback: Callback | None = None) -> AbstractContextManager[None]:
    """Watch the plain locks of ``threading`` that are made while its block runs, and tell of deadlocks among them.

    This is for locks that are not Treadle's, of a program or of the libraries that it uses: ``threading.Lock`` and
    ``RLock``, and with them ``Condition``, ``Event``, ``queue.Queue``, logging handlers and executors. A deadlock of
    watched locks, Treadle's own locks, tasks and groups is written to the ``treadle`` logger and given to ``callback``,
    once, by the thread that closes the circle, just before it hangs. Nothing is raised into watched locks.

    Locks are watched for as long as they live, also after the block; locks from before it never are, nor those of code
    that took the factory by name before (``from threading import Lock``) or calls ``_thread.allocate_lock``. The block
    is for the whole process: other threads' locks made meanwhile are watched as well. Blocks may be nested, and
    open in several threads at once. The call alone watches nothing: thrown away, it warns.

    A lock that was ever released by another thread than the one that took it is a signal, which nobody holds: no
    deadlock is told of with it. Waits with a timeout end by themselves. A watched lock costs several times
    what a plain one does: watch while you test.

    Args:
        callback: Called with the ``Deadlock``, which is not raised. It must not wait for the threads named in it.

    Raises:
        WrongType: ``callback`` cannot be called.

    Example:
        >>> import threading, treadle
        >>> with treadle.watch_locks(print):
        ...     lock = threading.Lock()
        >>> with lock:
        ...     print("it works as ever")
        it works as ever
    """
    if callback is not None:
        check_callable("callback", callback)
    return _Watch(callback)


def _change(watch: _Watch, is_opened: bool) -> None:
    """Open or close a block; the first one replaces the factories, the last one puts the originals back."""
    global _open, _originals
    if not _is_hooked:
        _hook()
    with _lock:
        others = tuple(other for other in _open if other is not watch)
        module: Any = threading
        present = (module.Lock, module.RLock)
        if is_opened and not others and present != _WATCHED:
            _originals = present
            module.Lock, module.RLock = _WATCHED
        elif not is_opened and not others and present == _WATCHED:
            # Otherwise somebody has put theirs on top of ours, which would be lost; and ours make plain locks now.
            module.Lock, module.RLock = _originals
        _open = (*others, watch) if is_opened else others


def _hook() -> None:
    global _is_hooked
    os.register_at_fork(after_in_child=_renew_lock)  # twice, maybe, which is as good as once
    _is_hooked = True


def _renew_lock() -> None:
    """In a forked child: a thread that is not there may hold the parent's."""
    global _lock
    _lock = _thread.allocate_lock()


_RawRLock: Any = type(make_rlock())


class _Watched:
    """What both kinds have in common: where it was made, who is told, and the wait that tells."""

    __slots__ = ()
    verb: ClassVar[str] = "holds"
    kind: ClassVar[str]
    _made_at: str
    _watches: tuple[_Watch, ...]

    def holders(self) -> Needs:
        """Return the thread that holds it, if it is not a signal."""
        owner = self._holder()
        return (any, (owner,)) if owner else GOES_ON

    def describe(self) -> str:
        """Return what it is, and where it was made."""
        return f"{self.kind} made at {self._made_at}"

    def _holder(self) -> int:
        raise NotImplementedError

    def _wait(self, block: Callable[[], bool]) -> bool:
        """Wait for it as ever, by ``block``; tell of a deadlock first."""
        with Wait(self, None, is_cancellable=False) as wait:
            if circle := wait.find_circle():
                _tell(circle)
                wait.publish()  # of itself, this thread hangs now; whoever comes later shall see it
            return block()


class WatchedLock(_Watched):
    """In the place of ``threading.Lock``."""

    __slots__ = ("__weakref__", "_is_signal", "_made_at", "_raw", "_taker", "_watches")
    kind = "threading.Lock"

    def __new__(cls) -> Any:
        """Return a plain lock where nobody watches, and for ourselves."""
        return super().__new__(cls) if _open and not is_called_by_us() else _thread.allocate_lock()

    def __init__(self) -> None:
        self._raw = _thread.allocate_lock()
        self._taker = 0
        self._is_signal = False
        self._made_at = place_of_caller()
        self._watches = _open

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} watched {self.describe()}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle a lock")

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As ``threading.Lock``."""
        if blocking and timeout == -1:
            is_had = self._raw.acquire(False) or self._wait(self._raw.acquire)
        else:
            is_had = self._raw.acquire(blocking, timeout)
        if is_had:
            self._taker = threading.get_ident()
        return is_had

    @starts_uninterrupted
    def release(self) -> None:
        """As ``threading.Lock``: any thread may."""
        try:
            if self._taker != threading.get_ident():
                self._is_signal = True
            self._taker = 0  # first: nobody is ever taken for the holder who is not
        finally:
            self._raw.release()

    def locked(self) -> bool:
        """Tell whether any thread holds it."""
        return self._raw.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self._raw = _thread.allocate_lock()
        self._taker = 0

    def _holder(self) -> int:
        return 0 if self._is_signal else self._taker


class WatchedRLock(_Watched, _RawRLock):  # type: ignore[misc]  # typeshed has it for final, but it is not
    """In the place of ``threading.RLock``, which tells of itself who holds it."""

    __slots__ = ("_made_at", "_watches")
    kind = "threading.RLock"

    def __new__(cls) -> Any:
        """Return a plain lock where nobody watches, and for ourselves."""
        return super().__new__(cls) if _open and not is_called_by_us() else _RawRLock()

    def __init__(self) -> None:
        super().__init__()
        self._made_at = place_of_caller()
        self._watches = _open

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As ``threading.RLock``."""
        acquire: Callable[..., bool] = super().acquire
        if blocking and timeout == -1:
            return acquire(False) or self._wait(acquire)
        return acquire(blocking, timeout)

    def __enter__(self) -> bool:
        return self.acquire()

    def _acquire_restore(self, state: tuple[int, int]) -> None:
        for _ in range(state[0]):
            self.acquire()

    def _holder(self) -> int:
        return owner_and_count(self)[0]


_WATCHED = (WatchedLock, WatchedRLock)


def _tell(circle: Sequence[Wait]) -> None:
    """Tell of a deadlock, unless it was told of: then it has only grown by those who wait behind it."""
    is_known = any(wait.is_told for wait in circle)
    for wait in circle:
        wait.is_told = True
    if is_known:
        return
    watches = {watch: None for wait in circle for watch in getattr(wait.awaited, "_watches", ())}
    deadlock = told(circle)
    for watch in watches:
        if watch.callback is not None:
            _, error = call_guarded(watch.callback, deadlock)
            if error is not None:
                tell(logging.ERROR, "telling of a deadlock failed", error=error)
    tell(logging.ERROR, "%s", deadlock)
