"""``async for`` over a run: the consumer is a coroutine, which may not block its loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from treadle._crew.room import making_room
from treadle._run.course import Course
from treadle._run.delivery import Delivery, Raiser, _End
from treadle._run.turn import HERE, Turn
from treadle._sync.loop_parker import LoopParker

T = TypeVar("T")
_NOTHING: Any = object()


class AsyncStream(AsyncIterator[T]):
    """The results or outcomes of a run, for ``async for``. ``stream`` is kept so that the run goes on."""

    def __init__(self, stream: object, course: Course, delivery: Delivery) -> None:
        self._stream = stream
        self._course = course
        self._delivery = delivery
        self._batch: Iterator[Any] = iter(())

    def __aiter__(self) -> AsyncStream[T]:
        return self

    async def __anext__(self) -> T:
        try:
            while (value := next(self._batch, _NOTHING)) is _NOTHING:
                self._batch = await self._next_batch()
            result: T = value
            return result
        finally:
            del self  # an error's traceback leads to this frame, and must not lead on to the run

    async def _next_batch(self) -> Iterator[Any]:
        turn, turns = Turn(), self._course.turns
        stalled = False
        try:
            if (other := turn.take(turns)) is not None:
                return Raiser(other.refusal(self._course.name))
            parker = LoopParker()
            self._course.waker = parker
            while (batch := self._delivery.step(stalled)) is None:
                with making_room():  # for a loop that a worker runs, in the place that it holds
                    stalled = not await parker.wait(self._delivery.least_wait())
        except BaseException:  # cancelled, above all: the run stops, the loop is not kept waiting
            self._course.end_now(is_orphaned=False)
            raise
        finally:
            if HERE in turns and turns[HERE] is turn:
                del turns[HERE]
        if isinstance(batch, _End):
            raise StopAsyncIteration
        return batch
