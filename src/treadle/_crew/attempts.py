"""Whether a call that has ended settles its item, or another attempt does: retries, time-outs, hedges."""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from treadle._core import clock
from treadle._core.cancellation import Scope
from treadle._core.chunk import Chunk
from treadle._core.describe import annotate, describe
from treadle._core.retry import Retry
from treadle._core.tell import tell
from treadle._core.trial import Failure, Trial
from treadle._core.user_code import call_guarded, is_a
from treadle._crew.policy import Policy
from treadle._sync import timekeeper
from treadle._sync.timekeeper import Timer
from treadle.errors import CallTimedOut, Cancelled

if TYPE_CHECKING:
    from treadle._crew.crew import Crew

REMEMBERED_CALLS = 1000


class Attempts:
    """Stands between the crew, whose calls have ended, and its account, which hears only what is final.

    First ``close``, without the crew's lock, as it may call functions of the user's; then ``settle``, under it.
    """

    def __init__(self, crew: Crew, policy: Policy, name: str) -> None:
        self.policy = policy
        self.retried = 0
        self.seconds: deque[float] = deque(maxlen=REMEMBERED_CALLS)  # that calls took which succeeded
        self._crew = crew
        self._name = name
        self._waiting: dict[Chunk, Timer] = {}

    def close(self, chunk: Chunk) -> float | None:
        """Take the answer as it is now, and return after how many seconds to ask again; None: do not.

        The functions of the user's that are asked for it run in a scope of their own: that the call was asked to end,
        as it took too long, does not end their waits, but the end of the run or of the task does.
        """
        trial = chunk.trial
        assert trial is not None
        with self._crew.lock:
            trial.is_closed = True
            chunk.scope = scope = Scope()
            if self._crew.is_stopping or trial.is_last:
                scope.flag("it was cancelled")
            is_late = trial.is_timed_out
            if trial.begun is not None and chunk.results and not (is_late or chunk.failures):
                self.seconds.append(clock.now() - trial.begun)  # under the lock: the watch sorts them
        if is_late and not trial.is_abandoned:
            self.mark_timed_out(chunk)
        self._judge(chunk, trial)
        return self._delay(chunk, trial) if chunk.failures else None

    def _judge(self, chunk: Chunk, trial: Trial) -> None:
        """Let the limiter hear what the call came to: it may mean that all are to slow down."""
        limiter = self.policy.limiter
        if limiter is None or trial.begun is None or not (chunk.failures or chunk.results):
            return
        answer = chunk.failures[0] if chunk.failures else chunk.results[0]
        if not is_a(answer, Cancelled):
            trial.is_throttled = limiter.judge(answer, clock.now() - trial.begun)

    def mark_timed_out(self, chunk: Chunk) -> None:
        """Let ``chunk`` have failed by taking too long, whatever its call came to."""
        seconds, option = self.policy.call_timeout, self.policy.timeout_option
        assert seconds is not None
        chunk.results = [None]
        chunk.failures = {0: CallTimedOut(self._name, chunk.start, seconds, option)}

    def _delay(self, chunk: Chunk, trial: Trial) -> float | None:
        assert chunk.failures is not None
        retry, error = self.policy.retry, chunk.failures[0]
        if is_a(error, Cancelled):
            return None
        if _is_spared(chunk, trial):
            return 0.0  # with another resource
        if retry is None:
            return None
        if trial.is_throttled and (delay := self._refusal_delay(retry, error, trial)) is not None:
            return delay
        delay, broken = call_guarded(self._ask_for_delay, retry, error, trial.charged)
        if broken is not None:
            if not is_a(broken, Cancelled):  # what it asked was to end: it is not at fault
                tell(logging.ERROR, "run %r: its retry policy failed on %s", self._name, describe(error), error=broken)
            annotate(error, f"no further attempt, as the retry policy itself failed: {describe(broken)}")
        return delay

    def _refusal_delay(self, retry: Retry, error: BaseException, trial: Trial) -> float | None:
        """Return when to make an attempt that was refused again, as it does not count; None: by now it does.

        Its error meant "slow down", which is about the rate and not about the item. The limiter sees to the distance.
        """
        limiter, now = self.policy.limiter, clock.now()
        assert limiter is not None
        since = now if trial.refused_since is None else trial.refused_since
        if now - since >= limiter._patience:
            if now > since:
                annotate(
                    error, f"it asks to slow down, for longer than the limiter's patience={limiter._patience:g} seconds"
                )
            return None
        trial.spared_since = since
        asked, _ = call_guarded(retry.asked_delay, error)
        if asked is not None:
            limiter.pause(asked)
        return asked or 0.0

    def _ask_for_delay(self, retry: Retry, error: BaseException, attempts: int) -> float | None:
        if not retry.is_wanted(error, attempts):
            return None
        asked, limiter = retry.asked_delay(error), self.policy.limiter
        if asked is not None and limiter is not None:
            limiter.pause(asked)  # what one call was told holds for all
        return retry.delay(attempts, asked)

    def settle(self, chunk: Chunk, delay: float | None) -> bool:
        """Tell whether the answer in ``chunk`` is the item's. Under the lock."""
        trial = chunk.trial
        assert trial is not None
        if trial.is_void:
            return False
        self._restore_failure(chunk)
        is_answer = bool(chunk.results) and not chunk.failures
        twin = trial.twin
        if twin is not None and twin.trial is not None:
            never_began = trial.begun is None and twin.trial.begun is not None
            if not is_answer and (never_began or not self._crew.is_stopping):
                self._leave_it_to(twin, chunk)
                return False
            self._dismiss(twin)
            trial.twin = None
        if trial.original is not None:
            self._crew.account.note_replaced(trial.original, chunk)
            trial.original = None
        if chunk.failures and delay is not None and not (self._crew.is_stopping or trial.is_last):
            return not self._schedule(chunk, delay)
        return True

    def _leave_it_to(self, twin: Chunk, chunk: Chunk) -> None:
        assert twin.trial is not None
        assert chunk.trial is not None
        chunk.trial.is_void = True
        chunk.trial.twin = twin.trial.twin = None  # neither leads to the other any more, whose error leads back
        if chunk.failures:
            twin.trial.beside = Failure(chunk.failures[0], 0.0, is_timed_out=chunk.trial.is_timed_out)
        if twin.trial.original is chunk:
            self._crew.account.note_replaced(chunk, twin)
            twin.trial.original = None
        chunk.trial.original = None  # as above

    def _dismiss(self, twin: Chunk) -> None:
        assert twin.trial is not None
        twin.trial.is_void = True
        twin.trial.told_at = now = clock.now()
        self._crew.expect_end(now)
        twin.trial.twin = None
        twin.todo.clear()
        self._crew.cancel_chunks([twin], "its twin was faster")

    def _schedule(self, chunk: Chunk, delay: float) -> bool:
        """Have another attempt made after ``delay`` seconds; False: it cannot be."""
        trial = chunk.trial
        assert trial is not None
        assert chunk.failures is not None
        successor = chunk.again()
        is_spared = _is_spared(chunk, trial) or trial.spared_since is not None
        failure = Failure(chunk.failures[0], delay, is_spared, trial.is_timed_out, refused_since=trial.spared_since)
        history = trial.history_with(failure)
        successor.trial = Trial(trial.places, history, since=trial.since or chunk.begun)
        try:
            timer = timekeeper.call_at(clock.now() + delay, partial(self._resume, successor))
        except (RuntimeError, MemoryError) as error:  # no thread to be had
            trial.no_retry = f"no further attempt, as no thread starts that would wait for its time: {describe(error)}"
            return False
        self._waiting[successor] = timer
        self.retried += 1
        self._crew.account.note_replaced(chunk, successor)
        return True

    def _resume(self, chunk: Chunk) -> None:
        with self._crew.lock:
            if self._waiting.pop(chunk, None) is None:
                return
            self._crew.enqueue(chunk)
        self._crew.send_help()

    def forget(self, chunk: Chunk) -> None:
        """Make no further attempt for ``chunk``, should it wait for one. Under the lock."""
        timer = self._waiting.pop(chunk, None)
        if timer is not None:
            timer.cancel()

    def give_up(self, queued: list[Chunk]) -> list[Chunk]:
        """Return those that waited for another attempt, or to be taken for one: with what they have, the last failure.

        Called under the lock, as the crew stops.
        """
        waiting = list(self._waiting)
        for chunk in waiting:
            self.forget(chunk)
        given_up = [chunk for chunk in waiting + queued if chunk.trial is not None and chunk.trial.last_failure()]
        given_up = [chunk for chunk in given_up if _take_back(chunk)]
        for chunk in given_up:
            self._restore_failure(chunk)
        return given_up

    def _restore_failure(self, chunk: Chunk) -> None:
        """Let an attempt that never began leave its item with the failure of the one before."""
        trial = chunk.trial
        assert trial is not None
        last = trial.last_failure()
        if last is not None and trial.begun is None and not chunk.results:
            chunk.failures, chunk.results = {0: last.error}, [None]
            trial.is_timed_out = last.is_timed_out


def _is_spared(chunk: Chunk, trial: Trial) -> bool:
    since = trial.since or chunk.begun
    return since is not None and not trial.is_timed_out and trial.is_spared(since)


def _take_back(chunk: Chunk) -> bool:
    """Take the call out of ``chunk``; False: a worker has done so, or whoever cancels, and has said so already."""
    try:
        chunk.todo.pop()
    except IndexError:
        return False
    return True
