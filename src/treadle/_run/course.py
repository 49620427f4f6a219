"""The course of a run: it goes on, it stops, its account is sealed. Each happens once, in this order."""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import Context
from functools import partial
from operator import attrgetter
from typing import Any

from treadle._core import clock, register
from treadle._core.cancellation import Registration, Scope, current_scope
from treadle._core.chunk import Chunk
from treadle._core.describe import annotate, name_of_type
from treadle._core.misfit import explain_item
from treadle._core.outcome import Stats
from treadle._core.raw import is_mine
from treadle._core.real_time import perf_counter
from treadle._core.register import WorkerState
from treadle._core.settings import Settings
from treadle._core.tell import tell
from treadle._core.user_code import call_guarded
from treadle._crew.advisor import Advisor
from treadle._crew.chunking import ChunkSizer
from treadle._crew.crew import IDLE_SECONDS, Crew
from treadle._crew.onlook import in_hand, states_of
from treadle._crew.policy import Policy
from treadle._crew.stragglers import Stragglers
from treadle._crew.worker import Worker
from treadle._engines.engine import CallPlan
from treadle._run.choosing import EngineChoice
from treadle._run.intake import Intake
from treadle._run.ledger import Ledger
from treadle._run.told import Told, is_cancelled
from treadle._run.tuning import Tuning
from treadle._run.turn import Turns
from treadle._run.unread import Unread
from treadle._sync import timekeeper
from treadle._sync.aside import run_aside
from treadle._sync.parker import Parker, Waker
from treadle._sync.timekeeper import Timer
from treadle.errors import Cancelled, TooManyAbandoned

# How long to wait for another thread to say the last word about a run (to end its display, say).
AFTERMATH_SECONDS = 1.0


class Course:
    """One run: its crew, its intake, its ledger, and the way it ends.

    - *going on*: items are taken and called.
    - *stopping*: no call begins any more; what runs may take ``grace`` seconds to end.
    - *sealed*: the account is closed; a call that still runs was left behind.

    The consumer drives it (see ``Delivery``); workers and the feeder only report. ``on_end`` is called once,
    without a lock, when nothing of the run will change any more.
    """

    kind = "run"
    # What of a chunk is handed to whoever iterates the run.
    deliverables: Callable[[Chunk], list[Any]] = attrgetter("results")

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        plan: CallPlan,
        choice: EngineChoice,
        items: Iterator[Any],
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.ledger = Ledger(settings.ordered)
        self.deadline = None if settings.timeout is None else clock.now() + settings.timeout
        self.crew = self._make_crew(policy, plan, choice)
        self.intake = Intake(items, self.ledger, self.crew)
        self.waker: Waker = Parker()
        self._closers: list[Parker] = []  # threads in ``end``
        self.is_sealed = False
        self.is_finished = False
        self.is_forked = False
        self.is_closed = False  # by its owner, who wants no more results
        self.unread: Unread | None = None  # until a result is asked for, or no more are wanted: what is to be said
        self.turns: Turns = {}  # whose turn it is to take results
        self.consumer = 0  # the thread that asked for results last
        self.is_orphaned = False  # nobody will ever ask for anything again
        self.seals_itself = False
        self.fails_fast = False
        self.ending: BaseException | None = None  # why it stopped; None: it was closed
        self.is_ending_told = False  # somebody was told it, by an exception
        self.too_many: TooManyAbandoned | None = None
        self.awaited: Chunk | bool = False  # what the consumer waits for: a chunk, any (True), or none
        self.on_end: list[Callable[[], None]] = []
        self._engine = choice.name
        self.advisor = Advisor(self.name, self.crew) if choice.name == "threads" else None
        self._decider = choice.decider
        if choice.decider is not None:
            self.on_end.append(choice.decider.end)
        self._tuning: Tuning | None = None  # where the number of workers is not fixed
        self._plan = plan
        self._has_resource = plan.resource is not None
        self._first_failure: tuple[Chunk, int] | None = None
        self.stop_deadline = 0.0
        self._timer: Timer | None = None  # for ``_cancel_rest``
        self._stragglers = Stragglers(self.kind, self.name, settings.max_abandoned)
        self._over = threading.Event()
        self._ender = 0
        self._began = perf_counter()
        self._seconds: float | None = None
        self._outer = current_scope()
        self._registrations: list[tuple[Scope, Registration]] = []
        register.enroll(self)

    def _make_crew(self, policy: Policy, plan: CallPlan, choice: EngineChoice) -> Crew:
        settings = self.settings
        # Where calls are held to a policy, each is a chunk of its own.
        chunksize = 1 if policy.is_needed else settings.chunksize
        sizer = ChunkSizer(
            max_workers=settings.max_workers,
            chunksize=chunksize,
            buffersize=settings.buffersize,
            pace=choice.pace,
            lead=settings.lead,
            may_join=not policy.is_needed,
        )
        has_own = choice.name != "threads" or plan.resource is not None or plan.initializer is not None
        return Crew(
            name=self.name,
            max_workers=settings.max_workers,
            make_engine=choice.make_engine,
            sizer=sizer,
            account=self,
            policy=policy,
            deadline=self.deadline,
            idle_seconds=math.inf if has_own else IDLE_SECONDS,
            make_worker=choice.make_worker,
        )

    # Going on

    def tune(self, tuning: Tuning) -> None:
        """Have as many workers as measuring finds, from now on."""
        self._tuning = tuning
        self.on_end.append(tuning.end)
        if self._decider is None:
            self.crew.tune(tuning.knee)
        else:
            self._decider.knee = tuning.knee

    def use_feeder(self, context: Context) -> None:
        """Advance the input on a thread of its own from now on."""
        self.intake.start_feeder(self.name, context, self._wake_consumer)

    def follow_outer(self) -> None:
        """Stop when the call or group is cancelled that this run is a part of."""
        if self._outer is not None:
            self.follow(self._outer)

    def follow(self, scope: Scope) -> None:
        """Stop when ``scope`` is cancelled."""
        course = weakref.ref(self)
        self._registrations.append((scope, scope.add(lambda: _cancel(course, scope))))

    def cancel(self, reason: str) -> None:
        """Stop, since what this run is a part of was cancelled."""
        self.ask_to_stop(Cancelled(reason))

    def end_at_once(self) -> None:
        """Stop, and leave behind what runs, whatever is left of its grace. Not for handlers and finalizers."""
        with self.crew.lock:
            self.stop(None)
            self.stop_deadline = clock.now()
        self.end(None)

    def fail_fast(self) -> None:
        """Let the first failure stop the run, also one that has happened already. Called under the lock."""
        self.fails_fast = True
        if self._first_failure is not None:
            self._stop_for_failure(*self._first_failure)

    def hurry(self) -> None:
        """Look for work that hangs behind a slow call."""
        self.crew.hurry()

    # Stopping

    def stop(self, ending: BaseException | None, keep_before: int = 0) -> None:
        """Begin no further call, but for those of ``Crew.stop``. Called under the lock; the first reason counts."""
        if self.crew.is_stopping:
            return
        self.ending = ending
        now = clock.now()
        self.stop_deadline = now + self.settings.grace
        self.crew.stop(_reason(self.name, ending), keep_before)
        if keep_before and not self.crew.is_quiet():
            # They come before the failure: if they do not end by themselves soon, they are asked to.
            try:
                self._timer = timekeeper.call_at(now + self.settings.grace / 2, self._cancel_rest)
            except (RuntimeError, MemoryError):  # no thread to be had
                self._cancel_rest()
        self.intake.cancel(_reason(self.name, ending))
        self._wake()

    def _cancel_rest(self) -> None:
        with self.crew.lock:
            rest = [chunk for chunk in self.crew.chunks_in_hand() if not chunk.is_cancelled]
            self.crew.cancel_chunks(rest, _reason(self.name, self.ending))

    def is_quiet(self) -> bool:
        """Tell whether nothing runs any more that one should wait for. Called under the lock."""
        if self._has_resource and self.crew.workers:
            return False
        return self.crew.is_quiet() and not self.intake.is_taking

    def seconds_of_grace(self) -> float:
        """Return how long a stopping run may still wait for its calls."""
        return clock.left_until(self.stop_deadline)

    def ask_to_stop(self, ending: BaseException | None) -> None:
        """Stop, for any thread, also where a finalizer or a handler has come upon one that is at a step of this run."""
        if is_mine(self.crew.lock):
            timekeeper.leave(partial(self.ask_to_stop, ending))
            return
        with self.crew.lock:
            if not self.is_finished:
                self.stop(ending)

    def end(self, ending: BaseException | None) -> None:
        """Stop, wait for what runs as long as ``grace`` allows, and seal. Harmless after the end.

        A handler that has come upon its own thread at a step of this run cannot wait for it: then it is left to others.
        """
        if is_mine(self.crew.lock):
            self._end_elsewhere()
            return
        with self.crew.lock:
            # One that nobody holds is sealed as soon as it makes no call: its feeder may have an item in its hands yet.
            is_over = self.is_finished or (self.is_sealed and not self.intake.is_taking)
            if not is_over:
                self.stop(ending)
                parker = Parker()
                self._closers.append(parker)  # beside the consumer, who may go on iterating in another thread
        if is_over:
            if threading.get_ident() != self._ender:  # somebody else is at it: do not leave before them
                self._over.wait(AFTERMATH_SECONDS)
            return
        try:
            while True:
                with self.crew.lock:
                    self.awaited = True
                    if self.is_quiet() or (self.is_sealed and not self.intake.is_taking):
                        break
                if (left := self.seconds_of_grace()) <= 0:
                    break
                parker.wait_watchfully(left)
        finally:
            self._closers.remove(parker)
        self.seal()
        self.waker.wake()

    def end_interrupted(self, error: BaseException) -> None:
        """End after Ctrl-C, or another error in a step of the consumer's; on its thread."""
        self.intake.recover()
        self.end(error)
        self.note_told(error)

    def end_now(self, is_orphaned: bool) -> None:
        """Stop without waiting; the last worker to leave seals.

        What collects an owner may have come upon any thread, at any step of this run or another: so it waits for
        nothing, and what takes time, or calls others, is left to somebody else.

        Args:
            is_orphaned: The owner is gone, and nobody will ever ask for the account.
        """
        self.is_orphaned = is_orphaned
        if self.is_finished or self.is_sealed or self.is_forked:
            self._let_go()
            return
        lock = self.crew.lock
        if is_mine(lock) or not lock.acquire(blocking=False):
            self._end_elsewhere()
            return
        self.seals_itself = True
        try:
            self.stop(None)
        finally:
            lock.release()
        if not self.crew.workers:
            timekeeper.leave(self._see_to_the_end)

    def _end_elsewhere(self) -> None:
        """Have the timekeeper stop the run; at exit, where there may be no thread for it, the register's goodbye does.

        ``seals_itself`` first: the last worker may leave at any moment.
        """
        self.seals_itself = True
        timekeeper.leave(self._see_to_the_end)

    def _see_to_the_end(self) -> None:
        self.ask_to_stop(None)
        if not self.crew.workers:
            run_aside(f"{self.name}-end", self.note_left)  # it tells others, who take their time

    def warn_if_unread(self) -> None:
        """Warn that nobody has ever asked this run for anything, and nobody can any more; once.

        Not where it was cancelled with what it is a part of: then whoever started it had no time to ask.
        """
        unread, self.unread = self.unread, None
        if unread is not None and not (self.is_forked or is_cancelled(self.ending)):
            unread.warn((unread.ledger or self.ledger).taken)

    # Sealed, or finished with nothing left

    def note_told(self, error: BaseException) -> None:
        """Keep of ``error``, which the consumer gets now, no more than what is said of it."""
        self.is_ending_told = True
        if self.ending is error:
            self.ending = Told(error)
        if self.intake.error is error:
            self.intake.error = None
        if self.too_many is error:
            self.too_many = None
        self.crew.close_errors = [other for other in self.crew.close_errors if other is not error]

    def take_too_many(self) -> TooManyAbandoned | None:
        """Return the error for too many calls left behind, if there is one; whoever takes it raises it."""
        taken, self.too_many = self.too_many, None
        return taken

    def seal(self) -> None:
        """Close the account, leave behind what still runs, and say so."""
        self.crew.end_by_force()
        with self.crew.lock:
            if self.is_sealed:
                return
            self.crew.stop()
            left = self.crew.abandon()
            late = [call for worker, chunk in left if (call := in_hand(worker, chunk))]
            self.too_many = self._stragglers.add(late) or self.too_many
            if threading.get_ident() == self.consumer:  # nobody else may touch what the consumer iterates
                self.ledger.settle_batch()
            self.ledger.close([chunk for _, chunk in left if not _is_copy(chunk)])
            self.is_sealed = True
            self._ender = threading.get_ident()
        self._stragglers.log()
        self._end_up()
        still_opening = [worker.thread.name for worker in list(self.crew.workers) if worker.is_opening]
        if still_opening and self._has_resource:  # such a run was waited for, as long as its grace was
            told = (self.name, ", ".join(still_opening))
            tell(logging.WARNING, "run %r leaves %s behind, still getting ready", *told)
        if self.too_many is not None and self.ending is not None and self.ending is not self.too_many:
            annotate(self.ending, str(self.too_many))
        self.crew.detach()  # what is left behind keeps its thread's crew, maybe for good: not what the run knows
        self._over.set()

    def finish(self) -> bool:
        """Dismiss the crew after the last outcome was delivered, and tell whether that is all.

        It is not before every resource is closed. Called under the lock.
        """
        self.crew.stop()
        return not (self._has_resource and self.crew.workers)

    def late_input_error(self) -> TimeoutError | None:
        """Return the error for an input that ended after the deadline; None: it was in time."""
        ended_at = self.intake.ended_at
        is_late = self.deadline is not None and ended_at is not None and ended_at > self.deadline
        return self.timeout_error() if is_late else None

    def finished(self) -> None:
        """Take note that the run has come to its natural end and the crew is quiet."""
        self._ender = threading.get_ident()
        self.is_finished = True
        self._end_up()
        self._over.set()

    def _end_up(self) -> None:
        for scope, registration in self._registrations:
            scope.remove(registration)
        if self._timer is not None:  # it would keep all of this alive
            self._timer.cancel()
        self._seconds = perf_counter() - self._began
        register.dismiss(self)
        callbacks, self.on_end = self.on_end, []
        for callback in callbacks:
            _, error = call_guarded(callback)
            if error is not None:  # a display that broke must not take the results with it
                tell(logging.ERROR, "run %r: its display failed", self.name, error=error)

    # What the crew reports

    def note_done(self, chunk: Chunk) -> None:
        """Pass the chunk on to the consumer, and wake it if it waits for this one."""
        self.ledger.done.append(chunk)  # first this, then the look: the consumer does it the other way round
        awaited = self.awaited
        if awaited is chunk or awaited is True:
            self._wake()

    def note_failed(self, chunk: Chunk) -> None:
        """Stop at the first failure, if that is wanted."""
        if self._first_failure is None:
            assert chunk.failures is not None
            self._first_failure = (chunk, min(chunk.failures))
            if self.fails_fast:
                self._stop_for_failure(*self._first_failure)

    note_succeeded = note_done

    def note_handed_in(self) -> None:
        """Do nothing: the consumer does it."""

    def note_replaced(self, old: Chunk, new: Chunk) -> None:
        """Let ``new`` take the place of ``old`` in the account, and in what is waited for."""
        new.ends = None
        self.ledger.add(new)
        if self.awaited is old:
            self.awaited = new

    def note_abandoned(self, worker: Worker, chunk: Chunk) -> None:
        """Count a call that was left behind, and stop if there are too many."""
        call = in_hand(worker, chunk)
        self.too_many = self._stragglers.add([call] if call else []) or self.too_many
        if self.too_many is not None:
            self.stop(self.too_many)

    def note_split(self, tail: Chunk) -> None:
        """Open the account of ``tail``."""
        self.ledger.add(tail)

    def note_expired(self) -> None:
        """Stop: the whole run's time is up."""
        self.stop(self.timeout_error())

    def note_broken(self, error: BaseException) -> None:
        """Stop: a worker could not get ready."""
        self.stop(error)

    note_unserved = note_broken

    def note_quieter(self) -> None:
        """Let whoever waits for quiet look again."""
        self._wake()

    def note_grown(self) -> None:
        """Let whoever takes items look again."""
        self._wake()
        self.intake.wake()

    def note_left(self) -> None:
        """Seal when the last worker of a run without an owner has left."""
        self._stragglers.log()
        if self.seals_itself and not self.crew.workers:
            self.seal()
            self._let_go()

    def _let_go(self) -> None:
        if not self.is_orphaned:
            return
        self.crew.detach()
        self.ledger.forget()
        self.intake.forget()

    def _wake_consumer(self) -> None:
        with self.crew.lock:
            self._wake()

    def _wake(self) -> None:
        self.awaited = False
        self.waker.wake()
        for closer in list(self._closers):
            closer.wake()

    def _stop_for_failure(self, chunk: Chunk, offset: int) -> None:
        assert chunk.failures is not None
        # In order, the results before the failure come first: they are with workers already, or done.
        self.stop(chunk.failures[offset], keep_before=chunk.start + offset if self.settings.ordered else 0)

    def name_ending(self) -> None:
        """Say on the failure that stopped the run which item it belongs to. Called by the consumer."""
        if self._first_failure is not None:
            chunk, offset = self._first_failure
            if chunk.failures and chunk.failures.get(offset) is self.ending and self.ending is not None:
                self.name_failure(chunk, offset)

    def name_failure(self, chunk: Chunk, offset: int) -> None:
        """Say on a failure that is to be raised which item it belongs to, and what was wrong with a call that was."""
        assert chunk.failures is not None
        error = chunk.failures[offset]
        chunk.name_item(error, offset, self.name)
        if hint := explain_item(error, self._plan.fn, chunk.items[offset], self._plan.spread, self._has_resource):
            annotate(error, hint)

    def timeout_error(self) -> TimeoutError:
        """Return the error of a run that takes too long."""
        return TimeoutError(f"run {self.name!r} did not end within timeout={self.settings.timeout} seconds")

    # Exit, fork, and onlookers: see register.Living

    def begin_goodbye(self) -> None:
        """Start nothing new."""
        try:
            self.warn_if_unread()
        except Warning as warning:  # the filters make it an error; there is nobody to raise it to
            tell(logging.ERROR, "run %r was never read", self.name, error=warning)
        if self.crew.lock.acquire(timeout=min(self.settings.grace, AFTERMATH_SECONDS)):
            try:
                self.stop(None)
            finally:
                self.crew.lock.release()

    def finish_goodbye(self, deadline: float) -> None:
        """Wait until ``deadline`` for what runs, then log what is left behind."""
        self.stop_deadline = deadline
        self.end(None)

    def grace_seconds(self) -> float:
        """Return the run's grace."""
        return self.settings.grace

    def close_after_fork(self) -> None:
        """Close in a forked child: the crew stayed with the parent. What a run that was over came to is here, too."""
        self.crew.close_after_fork()
        if self._decider is not None:
            self._decider.close_after_fork()
        self.turns = {}
        self._over = threading.Event()
        self._over.set()  # nobody else here is at its end
        if not (self.is_finished or self.is_sealed):
            self.is_forked = True
            self.ledger.settle_batch()

    def worker_states(self) -> list[WorkerState]:
        """Return what each worker is doing; takes no lock."""
        return states_of(list(self.crew.workers))

    def count_waiting(self) -> int:
        """Return how many calls wait for a worker; takes no lock."""
        return self.crew.count_waiting()

    def stats(self) -> Stats:
        """Return the account as it stands; takes no lock, so counts may be moments apart."""
        ledger, crew = self.ledger, self.crew
        succeeded, failed, late = ledger.succeeded, ledger.failed, 0
        # A call that is held to a policy may yet be made again: it counts once it is done.
        in_hands = [chunk for chunk in crew.chunks_in_hand() if chunk.trial is None]
        uncounted = [] if self.is_sealed else ledger.done_now() + in_hands
        for chunk in {id(chunk): chunk for chunk in uncounted if chunk.end == "running"}.values():
            bad = len(chunk.failures) if chunk.failures else 0
            failed += bad
            late += bad if chunk.trial is not None and chunk.trial.is_timed_out else 0
            succeeded += len(chunk.results) - bad
        return Stats(
            taken=ledger.taken,
            succeeded=succeeded,
            failed=failed - late,
            timed_out=ledger.timed_out + late,
            cancelled=ledger.cancelled,
            not_started=ledger.not_started,
            retried=0 if crew.attempts is None else crew.attempts.retried,
            abandoned=len(self._stragglers),
            running=len(crew.chunks_in_hand()),
            workers=len(crew.workers),
            seconds=self._seconds if self._seconds is not None else perf_counter() - self._began,
            decision=self._decision(),
        )

    def _decision(self) -> str:
        decided = self._engine if self._decider is None else self._decider.decision
        if self._tuning is not None and self.crew.tuner is not None:
            decided += f"; {self._tuning.decision}"
        elif self._decider is None:
            decided += f", at most {self.settings.max_workers} workers"
        if self.advisor is not None and self.advisor.advice:
            decided += f"; {self.advisor.advice}"
        return decided


def _cancel(course: weakref.ref[Course], scope: Scope) -> None:
    if (target := course()) is not None:
        target.cancel(scope.reason)


def _reason(name: str, ending: BaseException | None) -> str:
    return f"run {name!r} " + ("was closed" if ending is None else f"ended with {name_of_type(ending)}")


def _is_copy(chunk: Chunk) -> bool:
    """Tell whether the account knows another chunk for the same item: a hedge's."""
    return chunk.trial is not None and (chunk.trial.is_void or chunk.trial.original is not None)
