"""Watches calls that are being made: some take too long, some are much slower than their peers."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING

from treadle._core import clock
from treadle._core.cancellation import Scope, cancel_all
from treadle._core.chunk import Chunk
from treadle._core.describe import describe
from treadle._core.tell import tell
from treadle._core.trial import Trial
from treadle._crew.attempts import Attempts
from treadle._crew.worker import Worker
from treadle._sync import timekeeper
from treadle._sync.aside import run_aside
from treadle._sync.timekeeper import Timer

if TYPE_CHECKING:
    from treadle._crew.crew import Crew

# While it is not known yet what is slow, or no further extra call is allowed.
LOOK_AGAIN_SECONDS = 0.05
# After which a worker is left behind although its call was killed: the system is slow to free a lot of memory.
KILL_SECONDS = 1.0


class Watch:
    """One timer for all calls of a crew: it is set for the first moment at which one of them may be late.

    So a call costs no timer of its own. Who begins one says so first and then looks when the timer goes off;
    the watch takes note that it has gone off before it looks at the calls.
    """

    def __init__(self, crew: Crew, attempts: Attempts, name: str) -> None:
        policy = attempts.policy
        self._crew = crew
        self._attempts = attempts
        self._name = name
        self._call_timeout = policy.call_timeout
        self._timeout_option = policy.timeout_option
        self._hedge = policy.hedge
        self._grace = policy.grace
        self._timer: Timer | None = None
        self._due = math.inf  # when the timer goes off; read without the lock
        self._refusal: BaseException | None = None  # why there is no timer, to be told
        self._is_refusal_told = False
        self._extra = 0
        # After so long a call may be late, as far as is known; read without the lock.
        self._soonest = min(policy.call_timeout or math.inf, math.inf if policy.hedge is None else 0.0)
        self.begun = 0  # calls; without a lock, as only a share of it matters

    def note_begun(self, at: float) -> None:
        """Take note that a call begins."""
        self.begun += 1
        if self._due <= at + self._soonest:
            return
        with self._crew.lock:
            hedge_after = self._hedge_after()
            self._soonest = min(self._call_timeout or math.inf, hedge_after)
            self._look_by(at + self._soonest)
        if self._refusal is not None:
            self._tell_refusal(self._refusal)

    def _tell_refusal(self, refusal: BaseException) -> None:
        """Say once, without a lock, that calls may take as long as they like for now."""
        self._refusal = None
        if not self._is_refusal_told:
            self._is_refusal_told = True
            told = (self._crew.account.kind, self._name, describe(refusal))
            tell(logging.WARNING, "%s %r cannot time its calls for now: no thread for that starts (%s)", *told)

    def _hedge_after(self) -> float:
        """Return after how long to look whether a call is to be hedged."""
        if self._hedge is None:
            return math.inf
        threshold = self._hedge.threshold(self._attempts.seconds)
        return LOOK_AGAIN_SECONDS if threshold is None else threshold

    def _look_by(self, when: float) -> None:
        """See to it that the timer goes off at ``when``, if not before. Under the crew's lock."""
        if self._due <= when:
            return
        self.rest()
        try:
            self._timer = timekeeper.call_at(when, self._look)
        except (RuntimeError, MemoryError) as error:  # no thread to be had: whoever looks next tries again
            self._refusal = error.with_traceback(None)
        else:
            self._due, self._is_refusal_told = when, False

    def note_told(self, at: float) -> None:
        """Take note that a call was asked to end, by somebody else. Under the crew's lock."""
        self._look_by(at + self._grace)

    def rest(self) -> None:
        """Forget the timer, which would keep all of this alive. Under the crew's lock."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, math.inf

    # On the timekeeper's thread

    def _look(self) -> None:
        """Tell what is late to end, leave behind what does not, and set the timer for the next."""
        crew = self._crew
        told: list[Scope] = []
        lost: list[tuple[Worker, Chunk]] = []
        with crew.lock:
            self.rest()
            now = clock.now()
            times: list[float] = []
            for worker in list(crew.workers):
                for chunk in worker.in_hand():
                    if (when := self._inspect(worker, chunk, now, told)) is None:
                        continue
                    if when <= now and not self._kill(worker, chunk):
                        lost.append((worker, chunk))
                        break
                    when = max(when, now + LOOK_AGAIN_SECONDS) if when <= now else when
                    times.append(when)
            settled = [chunk for worker, stuck in lost for chunk in self._give_up(worker, stuck)]
            times += self._hedge_slow_ones(now)
            if times:
                self._look_by(min(times))
            if lost and crew.is_stopping:
                crew.account.note_quieter()
        if told or lost:
            run_aside(f"{self._name}-watch", partial(self._follow_up, told, settled))
        crew.send_help()

    def _inspect(self, worker: Worker, chunk: Chunk, now: float, told: list[Scope]) -> float | None:
        """Return when to look at a call again; None: never; the past: its worker is to be left behind."""
        trial = chunk.trial
        if trial is None or trial.begun is None or trial.is_closed:
            return None
        if trial.told_at is not None:
            return trial.told_at + self._grace + (KILL_SECONDS if trial.is_killed else 0.0)
        if self._call_timeout is None:
            return None
        if now < trial.begun + self._call_timeout:
            return trial.begun + self._call_timeout
        trial.is_timed_out = True
        trial.told_at = now
        if (scope := chunk.mark_cancelled()) is not None:
            told.append(scope)
        worker.engine.interrupt()
        return max(now + self._grace, now + 1e-9)

    def _kill(self, worker: Worker, chunk: Chunk) -> bool:
        """End a call by force, if that was not tried yet and its engine can: then the worker will come back."""
        assert chunk.trial is not None
        if chunk.trial.is_killed or not worker.engine.is_killable:
            return False
        worker.engine.kill()
        chunk.trial.is_killed = True
        return True

    def _give_up(self, worker: Worker, stuck: Chunk) -> list[Chunk]:
        """Leave ``worker`` behind, and return what stands for its calls from now on."""
        crew, standing = self._crew, []
        crew.give_up(worker)
        for chunk in worker.in_hand():
            crew.account.note_abandoned(worker, chunk)
            trial = chunk.trial
            if trial is None or trial.is_void:
                continue
            successor = chunk.again()
            successor.todo.clear()
            successor.begun, successor.is_cancelled = chunk.begun, True
            if trial.is_timed_out:  # said at once: the account may be closed before anything else is decided
                self._attempts.mark_timed_out(successor)
            successor.trial = Trial(trial.places, trial.history, trial.begun, trial.told_at, trial.is_timed_out, True)
            successor.trial.twin, successor.trial.original = trial.twin, trial.original
            successor.trial.is_last = trial.is_last
            if trial.twin is not None and trial.twin.trial is not None:
                trial.twin.trial.twin = successor
                if trial.twin.trial.original is chunk:
                    trial.twin.trial.original = successor
            if trial.original is None:
                crew.account.note_replaced(chunk, successor)
            if chunk is not stuck and not trial.is_timed_out:
                successor.end = "abandoned"  # it waits on the same thread for the one that is stuck
            standing.append(successor)
        return standing

    def _hedge_slow_ones(self, now: float) -> list[float]:
        """Start slow calls a second time, as far as allowed, and return when to look again."""
        hedge, crew = self._hedge, self._crew
        if hedge is None or crew.is_stopping:
            return []
        chunks = [chunk for worker in crew.workers for chunk in worker.in_hand()]
        single = [chunk for chunk in chunks if chunk.trial is not None and _is_single(chunk.trial)]
        if not single:
            return []
        threshold = hedge.threshold(self._attempts.seconds)
        if threshold is None:
            return [now + LOOK_AGAIN_SECONDS]
        times: list[float] = []
        for chunk in sorted(single, key=_begun):
            if (when := _begun(chunk) + threshold) > now:
                times.append(when)
            elif self._extra < hedge.allowed(self.begun):
                self._extra += 1
                self._start_twin(chunk)
            else:
                times.append(now + LOOK_AGAIN_SECONDS)
        return times

    def _start_twin(self, chunk: Chunk) -> None:
        trial = chunk.trial
        assert trial is not None
        twin = chunk.again()
        twin.trial = Trial(trial.places, trial.history, twin=chunk, original=chunk, is_hedged=True)
        trial.twin, trial.is_hedged = twin, True
        self._crew.enqueue(twin, first=True)

    # On a thread of its own

    def _follow_up(self, told: list[Scope], settled: list[Chunk]) -> None:
        cancel_all(told, f"it took longer than {self._timeout_option}={self._call_timeout} seconds")
        account = self._crew.account  # by the time the log is written, a run that is over may be gone
        for chunk in settled:
            self._crew.settle_lost(chunk)
        account.note_left()


def _is_single(trial: Trial) -> bool:
    """Tell whether the call may be started a second time."""
    is_going_on = trial.begun is not None and not trial.is_closed and trial.told_at is None
    return is_going_on and not trial.is_hedged


def _begun(chunk: Chunk) -> float:
    assert chunk.trial is not None
    return chunk.trial.begun or 0.0
