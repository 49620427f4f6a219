"""What ``treadle.map`` returns."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextvars import Context
from itertools import chain
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from treadle._core.describe import annotate, show_own
from treadle._core.option_names import suggesting
from treadle._core.outcome import Outcome, Stats
from treadle._core.real_time import perf_counter
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._core.user_code import is_a
from treadle._run.course import Course
from treadle._run.delivery import Delivery
from treadle._run.turn import HERE, Turn
from treadle._show.progress import describe_counts

if TYPE_CHECKING:
    from types import TracebackType

    from treadle._core.chunk import Chunk

Item = TypeVar("Item")
Value = TypeVar("Value")
T = TypeVar("T")


# What people look for on a run, and where it is.
_ELSEWHERE = {
    "result": "a run is an iterator: list(run) has the results, outcomes() what became of each item",
    "results": "a run is an iterator: list(run) has the results, outcomes() what became of each item",
    "get": "a run is an iterator: list(run) has the results, next(run) the next one",
    "exception": "outcomes() has what became of each item, errors included",
    "join": "wait() reads the rest of a run",
    "done": "stats tells how far it is; wait() reads the rest of it",
    "cancel": "close() ends a run",
    "shutdown": "close() ends a run",
    "terminate": "close() ends a run",
    "stop": "close() ends a run",
}


class Stream(chain[T]):
    """An iterator over what one delivery hands out, for ``for`` and ``async for`` alike."""

    _course: Course
    _context: Context
    _delivery: Delivery

    @classmethod
    def _open(cls, course: Course, context: Context, as_outcomes: bool) -> Self:
        delivery = Delivery(course, as_outcomes)
        stream: Self = cls.from_iterable(delivery)  # type: ignore[assignment]  # typeshed: chain, whatever cls is
        stream._course, stream._context, stream._delivery = course, context, delivery
        return stream

    def __iter__(self) -> Self:
        self._course.unread = None
        return self

    def __aiter__(self) -> AsyncIterator[T]:
        from treadle._run.asynchronous import AsyncStream  # asyncio is slow to import, and seldom needed

        self._course.unread = None
        self._course.use_feeder(self._context)
        return AsyncStream(self, self._course, self._delivery)


class Outcomes(Stream[Outcome[Item, Value]], Generic[Item, Value]):
    """The outcomes of a run, one per item taken; never raises for a call."""

    _run: object


class Calls(Stream[T], Generic[T, Item, Value]):
    """The calls of one run: an iterator over ``T``, and the account of what became of each ``Item``.

    For one consumer at a time. Leaving its ``with`` block, ``close()`` and dropping the last reference (as
    ``break`` does in ``for result in treadle.map(...)``) all stop the intake and begin no further call.
    """

    def __repr__(self) -> str:
        return show_own(self, lambda: _describe(self._course))

    if not TYPE_CHECKING:  # which finds these slips by itself

        def __getattr__(self, name: str) -> None:
            """Refuse: there is no such attribute."""
            hint = f"; {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

        def __getitem__(self, index: object) -> None:
            """Refuse: results come one after the other."""
            raise TypeError(
                f"{type(self).__name__!r} object is not subscriptable; list(run) has all results, in a list"
            )

    def __enter__(self) -> Self:
        return self

    @starts_uninterrupted
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except BaseException as failure:
            if not is_a(failure, Exception):  # Ctrl-C, maybe before it had begun
                self._course.unread = None
                self._course.end(None)
                raise
            if error is None:
                raise
            annotate(error, str(failure))

    def __del__(self) -> None:
        course = getattr(self, "_course", None)
        if course is not None:
            course.end_now(is_orphaned=True)
            course.warn_if_unread()  # in the end: the warning filters may make it an error

    @property
    def name(self) -> str:
        """The run's name, as logs, displays and threads show it."""
        return self._course.name

    @property
    def stats(self) -> Stats:
        """The account as it stands. May be asked at any time, from any thread."""
        return self._course.stats()

    def close(self) -> None:
        """End the run: begin no further call, and wait ``grace`` seconds at most for those that run.

        What still runs then is left behind, logged, and counted in ``stats.abandoned``. Asking a closed run
        for another result raises ``RunClosed``; ``outcomes()`` and ``rest()`` still tell what became of each
        item. Closing twice, or after the end, does nothing. Any thread may close a run.

        Raises:
            TooManyAbandoned: More calls were left behind than ``max_abandoned`` allows.
        """
        course = self._course
        course.unread = None
        was_open = not (course.is_sealed or course.is_finished)
        course.is_closed = True
        course.end(None)
        too_many = course.take_too_many() if was_open and course.ending is None else None
        try:
            if too_many is not None:
                raise too_many
        finally:
            del too_many  # its traceback leads here

    @suggesting
    def wait(self) -> Stats:
        """Read the rest, and return the account: for calls that are made for what they do, not for what they return.

        Results are dropped as they come. As in a loop over the run, the first failure ends it and is raised, and so is
        what ends the run itself. There is no time limit but the ``timeout`` of the run: whoever stops waiting stops
        reading, and a run that nobody reads takes no more items.

        Raises:
            BaseException: What the first call to fail raised, or the input.
            TimeoutError: The run's ``timeout`` has passed.
            RunClosed: The run was closed, or has ended with an error that was raised before.

        Example:
            >>> import treadle
            >>> treadle.map([].append, range(100)).wait().succeeded
            100
        """
        try:
            deque(self, maxlen=0)
            return self.stats
        finally:
            del self  # the run knows the error that ended it, whose traceback leads here

    def outcomes(self) -> Outcomes[Item, Value]:
        """Return an iterator over one ``Outcome`` per item instead of results; no call's failure ends it.

        Outcomes come in input order, or with ``ordered=False`` as calls complete. What ends the run itself
        is raised after the last outcome, unless it was raised before: an error of the input, of ``resource``
        or ``initializer``, or the ``TimeoutError`` of ``timeout``.

        Example:
            >>> import treadle
            >>> for outcome in treadle.map(int, ["1", "x"]).outcomes():
            ...     print(outcome.item, outcome.status, outcome.value)
            1 succeeded 1
            x failed None
        """
        self._course.intake.is_timed = True
        stream: Outcomes[Item, Value] = Outcomes._open(self._course, self._context, as_outcomes=True)
        stream._run = self  # as long as somebody iterates the outcomes, the run goes on
        return stream

    def rest(self) -> Iterator[Outcome[Item, Value]]:
        """Yield the outcomes that were not delivered yet, by index; ends the run if it still goes on.

        After an error was raised, the results delivered before it and this rest are all there is: each item
        taken is in exactly one of the two. The item that failed is in the rest.

        Example:
            >>> import treadle
            >>> run = treadle.map(int, ["x"])
            >>> try:
            ...     next(run)
            ... except ValueError:
            ...     [outcome.status for outcome in run.rest()]
            ['failed']
        """
        course = self._course
        course.unread = None
        course.end(course.ending)
        with course.crew.lock:
            course.ledger.settle_batch()
            chunks = sorted(course.ledger.chunks.values(), key=lambda chunk: chunk.start)
        for chunk in chunks:
            while (outcome := self._next_of(chunk)) is not None:
                yield outcome

    def _next_of(self, chunk: Chunk) -> Outcome[Item, Value] | None:
        """Deliver the next outcome of ``chunk``; None: there is none left."""
        course, turn = self._course, Turn()
        turns = course.turns
        try:
            if (other := turn.take_patiently(turns)) is not None:
                raise other.refusal(course.name)
            if chunk.delivered >= len(chunk.items):
                return None
            outcome = chunk.outcome(chunk.delivered, course.name, perf_counter())
            chunk.delivered += 1
            course.ledger.consumed += 1
            return outcome
        finally:
            if HERE in turns and turns[HERE] is turn:
                del turns[HERE]


class Run(Calls[Value, Item, Value], Generic[Item, Value]):
    """The calls of one ``treadle.map``: an iterator over their results, and the account of what happened.

    For one consumer at a time. Leaving its ``with`` block, ``close()`` and dropping the last reference (as
    ``break`` does in ``for result in treadle.map(...)``) all stop the intake and begin no further call.

    Example:
        >>> import treadle
        >>> with treadle.map(len, ["ab", "c"]) as run:
        ...     list(run)
        [2, 1]
        >>> run.stats.succeeded
        2
    """


def _describe(course: Course) -> str:
    """Return the name, the state and the counts of a run; takes no lock."""
    state = "is stopping" if course.crew.is_stopping else "is going on"
    if course.is_finished or course.is_sealed:
        state = "has ended"
    if course.is_forked:
        state = "belongs to the process that was forked"
    stats = course.stats()
    return f"{course.name!r}, {state}: {stats.taken:,} taken, {describe_counts(stats, None)}"
