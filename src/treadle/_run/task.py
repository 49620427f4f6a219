"""A task: one call submitted to a group or an executor, and the future of its answer."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar

from treadle._core import clock
from treadle._core.cancellation import check_cancelled, here
from treadle._core.chunk import Chunk
from treadle._core.describe import annotate, cut_our_frames, describe, describe_function
from treadle._core.importing import look_seconds
from treadle._core.misfit import explain_call
from treadle._core.tell import tell
from treadle._core.trial import Trial
from treadle._core.user_code import call_guarded
from treadle._crew.room import making_room, run_here
from treadle._engines.engine import never_awaited
from treadle._run.awaited import EndOfTask
from treadle._run.seen_waits import WaitersOnDemand
from treadle._sync import cancelling
from treadle._sync.parker import Parker
from treadle._sync.wait_graph import Wait
from treadle.errors import Cancelled

if TYPE_CHECKING:
    from treadle._run.task_book import TaskBook

T = TypeVar("T")

_Answer = tuple[Any, BaseException | None, str]  # result, error, state

_DONE = ("FINISHED", "CANCELLED_AND_NOTIFIED")  # the standard library's names for it


class Call:
    """What a task's worker calls: a function with its arguments, in the submitter's context."""

    __slots__ = ("args", "context", "fn", "kwargs", "places")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.context: Context = copy_context()
        self.places = here.places

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self.fn, self.args, self.kwargs)  # to a process neither context nor places go along

    def __repr__(self) -> str:
        given = [describe(arg) for arg in self.args] + [f"{key}={describe(arg)}" for key, arg in self.kwargs.items()]
        return f"{describe_function(self.fn)}({', '.join(given)})"


def _arguments_of(kind: str) -> str:
    """Return where the calls of a ``kind`` have their arguments from."""
    if kind == "periodic":
        return "every() calls it without arguments, and functools.partial sets some"
    return f"submit() passes on all that stands behind the function; options are given to the {kind}"


def make_call(call: Call, *resource: Any) -> Any:
    """Make the call; what a crew of tasks has for its function. Each attempt has its own copy of the context.

    Args:
        call: The call.
        resource: What the worker has open for its calls, if anything: their last positional argument.
    """
    if call.places and not here.places:
        here.places = call.places
        try:
            result = call.context.copy().run(call.fn, *call.args, *resource, **call.kwargs)
        finally:
            here.places = ()
    else:
        result = call.context.copy().run(call.fn, *call.args, *resource, **call.kwargs)
    if type(result) is CoroutineType:
        raise never_awaited(result)
    return result


def make_call_here(call: Call, *resource: Any) -> Any:
    """As ``make_call``, where the engine sees to the call's context and places, and awaits what it returns."""
    return call.fn(*call.args, *resource, **call.kwargs)


class TaskChunk(Chunk):
    """The chunk of one task."""

    __slots__ = ("parent", "task")

    def __init__(self, number: int, call: Call, task: Task[Any]) -> None:
        super().__init__(number, [call], [call])
        self.task: Task[Any] | None = task
        self.parent: weakref.ref[Task[Any]] | None = None  # whose call has submitted this one
        if (seat := here.seat) is not None and (parent := seat.current_task()) is not None:
            self.parent = weakref.ref(parent)

    def submitter(self) -> Chunk | None:
        """Return the chunk of the call that has submitted this one; None: it has ended, or it was no call of a task."""
        parent = None if self.parent is None else self.parent()
        return None if parent is None else parent._chunk

    def again(self) -> Chunk:
        """Return a chunk for another attempt."""
        assert self.task is not None
        return TaskChunk(self.start, self.items[0], self.task)

    def forget(self) -> None:
        """Let go of everything, the task too: it holds the error."""
        super().forget()
        self.task = None


class _ConditionOnDemand:
    """What the standard library's functions wait on, made when the first of them asks for it.

    Who asks first, or brings the answer first, is decided by one atomic step. Where somebody has asked, the state
    changes under the condition: ``concurrent.futures.wait`` looks at it twice. What is made is kept in the
    task, where it hides this descriptor.
    """

    def __get__(self, task: Task[Any], owner: type) -> threading.Condition:
        own = task.__dict__
        found: threading.Condition | _Answer = own.setdefault("_asked_condition", threading.Condition())
        if isinstance(found, tuple):
            # Whoever brought the answer may be in the middle of it. The state changes no more, so any condition
            # will do, but it must be the same one each time.
            task._result, task._exception, task._state = found
            found = threading.Condition()
        condition: threading.Condition = own.setdefault("_condition", found)
        return condition


class Task(Future[T]):
    """The future of one call submitted to a ``TaskGroup`` or a ``PoolExecutor``.

    A ``concurrent.futures.Future`` for whoever wants one. Beyond that, ``cancel()`` also asks a call that
    runs to end, and to wait for a task of one's own executor does not deadlock: ``result()`` without a timeout
    makes the call right here, if it has not begun.
    """

    _condition: threading.Condition = _ConditionOnDemand()  # type: ignore[assignment]  # it is one, once it is asked for
    _waiters: list[Any] = WaitersOnDemand()  # type: ignore[assignment]  # as this

    def __init__(self, book: Any, number: int, call: Any) -> None:  # Any: ours alone, and no public types
        # What Future.__init__ sets, but for the condition: making one costs as much as all the rest of a task.
        self._state = "PENDING"
        self._result: T | None = None
        self._exception: BaseException | None = None
        self._done_callbacks: list[Callable[[Future[T]], object]] = []
        self._book: TaskBook = book
        self._number = number
        self._origin: tuple[int, Call, Trial | None] | None = None  # of a failure, to be told to whoever asks
        self._is_given_up = False  # its failure is that of an attempt which another would have followed
        self._is_told = False  # whoever asked for the result was given the error
        self._chunk: TaskChunk | None = TaskChunk(number, call, self)
        if book.crew.attempts is not None:
            self._chunk.trial = Trial(call.places)

    def _renew_condition(self) -> None:
        """In a forked child: a thread that is not there may hold the parent's, if anybody has asked for one."""
        if isinstance(self.__dict__.get("_asked_condition"), threading.Condition):
            self._asked_condition = self._condition = threading.Condition()

    def cancel(self) -> bool:
        """Cancel the call; if it runs, ask it to end.

        Returns:
            True: it has not begun and never will, or was cancelled before. False: it has ended, or it runs,
            and was asked to end (see ``check_cancelled``); if it does so, the task is ``cancelled()``.
        """
        chunk = self._chunk
        if chunk is None:
            return self.cancelled()
        try:
            call = chunk.todo.pop()
        except IndexError:
            return self._book.cancel_running(self)
        try:
            if (scope := chunk.mark_cancelled()) is not None:  # it may be waiting for the limiter
                scope.cancel("it was cancelled")
            self._book.discard(self, chunk)
        except BaseException:  # Ctrl-C: whoever comes to end it shall find that it has not begun
            chunk.todo.append(call)
            raise
        chunk.items.clear()  # it may stay in the queue for long, and should not keep the arguments
        return self.cancelled()

    def done(self) -> bool:
        """Return True if the call has ended, or was cancelled."""
        return self._state in _DONE

    def cancelled(self) -> bool:
        """Return True if the call was cancelled: it never began, or ended because it was asked to."""
        return self._state == "CANCELLED_AND_NOTIFIED"

    def running(self) -> bool:
        """Return True while the call is being made."""
        chunk = self._chunk
        return chunk is not None and not chunk.todo and not self.done()

    def result(self, timeout: float | None = None) -> T:
        """Return what the call returned, or raise what it raised, waiting for it.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: The call has not ended by then.
            BlocksEventLoop: This is the call of a coroutine, and would have to wait.
            concurrent.futures.CancelledError: The task was cancelled.
            Cancelled: What waits here was itself cancelled.
            Deadlock: The call waits, without a timeout on either side, for what only this thread could bring.
        """
        self._wait(timeout)
        if self.cancelled():
            check_cancelled()  # where both were cancelled, who waits ends as quietly as what it waits for
        elif self._state == "FINISHED" and self._exception is None:
            return self._result  # type: ignore[return-value]  # it is what the call returned, None included
        try:
            return super().result(0)
        except BaseException as error:
            # Not ``done()``: it may have become so since we gave up, and nobody would ever be given the error.
            self._is_told = self._is_told or error is self._exception
            self._name(error)
            raise
        finally:
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None if it returned, waiting for it; raises as ``result`` does."""
        self._wait(timeout)
        if self.cancelled():
            check_cancelled()
        error = super().exception(0)
        self._is_told = True
        self._name(error)
        return error

    # For the group or executor

    @property
    def failure(self) -> BaseException | None:
        """What the call raised, once it has; None for a task that was cancelled."""
        error = self._exception if self._state == "FINISHED" else None
        self._name(error)
        return error

    def finish(self, result: T | None, error: BaseException | None, is_cancelled: bool) -> bool:
        """Have the answer, or be cancelled, whether the call had begun or not. The first answer counts.

        Interrupted halfway (Ctrl-C), any later call goes on with that first answer.

        Returns:
            Whether this answer is the first.
        """
        own: _Answer = (result, error, "CANCELLED_AND_NOTIFIED" if is_cancelled else "FINISHED")
        answer: _Answer = self.__dict__.setdefault("_answer", own)  # atomic, with and without a GIL
        found: threading.Condition | _Answer = self.__dict__.setdefault("_asked_condition", answer)
        if isinstance(found, tuple):  # nobody has asked for the condition: who asks from now on finds the answer
            self._result, self._exception, self._state = answer
            return answer is own
        with found:
            if self._state in _DONE:
                return answer is own
            self._result, self._exception, self._state = answer
            for waiter in self.__dict__.get("_waiters", ()):
                if answer[2] != "FINISHED":
                    waiter.add_cancelled(self)
                elif answer[1] is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            found.notify_all()
        if self._done_callbacks:
            self._invoke_callbacks()
        return answer is own

    def _invoke_callbacks(self) -> None:
        """Call every done-callback, whatever others raise; the list is copied, as waits leave it meanwhile."""
        interrupt: BaseException | None = None
        for callback in list(self._done_callbacks):
            try:
                self._tell(callback)
            except BaseException as error:  # Ctrl-C
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Have ``fn`` called with the task when it has ended: at once, if it has. Whatever it raises is logged."""
        with self._condition:
            if self._state not in _DONE:
                self._done_callbacks.append(fn)
                return
        self._tell(fn)

    def _tell(self, callback: Callable[[Future[T]], object]) -> None:
        _, error = call_guarded(callback, self)
        if error is not None:
            tell(logging.ERROR, "a done-callback of %s failed", self._describe(), error=error)

    def _name(self, error: BaseException | None) -> None:
        """Say on the error which task it belongs to. Not where it was raised: see ``cut_our_frames``."""
        origin = self._origin
        if error is None or error is not self._exception or origin is None:
            return
        self._origin = None
        chunk_number, call, trial = origin
        cut_our_frames(error)
        if trial is not None:
            trial.tell_history(error)
        annotate(error, f"{self._book.noun} {chunk_number} of {self._book.kind} {self._book.name!r}: {describe(call)}")
        if hint := explain_call(error, call.fn, call.args, call.kwargs, _arguments_of(self._book.kind)):
            annotate(error, hint)

    def _describe(self) -> str:
        """Return which task it is, and what it calls."""
        chunk = self._chunk
        call = f": {describe(chunk.items[0])}" if chunk is not None and chunk.items else ""
        return f"{self._book.noun} {self._number} of {self._book.kind} {self._book.name!r}{call}"

    def _wait(self, timeout: float | None) -> None:
        chunk = self._chunk
        if chunk is None or self.done():
            return
        book = self._book
        book.check_owner()
        cancelling.refuse_on_loop("waiting for a task", "`await asyncio.wrap_future(task)`")
        if timeout is None and run_here(book.crew, chunk):
            check_cancelled()
            if self.done():
                return
        parker = Parker()
        wake = _Wake(parker)
        self.add_done_callback(wake)
        deadline = None if timeout is None else clock.now() + timeout
        try:
            with making_room(book.crew, self), Wait(EndOfTask(self), parker, timeout) as wait:
                while not self.done() and (deadline is None or not clock.has_come(deadline)):
                    wait.check()
                    seconds = None if deadline is None else clock.left_until(deadline)
                    try:
                        cancelling.wait(parker, seconds, look_seconds())
                    except Cancelled:
                        if not self.done():  # an answer that is there is given, whoever was faster
                            raise
        finally:
            with self._condition:
                if wake in self._done_callbacks:
                    self._done_callbacks.remove(wake)


class _Wake:
    """A done-callback that wakes a parked thread."""

    __slots__ = ("_parker",)

    def __init__(self, parker: Parker) -> None:
        self._parker = parker

    def __call__(self, _: Future[Any]) -> None:
        self._parker.wake()


def current_task() -> Task[Any] | None:
    """Return the task whose call runs here; None in the call of a ``map``, and outside of any.

    Example:
        >>> import treadle
        >>> with treadle.TaskGroup() as group:
        ...     task = group.submit(treadle.current_task)
        >>> task.result() is task
        True
    """
    seat = here.seat
    task: Task[Any] | None = None if seat is None else seat.current_task()
    return task
