"""What a coroutine is in the middle of: on the thread of its loop, others take turns with it.

A context variable holds it, which the tasks inherit that a coroutine starts; so it costs nothing where a coroutine
merely goes on. Contexts are copied to other threads too, where it means nothing: hence the look at the loop.
"""

from __future__ import annotations

import sys
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from treadle._core.quiet_seat import QuietSeat

if TYPE_CHECKING:
    from treadle._core.cancellation import Scope
    from treadle._core.chunk import Chunk


class Inside:
    """What a coroutine is in the middle of. Not changed, as tasks share it; another one takes its place.

    Args:
        loop: That runs it.
        chunk: Of its call, if it is one.
        places: In limiters, that it holds.
    """

    __slots__ = ("_loop", "chunk", "places")

    def __init__(self, loop: Any, chunk: Chunk | None, places: tuple[Any, ...]) -> None:
        self._loop = loop
        self.chunk = chunk
        self.places = places

    def is_here(self) -> bool:
        """Tell whether what asks runs on that loop."""
        # Slow to import, and whoever has made this one has it; an import statement would cost more than the call.
        running: Any = sys.modules["asyncio"]._get_running_loop()
        return running is self._loop

    def at(self, chunk: Chunk | None, places: tuple[Any, ...]) -> Inside:
        """Return what a coroutine is in the middle of on the same loop, at another call or with other places."""
        return Inside(self._loop, chunk, places)


_inside: ContextVar[Inside | None] = ContextVar("treadle_inside", default=None)


def inside() -> Inside | None:
    """Return what the coroutine that runs here is in the middle of; None: it is not known to be in anything."""
    found = _inside.get()
    return found if found is None or found.is_here() else None


def go_inside(found: Inside) -> None:
    """Let the coroutine that runs here be in the middle of ``found`` from now on."""
    _inside.set(found)


def put_inside(context: Context, found: Inside) -> None:
    """Let a coroutine be in the middle of ``found`` that will run in ``context``."""
    context.run(_inside.set, found)


class LoopSeat(QuietSeat):
    """The seat of a thread that runs a loop: what makes a call there knows by itself which it is."""

    def call_scope(self) -> Scope | None:
        """Return the scope of the call that runs now."""
        chunk = _chunk()
        return None if chunk is None else chunk.own_scope()

    def current_task(self) -> Any:
        """Return the task whose call runs now."""
        return getattr(_chunk(), "task", None)


def is_call_cancelled() -> bool:
    """Tell whether the call of the coroutine that runs here was asked to end."""
    chunk = _chunk()
    return chunk is not None and chunk.is_cancelled


def _chunk() -> Chunk | None:
    found = inside()
    return None if found is None else found.chunk
