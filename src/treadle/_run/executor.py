"""``PoolExecutor``: the standard library's executor, for whoever expects one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, overload

from treadle._core.describe import describe, show_own
from treadle._core.hedge import Hedge
from treadle._core.option_names import suggesting
from treadle._core.outcome import Stats
from treadle._core.retry import Retry
from treadle._core.settings import EngineOption, WorkersOption, as_initargs, check_callable
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._core.user_code import is_a
from treadle._crew.crew import IDLE_SECONDS
from treadle._engines.resource import as_resource
from treadle._run.choosing import check_engine
from treadle._run.options import make_policy
from treadle._run.task import Task
from treadle._run.task_book import TaskBook
from treadle._run.task_engine import TaskSpec
from treadle._run.tuning import count_workers
from treadle._sync import timekeeper
from treadle._sync.limiter import Limiter
from treadle.errors import PoolClosed, WrongType

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_numbers = count()


class _WorkQueue:
    """The tasks of an executor that have not begun, to be counted."""

    __slots__ = ("_book",)

    def __init__(self, book: TaskBook) -> None:
        self._book = book

    def qsize(self) -> int:
        """Return how many wait for a worker."""
        return self._book.crew.count_waiting()

    def empty(self) -> bool:
        """Tell whether none does."""
        return self.qsize() == 0


@suggesting
class PoolExecutor(ThreadPoolExecutor):
    """A drop-in for ``concurrent.futures.ThreadPoolExecutor``, on a crew of Treadle's.

    Threads are started as work waits for them, and leave after ten seconds without any. Tasks may submit tasks
    to their own executor and wait for them: a worker that waits, without a timeout, for a task that has not
    begun makes its call itself, and other waits of Treadle's make room for a spare worker. What Treadle cannot
    see, such as ``concurrent.futures.wait()`` or a lock, is outside this promise.

    An interpreter that exits finishes what was submitted, as the standard library does, and ``shutdown(wait=True)``,
    which the ``with`` block calls, waits for all of it. Both say in the log for which calls they wait, when that lasts.
    A first Ctrl-C meanwhile cancels what has not begun and asks the rest to end, a second leaves it behind. With
    ``grace``, calls that were asked to end are left behind by themselves, and an interpreter that exits asks them. An
    executor that nobody holds any more finishes what it has, and ends.

    It is a ``ThreadPoolExecutor`` to ``isinstance``, for those who take no other (``loop.set_default_executor``), and
    has what monitors look at there: ``_max_workers``, ``_threads``, ``_shutdown`` and ``_work_queue.qsize()``. Of that
    class's own machinery it has nothing.

    Args:
        max_workers: Workers at most, 32 unless given, or with processes as many as there are usable cores. ``"auto"``:
            as for ``map``; what is learnt belongs to the first function submitted. Not where calls wait for each
            other.
        thread_name_prefix: Of the names of its threads.
        initializer: Called by each thread before its first call, with ``initargs``. If it fails, the executor
            is broken: ``BrokenThreadPool`` for all that has not begun. What it sets in context variables calls
            do not see: theirs are the submitter's.
        initargs: Its arguments.
        call_timeout: Seconds for one call; see ``map``, as for the following.
        retry: When a failed call is made again.
        limiter: The gate that every call passes.
        hedge: When a slow call is started a second time.
        grace: Seconds that calls have to end when they were asked to: after ``call_timeout``, at a Ctrl-C, by
            ``shutdown(cancel_futures=True)``, and at the interpreter's exit, which then cancels what has not begun.
            What still runs after that is left behind, and logged. None: 0.25 after ``call_timeout``, and otherwise as
            long as it takes; then only Ctrl-C asks calls that run to end.
        max_abandoned: Calls left behind and still stuck at most, before the executor breaks; by default
            ``max_workers``.
        resource: Opens what must not be shared between threads; see ``map``. Each worker opens one for itself, and
            calls get it as their last positional argument. A call that waits for a task of its own executor keeps its
            own: the other is made by a further worker, with a further resource.
        engine: ``"threads"``, ``"processes"`` or ``"coroutines"``; see ``map``. Where it is not given, coroutine
            functions run on an event loop and others on threads, side by side (with ``resource`` all as the first one).
        max_tasks_per_child: Calls after which a process is replaced by a fresh one.

    Raises:
        InvalidArgument: An option is outside its bounds.
        NotPicklable: The initializer cannot be sent to a process.
        WrongType: An option is not what it must be.

    Example:
        >>> import treadle
        >>> with treadle.PoolExecutor(max_workers=2) as pool:
        ...     print(pool.submit(pow, 2, 10).result(), list(pool.map(abs, [-1, -2])))
        1024 [1, 2]
    """

    def __init__(
        self,
        max_workers: WorkersOption | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        call_timeout: float | None = None,
        retry: Retry | None = None,
        limiter: Limiter | None = None,
        hedge: Hedge | None = None,
        grace: float | None = None,
        max_abandoned: int | None = None,
        resource: Callable[[], Any] | None = None,
        engine: EngineOption | None = None,
        max_tasks_per_child: int | None = None,
    ) -> None:
        check_engine(engine, max_tasks_per_child)
        workers = count_workers(max_workers, engine)
        if not isinstance(thread_name_prefix, str):
            raise WrongType("thread_name_prefix", describe(thread_name_prefix), "a string")
        if initializer is not None:
            check_callable("initializer", initializer)
        if resource is not None:
            check_callable("resource", resource)
        policy = make_policy(workers, resource, grace, max_abandoned, call_timeout, retry, limiter, hedge)
        name = thread_name_prefix or f"pool-{next(_numbers)}"
        self._book = TaskBook(
            TaskSpec(
                kind="executor",
                name=name,
                max_workers=workers,
                policy=policy,
                refuse=PoolClosed,
                initializer=initializer,
                initargs=as_initargs(initargs),
                resource=as_resource(resource, retry),
                idle_seconds=IDLE_SECONDS,
                prefix=f"{thread_name_prefix}_" if thread_name_prefix else None,
                engine=engine,
                max_tasks_per_child=max_tasks_per_child,
                is_tuned=max_workers == "auto",
            )
        )
        self._grace = self._book.grace = grace
        self._book.goodbye = self._book.finish
        self._book.renews = True
        # By the names that the standard library's executor has for them; what is left of that is not made.
        self._max_workers = workers
        self._thread_name_prefix = name
        self._work_queue = _WorkQueue(self._book)  # type: ignore[assignment]  # it can be looked at, and no more

    def __repr__(self) -> str:
        return show_own(self, lambda: repr(self._book))

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

        The call sees the context variables of whoever submits it.

        Raises:
            PoolClosed: The executor was shut down, the interpreter exits, or this is a forked child. It is a
                ``RuntimeError``, as the standard library's.
            concurrent.futures.BrokenExecutor: The initializer failed.
            TooManyAbandoned: More calls are stuck than ``max_abandoned``.
            WrongType: ``fn`` cannot be called.
        """
        return self._book.submit(fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no further task, and let the threads go when the last one has ended.

        Args:
            wait: Return only when all tasks have ended and all threads are gone.
            cancel_futures: Cancel the tasks that have not begun. Where the executor has a ``grace``, those that run are
                asked to end, and left behind after it.

        Raises:
            KeyboardInterrupt: Ctrl-C, meanwhile. All tasks were cancelled; at the second one, what did not heed that
                was left behind.
        """
        self._shut_down(wait, cancel_futures, interrupts=0)

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            is_interrupted = is_a(error, KeyboardInterrupt)
            if is_interrupted:
                self._book.cancel_all()
            self._shut_down(wait=True, cancel_futures=is_interrupted, interrupts=int(is_interrupted))
        except BaseException:  # Ctrl-C, maybe between two steps of it: the rest is owed
            self._book.cancel_all()
            self._shut_down(wait=True, cancel_futures=True, interrupts=1)
            raise

    def __del__(self) -> None:
        book = getattr(self, "_book", None)
        if book is not None and book.closed is None and book.crew.workers:
            # Not here: an object may be collected anywhere, and nothing may be waited for.
            timekeeper.leave(partial(book.close, "was collected"))

    # What the standard library's executor has, for those who look at it

    @property
    def _threads(self) -> set[threading.Thread]:  # type: ignore[override]  # nobody else is to change it
        threads = [worker.thread for worker in list(self._book.crew.workers)]
        return {thread for thread in threads if isinstance(thread, threading.Thread)}

    @property
    def _shutdown(self) -> bool:  # type: ignore[override]
        return self._book.closed is not None

    @property
    def _broken(self) -> bool:  # type: ignore[override]
        return self._book.broken is not None

    def _shut_down(self, wait: bool, cancel_futures: bool, interrupts: int) -> None:
        book = self._book
        book.close("was shut down")
        if cancel_futures:
            for task in list(book.unfinished):
                book.cancel_unbegun(task)
            if self._grace is not None:
                book.cancel_all()
        if wait:
            interrupt = book.join(interrupts, self._grace)
            if interrupt is not None:
                raise interrupt
