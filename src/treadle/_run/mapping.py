"""``treadle.map``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar, Unpack, overload

from treadle._core.cancellation import check_cancelled
from treadle._core.coroutine_function import CoroutineFunction
from treadle._core.describe import describe
from treadle._core.hedge import Hedge
from treadle._core.option_names import suggesting
from treadle._core.retry import Retry
from treadle._core.settings import (
    DEFAULT_GRACE_SECONDS,
    Intake,
    Progress,
    RunEngine,
    WorkersOption,
)
from treadle._run.choosing import EngineChoice, choose_engine
from treadle._run.course import Course
from treadle._run.options import MapOptions, Recipe, prepare
from treadle._run.run import Run, Stream
from treadle._run.tuning import Tuning
from treadle._run.unread import Unread
from treadle._show.progress import show_progress
from treadle._sync.limiter import Limiter
from treadle.errors import InvalidArgument, WrongType

# How often to begin with taking items, should the input seem slow: nobody may come back for a while, and what seems
# slow may be a thread that had to wait for the GIL.
FIRST_REFILLS = 3

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")
Resource = TypeVar("Resource")
S = TypeVar("S", bound=Stream[Any])


# What is to be awaited comes first: a coroutine is also what a plain function could return.
@overload
def map(fn: CoroutineFunction[[A], R], iterable: Iterable[A], /, **options: Unpack[MapOptions]) -> Run[A, R]: ...
@overload
def map(
    fn: CoroutineFunction[[A, B], R],
    first: Iterable[A],
    second: Iterable[B],
    /,
    **options: Unpack[MapOptions],
) -> Run[tuple[A, B], R]: ...
@overload
def map(
    fn: CoroutineFunction[[A, Resource], R],
    iterable: Iterable[A],
    /,
    *,
    resource: Callable[[], AbstractAsyncContextManager[Resource] | AbstractContextManager[Resource]],
    **options: Unpack[MapOptions],
) -> Run[A, R]: ...
@overload
def map(
    fn: CoroutineFunction[[A, Resource], R],
    iterable: Iterable[A],
    /,
    *,
    resource: CoroutineFunction[[], Resource],
    **options: Unpack[MapOptions],
) -> Run[A, R]: ...
@overload
def map(
    fn: CoroutineFunction[[A, Resource], R],
    iterable: Iterable[A],
    /,
    *,
    resource: Callable[[], Resource],
    **options: Unpack[MapOptions],
) -> Run[A, R]: ...
@overload
def map(
    fn: CoroutineFunction[..., R],
    first: Iterable[Any],
    second: Iterable[Any],
    /,
    *more: Iterable[Any],
    resource: Callable[[], Any],
    **options: Unpack[MapOptions],
) -> Run[Any, R]: ...
@overload
def map(
    fn: CoroutineFunction[..., R],
    first: Iterable[Any],
    second: Iterable[Any],
    third: Iterable[Any],
    /,
    *more: Iterable[Any],
    **options: Unpack[MapOptions],
) -> Run[Any, R]: ...
@overload
def map(fn: Callable[[A], R], iterable: Iterable[A], /, **options: Unpack[MapOptions]) -> Run[A, R]: ...
@overload
def map(
    fn: Callable[[A, B], R], first: Iterable[A], second: Iterable[B], /, **options: Unpack[MapOptions]
) -> Run[tuple[A, B], R]: ...
@overload
def map(
    fn: Callable[[A, Resource], R],
    iterable: Iterable[A],
    /,
    *,
    resource: Callable[[], AbstractContextManager[Resource]],
    **options: Unpack[MapOptions],
) -> Run[A, R]: ...
@overload
def map(
    fn: Callable[[A, Resource], R],
    iterable: Iterable[A],
    /,
    *,
    resource: Callable[[], Resource],
    **options: Unpack[MapOptions],
) -> Run[A, R]: ...
@overload
def map(
    fn: Callable[..., R],
    first: Iterable[Any],
    second: Iterable[Any],
    /,
    *more: Iterable[Any],
    resource: Callable[[], Any],
    **options: Unpack[MapOptions],
) -> Run[Any, R]: ...
@overload
def map(
    fn: Callable[..., R],
    first: Iterable[Any],
    second: Iterable[Any],
    third: Iterable[Any],
    /,
    *more: Iterable[Any],
    **options: Unpack[MapOptions],
) -> Run[Any, R]: ...
@suggesting
def map(
    fn: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    max_workers: WorkersOption | None = None,
    ordered: bool = True,
    buffersize: int | None = None,
    chunksize: int | None = None,
    call_timeout: float | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    limiter: Limiter | None = None,
    hedge: Hedge | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    resource: Callable[[], Any] | None = None,
    intake: Intake = "caller",
    strict: bool = False,
    progress: Progress = False,
    name: str | None = None,
    grace: float = DEFAULT_GRACE_SECONDS,
    max_abandoned: int | None = None,
    engine: RunEngine | None = None,
    max_tasks_per_child: int | None = None,
) -> Run[Any, Any]:
    """Call ``fn`` with the items of ``iterables``, many at a time on threads, and return the ``Run``.

    Iterate the run for results, or its ``outcomes()`` for one ``Outcome`` per item. Calls begin at once;
    further items are taken as results are consumed, never more than ``max_workers + buffersize`` beyond the
    last one, so an endless input is fine. With several iterables ``fn`` gets an item of each, and the
    shortest ends the run.

    The first call to fail stops the run: no item is taken any more, what runs has ``grace`` seconds to end,
    the results before it are delivered, and then its exception is raised as it is, with a note that names
    the item. An exception of the input is raised after the results before it. Each call sees the context
    variables of whoever called ``map``, and nothing it sets in them is seen by anybody else.

    Args:
        fn: Called on worker threads; safe to call from several at once. Or a coroutine function: its calls are
            awaited, ``max_workers`` of them at once, on one event loop on a thread of its own.
        iterables: Advanced by one thread at a time, by default the one that consumes the results.
        max_workers: Workers at most, 32 unless given, or with processes as many as there are usable cores; started
            only as work waits for them. ``"auto"``: as many as bring something, up to 256 threads; found by measuring
            while calls are made, and remembered, in this process, for the next run of the same function, bound to the
            same (``self``, a ``partial``'s arguments, a closure), with the same limiter and resource. The bounds below
            go by the number of the moment. Not for calls that wait for each other.
        ordered: Deliver in input order; False delivers as calls complete.
        buffersize: Items that may wait, beyond one per worker. By default as many as there are workers (or with
            ``chunksize`` that many chunks), and more only while calls are short and what they return is small.
            One given also caps the chunks.
        chunksize: Items a worker takes in one go. By default found by measuring: up to 2,048 for tiny calls, 1 for
            those of a millisecond or more; of calls below 20 milliseconds some where threads are so many that they
            would not be handed over fast enough one by one. Idle workers take calls over from busy ones. A process may
            be sent several chunks of tiny calls at once, and answers each by itself.
        call_timeout: Seconds for one call. A call that takes longer is asked to end (see ``check_cancelled``) and
            counts as ``timed_out``, with ``CallTimedOut`` for its error, whatever it returns later; if it does
            not end within ``grace``, its thread is left behind and another takes its place. With
            ``call_timeout``, ``retry``, ``limiter`` or ``hedge`` a worker takes one call at a time.
        timeout: Seconds for the whole run, from now; a result that is not there by then raises
            ``TimeoutError``.
        retry: When a failed call is made again; what the last attempt comes to is the item's outcome.
        limiter: The gate that every call passes, first tries and retries alike; may be shared with others.
        hedge: When a slow call is started a second time. Only for functions that may be called twice.
        initializer: Called once by each worker before its first call, with ``initargs``.
        initargs: Arguments of ``initializer``.
        resource: Opens what must not be shared between threads, such as a connection. Each worker opens one
            for itself and its calls get it as their last argument. A context manager is entered, and exited
            when the worker leaves; of anything else ``close()`` is called, if there is one. For coroutines it may be
            opened and closed by awaiting as well: an asynchronous context manager, ``aclose()``. (A ``sqlite3``
            connection is a context manager that commits and does not close: wrap it in
            ``contextlib.closing``.) Several workers may call the function at once. A ``treadle.Resource`` in its
            place replaces what is broken or old.
        intake: ``"caller"``: the consumer's thread advances the input. ``"thread"``: a thread of its own
            does, so that results flow while the input blocks.
        strict: Iterables of different lengths are a ``ValueError`` once the shortest has ended.
        progress: True shows progress on standard error; a function is called with ``Stats`` now and then,
            and at the end, on a thread of its own.
        name: For logs, displays and thread names; the function's name unless given.
        grace: Seconds that running calls may take to end after a failure, a close, a timeout or Ctrl-C.
            What is still stuck then is left behind.
        max_abandoned: Calls left behind and still stuck at most; more end the run with ``TooManyAbandoned``. By default
            ``max_workers``.
        engine: Not given, ``"threads"``, or for coroutine functions ``"coroutines"``, which may also be given for what
            only turns out to return something awaitable. ``"processes"``: each worker has a process of its own make its
            calls, for work that computes. Functions of the script itself need its guard
            (``if __name__ == "__main__":``), lambdas and inner functions need
            ``pip install 'treadle[processes]'``. A call past ``call_timeout`` or ``grace`` is
            killed with its process, so nothing is left behind. Context variables do not travel. ``"auto"``: on
            threads, until the first calls have shown that they hold the GIL, and that processes would pay;
            ``stats.decision`` says why. An executor of ``concurrent.futures`` makes them where it makes all calls.
        max_tasks_per_child: Calls after which a process is replaced by a fresh one; None: never.

    Raises:
        InvalidArgument: An option is outside its bounds.
        NotPicklable: The function, ``initializer`` or ``resource`` cannot be sent to a process.
        WrongType: An argument is not what it must be, such as a function or an iterable.

    Example:
        >>> import treadle
        >>> list(treadle.map(pow, [2, 3], [5, 2]))
        [32, 9]
    """
    recipe = prepare(
        fn,
        spread=len(iterables) > 1,
        resource=resource,
        max_workers=max_workers,
        ordered=ordered,
        buffersize=buffersize,
        chunksize=chunksize,
        call_timeout=call_timeout,
        timeout=timeout,
        retry=retry,
        limiter=limiter,
        hedge=hedge,
        initializer=initializer,
        initargs=initargs,
        intake=intake,
        progress=progress,
        name=name,
        grace=grace,
        max_abandoned=max_abandoned,
        engine=engine,
        max_tasks_per_child=max_tasks_per_child,
    )
    return start_run(Run, recipe, _join(iterables, strict), total_of(iterables), never_read(recipe))


def never_read(recipe: Recipe) -> Unread:
    """Return what is to be said of a run that nobody ever reads; for the thread that starts it."""
    name = recipe.settings.name
    return Unread(f"run {name!r}", f"iterate it, call its wait(), or use treadle.for_each({name}, ...)")


def start_run(
    kind: type[S],
    recipe: Recipe,
    items: Iterator[Any],
    total: int | None = None,
    unread: Unread | None = None,
    make_course: Callable[..., Course] = Course,
    choose: Callable[..., EngineChoice] = choose_engine,
) -> S:
    """Start a run of this ``kind`` over ``items``, of which ``total`` are expected.

    ``unread`` is what warns if nobody ever asks it for anything.
    """
    check_cancelled()
    settings, plan = recipe.settings, recipe.plan
    choice = choose(settings.engine, plan, settings.name, settings.max_workers)
    course = make_course(settings, recipe.policy, plan, choice, items)
    if settings.is_tuned:
        course.tune(Tuning(settings.engine, plan, recipe.policy.limiter))
    if choice.decider is not None:
        choice.decider.lead(course.crew, total)
    run = kind._open(course, plan.context, as_outcomes=False)
    if settings.progress is not False:
        course.on_end.append(show_progress(settings.name, settings.progress, course.stats, total))
    course.follow_outer()
    if settings.intake == "thread":
        course.use_feeder(plan.context.copy())
    else:
        _take_first(course)
    course.unread = unread  # from here on somebody can read it
    return run


def _take_first(course: Course) -> None:
    try:
        for _ in range(FIRST_REFILLS):
            if not course.intake.refill():
                break
    except BaseException as error:  # Ctrl-C: nobody will ever have this run to close it
        course.end_interrupted(error)
        raise


def _join(iterables: tuple[Iterable[Any], ...], strict: bool) -> Iterator[Any]:
    if not iterables:
        raise WrongType("the input", "missing", "at least one iterable", "give it behind the function")
    is_one = len(iterables) == 1
    iterators = [
        iterate("iterables" if is_one else f"iterables[{position}]", iterable, _meant_by(iterable, position))
        for position, iterable in enumerate(iterables)
    ]
    if not isinstance(strict, bool):
        raise InvalidArgument("strict", describe(strict), "True or False")
    return iterators[0] if is_one else zip(*iterators, strict=strict)


def _meant_by(given: object, position: int) -> str:
    """Return what was probably meant by an argument of ``map``, if it turns out to be no iterable."""
    if isinstance(given, int) and not isinstance(given, bool):
        return f"write max_workers={given} for so many workers" if position else f"write range({given}) for the numbers"
    return "call it, for what it returns" if callable(given) and not isinstance(given, type) else ""


def iterate(name: str, iterable: Iterable[Any], hint: str = "") -> Iterator[Any]:
    """Return an iterator over the argument called ``name``. To be called once: again, it may be a second query.

    Raises:
        WrongType: It is no iterable; ``hint`` is what was probably meant.
    """
    try:
        return iter(iterable)
    except TypeError:
        raise WrongType(name, f"{describe(iterable)} ({type(iterable).__name__})", "iterable", hint) from None


def total_of(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """Return how many items there will be, if every iterable knows its length."""
    try:
        return min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]  # those without raise
    except Exception:
        return None
