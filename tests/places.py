"""``map``, groups and executors behind one face: what a call is held to is the same in each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import treadle
from tests.conftest import PATIENCE_SECONDS
from treadle.testing import ManualClock

# Where each call has an end of its own, whatever the others come to.
PLACES = ("map", "unordered map", "group", "executor")
# Where the first failure would end the rest.
RESULTS = ("results", "unordered results")


@dataclass
class End:
    """What became of one call; ``attempts`` and ``abandoned`` are told by ``map`` alone."""

    item: Any
    status: str
    value: Any = None
    error: BaseException | None = None
    attempts: int | None = None
    abandoned: bool | None = None


class Calls:
    """Calls of ``fn`` with each of ``items``, begun at once, in one of ``PLACES`` or ``RESULTS``."""

    def __init__(self, place: str, fn: Callable[[Any], Any], items: Iterable[Any], **options: Any) -> None:
        self.place = place
        self.items = list(items)
        self.tasks: list[treadle.Task[Any]] = []
        self.raised: BaseException | None = None  # by the run or the group as a whole
        self._delivered: list[End] = []
        self._ends: list[End] | None = None
        if self.is_map:
            ordered = not place.startswith("unordered")
            options = {"buffersize": len(self.items), **options}
            self.owner: Any = treadle.map(fn, self.items, ordered=ordered, **options)
            # Somebody has to ask for results: the run takes its items as they are asked for.
            self._consumer = threading.Thread(target=self._consume, name="consumer")
            self._consumer.start()
            return
        options.pop("chunksize", None)
        self.owner = treadle.PoolExecutor(**options)
        if place == "group":
            self.owner = treadle.TaskGroup(on_error="collect", **options)
            self.owner.__enter__()
        self.tasks = [self.owner.submit(fn, item) for item in self.items]

    @property
    def is_map(self) -> bool:
        return self.place not in ("group", "executor")

    @property
    def stats(self) -> treadle.Stats:
        stats = self.owner.stats
        assert isinstance(stats, treadle.Stats)
        return stats

    def stop(self) -> None:
        """Ask for the end of all of it, from outside, and wait for it."""
        try:
            if self.is_map:
                self.owner.close()
            elif self.place == "group":
                self.owner.cancel()
            else:
                for task in self.tasks:
                    task.cancel()
        except BaseException as error:
            self.raised = error
        self.ends()

    def ends(self) -> list[End]:
        """Wait for the end of all of it, and return what became of each call, in the order of the items."""
        if self._ends is None:
            self._ends = self._map_ends() if self.is_map else self._task_ends()
        return self._ends

    def _consume(self) -> None:
        try:
            if self.place in RESULTS:
                for value in self.owner:
                    self._delivered.append(End(None, "succeeded", value))
            else:
                for outcome in self.owner.outcomes():
                    self._delivered.append(_end(outcome))
        except treadle.RunClosed:
            pass
        except BaseException as error:
            self.raised = error

    def _map_ends(self) -> list[End]:
        self._consumer.join(2 * PATIENCE_SECONDS)
        assert not self._consumer.is_alive(), "the run does not come to its end"
        ends = self._delivered + [_end(outcome) for outcome in self.owner.rest()]
        return ends if self.place in RESULTS else sorted(ends, key=lambda end: self.items.index(end.item))

    def _task_ends(self) -> list[End]:
        try:
            self.owner.__exit__(None, None, None)
        except BaseException as error:
            self.raised = error
        return [_task_end(item, task) for item, task in zip(self.items, self.tasks, strict=True)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ends is None:
            with suppress(BaseException):
                self.stop()


def _end(outcome: treadle.Outcome[Any, Any]) -> End:
    it = outcome
    return End(it.item, it.status, it.value, it.error, it.attempts, it.abandoned)


def _task_end(item: Any, task: treadle.Task[Any]) -> End:
    assert task.done()
    if task.cancelled():
        return End(item, "cancelled")
    error = task.exception()
    if error is None:
        return End(item, "succeeded", task.result())
    return End(item, "timed_out" if type(error) is treadle.CallTimedOut else "failed", error=error)


def make_late(run: treadle.Run[Any, Any], clock: ManualClock, limit: float, grace: float) -> None:
    """Turn the clock by the time-out of the call that is under way, and by its grace once it was asked to end.

    No other call can be late then, however slow the machine is.
    """
    clock.wait_for_sleepers()
    late = run._course.crew.chunks_in_hand()
    clock.advance(limit)
    wait_until(lambda: all(chunk.is_cancelled for chunk in late))
    clock.advance(grace)


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look until it is so: not every step inside leaves an event behind."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.0005)
