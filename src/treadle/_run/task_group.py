"""Task groups: calls that begin and end within a block."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, TypeVarTuple, overload

from treadle._core import clock
from treadle._core.cancellation import Registration, Scope, check_cancelled, current_scope, enter, leave
from treadle._core.describe import annotate, describe, name_of_type, show_own
from treadle._core.hedge import Hedge
from treadle._core.option_names import suggesting
from treadle._core.outcome import Stats
from treadle._core.retry import Retry
from treadle._core.settings import (
    DEFAULT_GRACE_SECONDS,
    EngineOption,
    WorkersOption,
    check_callable,
    check_seconds,
    not_among,
)
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._core.user_code import is_a
from treadle._engines.resource import as_resource
from treadle._run.choosing import check_engine
from treadle._run.options import make_policy
from treadle._run.task import Task
from treadle._run.task_book import NOT_BEGUN, TaskBook
from treadle._run.task_engine import TaskSpec
from treadle._run.tuning import count_workers
from treadle._sync import timekeeper
from treadle._sync.cancelling import refuse_on_loop
from treadle._sync.limiter import Limiter
from treadle._sync.timekeeper import Timer
from treadle.errors import Cancelled, GroupClosed, InvalidArgument, TooManyAbandoned, WrongType

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

OnError = Literal["cancel", "collect"]


@suggesting
class TaskGroup:
    """Calls that are made at once, and have all ended when the ``with`` block is left.

    ``submit`` has a function called on a thread of the group's crew. The end of the block waits for all tasks,
    also those that tasks submit meanwhile. The first failure, of a task or of the block, cancels the rest:
    calls that have not begun never do, those that run are asked to end (see ``check_cancelled``), and so is the
    block itself, in its waits. Then all failures are raised as one ``ExceptionGroup``. What is not an
    ``Exception``, such as ``KeyboardInterrupt``, passes from the block as it is.

    The group waits for calls that do not heed that they are cancelled, and says so in the log, again and again.
    It leaves them behind only after ``grace``, if given, or at the second Ctrl-C.

    Groups nest: a group that is opened in a task, or in the block of another, is cancelled with it.

    Args:
        max_workers: Calls at once; 32 unless given, or with processes as many as there are usable cores. Tasks beyond
            wait. ``"auto"``: as for ``map``; what is learnt belongs to the first function submitted. Not where calls
            wait for each other.
        timeout: Seconds for the whole block; then the rest is cancelled and the built-in ``TimeoutError``
            raised, within the ``ExceptionGroup`` if there were failures.
        name: For logs, threads and errors.
        grace: Seconds after a cancellation in which calls have to end; then they are left behind, logged and
            counted, and their tasks are cancelled. None: as long as it takes.
        on_error: ``"cancel"``, or ``"collect"``: a task's failure cancels nothing. All failures are raised in
            the end, but for those that somebody was given by ``Task.result()`` or ``exception()``.
        call_timeout: Seconds for one call; see ``map``, as for the following.
        retry: When a failed call is made again.
        limiter: The gate that every call passes.
        hedge: When a slow call is started a second time.
        max_abandoned: Calls left behind and still stuck at most, before the group breaks.
        resource: Opens what must not be shared between threads; see ``map``. Each worker opens one for itself, and
            calls get it as their last positional argument; the end of the block waits until all are closed.
        engine: ``"threads"``, ``"processes"`` or ``"coroutines"``; see ``map``. Where it is not given, coroutine
            functions run on an event loop and others on threads, side by side (with ``resource`` all as the first one).

    Raises:
        InvalidArgument: An option is outside its bounds.
        WrongType: An option is not what it must be.

    Example:
        >>> import treadle
        >>> with treadle.TaskGroup() as group:
        ...     two = group.submit(abs, -2)
        ...     eight = group.submit(pow, 2, 3)
        >>> two.result(), eight.result()
        (2, 8)
    """

    def __init__(
        self,
        max_workers: WorkersOption | None = None,
        timeout: float | None = None,
        name: str | None = None,
        grace: float | None = None,
        *,
        on_error: OnError = "cancel",
        call_timeout: float | None = None,
        retry: Retry | None = None,
        limiter: Limiter | None = None,
        hedge: Hedge | None = None,
        max_abandoned: int | None = None,
        resource: Callable[[], Any] | None = None,
        engine: EngineOption | None = None,
    ) -> None:
        check_engine(engine, None)
        workers = count_workers(max_workers, engine)
        _check(timeout, name, on_error, resource)
        policy = make_policy(workers, resource, grace, max_abandoned, call_timeout, retry, limiter, hedge)
        self._book = TaskBook(
            TaskSpec(
                kind="group",
                name="group" if name is None else name,
                max_workers=workers,
                policy=policy,
                refuse=GroupClosed,
                resource=as_resource(resource, retry),
                engine=engine,
                is_tuned=max_workers == "auto",
            )
        )
        self._book.closed = NOT_BEGUN
        self._book.on_failure = self._note_failure
        self._book.goodbye = self._say_goodbye
        self._on_error = on_error
        self._grace = grace
        self._timeout = timeout
        self._book.has_timeout = timeout is not None
        self._timer: Timer | None = None
        self._scope = Scope()
        self._outer: Scope | None = None
        self._registration: Registration | None = None
        self._is_cancelled = False
        self._is_late = False
        self._is_quiet = False  # somebody has called ``cancel()``, before there was another reason to end
        self._failed: list[Task[Any]] = []

    def __repr__(self) -> str:
        return show_own(self, lambda: repr(self._book))

    def __enter__(self) -> Self:
        if self._book.closed != NOT_BEGUN:
            raise GroupClosed(self.name, "was entered before")
        refuse_on_loop("the end of a treadle.TaskGroup", "`async with asyncio.TaskGroup()`")
        self._outer = outer = current_scope()
        if outer is not None:
            outer.check()
        self._book.closed = "was cancelled" if self._scope.is_cancelled else None
        try:
            if outer is not None:
                self._registration = outer.add(lambda: self._cancel(outer.reason))
            if self._timeout is not None:
                self._timer = timekeeper.call_at(clock.now() + self._timeout, self._run_out, may_block=True)
            enter(self._scope)
        except BaseException:  # nobody will leave what was not entered
            self._book.closed = NOT_BEGUN
            self._let_go()
            raise
        return self

    @property
    def name(self) -> str:
        """The group's name."""
        return self._book.name

    @property
    def stats(self) -> Stats:
        """The account of the tasks as it stands. May be asked at any time, from any thread."""
        return self._book.stats()

    @overload
    def submit(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    @overload  # where there is a resource, which is the last argument
    def submit(self, fn: Callable[[*Ts, Any], Coroutine[Any, Any, T]], /, *args: *Ts) -> Task[T]: ...
    @overload
    def submit(self, fn: Callable[[*Ts, Any], T], /, *args: *Ts) -> Task[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[Any]:  # type: ignore[misc]  # for *Ts
        """Have ``fn(*args, **kwargs)`` called on a thread, and return its task.

        May be called from the block, from tasks, and from other threads. The call sees the context variables of
        whoever submits it.

        Raises:
            GroupClosed: The group has ended, or has not begun.
            Cancelled: The group was cancelled, and so is whoever submits.
            WrongType: ``fn`` cannot be called.
        """
        try:
            return self._book.submit(fn, args, kwargs)
        except (GroupClosed, TooManyAbandoned):
            check_cancelled()  # whoever was cancelled with the group ends as quietly
            raise

    def cancel(self) -> None:
        """Cancel all tasks, and the block in its waits; the group ends without an error of its own.

        What had failed before is raised. What had failed, but would have been tried again, is not.
        """
        self._is_quiet = self._is_quiet or not self._scope.is_cancelled
        self._cancel(f"group {self.name!r} was cancelled")

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if is_a(error, Cancelled) and self._scope.is_cancelled:
                error = None  # ours, or that of the scope around us, which is asked in the end
            interrupt = self._end(error)
        except BaseException as raised:  # Ctrl-C between two steps of it
            self._cancel(f"group {self.name!r} was interrupted")
            interrupt = self._book.join(1, self._grace) or raised
        finally:
            self._let_go()
        try:
            return self._conclude(error, interrupt)
        finally:
            self._failed.clear()
            del error, interrupt, traceback  # an exception's traceback leads here

    # How it ends

    def _end(self, error: BaseException | None) -> BaseException | None:
        """Wait for the end of everything, and return what interrupted the wait."""
        leave(self._scope)
        if error is not None:
            self._cancel(f"group {self.name!r} ended with {name_of_type(error)}")
        self._book.close("has ended", when_empty=True)
        return self._book.join(int(is_a(error, KeyboardInterrupt)), self._grace)

    def _cancel(self, reason: str) -> None:
        if self._is_cancelled:
            return
        self._scope.flag(reason)
        self._book.cancel_all()
        self._scope.run_callbacks()
        self._is_cancelled = True  # in the end: whatever interrupts this, it can be done again

    def _note_failure(self, task: Task[Any]) -> None:
        self._failed.append(task)
        if self._on_error == "cancel" or self._book.broken is not None:
            self._cancel(f"a task of group {self.name!r} failed")

    def _run_out(self) -> None:
        if not (self._scope.is_cancelled or self._book.closed):
            self._is_late = True
            self._cancel(f"group {self.name!r} ran out of time")

    def _say_goodbye(self, grace: float | None) -> None:
        self._cancel("the interpreter exits")
        self._book.join(1, grace)

    def _let_go(self) -> None:
        leave(self._scope)
        if self._timer is not None:
            self._timer.cancel()
        if self._outer is not None and self._registration is not None:
            self._outer.remove(self._registration)

    def _conclude(self, error: BaseException | None, interrupt: BaseException | None) -> bool:
        """Raise what there is to raise; True: nothing, and the block's own error is dealt with."""
        failures = self._failures()
        broken = self._book.broken
        if broken is not None and not any(broken is failure for failure in failures):
            failures.append(broken)
        for own in (error, interrupt):
            if is_a(own, Exception) and not any(own is failure for failure in failures):
                failures.insert(0, own)
        bare = interrupt if interrupt is not None and not is_a(interrupt, Exception) else error
        if bare is not None and not is_a(bare, Exception):
            for failure in failures:
                annotate(bare, f"group {self.name!r} also had the failure {describe(failure)}")
            if bare is error:
                return False
            raise bare from None
        if self._is_late:
            late = TimeoutError(f"group {self.name!r} did not end within timeout={self._timeout} seconds")
            if not failures:
                raise late from None
            failures.insert(0, late)
        if failures:
            raise BaseExceptionGroup(f"group {self.name!r} failed", failures) from None
        if self._outer is not None:
            self._outer.check()
        return True

    def _failures(self) -> list[BaseException]:
        """Return the failures to be raised, each once, in the order of the tasks."""
        failures: dict[int, BaseException] = {}  # by identity: exceptions may compare as they like
        for task in sorted(self._failed, key=lambda task: task._number):
            failure = task.failure
            is_told = self._on_error == "collect" and task._is_told
            is_moot = self._is_quiet and task._is_given_up
            if failure is not None and not (is_told or is_moot):
                failures.setdefault(id(failure), failure)
        return list(failures.values())


@suggesting
def first_success(*fns: Callable[[], T], timeout: float | None = None, grace: float = DEFAULT_GRACE_SECONDS) -> T:
    """Call all ``fns`` at once, return what the first one to succeed returns, and cancel the others.

    Args:
        fns: Called without arguments, each on a thread of its own.
        timeout: Seconds for all of it.
        grace: Seconds that those cancelled have to end; then they are left behind, and logged.

    Raises:
        ExceptionGroup: All of them failed; it has their exceptions, in order.
        TimeoutError: None of them succeeded in time, and none failed; otherwise it is in the group.
        InvalidArgument: There are no functions.
        WrongType: One of ``fns`` cannot be called.

    Example:
        >>> import treadle
        >>> treadle.first_success(lambda: treadle.sleep(60), lambda: "fast")
        'fast'
    """
    if not fns:
        raise InvalidArgument("fns", "none", "at least one function")
    for fn in fns:
        check_callable("fns", fn)
    winners: list[Task[T]] = []

    def note(task: Any) -> None:
        if not task.cancelled() and task.failure is None:
            winners.append(task)
            group.cancel()

    group = TaskGroup(len(fns), timeout, "first_success", grace, on_error="collect")
    group._book.ends_with_first = True
    try:
        with group:
            for fn in fns:
                if winners:
                    break
                group.submit(fn).add_done_callback(note)
    except (Exception, BaseExceptionGroup):
        if not winners:
            raise
    return winners[0].result()


def _check(timeout: object, name: object, on_error: object, resource: object) -> None:
    if timeout is not None:
        check_seconds("timeout", timeout)
    if name is not None and not isinstance(name, str):
        raise WrongType("name", describe(name), "a string")
    if on_error not in ("cancel", "collect"):
        raise not_among("on_error", on_error, ("cancel", "collect"))
    if resource is not None:
        check_callable("resource", resource)
