"""What a coroutine is in the middle of: on the thread of its loop, others take turns with it.

A context variable holds it, which the tasks inherit that a coroutine starts; so it costs nothing where a coroutine
merely goes on. Contexts are copied to other threads too, where it means nothing: hence the look at the loop.
"""

from __future__ import annotations

from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle._core.cancellation import Scope, Seat


class Inside:
    """What a coroutine is in the middle of. Not changed, as tasks share it; another one takes its place.

    Args:
        loop: That runs it.
        seat: Where its call is made, if it is a call's.
        places: In limiters, that it holds.
    """

    __slots__ = ("_loop", "places", "seat")

    def __init__(self, loop: Any, seat: Seat | None, places: tuple[Any, ...]) -> None:
        self._loop = loop
        self.seat = seat
        self.places = places

    def is_here(self) -> bool:
        """Tell whether what asks runs on that loop."""
        from asyncio import _get_running_loop  # slow to import; whoever has made this one has it

        return _get_running_loop() is self._loop

    def with_places(self, places: tuple[Any, ...]) -> Inside:
        """Return the same with other places."""
        return Inside(self._loop, self.seat, places)


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


class LoopSeat:
    """The seat of a thread that runs a loop: each call on it has its own."""

    def call_scope(self) -> Scope | None:
        """Return the scope of the call that runs now."""
        seat = _seat()
        return None if seat is None else seat.call_scope()

    def current_task(self) -> Any:
        """Return the task whose call runs now."""
        seat = _seat()
        return None if seat is None else seat.current_task()


def _seat() -> Seat | None:
    found = inside()
    return None if found is None else found.seat
