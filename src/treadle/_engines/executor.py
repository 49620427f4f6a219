"""The executor engine: the worker's thread sends calls to an executor of the user's, and waits for their results."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from types import CoroutineType
from typing import Any
from uuid import uuid4

from treadle._core.cancellation import Around, Scope, here
from treadle._core.chunk import Chunk
from treadle._core.describe import annotate, describe, describe_error, describe_function
from treadle._core.quiet_seat import QuietSeat
from treadle._core.real_time import perf_counter
from treadle._core.user_code import is_a
from treadle._engines.dask import DaskExecutor, count_threads
from treadle._engines.engine import CallPlan, EngineBroken, never_awaited
from treadle._engines.errand import as_errand, function_in_pickle, make_calls, pack
from treadle._engines.inline import spread
from treadle._engines.portions import fail, fitting, put_back, take
from treadle._engines.process_pickling import unwrap, unwrap_error, wrap
from treadle._sync.aside import run_aside
from treadle._sync.parker import Parker
from treadle.errors import NotPicklable

# Work for so long goes in one go: much more than the way there and back takes, on one machine and on a fast network.
PORTION_SECONDS = 0.050


class Dispatch:
    """What the engines of one crew have in common.

    Args:
        executor: Makes the calls. It is the user's, and nobody here shuts it down.
        plan: How calls are made.
    """

    def __init__(self, executor: Executor, plan: CallPlan) -> None:
        self.executor = executor
        self.plan = plan
        # A cluster does not say whether a call has begun, and cancels it either way. It may make a call again.
        self.tells_begun = not _is_dask(executor)
        self.fitting = 1  # items for the next portion; whoever writes last wins, and every value is a safe one
        self.broken: BaseException | None = None  # why it makes no call any more
        self.make_context = plan.context.copy
        self.call: Callable[[Any], Any] = spread(plan.fn) if plan.spread else plan.fn
        self._function: bytes | None = None

    def function(self) -> bytes | None:
        """Return what makes the calls elsewhere, pickled; None: each item brings it.

        Raises:
            NotPicklable: It cannot be.
        """
        if self._function is None and not self.plan.brings_context:
            try:
                self._function = function_in_pickle(self.plan.fn)
            except BaseException as error:
                raise _blame(error, self.plan.fn, "the function") from error
        return self._function

    def learn(self, made: int, seconds: float) -> None:
        """Fit the next portion, after so many calls took so long."""
        self.fitting = fitting(self.fitting, made, seconds, PORTION_SECONDS)


class Portion(QuietSeat):
    """Some calls of a chunk, as a function without arguments: what an executor gets.

    It is pickled only if the executor does so; one that makes calls in this process makes them with the objects
    themselves. Where it makes them, it is also their seat: it knows their scope.
    """

    def __init__(self, dispatch: Dispatch, chunk: Chunk, items: list[Any]) -> None:
        self.items = items
        self.refused: dict[int, NotPicklable] = {}  # what cannot be sent
        self._dispatch = dispatch
        self._chunk = chunk
        fn = dispatch.plan.fn if not dispatch.plan.brings_context else items[0].fn
        self.__name__ = describe_function(fn)  # by which a dashboard shows it

    def __call__(self) -> tuple[list[Any], bool, dict[int, BaseException], dict[int, Any], list[float]]:
        """Make the calls here, and return what ``carry_out`` returns elsewhere, but for the pickles."""
        dispatch, before, around = self._dispatch, here.seat, Around()
        here.seat = self

        def call(item: Any) -> Any:
            try:
                return dispatch.call(item)
            finally:
                around.take_out()

        try:
            results, errors, ends = make_calls(
                call, self.items, dispatch.make_context, PORTION_SECONDS, lambda: self._chunk.is_cancelled
            )
        finally:
            here.seat = before
            around.put_back()
        return results, False, errors, {}, ends

    def call_scope(self) -> Scope:
        """Return the scope of the call being made; for the thread that makes it."""
        return self._chunk.own_scope()

    def current_task(self) -> Any:
        """Return the task whose call is being made."""
        return getattr(self._chunk, "task", None)

    def __reduce__(self) -> tuple[Any, ...]:
        dispatch, items = self._dispatch, self.items
        if dispatch.plan.brings_context:
            items = [(item.fn, item.args, item.kwargs) for item in items]
        try:
            function = dispatch.function()
        except NotPicklable as error:
            self.refused = dict.fromkeys(range(len(items)), error)
            return as_errand(None, False, [], False, PORTION_SECONDS)
        what = "the call" if dispatch.plan.brings_context else "the argument"
        values, are_pickles, refused = pack(items)
        self.refused = {at: _blame(error, items[at], what) for at, error in refused.items()}
        return as_errand(function, dispatch.plan.spread, values, are_pickles, PORTION_SECONDS)

    def __dask_tokenize__(self) -> str:
        """Return what no other portion has: Dask takes equal ones for the same, and would make their calls once."""
        return uuid4().hex


class ExecutorEngine:
    """Makes calls by an executor, one portion at a time.

    Args:
        dispatch: Shared with the other engines of the crew.
    """

    is_killable = False

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._parker = Parker()
        self._under_way: tuple[Chunk, Future[Any]] | None = None
        self._is_left_behind = False
        self._losses = 0  # portions in a row of which nothing came back

    def open(self) -> None:
        """Do nothing, unless the executor is known to be broken."""
        if self._dispatch.broken is not None:
            raise self._dispatch.broken

    def get_ready(self) -> None:
        """Do nothing: nothing is opened."""

    def close(self) -> None:
        """Do nothing."""

    def make_calls(self, chunk: Chunk) -> None:
        """Send the items in portions worth some milliseconds, each when the last has come back.

        Raises:
            EngineBroken: The executor makes no calls any more.
        """
        results = chunk.results  # those of a chunk that was left behind are replaced
        while items := take(chunk, self._dispatch.fitting):
            chunk.sent = len(results) + len(items)
            portion = Portion(self._dispatch, chunk, items)
            future = self._send(chunk, portion)
            while not future.done():
                self._parker.wait()
            self._under_way = None
            self._settle(chunk, results, portion, future)
            chunk.sent = 0

    def _send(self, chunk: Chunk, portion: Portion) -> Future[Any]:
        try:
            future = self._dispatch.executor.submit(portion)
        except BaseException as error:  # it was shut down, or is broken
            put_back(chunk, portion.items)
            raise self._broken(error) from error
        future.add_done_callback(lambda _: self._parker.wake())
        # First this, then the look: who asks for the end does it the other way round.
        self._under_way = chunk, future
        if chunk.is_cancelled:
            self.interrupt()
        if self._is_left_behind:
            self.kill()
        return future

    def _settle(self, chunk: Chunk, results: list[Any], portion: Portion, future: Future[Any]) -> None:
        """Record what came of a portion."""
        if future.cancelled():
            if not (chunk.is_cancelled or self._is_left_behind):
                self._break(chunk, results, portion, BrokenExecutor("the executor has cancelled its calls"))
            put_back(chunk, portion.items)  # none has begun, or nobody asks any more
            return
        error = future.exception()
        if error is None:
            self._losses = 0
            self._record(chunk, results, portion, future.result())
        elif is_a(error, BrokenExecutor):
            self._break(chunk, results, portion, error)
        elif not self._dispatch.tells_begun and self._losses == 0:
            # What calls raise comes back as an answer: this is the cluster's own, as it loses workers, and may pass.
            self._losses += 1
            put_back(chunk, portion.items)
        else:
            for _ in portion.items:
                fail(chunk, results, error)

    def _record(self, chunk: Chunk, results: list[Any], portion: Portion, answer: Any) -> None:
        values, are_pickles, errors, refused, ends = answer
        made = len(values)
        if made:
            self._dispatch.learn(made, ends[-1])
        if chunk.ends is not None:  # before the results: whoever sees a result finds its time
            now = perf_counter()
            chunk.ends.extend(now - (ends[-1] - end) for end in ends)
        for at in range(len(portion.items)):
            if at in portion.refused:
                fail(chunk, results, portion.refused[at])
            elif at >= made:
                put_back(chunk, portion.items[at:])
                break
            elif at in errors:
                fail(chunk, results, errors[at] if isinstance(errors[at], BaseException) else unwrap_error(errors[at]))
            elif at in refused:
                fail(chunk, results, NotPicklable(f"the result ({refused[at][0]})", refused[at][1]))
            else:
                _record_result(chunk, results, values[at], are_pickles)

    def _break(self, chunk: Chunk, results: list[Any], portion: Portion, error: BaseException) -> None:
        """Let the calls of ``portion`` have failed with the executor."""
        for _ in portion.items:
            fail(chunk, results, error)
        raise self._broken(error) from error

    def _broken(self, error: BaseException) -> EngineBroken:
        annotate(error, f"the executor makes no calls any more: {describe(self._dispatch.executor)}")
        self._dispatch.broken = error
        return EngineBroken(error)

    # From other threads

    def interrupt(self) -> None:
        """Cancel what has not begun, where that can be told; calls made in this process find it where they look."""
        under_way = self._under_way
        if under_way is not None and under_way[0].is_cancelled and self._dispatch.tells_begun:
            under_way[1].cancel()

    def kill(self) -> None:
        """Give up what is under way: a cluster then does not begin it, and forgets what it comes to."""
        self._is_left_behind = True
        under_way = self._under_way
        if under_way is not None:
            run_aside("treadle-cancel", under_way[1].cancel)  # it may ask the cluster, and wait for that


def _is_dask(executor: Executor) -> bool:
    return isinstance(executor, DaskExecutor) or type(executor).__module__.partition(".")[0] == "distributed"


def capacity(executor: Executor) -> int | None:
    """Return how many calls ``executor`` makes at once at most, by what it says of itself; None: it does not."""
    if isinstance(executor, DaskExecutor):
        found: Any = executor.count_threads()
    elif _is_dask(executor):
        found = count_threads(executor._client)  # type: ignore[attr-defined]  # there is no other way
    else:
        found = getattr(executor, "_max_workers", None)
    return found if isinstance(found, int) and found > 0 else None


def _blame(error: BaseException, value: Any, what: str) -> NotPicklable:
    """Return the error for ``value``, which cannot be sent, with the part of it that is to blame."""
    try:
        wrap(value, what, may_import=False)
    except NotPicklable as found:
        return found
    return NotPicklable(what, describe_error(error))


def _record_result(chunk: Chunk, results: list[Any], value: Any, is_pickle: bool) -> None:
    if type(value) is CoroutineType:
        fail(chunk, results, never_awaited(value))
        return
    try:
        result = unwrap((value,)) if is_pickle else value
    except BaseException as error:
        annotate(error, "raised as the result was received from the executor")
        fail(chunk, results, error)
    else:
        results.append(result)
