"""Delivery: the consumer's side of a run, one batch of results after the other.

``itertools.chain`` iterates a ``Delivery``, which hands it one iterator after the other: so a result costs
the consumer no more than an element of a list, and errors come out of an iterator like any other, which
leaves the chain usable (an error of the chain's own source would end it without a word).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, final

from treadle._core import clock
from treadle._core.chunk import Chunk
from treadle._core.describe import describe, name_of_type
from treadle._core.importing import look_seconds
from treadle._core.real_time import perf_counter
from treadle._crew.room import making_room
from treadle._run.awaited import NextResult
from treadle._run.course import Course
from treadle._run.turn import HERE, Turn
from treadle._sync import cancelling
from treadle._sync.parker import Parker
from treadle._sync.wait_graph import Wait
from treadle.errors import RunClosed

MIN_POLL_SECONDS = 0.001
MAX_POLL_SECONDS = 0.05
# To look for a deadlock costs more than a result of a tiny call; one that has lasted for so long can wait till then.
POLLS_BEFORE_A_LOOK = 6
# A consumer slower than this for one batch gets smaller ones, so that the intake and failures reach it sooner.
BATCH_SECONDS = 0.005
MAX_BATCH_ITEMS = 4096


@dataclass(frozen=True, slots=True)
class _Span:
    """Items of a chunk whose outcomes are to be delivered next."""

    chunk: Chunk
    begin: int
    end: int


@final
class _End:
    """The natural end of a run."""


END: Final = _End()


class Raiser(Iterator[Any]):
    """An iterator that raises ``error`` the first time, and is at its end from then on."""

    def __init__(self, error: BaseException) -> None:
        self._error: BaseException | None = error

    def __next__(self) -> Any:
        error, self._error = self._error, None
        if error is None:
            raise StopIteration
        if issubclass(type(error), StopIteration | StopAsyncIteration):
            # Raised as it is, it would end the consumer's loop as if nothing had happened.
            kind = name_of_type(error)
            raise RuntimeError(f"a call raised {kind}, which cannot pass through an iterator") from error
        try:
            raise error
        finally:
            del error  # the traceback holds this frame: do not close a circle through it


class Delivery(Iterator[Iterator[Any]]):
    """Hands out a run's results (the first failure stops it) or its outcomes (nothing does).

    Any one thread at a time may be the consumer.
    """

    def __init__(self, course: Course, as_outcomes: bool) -> None:
        self._course = course
        self._as_outcomes = as_outcomes
        self._is_chosen = False
        self._is_over = False
        self._polls = 0
        self._most = MAX_BATCH_ITEMS
        self._handed_over = 0.0
        # After ``step`` returned None: how long to wait at most, by the clock in use and by the machine's.
        self.wait_until = math.inf  # at most, by ``clock.now()``
        self.poll_seconds = math.inf

    def __next__(self) -> Iterator[Any]:
        batch = self.next_until(None)
        assert batch is not None
        return batch

    def next_until(self, deadline: float | None) -> Iterator[Any] | None:
        """Return the next batch; None if there is none by ``deadline`` (``clock.now()``).

        Raises:
            StopIteration: There is no more.
        """
        cancelling.refuse_on_loop("iterating a run", "`async for`")
        turn, turns = Turn(), self._course.turns
        try:
            if (other := turn.take(turns)) is not None:
                return Raiser(other.refusal(self._course.name))
            parker = Parker()
            self._course.waker = parker
            stalled = False
            while (batch := self.step(stalled)) is None:
                if deadline is not None and clock.has_come(deadline):
                    return None
                seconds = clock.left_until(min(self.wait_until, math.inf if deadline is None else deadline))
                with making_room():
                    stalled = not self._wait(parker, seconds)
        except BaseException as error:  # Ctrl-C above all: the run ends, its account is exact
            self._course.end_interrupted(error)
            return self._raise(error)
        finally:
            if HERE in turns and turns[HERE] is turn:
                del turns[HERE]
        if isinstance(batch, _End):
            raise StopIteration
        return batch

    def _wait(self, parker: Parker, seconds: float) -> bool:
        """Wait for news; tell whether there is some. Where it takes long and has no limit, look for a deadlock.

        Raises:
            Deadlock: Waiting would never end.
        """
        poll_seconds = self.poll_seconds
        if seconds != math.inf:
            return cancelling.wait(parker, seconds, poll_seconds)
        if self._polls < POLLS_BEFORE_A_LOOK:
            is_news = cancelling.wait(parker, None, min(poll_seconds, MAX_POLL_SECONDS))
            if is_news or poll_seconds <= MAX_POLL_SECONDS:
                return is_news
        with Wait(NextResult(self._course), parker) as wait:
            wait.check()
            return cancelling.wait(parker, None, min(poll_seconds, look_seconds()))

    def least_wait(self) -> float | None:
        """Return how long to wait after ``step`` returned None, where both are the machine's seconds."""
        least = min(clock.left_until(self.wait_until), self.poll_seconds)
        return None if least == math.inf else least

    def step(self, stalled: bool) -> Iterator[Any] | _End | None:
        """Return the next batch, ``END``, or None if one has to wait for it. Does not wait itself.

        Args:
            stalled: The last wait ended without news: look for work that hangs behind a slow call.
        """
        course = self._course
        course.unread = None
        self._pace()
        course.consumer = threading.get_ident()
        with course.crew.lock:
            course.ledger.settle_batch()
        if course.is_forked or (course.is_closed and not self._as_outcomes):
            return self._refuse()
        if self._is_over:
            return END if self._as_outcomes else self._refuse()
        if course.is_finished:
            return END
        if course.advisor is not None:
            course.advisor.look_if_due(course.ledger.succeeded + course.ledger.failed)
        if stalled:
            self._polls += 1
            course.hurry()
        else:
            self._polls = 0
        while True:
            is_input_slow = course.intake.refill()
            batch = self._look(stalled)
            if batch is not None or not is_input_slow:
                course.intake.note_handed_over()
                return batch

    def _look(self, stalled: bool) -> Iterator[Any] | _End | None:
        """Return what there is to deliver now."""
        course = self._course
        with course.crew.lock:
            if not self._is_chosen:
                self._choose()
            may_seal = course.crew.is_stopping and (course.is_quiet() or course.seconds_of_grace() <= 0)
            goes_on = not may_seal or self._is_natural_end()
            found = self._next_batch(partly=stalled) if goes_on else None
        if not goes_on:
            course.seal()
            with course.crew.lock:
                found = self._next_batch(partly=True)
            if found is None:
                return self._raise_ending()
        return self._make_outcomes(found) if isinstance(found, _Span) else found

    def _make_outcomes(self, span: _Span) -> Iterator[Any]:
        """Return the outcomes of ``span``. Without the lock: an error is described by code of the user's."""
        values = span.chunk.outcomes(span.begin, span.end, self._course.name, perf_counter())
        self._handed_over = perf_counter()
        return self._course.ledger.hand_over([span.chunk], values)

    # Under the lock

    def _choose(self) -> None:
        self._is_chosen = True
        if not self._as_outcomes:
            self._course.fail_fast()
        else:
            self._course.fails_fast = False

    def _is_natural_end(self) -> bool:
        return not self._course.is_sealed and self._is_drained()

    def _is_drained(self) -> bool:
        course = self._course
        return course.intake.is_ended and not course.ledger.chunks

    def _next_batch(self, partly: bool) -> Iterator[Any] | _Span | _End | None:
        ledger = self._course.ledger
        ledger.collect()
        batch = self._find_batch(partly)
        while batch is None and ledger.collect():  # something was done while we said what we wait for
            self._course.awaited = False
            batch = self._find_batch(partly)
        return batch

    def _find_batch(self, partly: bool) -> Iterator[Any] | _Span | _End | None:
        course, ledger = self._course, self._course.ledger
        while (chunk := self._find(partly)) is not None:
            may_join = not self._as_outcomes and chunk.delivered == 0
            if may_join and len(smooth := ledger.smooth_run(self._most)) > 1:
                return self._hand_over_smooth(smooth)
            if (end := self._ready_until(chunk, partly)) > chunk.delivered:
                return self._hand_over(chunk, end)
            goes_on = chunk.end == "running" and not course.is_sealed
            if goes_on or chunk.delivered < len(chunk.items):
                break  # nothing new yet, or a failure stands in the way
            ledger.retire(chunk)
        if course.is_sealed:
            return None
        if chunk is None and self._is_drained():
            return self._finish()
        is_in_the_way = chunk is not None and not self._as_outcomes and self._is_settled(chunk)
        if is_in_the_way and chunk is not None and chunk.first_failure() == chunk.delivered:
            assert chunk.failures is not None
            course.stop(chunk.failures[chunk.delivered])
        self._wait_for(chunk)
        return None

    def _find(self, partly: bool) -> Chunk | None:
        """Return the chunk to deliver from: the front, or in completion order one with anything new."""
        course = self._course
        chunk = course.ledger.front()
        if chunk is None and course.is_sealed:
            return min(course.ledger.chunks.values(), key=lambda chunk: chunk.start, default=None)
        if chunk is None and partly and not course.settings.ordered:
            for candidate in course.crew.chunks_in_hand():
                if self._ready_until(candidate, partly) > candidate.delivered:
                    return candidate
        return chunk

    def _ready_until(self, chunk: Chunk, partly: bool) -> int:
        """Return the offset in ``chunk`` up to which results can be delivered."""
        if not self._is_settled(chunk):
            return chunk.delivered
        if self._as_outcomes:
            if self._course.is_sealed:
                return len(chunk.items)
            return len(chunk.results) if partly or chunk.end == "done" else chunk.delivered
        if chunk.end == "running" and not partly:
            return chunk.delivered
        end = len(chunk.results)
        if chunk.failures and (failure := chunk.first_failure()) is not None:
            end = min(end, failure)
        return end

    def _is_settled(self, chunk: Chunk) -> bool:
        """Tell whether what is in ``chunk`` counts.

        What a call came to may yet be followed by another attempt, or turn out to be that it was cancelled.
        """
        may_change = chunk.trial is not None or chunk.is_cancelled
        return not may_change or chunk.end != "running" or self._course.is_sealed

    def _hand_over(self, chunk: Chunk, end: int) -> Iterator[Any] | _Span:
        end = min(end, chunk.delivered + self._most)
        if self._as_outcomes:
            return _Span(chunk, chunk.delivered, end)
        whole = chunk.delivered == 0 and end == len(chunk.results) and chunk.end == "done"
        values = self._course.deliverables(chunk)
        values = values if whole else values[chunk.delivered : end]
        self._handed_over = perf_counter()
        return self._course.ledger.hand_over([chunk], values)

    def _hand_over_smooth(self, chunks: list[Chunk]) -> Iterator[Any]:
        """Hand over small chunks together: each by itself would cost more than its calls."""
        values: list[Any] = []
        deliverables = self._course.deliverables
        for chunk in chunks:
            values += deliverables(chunk)
        self._handed_over = perf_counter()
        return self._course.ledger.hand_over(chunks, values)

    def _finish(self) -> Iterator[Any] | _End | None:
        """End a run whose last result was delivered: with the input's error, if it had one."""
        course = self._course
        in_time = course.deadline is None or not clock.has_come(course.deadline)
        if not course.finish() and in_time:
            course.awaited = True
            self.poll_seconds = math.inf
            self.wait_until = math.inf if course.deadline is None else course.deadline
            return None
        course.crew.lock.release()
        try:
            course.finished()
        finally:
            course.crew.lock.acquire()
        error = course.intake.error
        if error is None:
            error = next(iter(course.crew.close_errors), None) or course.late_input_error()
        if error is None:
            return END
        course.ending = error
        return self._raise(error)

    def _wait_for(self, chunk: Chunk | None) -> None:
        course = self._course
        course.awaited = chunk if chunk is not None and course.settings.ordered else True
        self.wait_until = math.inf
        if course.crew.is_stopping:
            course.awaited = True
            self.wait_until = course.stop_deadline
        elif course.deadline is not None:
            self.wait_until = course.deadline
            if clock.has_come(course.deadline):
                course.stop(course.timeout_error())
        self.poll_seconds = math.inf if course.advisor is None else course.advisor.seconds_left()
        course.intake.is_watched = False  # first this, then the look: the feeder does it the other way round
        if course.crew.can_stall() or self._may_hold_results(chunk):
            course.intake.is_watched = True
            self.poll_seconds = min(self.poll_seconds, MAX_POLL_SECONDS, MIN_POLL_SECONDS * 2 ** min(self._polls, 10))

    def _may_hold_results(self, awaited: Chunk | None) -> bool:
        """Tell whether what is waited for may have done some calls when another of them turns out slow.

        Those results should not wait for it. So this is asked before a worker takes the chunk.
        """
        course = self._course
        if not course.crew.sizer.was_ever_large:
            return False
        if course.settings.ordered and awaited is not None:
            return len(awaited.items) > 1
        return any(len(chunk.items) > 1 for chunk in course.ledger.chunks.values())

    # Without it

    def _raise_ending(self) -> Iterator[Any] | _End:
        """Raise why the run ended early: the failure in the way of the next result, or else the first reason.

        Somebody who has had all outcomes is told only what nobody was told yet.
        """
        course = self._course
        self._is_over = True
        error, front = course.ending, course.ledger.front()
        if self._as_outcomes:
            if error is None or course.is_ending_told:
                return END
        elif front is not None and front.first_failure() == front.delivered and not front.is_given_up():
            assert front.failures is not None
            error = front.failures[front.delivered]
            course.name_failure(front, front.delivered)
        else:
            course.name_ending()
        course.is_ending_told = True
        return self._raise(error) if error is not None else self._refuse()

    def _raise(self, error: BaseException) -> Iterator[Any]:
        self._is_over = True
        self._course.note_told(error)
        return Raiser(error)

    def _refuse(self) -> Iterator[Any]:
        course = self._course
        if course.is_forked:
            reason = "belongs to the process that was forked"
        elif course.ending is not None:
            reason = f"has ended with {describe(course.ending)}"
        else:
            reason = "was closed"
        return Raiser(RunClosed(course.name, reason))

    def _pace(self) -> None:
        if not self._handed_over:
            return
        spent = perf_counter() - self._handed_over
        self._handed_over = 0.0
        self._most = max(1, self._most // 2) if spent > BATCH_SECONDS else min(2 * self._most, MAX_BATCH_ITEMS)
