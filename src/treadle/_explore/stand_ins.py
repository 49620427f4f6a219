"""What explored threads get in place of locks, threads and time, so that the scheduler knows who can go on."""

from __future__ import annotations

import _thread
import queue
import sys
import threading
import time
from _thread import get_ident
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from treadle._core import clock, real_time
from treadle._core.block import contextmanager
from treadle._core.clock import Permit
from treadle._explore.scheduler import Agent, Scheduler
from treadle._explore.steps import Explored

_REAL_RLOCK = _thread.RLock

_in_use: Scheduler | None = None


def use(scheduler: Scheduler | None) -> None:
    """Let explored threads go by ``scheduler`` from now on."""
    global _in_use
    _in_use = scheduler


def _scheduler() -> Scheduler | None:
    """Return the scheduler of the calling thread; None: it is not explored, or in the middle of being started."""
    scheduler = _in_use
    return scheduler if scheduler is not None and scheduler.is_here() and not scheduler.is_starting else None


class _Lock:
    """What both kinds of lock have in common: waits that the scheduler knows of."""

    def __init__(self) -> None:
        self._owner = 0  # whoever took it; 0: it is free
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it; False: it was taken, and did not become free in time."""
        _check_timeout(blocking, timeout)
        scheduler = _step()
        if scheduler is None:
            if blocking and not self._can_be_taken():
                raise RuntimeError("a lock that an exploration left locked cannot be waited for outside of it")
        elif blocking and not self._wait(scheduler, None if timeout in (-1, threading.TIMEOUT_MAX) else timeout):
            return False
        if not self._can_be_taken():
            return False
        self._owner = get_ident()
        self._count += 1
        return True

    def release(self) -> None:
        """Give it back."""
        scheduler = _step()
        self._check_release()
        self._count -= 1
        if self._count == 0:
            self._owner = 0
            if scheduler is not None:
                scheduler.note_changed(self)

    def locked(self) -> bool:
        """Tell whether somebody has it."""
        _step()
        return self._count > 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _can_be_taken(self) -> bool:
        return self._count == 0

    def _check_release(self) -> None:
        if self._count == 0:
            raise RuntimeError("release unlocked lock")

    def _wait(self, scheduler: Scheduler, seconds: float | None) -> bool:
        deadline = None if seconds is None else scheduler.now() + seconds
        while not self._can_be_taken():
            if not scheduler.wait(self, None if deadline is None else deadline - scheduler.now()):
                return False
        return True

    def _at_fork_reinit(self) -> None:
        self._owner = self._count = 0


class Lock(_Lock):
    """In place of ``threading.Lock``: whoever has it, anybody may give it back."""


class RLock(_Lock):
    """In place of ``threading.RLock``, and of the one below it in ``_thread``, whose text tells who has it."""

    def __new__(cls) -> Self:
        """Return a real one to threads that are not explored."""
        return _REAL_RLOCK() if _scheduler() is None else super().__new__(cls)  # type: ignore[return-value]

    def __repr__(self: Any) -> str:
        if not isinstance(self, RLock):  # asked by way of the class, of one that was made before
            return _REAL_RLOCK.__repr__(self)
        state = "locked" if self._count else "unlocked"
        return f"<{state} _thread.RLock object owner={self._owner} count={self._count} at {id(self):#x}>"

    def _can_be_taken(self) -> bool:
        return self._count == 0 or self._owner == get_ident()

    def _check_release(self) -> None:
        if not self._count or self._owner != get_ident():
            raise RuntimeError("cannot release un-acquired lock")

    # What threading.Condition asks

    def _is_owned(self) -> bool:
        _step()
        return self._count > 0 and self._owner == get_ident()

    def _release_save(self) -> int:
        scheduler = _step()
        self._check_release()
        count, self._count, self._owner = self._count, 0, 0
        if scheduler is not None:
            scheduler.note_changed(self)
        return count

    def _acquire_restore(self, count: int) -> None:
        self.acquire()
        self._count = count


def _step() -> Scheduler | None:
    """Take a step, where the calling thread is explored; return its scheduler."""
    scheduler = _scheduler()
    if scheduler is not None and not scheduler.is_over:
        scheduler.step()
    return scheduler


def _check_timeout(blocking: bool, timeout: float) -> None:
    if timeout != -1 and not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0 and timeout != -1:
        raise ValueError("timeout value must be a non-negative number")
    if timeout > threading.TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")


class _ExploredClock:
    """Treadle's clock, as explored threads see it."""

    def now(self) -> float:
        """Return the time of the exploration; the machine's for others."""
        return real_time.monotonic() if _scheduler() is None else _now()

    def left_until(self, when: float) -> float:
        """Return the seconds until ``when``; 0, if it has come."""
        return max(0.0, when - self.now())

    def after(self, seconds: float) -> float:
        """Return when ``seconds`` have passed since the calling thread looked at this clock last: just now."""
        return self.now() + seconds

    def wait(self, permit: Permit, seconds: float) -> bool:
        """Wait until ``permit`` is released or ``seconds`` have passed; tell which it was."""
        return permit.acquire(timeout=seconds)


def _sleep(seconds: float) -> None:
    scheduler = _scheduler()
    if scheduler is None:
        _REAL_SLEEP(seconds)
    elif seconds > 0:
        scheduler.wait(object(), seconds)
    else:
        scheduler.step()
        scheduler.stand_back()


def _start(thread: threading.Thread) -> None:
    scheduler = _scheduler()
    if scheduler is None:
        _REAL_START(thread)
        return
    if thread.ident is not None:
        raise RuntimeError("threads can only be started once")
    scheduler.step()
    agent, run = scheduler.add(thread.name, thread.daemon), thread.run
    agent.thread = thread
    thread.run = lambda: scheduler.run(agent, run)  # type: ignore[method-assign]
    scheduler.is_starting = True
    try:
        thread._started = threading.Event()  # type: ignore[attr-defined]  # a real one: its thread is none of ours yet
        _REAL_START(thread)
    finally:
        scheduler.is_starting = False
    scheduler.note_started()


def _agent_of(thread: threading.Thread) -> Agent | None:
    scheduler = _in_use
    if scheduler is None:
        return None
    return next((agent for agent in scheduler.agents if agent.thread is thread), None)


def _join(thread: threading.Thread, timeout: float | None = None) -> None:
    scheduler, agent = _scheduler(), _agent_of(thread)
    if scheduler is None or agent is None or thread is threading.current_thread():
        _REAL_JOIN(thread, timeout)
        return
    scheduler.step()
    if not agent.is_done:
        scheduler.wait(agent, None if timeout is None else max(0.0, timeout))


def _is_alive(thread: threading.Thread) -> bool:
    scheduler, agent = _scheduler(), _agent_of(thread)
    if scheduler is None or agent is None:
        return _REAL_IS_ALIVE(thread)
    scheduler.step()
    return not agent.is_done


def _explored_or(explored: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    def choose(*args: Any, **kwargs: Any) -> Any:
        return (real if _scheduler() is None else explored)(*args, **kwargs)

    return choose


def _now() -> float:
    scheduler = _scheduler()
    assert scheduler is not None
    return _EPOCH_SECONDS + scheduler.now()


_EPOCH_SECONDS = 1e6
_REAL_SLEEP = real_time.sleep
_REAL_START = threading.Thread.start
_REAL_JOIN = threading.Thread.join
_REAL_IS_ALIVE = threading.Thread.is_alive
_STAND_INS: dict[Any, Callable[..., Any]] = {
    threading.Lock: _explored_or(Lock, threading.Lock),
    _thread.allocate_lock: _explored_or(Lock, _thread.allocate_lock),
    threading.RLock: RLock,
    _thread.RLock: RLock,
    queue.SimpleQueue: _explored_or(queue._PySimpleQueue, queue.SimpleQueue),  # type: ignore[attr-defined]
    time.sleep: _sleep,
    **{
        real: _explored_or(_now, real)
        for home in (time, real_time)
        for real in (home.monotonic, home.perf_counter, home.time)
    },
}
_METHODS = {"start": _start, "join": _join, "is_alive": _is_alive}


@contextmanager
def installed(explored: Explored) -> Iterator[None]:
    """Put them where explored code looks: into the modules they come from, and where it has imported their names."""
    undo: list[tuple[Any, str, Any]] = []

    def put(place: Any, name: str, thing: Any) -> None:
        undo.append((place, name, getattr(place, name)))
        setattr(place, name, thing)

    homes = [threading, _thread, queue, time]
    modules = [
        module for module in list(sys.modules.values()) if module not in homes and _is_explored(module, explored)
    ]
    clock_before = clock.use(_ExploredClock())
    try:
        for module in [*homes, *modules]:
            for name, thing in list(vars(module).items()):
                if name != "LockType" and _is_replaced(thing):
                    put(module, name, _STAND_INS[thing])
        for name, method in _METHODS.items():
            put(threading.Thread, name, method)
        yield
    finally:
        clock.use(clock_before)
        for place, name, thing in reversed(undo):
            setattr(place, name, thing)


def _is_replaced(thing: Any) -> bool:
    try:
        return thing in _STAND_INS
    except TypeError:  # it has no hash
        return False


def _is_explored(module: Any, explored: Explored) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and explored.is_explored(getattr(module, "__name__", ""), file)
