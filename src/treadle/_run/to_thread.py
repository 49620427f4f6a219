"""``await to_thread(...)``: a blocking call from a coroutine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from treadle._core.describe import describe
from treadle._core.raw import make_rlock
from treadle._core.settings import DEFAULT_GRACE_SECONDS
from treadle._crew.room import making_room
from treadle._run.executor import PoolExecutor
from treadle._run.task import Task
from treadle._sync.limiter import Limiter
from treadle.errors import WrongType

T = TypeVar("T")

_pool: PoolExecutor | None = None
# Protects ``_pool``. By process: in a forked child, a thread that is gone may hold the parent's. Reentrant, as a
# finalizer may come upon its holder.
_pool_locks: dict[int, Any] = {}


async def to_thread(fn: Callable[..., T], /, *args: Any, limiter: Limiter | None = None, **kwargs: Any) -> T:
    """Call ``fn(*args, **kwargs)`` on a thread, wait for it without blocking the loop, and return its result.

    Like ``asyncio.to_thread``, with limits and cancellation: at most 32 such calls are made at once in a
    process, others wait; and if the coroutine is cancelled, so is the call. One that has begun is asked to end
    (see ``check_cancelled``) and has 0.25 s to do so; then it is left behind, and logged. The call sees the
    context variables of the coroutine.

    Args:
        fn: Called on another thread.
        args: Its arguments.
        limiter: The gate that the call passes, on its thread.
        kwargs: Its keyword arguments.

    Raises:
        WrongType: ``fn`` cannot be called, or ``limiter`` is none.

    Example:
        >>> import asyncio, treadle
        >>> asyncio.run(treadle.to_thread(pow, 2, 10))
        1024
    """
    import asyncio  # slow to import; whoever comes here has it

    task: Task[T]
    if limiter is not None and not isinstance(limiter, Limiter):
        raise WrongType("limiter", describe(limiter), "a treadle.Limiter, or None")
    if limiter is None:
        task = _shared_pool().submit(fn, *args, **kwargs)
    else:
        task = _shared_pool().submit(_call_limited, limiter, fn, args, kwargs)
    future = asyncio.wrap_future(task)
    try:
        with making_room(task._book.crew, task):  # for a loop that a worker runs, in the place that it holds
            return await asyncio.shield(future)
    except asyncio.CancelledError:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future], timeout=DEFAULT_GRACE_SECONDS)
        if not task.done():
            task._book.leave_behind(task)
        elif not future.cancelled() and future.done():
            future.exception()  # nobody else will ask for it
        raise
    finally:
        del future, task  # they hold the error, whose traceback leads here


def _call_limited(limiter: Limiter, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    with limiter:
        return fn(*args, **kwargs)


def _shared_pool() -> PoolExecutor:
    global _pool
    with _pool_locks.setdefault(os.getpid(), make_rlock()):
        if _pool is None or _pool._book.closed is not None:  # closed in a forked child, or broken
            _pool = PoolExecutor(thread_name_prefix="treadle-to_thread", max_abandoned=sys.maxsize, engine="threads")
        return _pool
