"""The crew: the workers of one run, group or executor, what it is asked and what it is told. See README.md here."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from treadle._core import clock
from treadle._core.cancellation import Scope, cancel_all, here
from treadle._core.chunk import Chunk
from treadle._core.describe import annotate, describe
from treadle._core.raw import make_rlock
from treadle._core.real_time import perf_counter
from treadle._core.tell import tell
from treadle._core.user_code import call_guarded
from treadle._crew.account import Account, Nobody
from treadle._crew.attempts import Attempts
from treadle._crew.chunking import ChunkSizer
from treadle._crew.controller import Knee
from treadle._crew.force import Force
from treadle._crew.muster import Muster
from treadle._crew.policed import police
from treadle._crew.policy import Policy
from treadle._crew.room import Room
from treadle._crew.tuner import Tuner
from treadle._crew.watch import Watch
from treadle._crew.worker import ThreadWorker, Worker
from treadle._sync.aside import run_aside
from treadle._sync.line import NOTHING_YET, Nothing
from treadle.errors import WorkerLost

# After so long without work, a worker that has nothing of its own leaves: what its crew calls may hold the owner of the
# run, and until then the thread holds both.
IDLE_SECONDS = 10.0


class Crew(Muster):
    """Up to ``max_workers`` workers, started as work waits for them.

    Args:
        name: Of the run; for threads and logs.
        max_workers: At most so many at once.
        make_engine: Makes the engine that a worker owns; None: see ``equip``.
        sizer: Learns from each chunk.
        account: Hears what happens.
        policy: What its calls are held to.
        deadline: When the crew stops beginning calls, by ``clock.now()``.
        idle_seconds: How long a worker waits for work before it leaves; by default until the crew stops.
        prefix: Of the names of its threads.
        make_worker: Makes a worker that owns an engine, given the crew, the engine and a name.
    """

    _nobody = Nobody()  # kept here: at exit, when the last run goes, a module's names may be gone already

    def __init__(
        self,
        name: str,
        max_workers: int,
        make_engine: Callable[[], Any] | None,
        sizer: ChunkSizer,
        account: Account,
        policy: Policy,
        deadline: float | None = None,
        idle_seconds: float = math.inf,
        prefix: str | None = None,
        make_worker: Callable[[Crew, Any, str], Worker] = ThreadWorker,
    ) -> None:
        super().__init__(name, max_workers, sizer, account, Room(self))
        self.places = here.places  # in limiters: calls share those of whoever asked for them
        self.close_errors: list[BaseException] = []
        self.is_patient = False  # a worker that cannot get ready is no reason to end
        self.stacks_calls = True  # a worker that waits for a call which has not begun may make it on its own stack
        self._make_engine = make_engine
        self._make_worker = make_worker
        self._force = Force(self, policy.grace)
        self._deadline = deadline
        self.idle_seconds = min(idle_seconds, threading.TIMEOUT_MAX)
        self._prefix = prefix or f"treadle-{name}-"
        self._is_stopped = False  # all of ``stop`` was done
        self._keep_before = 0
        self._still_at_it = 0  # after stop(): workers that had a call in their hands, and have not come back
        self.attempts = Attempts(self, policy, name) if policy.is_needed else None
        self._watch = None if self.attempts is None else Watch(self, self.attempts, name)

    def equip(self, make_engine: Callable[[], Any], make_worker: Callable[[Crew, Any, str], Worker]) -> None:
        """Say how engines and workers are made, where the crew was not told; before anything is submitted to it."""
        self._make_engine = make_engine
        self._make_worker = make_worker

    def tune(self, knee: Knee) -> None:
        """Have as many workers as ``knee`` says, from now on."""
        if self.tuner is None:
            tuner = Tuner(self, knee)
            self.sizer.resize(knee.workers)
            tuner.follow()  # before workers report to it, and change what it follows
            self.tuner = tuner

    def stop_tuning(self) -> None:
        """Have as many workers as somebody else says, from now on."""
        if self.tuner is not None:
            self.tuner.stop()
            self.tuner = None

    def _hire(self, number: int) -> Worker:
        assert self._make_engine is not None
        engine = self._make_engine()
        if self._watch is not None and self.attempts is not None:
            engine = police(engine, self.attempts.policy.limiter, self._watch)
        return self._make_worker(self, engine, f"{self._prefix}{number}")

    # What the run asks of its crew

    def submit(self, chunks: list[Chunk]) -> None:
        """Have the calls of ``chunks`` made, unless the crew is stopping."""
        self._queue.extend(chunks)
        if self._may_need_help():
            self._help()

    def stop(self, reason: str = "its run has ended", keep_before: int = 0) -> None:
        """Begin no further call, ask those in hand to end, and let every worker leave. Called under the lock.

        Args:
            reason: What the calls are told.
            keep_before: A chunk in a worker's hands that starts before this index is still worked off.
        """
        if self._is_stopped:
            self._dismiss_one()
            return
        # Ctrl-C may strike between any two lines: then the next call does it all again.
        if not self.is_stopping:
            self._keep_before = keep_before
        self.is_stopping = True
        self._still_at_it = 0
        queued: list[Chunk] = []
        while self._queue:  # one by one: workers take from it meanwhile
            with suppress(IndexError):
                queued.append(self._queue.popleft())
        given_up = [] if self.attempts is None else self.attempts.give_up(queued)
        cancelled: list[Chunk] = []
        for worker in self.workers:
            if chunks := worker.in_hand():
                self._still_at_it += 1
                cancelled += [chunk for chunk in chunks if chunk.start >= self._keep_before]
        self.cancel_chunks(cancelled, reason)
        for chunk in given_up:
            self.account.note_done(chunk)
        if (coming := self._on_its_way) is not None:  # whoever sent it may have been interrupted before that
            self._see_off(coming)  # it may have arrived meanwhile, which takes no lock
            self._rest_watch()  # it may have been the last, and will not say that it has left
        self._dismiss_one()
        self._is_stopped = True

    def cancel_chunks(self, chunks: list[Chunk], reason: str) -> None:
        """Ask calls to end, and begin none of their chunks any more. Called under the lock."""
        scopes: list[Scope] = []
        for chunk in chunks:
            if (scope := chunk.mark_cancelled()) is not None:
                scopes.append(scope)
            chunk.todo.clear()  # after it is marked: an engine that gives items back does it the other way round
        marked = set(chunks)
        told = [(worker, held) for worker in self.workers if (held := worker.chunk) is not None and held in marked]
        for worker, chunk in told:
            worker.engine.interrupt()
            self._force.expect_end(worker, chunk)
        if scopes:
            # Not under the lock: they all come for it when they wake, and callbacks are the user's and take their time.
            run_aside(f"{self._name}-cancel", partial(cancel_all, scopes, reason))

    def expect_end(self, told_at: float) -> None:
        """Leave a call that was asked to end at ``told_at`` behind, if it does not. Called under the lock."""
        if self._watch is not None:
            self._watch.note_told(told_at)

    def end_by_force(self) -> None:
        """Kill the calls that still run, where engines can, and wait a moment until their workers have come back.

        Called without the lock, when the crew is stopping and its grace is over.
        """
        self._force.end_all()

    def abandon(self) -> list[tuple[Worker, Chunk]]:
        """Give up on the workers that are still in a call, and return them. Called under the lock."""
        self._keep_before = 0  # whoever shows only now what it took finds that its items count as not started
        left_behind = [(worker, chunk) for worker in self.workers for chunk in worker.in_hand()]
        self.cancel_chunks([chunk for _, chunk in left_behind if not chunk.is_cancelled], "its run has ended")
        for worker, _ in left_behind:
            if worker in self.workers:
                self.give_up(worker)
                worker.engine.kill()
        return left_behind

    def give_up(self, worker: Worker) -> None:
        """Leave ``worker`` behind with the calls in its hands: another may take its place. Called under the lock."""
        self.room.forget(worker)
        worker.is_abandoned = True
        for chunk in worker.in_hand():
            chunk.todo.clear()
            chunk.freeze()
            self._force.note_ended(chunk)
        del self.workers[worker]
        if self.is_stopping:
            self._still_at_it -= 1
            self._rest_watch()

    def settle_lost(self, chunk: Chunk) -> None:
        """Settle what stands for a call that was left behind while the crew goes on."""
        chunk.ended = perf_counter()
        self._settle(chunk)
        self.account.note_handed_in()
        if (tuner := self.tuner) is not None and chunk.trial is not None and chunk.trial.is_throttled:
            tuner.note_throttled()
        self.send_help()

    def close_after_fork(self) -> None:
        """Forget the workers, who do not exist in a forked child. The old lock may be held by one of them."""
        self.lock = make_rlock()
        if self.tuner is not None:
            self.tuner.close_after_fork()
        self.is_stopping = True
        for chunk in self.chunks_in_hand():
            chunk.todo.clear()  # the child may have been forked by a call
        self._queue.clear()
        self._idle.clear()
        self.workers.clear()

    def detach(self) -> None:
        """Forget the account: its owner is gone, and would otherwise live in a circle with its crew."""
        self.account = self._nobody

    # What a worker says to its crew

    def exchange(self, worker: ThreadWorker, finished: Chunk | None) -> Chunk | None:
        """Hand in what ``worker`` has finished, and return what it is to do next, waiting for it; None: leave."""
        chunk = self.exchange_nowait(worker, finished)
        while chunk is NOTHING_YET:
            chunk = self.look_again(worker, worker.parker.rest(self.idle_seconds))
        return chunk

    def exchange_nowait(self, worker: Worker, finished: Chunk | None) -> Chunk | Nothing | None:
        """As ``exchange``; ``NOTHING_YET``: rest until woken, for ``idle_seconds`` at most, then ``look_again``."""
        if finished is not None:
            self.hand_in(worker, finished)
        if worker.is_abandoned:
            return None
        if worker.is_on_its_way or worker.is_opening:
            with self.lock:
                if worker.is_opening:
                    self._shortage.end()
                self._note_arrival(worker)
        chunk: Chunk | Nothing | None = None
        is_surplus = len(self.workers) > self._max_workers
        if is_surplus:  # more than there should be: for work that others wait for
            chunk, is_surplus = self.room.take_awaited(worker)
        if not is_surplus:
            chunk = (self._take_queued() if self._queue else None) or self._look_for_work(worker)
        if chunk is None or chunk is NOTHING_YET:
            return chunk
        return self._take_on(worker, chunk)

    def look_again(self, worker: Worker, is_news: bool) -> Chunk | Nothing | None:
        """Return as ``exchange_nowait`` does, after ``worker`` has rested: was it woken, or is its time over?"""
        if is_news and worker.is_idle and not self.is_stopping:  # a wake-up may be an old one
            return NOTHING_YET
        chunk: Chunk | Nothing | None = None
        if worker.is_idle:
            with self.lock:
                is_surplus = worker.is_idle and not is_news
                self._note_arrival(worker)
                if is_surplus:
                    self.workers.pop(worker, None)
                    return None
        else:
            # Sent for: nobody else is on the way, and nobody will be until this says that it has arrived.
            worker.is_on_its_way = False
            if self._on_its_way is worker:
                self._on_its_way = None
            lent, is_surplus = self.room.take_awaited(worker) if self.has_surplus() else (None, False)
            if is_surplus:
                return None if lent is None else self._take_on(worker, lent)
            chunk = self._take()
        chunk = chunk or self._look_for_work(worker)
        return chunk if chunk is None or chunk is NOTHING_YET else self._take_on(worker, chunk)

    def _look_for_work(self, worker: Worker) -> Chunk | Nothing | None:
        """Return work if there is some; None: leave; ``NOTHING_YET``: the worker is idle now, and may rest."""
        if self.is_stopping or worker.is_abandoned:
            return None
        # First idle, then the last look: whoever submits does it the other way round.
        worker.is_idle = True
        self._idle.append(worker)
        chunk = self._take() if self._queue or self.sizer.was_ever_large else None
        if chunk is None and not self.is_stopping:
            return NOTHING_YET
        with self.lock:
            self._note_arrival(worker)
        return chunk

    def _take_on(self, worker: Worker, chunk: Chunk) -> Chunk:
        """Let ``worker`` have ``chunk`` in its hands."""
        chunk.begun = perf_counter()
        worker.chunk = chunk
        if (tuner := self.tuner) is not None:  # somebody else may be about to stop it
            tuner.note_begun(worker)
        if self._deadline is not None and clock.has_come(self._deadline):  # also for a worker that has rested until now
            with self.lock:
                self.account.note_expired()
        if self.is_stopping:  # maybe since before stop(), or even abandon(), could see what we took
            with self.lock:
                if chunk.start >= self._keep_before:
                    chunk.todo.clear()
        elif self._may_need_help():
            self._help()
        return chunk

    def report_opening(self, worker: Worker) -> bool:
        """Take note that ``worker`` runs, and is getting ready, which may take long: others may start meanwhile.

        False: it is to leave at once, as nobody needs it any more.
        """
        with self.lock:
            if worker.is_abandoned:
                return False
            self._note_arrival(worker)
            worker.is_opening = True
            self._opening += 1
        if self._may_need_help():
            self._help()
        return True

    def report_unopened(self, worker: Worker, error: BaseException) -> None:
        """Take note that ``worker`` could not get ready: a run without its resources is no run.

        Where workers come and go for as long as the program runs, what this one lacks the next may have.
        """
        if self.is_patient:
            self.make_do_without(worker, error, "one gets ready")
        else:
            self._note_broken(worker, error)

    def report_broken(self, worker: Worker, error: BaseException) -> None:
        """Take note that engines can make no calls any more, and take what came of those in the hands of ``worker``."""
        self._note_broken(worker, error)
        if worker.chunk is not None:
            self.hand_in(worker, worker.chunk)

    def _note_broken(self, worker: Worker, error: BaseException) -> None:
        annotate(error, f"a worker of {self.account.kind} {self._name!r} could not get ready")
        with self.lock:
            self._note_arrival(worker)
            self.account.note_broken(error)

    def report_no_room(self, worker: Worker, error: BaseException) -> None:
        """Take note that the system has no room for an engine of ``worker``, which leaves; what it has waits again."""
        with self.lock:
            chunk, goes_on = worker.chunk, not (self.is_stopping or worker.is_abandoned)
            if chunk is not None and goes_on and chunk.todo:
                rest = chunk.split(len(chunk.todo)) if chunk.results else chunk
                if rest is not None and rest is not chunk:
                    self.account.note_split(rest)
                if rest is not None:
                    self._queue.appendleft(rest)
                if rest is chunk:
                    worker.chunk = None
        if worker.chunk is not None:
            self.hand_in(worker, worker.chunk)
        if goes_on:
            self.make_do_without(worker, error, "process starts")

    def report_lost(self, worker: Worker, error: BaseException) -> None:
        """Take note that ``worker`` dies: the item in its hands failed, the others wait again."""
        chunk, reason = worker.chunk, describe(error)
        tell(logging.ERROR, "worker %s of run %r died: %s", worker.thread.name, self._name, reason)
        with self.lock:
            self._note_arrival(worker)
            self.workers.pop(worker, None)
            if chunk is None or worker.is_abandoned:
                return
            if len(chunk.results) + len(chunk.todo) == len(chunk.items) and chunk.todo:
                chunk.todo.pop()  # it died before it began one: were none lost, this could go on for ever
            rest = chunk.split(len(chunk.todo))
            self.mark_lost(chunk, reason)
            if rest is not None:
                self.account.note_split(rest)
                if not self.is_stopping:
                    self._queue.appendleft(rest)
        self.hand_in(worker, chunk)
        self._help()

    def mark_lost(self, chunk: Chunk, reason: str) -> None:
        """Record that the call being made of ``chunk`` was lost with its worker."""
        if len(chunk.results) < len(chunk.items):
            chunk.fail(WorkerLost(self._name, chunk.start + len(chunk.results), reason))
            chunk.results.append(None)

    def report_left(self, worker: Worker, error: BaseException | None) -> None:
        """Take note that ``worker`` has gone; ``error`` is what closing its engine raised."""
        if error is not None:
            thread = worker.thread.name
            tell(logging.ERROR, "run %r: closing the resource of %s failed", self._name, thread, error=error)
        with self.lock:
            self._note_arrival(worker)
            self.workers.pop(worker, None)
            if error is not None:
                self.close_errors.append(error)
            if self.is_stopping:
                self._dismiss_one()
            if self.is_stopping and not self.workers:
                self.account.note_quieter()
            self._rest_watch()
        self.account.note_left()
        self.send_help()  # whoever looked while this one was about to leave may have counted on it

    # Without the lock

    def hand_in(self, worker: Worker, chunk: Chunk) -> None:
        """Take what ``worker`` has finished, and pass it on to the account, if it is final."""
        tuner, calls = self.tuner, len(chunk.results)
        if self.sizer.is_learning:
            chunk.ended = perf_counter()
            self.sizer.observe(chunk)
        if chunk.trial is None and not (chunk.failures or self.is_stopping):
            self.account.note_succeeded(chunk)
            worker.chunk = None
        else:
            self._settle(chunk, worker)
            worker.chunk = None
            self.account.note_handed_in()
        # First out of the worker's hands, then the look: who cancels does it the other way round.
        if chunk.is_cancelled:
            with self.lock:
                self._force.note_ended(chunk)
        if tuner is not None:
            tuner.note_done(worker, chunk, calls)

    def _settle(self, chunk: Chunk, worker: Worker | None = None) -> None:
        """Settle what is not a plain success. ``worker``: who made the call, unless it was left behind."""
        delay = None
        if self.attempts is not None and not (worker is not None and worker.is_abandoned):
            delay, error = call_guarded(self.attempts.close, chunk)
            if error is not None:  # a fault of ours: the item has its outcome nevertheless
                tell(logging.ERROR, "run %r: what is to follow on a call could not be decided", self._name, error=error)
        with self.lock:
            if worker is not None and worker.is_abandoned:
                return  # the account was closed without it
            chunk.withdraw_cancelled()
            if self.attempts is None or self.attempts.settle(chunk, delay):
                if chunk.failures:
                    self.account.note_failed(chunk)
                self.account.note_done(chunk)
            else:
                chunk.forget()  # another attempt keeps the error, whose traceback leads to frames that hold this
            if worker is not None:
                worker.chunk = None
                if self.is_stopping and not worker.outer:
                    self._still_at_it -= 1
                    if self._still_at_it <= 0:
                        self.account.note_quieter()

    # Under the lock

    def _rest_watch(self) -> None:
        if self._watch is not None and not self.workers:
            self._watch.rest()
