"""The book of tasks: what a group and an executor have in common. A crew, its tasks, and how all come to an end."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

from treadle._core import clock, register
from treadle._core.cancellation import here
from treadle._core.chunk import Chunk
from treadle._core.describe import count_of
from treadle._core.outcome import Stats
from treadle._core.raw import is_mine, make_rlock
from treadle._core.real_time import perf_counter
from treadle._core.register import WorkerState
from treadle._core.settings import check_callable
from treadle._core.tell import tell
from treadle._crew.onlook import in_hand, states_of
from treadle._crew.stragglers import Stragglers
from treadle._crew.worker import Worker
from treadle._run.shutdown import Shutdown
from treadle._run.starvation import Starvation
from treadle._run.task import Call, Task, TaskChunk
from treadle._run.task_engine import TaskEngine, TaskSpec
from treadle._sync import timekeeper
from treadle._sync.aside import run_aside
from treadle._sync.cancelling import refuse_on_loop
from treadle._sync.parker import Parker
from treadle.errors import TooManyAbandoned

NOT_BEGUN = "has not begun"  # a book that is closed for this reason will be open yet
BROKEN = "is broken"  # and with this one, it may be open again


class TaskBook:
    """Tasks submitted and not ended yet, the crew that makes their calls, and the account of those that ended.

    Who submits enters the task first and then looks whether the book is closed; who closes it does it the
    other way round. So no task is forgotten.

    Args:
        spec: What the owner is made of.
    """

    noun = "task"  # what a person calls one

    def __init__(self, spec: TaskSpec) -> None:
        self.kind = spec.kind
        self.name = spec.name
        self.policy = spec.policy
        self._refuse = spec.refuse
        self._engine = TaskEngine(spec)
        self.crew = self._engine.make_crew(self)
        self.unfinished: dict[Task[Any], None] = {}
        self.closed: str | None = None  # why nothing can be submitted any more
        self.broken: BaseException | None = None  # why no call can be made any more
        self.stopped_at: float | None = None  # when the calls were asked to end
        self.on_failure: Callable[[Task[Any]], object] = id  # called after a task has failed; by default for nothing
        self.goodbye: Callable[[float | None], object] = self.cancel_all
        self.grace: float | None = None  # after which the interpreter's exit leaves calls behind; None: never
        self._numbers = count()
        self._is_breakage_told = False
        self._unserved: BaseException | None = None  # why what waits has no worker
        self.renews = False  # it may be open again after it has broken, and in a forked child
        self._closing: str | None = None  # what will close it when no task is left
        self.has_timeout = False  # it is cancelled when its time is up
        self.ends_with_first = False  # it is cancelled when one call has succeeded
        self._is_forked = False
        self._done: dict[TaskChunk, None] = {}
        self._waiters: list[Parker] = []
        self._starvation = Starvation(self)
        self._stragglers = Stragglers(spec.kind, spec.name, spec.policy.max_abandoned)
        self._counting = make_rlock()  # protects the counts; reentrant, as a handler may come upon its holder
        self._counts = {"succeeded": 0, "failed": 0, "timed_out": 0, "cancelled": 0}
        self._uncounted: deque[str] = deque()
        self._began = perf_counter()
        register.enroll(self)

    # Submitting and cancelling

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task[Any]:
        """Have ``fn(*args, **kwargs)`` called, and return its task."""
        check_callable("fn", fn)
        if self.broken is not None:
            self._recover()
        call = Call(self._engine.prepare_for(fn), args, kwargs)
        task: Task[Any] = Task(self, self._next_number(), call)
        chunk = task._chunk
        assert chunk is not None
        try:
            self.unfinished[task] = None
            if (closed := self.closed) is not None:
                refusal = self.broken_error() or self._refuse(self.name, closed)
                self.unfinished.pop(task, None)  # first: a task in there whose call is gone looks forsaken
                if self._withdraw(task):
                    raise refusal
                return task  # whoever closed it saw it here, and has cancelled and counted it like the others
            self.crew.submit([chunk])
            if self.crew.has_backlog():
                self._starvation.note_waiting()
            if self.crew.is_stopping:  # it may have come too late to be seen
                if self.broken is not None:
                    self.note_left()
                self.cancel_unbegun(task)
        except BaseException:  # refused, or Ctrl-C: a task that nobody has is to be nobody's
            self._withdraw(task)
            raise
        return task

    def _next_number(self) -> int:
        return next(self._numbers)

    def _withdraw(self, task: Task[Any]) -> bool:
        """Take back a task that was not handed out; False: too late, and if its call has begun, it is asked to end."""
        chunk = task._chunk
        if chunk is None or not self._take_back(chunk):
            task.cancel()
            return False
        is_taken_back = task.finish(None, None, is_cancelled=True)  # or has a cancellation come upon it meanwhile?
        self.unfinished.pop(task, None)
        if self.closed != NOT_BEGUN:  # whoever closes it may have seen this one, and left the last step to its end
            self._wake()
            self._dismiss_if_empty()
        return is_taken_back

    def cancel_running(self, task: Task[Any]) -> bool:
        """Ask the call of ``task`` to end; True: it had not begun, between two attempts, and is cancelled."""
        crew = self.crew
        with crew.lock:
            chunk = task._chunk
            if chunk is None or task.done():
                return task.cancelled()
            trial = chunk.trial
            # By one atomic step: workers take it without the lock.
            is_open = (trial is None or trial.twin is None) and self._take_back(chunk)
            chunks: list[Chunk] = [chunk]
            if trial is not None and trial.twin is not None:
                chunks.append(trial.twin)
            for each in chunks:
                if each.trial is not None:
                    each.trial.is_last = True
            crew.cancel_chunks(chunks, "it was cancelled")
        if is_open:
            self.discard(task, chunk)
        return is_open and task.cancelled()

    def cancel_unbegun(self, task: Task[Any]) -> None:
        """Cancel ``task`` if its call has not begun."""
        chunk = task._chunk
        if chunk is not None and chunk.todo:
            task.cancel()

    def discard(self, task: Task[Any], chunk: Chunk) -> None:
        """Cancel a task whose call was taken away before it began."""
        if self.crew.attempts is not None:
            with self.crew.lock:
                self.crew.attempts.forget(chunk)
        self._end(task, "cancelled")

    def cancel_all(self, grace: float | None = None) -> None:
        """Begin no further call, and ask those that run to end."""
        del grace
        if is_mine(self.crew.lock):  # a handler has come upon this thread in the middle of a step
            timekeeper.leave(partial(run_aside, f"{self.name}-cancel", self.cancel_all))
            return
        closed = self.closed or "was cancelled"
        with self.crew.lock:
            if self.stopped_at is None:
                self.stopped_at = clock.now()
            self.crew.stop(f"{self.kind} {self.name!r} {closed}")
        self.closed = closed  # not before: a task that submits another shall be cancelled, not refused
        self.note_handed_in()
        for task in list(self.unfinished):
            self.cancel_unbegun(task)
        self._settle_strays()
        self._wake()

    def _settle_strays(self) -> None:
        """Cancel tasks whose call nobody has any more, as the settling of them was interrupted by Ctrl-C."""
        with self.crew.lock:
            known = {*self.crew.chunks_in_hand(), *list(self._done)}
            strays = [task for task in list(self.unfinished) if _is_stray(task._chunk, known)]
            strays = [task for task in strays if task in self.unfinished]  # asked last: it may have been refused
        for task in strays:
            self._end(task, "cancelled")

    def close(self, reason: str, when_empty: bool = False) -> None:
        """Refuse further tasks, at once or when the last one has ended, and then let the workers go."""
        if when_empty:
            self._closing = reason
        elif self.closed in (None, BROKEN):
            self.closed = reason
        self._dismiss_if_empty()

    # What the crew reports

    def note_done(self, chunk: Chunk) -> None:
        """Keep the answer until the lock is free: futures call functions of the user's."""
        assert isinstance(chunk, TaskChunk)
        self._done[chunk] = None

    def note_succeeded(self, chunk: Chunk) -> None:
        """Give a task its answer."""
        task: Task[Any] | None = chunk.task  # type: ignore[attr-defined]  # our chunks are TaskChunks
        if task is not None:
            if not chunk.results:
                self._end(task, "cancelled")
            elif task.finish(chunk.results[0], None, is_cancelled=False):
                self._note_end(task, "succeeded", None)
            else:
                self._note_end(task, None, None)
        chunk.forget()  # the worker may hold it for long

    def note_handed_in(self) -> None:
        """Give tasks the answers there are."""
        while self._done:
            try:
                chunk = self._done.popitem()[0]  # each is answered by one thread
            except KeyError:
                return
            try:
                if (task := chunk.task) is not None:
                    self._answer(task, chunk)
                chunk.forget()  # the worker may hold it for long
            except BaseException:  # Ctrl-C: what was done of it may be done again
                self._done[chunk] = None
                raise

    def _answer(self, task: Task[Any], chunk: TaskChunk) -> None:
        trial = chunk.trial
        if chunk.failures:
            task._is_given_up = chunk.is_given_up()
            error = chunk.failures[0]
            task._origin = (chunk.start, chunk.items[0], trial)
            status = "timed_out" if trial is not None and trial.is_timed_out else "failed"
            self._end(task, status, error=error)
        elif chunk.results:
            self._end(task, "succeeded", chunk.results[0])
        else:
            self._end(task, "cancelled")
        chunk.task = None

    def _end(self, task: Task[Any], status: str, value: Any = None, error: BaseException | None = None) -> None:
        is_first = True
        try:
            is_first = task.finish(value, error, is_cancelled=status == "cancelled")
        finally:  # also when Ctrl-C strikes in a done-callback
            self._note_end(task, status if is_first else None, error if is_first else None)

    def _note_end(self, task: Task[Any], status: str | None, error: BaseException | None) -> None:
        if error is not None:
            self.on_failure(task)
        chunk, task._chunk = task._chunk, None
        if chunk is not None:
            chunk.task = None
        if status is not None:
            self._uncounted.append(status)
            if len(self._uncounted) > 1000:
                self._count()
        if task._state != "PENDING":  # by another's answer it may be only in a moment
            self.unfinished.pop(task, None)
        if not self.unfinished and (self.closed is not None or self._closing is not None):
            self._wake()
            self._dismiss_if_empty()

    def note_failed(self, chunk: Chunk) -> None:
        """Do nothing: the task says so when it is told."""

    def note_split(self, tail: Chunk) -> None:
        """Do nothing: a task is not split."""

    def note_replaced(self, old: Chunk, new: Chunk) -> None:
        """Let the task know which chunk is its own."""
        assert isinstance(old, TaskChunk)
        assert isinstance(new, TaskChunk)
        if new.task is not None and new.task._chunk is old:
            new.task._chunk = new

    def note_abandoned(self, worker: Worker, chunk: Chunk) -> None:
        """Count a call that was left behind, and stop if there are too many."""
        call = in_hand(worker, chunk)
        too_many = self._stragglers.add([call] if call else [])
        if too_many is not None and self.broken is None:
            self._break(too_many)

    def note_broken(self, error: BaseException) -> None:
        """Stop: a worker could not get ready."""
        self._break(error)

    def _break(self, error: BaseException) -> None:
        self.broken = error
        self.closed = self.closed or BROKEN
        self.crew.stop(self.closed)
        self._wake()

    def broken_error(self) -> Exception | None:
        """Return the error for tasks that this book can do nothing for any more, if it is broken."""
        if self.broken is None or isinstance(self.broken, TooManyAbandoned):
            return self.broken
        error = BrokenThreadPool(
            f"{self.kind} {self.name!r} is broken: a thread's initializer failed, or no thread starts"
        )
        error.__cause__ = self.broken
        return error

    def note_unserved(self, error: BaseException) -> None:
        """Fail what waits: there is no worker, and none to be had now. What is submitted later finds one, maybe."""
        self._unserved = error

    def _recover(self) -> None:
        """Go on after too many calls were left behind, once enough of them have ended."""
        if not (self.renews and isinstance(self.broken, TooManyAbandoned)):
            return
        with self._counting:  # two may come for it at once
            is_over = not (self._stragglers.are_too_many() or self.unfinished or self.crew.workers)
            if is_recovered := is_over and self.closed == BROKEN:
                self._start_anew()
        if is_recovered:  # without the lock, as handlers of the log are the user's
            tell(logging.WARNING, "%s %r goes on: enough of the calls left behind have ended", self.kind, self.name)

    def _start_anew(self) -> None:
        """Be open, with a crew to which nothing has happened yet."""
        self.crew = self._engine.make_crew(self)
        self.broken = self.stopped_at = None
        self._is_breakage_told = False
        self.closed = None  # in the end: now something can be submitted

    def note_expired(self) -> None:
        """Do nothing: a crew of tasks has no deadline."""

    def note_quieter(self) -> None:
        """Let whoever waits look again."""
        self._wake()

    def note_grown(self) -> None:
        """Do nothing: nobody looks for tasks."""

    def note_left(self) -> None:
        """Let whoever waits look again, and end what a broken crew will never begin."""
        self._stragglers.log()
        if (error := self.broken_error()) is not None:
            if not self._is_breakage_told:
                self._is_breakage_told = True
                tell(logging.CRITICAL, "%s %r is broken", self.kind, self.name, error=self.broken)
            self.note_handed_in()
            self._fail_unbegun(error)
        unserved, self._unserved = self._unserved, None
        if unserved is not None:
            self._fail_unbegun(unserved)
        if not self.crew.workers:  # a thousand leaving at once should not wake it a thousand times
            self._wake()

    def _fail_unbegun(self, error: BaseException) -> None:
        for task in list(self.unfinished):
            chunk = task._chunk
            if chunk is not None and self._take_back(chunk):
                self._end(task, "failed", error=error)

    def _take_back(self, chunk: Chunk) -> bool:
        try:
            chunk.todo.pop()
        except IndexError:
            return False
        return True

    # The end

    def _dismiss_if_empty(self) -> None:
        if self.unfinished or (self.closed is None and self._closing is None):
            return
        before, self.closed = self.closed, self.closed or self._closing
        if self.unfinished:  # somebody submitted in this moment
            self.closed = before
            return
        if is_mine(self.crew.lock):  # a handler has come upon this thread in the middle of a step
            timekeeper.leave(self._dismiss_if_empty)
            return
        self._starvation.end()
        with self.crew.lock:
            self.crew.stop()

    def join(self, interrupts: int, grace: float | None = None, holds_exit: bool = False) -> BaseException | None:
        """Wait until every task has ended and every worker has left, and return what interrupted the wait.

        See ``Shutdown``.
        """
        if getattr(here.seat, "crew", None) is self.crew:
            if self.kind == "group":
                self.cancel_all()
            raise RuntimeError(f"{self.kind} {self.name!r} cannot wait for its end in one of its own calls")
        refuse_on_loop(f"the end of {self.kind} {self.name!r}", "shutdown(wait=False)")
        if is_mine(self.crew.lock):  # a handler, whose own thread is needed for that: it ends without being waited for
            return None
        try:
            return Shutdown(self, interrupts, grace, holds_exit).wait()
        finally:
            register.dismiss(self)
            self._starvation.end()
            self._engine.stop_tuning()

    def finish(self, grace: float | None = None) -> None:
        """Wait, at the interpreter's exit, for what was submitted; or only until the grace is over, if there is one."""
        del grace  # that of a goodbye; the standard library's executors take as long as it takes, and so do we
        self.close("was shut down")
        if self.grace is not None:
            if (waiting := self.count_waiting()) > 0:
                what = "%s %r cancels %s at exit that has not begun"
                tell(logging.WARNING, what, self.kind, self.name, count_of(waiting, "call"))
            self.cancel_all()
        self.join(0, self.grace, holds_exit=True)

    def abandon(self) -> None:
        """Leave behind the calls that still run: their tasks are cancelled, their threads go on by themselves."""
        self.cancel_all()
        self.crew.end_by_force()
        with self.crew.lock:
            left = self.crew.abandon()
            calls = [call for worker, chunk in left if (call := in_hand(worker, chunk))]
            self._stragglers.add(calls)
        self._stragglers.log()
        for task in list(self.unfinished):
            self._end(task, "cancelled")

    def leave_behind(self, task: Task[Any]) -> None:
        """Leave the call of ``task`` behind, if it still runs, and let another worker take its place."""
        crew = self.crew
        with crew.lock:
            for worker in list(crew.workers):
                if task._chunk is not None and task._chunk in worker.in_hand():
                    crew.give_up(worker)
                    self.note_abandoned(worker, task._chunk)
        self._stragglers.log()
        self._end(task, "cancelled")
        if self.broken is not None:
            self.note_left()  # there may be no worker left to do it
        crew.send_help()

    def _wake(self) -> None:
        for parker in list(self._waiters):
            parker.wake()

    # Exit, fork, and onlookers: see register.Living

    def begin_goodbye(self) -> None:
        """Take no further task."""
        self.closed = self.closed or "belongs to an interpreter that is shutting down"

    def finish_goodbye(self, deadline: float) -> None:
        """Come to an end, in the way of the owner."""
        self.goodbye(clock.left_until(deadline))

    def grace_seconds(self) -> float:
        """Return how long a goodbye may take."""
        return self.policy.grace

    def close_after_fork(self) -> None:
        """Close in a forked child, with what is the parent's; where nothing is pending, be as good as new."""
        self._counting = make_rlock()
        self._waiters.clear()
        self._engine.close_after_fork()
        self._starvation = Starvation(self)
        # One whose result is out already may not have been crossed off by the worker that brought it.
        is_pending = not all(task.done() for task in self.unfinished)
        for task in self.unfinished:
            task._renew_condition()
        self.unfinished.clear()
        self.crew.close_after_fork()
        if not is_pending and (self.closed == NOT_BEGUN or (self.renews and self.closed is None)):
            before = self.closed
            self._counts = dict.fromkeys(self._counts, 0)
            self._uncounted.clear()
            self._stragglers = Stragglers(self.kind, self.name, self.policy.max_abandoned)
            self._began = perf_counter()
            self._start_anew()
            self.closed = before
            register.enroll(self)
        elif is_pending or self.closed is None:
            self.closed = "belongs to the process that was forked"
            self._is_forked = True

    def check_owner(self) -> None:
        """Raise in a forked child, where nobody will ever make the calls."""
        if self._is_forked:
            raise self._refuse(self.name, "belongs to the process that was forked")

    def worker_states(self) -> list[WorkerState]:
        """Return what each worker is doing; takes no lock."""
        return states_of(list(self.crew.workers))

    def count_waiting(self) -> int:
        """Return how many calls wait for a worker; takes no lock."""
        return self.crew.count_waiting()

    def count_unfinished(self) -> int:
        """Return how many tasks have not ended; takes no lock."""
        return len(self.unfinished)

    def count_ended(self) -> int:
        """Return how many tasks have ended."""
        return sum(self._count().values())

    def __repr__(self) -> str:
        waiting = f", {waiting:,} of them not begun" if (waiting := self.count_waiting()) else ""
        return f"{self.name!r}, {self.closed or 'is open'}: {len(self.unfinished):,} unfinished{waiting}"

    def stats(self) -> Stats:
        """Return the account as it stands."""
        counts, crew = self._count(), self.crew
        running = len(crew.chunks_in_hand())
        return Stats(
            taken=sum(counts.values()) + len(self.unfinished),
            succeeded=counts["succeeded"],
            failed=counts["failed"],
            timed_out=counts["timed_out"],
            cancelled=counts["cancelled"],
            retried=0 if crew.attempts is None else crew.attempts.retried,
            abandoned=len(self._stragglers),
            running=running,
            workers=len(crew.workers),
            seconds=perf_counter() - self._began,
            decision=self._engine.decision,
        )

    def _count(self) -> dict[str, int]:
        with self._counting:
            with suppress(IndexError):  # not first a look: a handler may come in between, and count
                while True:
                    self._counts[self._uncounted.popleft()] += 1
            return dict(self._counts)


def _is_stray(chunk: TaskChunk | None, known: set[Chunk]) -> bool:
    """Tell whether a task with this chunk can get no answer any more."""
    return chunk is None or not (chunk.todo or chunk.results or chunk in known)
