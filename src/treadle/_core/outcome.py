"""What became of an item, and of a run as a whole."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

Status = Literal["succeeded", "failed", "timed_out", "cancelled", "not_started"]


@dataclass(slots=True)
class Outcome(Generic[Item, Value]):
    """What became of one item. Every item taken from the input gets exactly one.

    Attributes:
        index: The item's place in the input, from 0.
        item: The item itself; with several iterables, the tuple of arguments.
        status: ``succeeded``, ``failed``, ``timed_out``, ``cancelled`` (it ran when the run ended) or
            ``not_started``.
        value: What the call returned, if it succeeded.
        error: What it raised if it failed; otherwise why there is no value.
        attempts: How many calls were made for it.
        seconds: How long its call took.
        abandoned: The call may still be running, in a thread that was left behind.

    Example:
        >>> import treadle
        >>> [(o.item, o.status, o.value) for o in treadle.map(abs, [-1, -2]).outcomes()]
        [(-1, 'succeeded', 1), (-2, 'succeeded', 2)]
    """

    index: int
    item: Item
    status: Status
    value: Value | None = None
    error: BaseException | None = None
    attempts: int = 1
    seconds: float = 0.0
    abandoned: bool = False

    @property
    def ok(self) -> bool:
        """Whether the call succeeded, and ``value`` is what it returned."""
        return self.status == "succeeded"

    def result(self) -> Value:
        """Return the value, or raise the error.

        Raises:
            BaseException: What the call raised; for an item without an answer, why it has none.
        """
        if self.error is not None:
            try:
                raise self.error
            finally:
                del self  # the traceback holds this frame: do not close a circle through it
        return self.value  # type: ignore[return-value]  # no error: the value is the call's, None included


@dataclass(frozen=True, slots=True, repr=False)
class Stats:
    """The state of a run at one moment. Counts are of items; after the end they add up to ``taken``.

    Attributes:
        taken: Items taken from the input.
        succeeded: Calls that returned.
        failed: Calls that raised.
        timed_out: Calls that passed their time.
        cancelled: Calls that ran when the run ended.
        not_started: Items whose call never began.
        retried: Calls beyond an item's first.
        abandoned: Calls left behind in a thread that may still run.
        running: Calls (or chunks of tiny calls) being made right now.
        workers: Threads that make calls right now.
        seconds: Since the run began; after the end, how long it took.
        decision: What was decided about the engine and the number of workers, and why.
    """

    taken: int = 0
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    not_started: int = 0
    retried: int = 0
    abandoned: int = 0
    running: int = 0
    workers: int = 0
    seconds: float = 0.0
    decision: str | None = None

    def __repr__(self) -> str:
        """Return what differs from nothing: most counts of most runs are 0."""
        told = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        return (
            f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value, plain in told if value != plain)})"
        )
