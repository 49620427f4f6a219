"""The seam: what a worker needs from whatever makes its calls."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Protocol

from treadle._core.chunk import Chunk
from treadle.errors import WrongType


@dataclass(frozen=True, slots=True)
class CallPlan:
    """How a call is made of an item, whichever engine makes it.

    Attributes:
        fn: The user's function.
        context: The submitter's context.
        spread: An item is a tuple of arguments.
        initializer: Called once by each worker before its first call.
        initargs: Its arguments.
        resource: Opens what each worker has for itself; passed to ``fn`` as its last argument.
        brings_context: An item has a ``context`` of its own, and ``places`` in limiters, and ``fn`` enters them;
            the plan's is the initializer's alone.
        max_tasks_per_child: Calls after which a process is replaced by a fresh one, where there are processes.
        chunksize: Calls whose results come back together at most, where there are processes; None: as time goes by.
    """

    fn: Callable[..., Any]
    context: Context
    spread: bool = False
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    resource: Callable[[], Any] | None = None
    brings_context: bool = False
    max_tasks_per_child: int | None = None
    chunksize: int | None = None


def never_awaited(coroutine: CoroutineType[Any, Any, Any]) -> WrongType:
    """Return the error for a call that returned a coroutine to whom nobody awaits it, and let go of that."""
    coroutine.close()
    what = f"the coroutine {coroutine.__qualname__}(), which nobody awaits"
    hint = "give the coroutine function itself, or engine='coroutines'"
    return WrongType("what fn returns", what, "a value", hint)


class EngineBroken(Exception):
    """An engine can make no call any more, nor can its peers: its run is to end.

    Args:
        error: Why, for the user.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class NoRoom(Exception):
    """An engine cannot be had, as the system has no room for it: its worker leaves, and the others go on without.

    Nothing has begun of what it was given, but for what is recorded.

    Args:
        error: Why, for the user.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class CallMaker(Protocol):
    """What anybody but its worker needs to know of an engine. All of this comes from other threads."""

    @property
    def is_killable(self) -> bool:
        """Whether ``kill`` can end a call by force, as things are now."""

    def interrupt(self) -> None:
        """Ask the call being made to end soon. Never blocks; does nothing where nothing can be done.

        Called after the chunk was marked as cancelled.
        """

    def kill(self) -> None:
        """End the call being made, or the getting ready, by force, where ``is_killable``.

        Never blocks. The worker comes back at once, having recorded that the call was cut short, and can go on.
        Where not: the run is over, the worker is left behind in its call, and nobody asks what that comes to.
        """


class Engine(CallMaker, Protocol):
    """Makes calls, one chunk at a time, and knows nothing of why, when or for whom.

    One worker owns an engine and calls ``open``, ``make_calls`` and ``close`` on its own thread, in that
    order, and ``get_ready`` in between.
    """

    def open(self) -> None:
        """Get ready: run the initializer, open the resource. What these raise is raised.

        Raises:
            NoRoom: The system has none for it.
        """

    def get_ready(self) -> None:
        """Do what ``make_calls`` would otherwise do before the first call: alone, so that it is in no call's time.

        Raises:
            EngineBroken: It cannot be opened anew.
            NoRoom: The system has none for it.
        """

    def make_calls(self, chunk: Chunk) -> None:
        """Make the calls of ``chunk`` until its ``todo`` is empty, recording each result or failure.

        Items are taken off the end of ``todo`` one by one, because others may take from its beginning or
        clear it meanwhile. A call that raises is a failure of that item, whatever it raises. If this method
        itself raises, the engine is broken, and the item being called is lost with its worker.

        Raises:
            EngineBroken: So are all of its kind. What came of the items that were sent off is recorded, and no item
                is lost.
            NoRoom: As that, but others of its kind may well go on.
        """

    def close(self) -> None:
        """Close what ``open`` opened. What the closing raises is raised."""


class AwaitedEngine(CallMaker, Protocol):
    """As ``Engine``, for a worker that is a task on an event loop, and awaits it."""

    async def open(self) -> None:
        """See ``Engine``."""

    async def make_calls(self, chunk: Chunk) -> None:
        """See ``Engine``."""

    async def close(self) -> None:
        """See ``Engine``."""
