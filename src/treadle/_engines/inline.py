"""The inline engine: the worker's thread makes the calls itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import Context
from functools import partial
from types import CoroutineType
from typing import Any

from treadle._core.cancellation import Around, has_entered
from treadle._core.chunk import Chunk
from treadle._core.context import is_plain, isolated
from treadle._core.describe import describe
from treadle._core.real_time import perf_counter
from treadle._core.tell import tell
from treadle._engines.engine import CallPlan, never_awaited
from treadle._engines.resource import OpenResource, Resource, enter

Drain = Callable[[Chunk, Callable[[Any], Any], Context | tuple[()]], bool]


class InlineEngine:
    """Calls the function on the worker's own thread.

    Args:
        plan: How calls are made.
        drain: The loop that makes them; see ``_drain``.
    """

    is_killable = False

    def __init__(self, plan: CallPlan, drain: Drain | None = None) -> None:
        self._plan = plan
        self._drain = _drain if drain is None else drain
        self._context = plan.context.copy()  # what the initializer sets here, this worker's calls see
        self._call: Callable[[Any], Any] = plan.fn
        self._open = ExitStack()
        self._has_told = False  # that a call has left something open
        self._close_resource: Callable[[], None] | None = None  # of one that may be replaced meanwhile

    def open(self) -> None:
        """Run the initializer, open the resource, and settle how a call is made."""
        plan = self._plan
        if plan.initializer is not None:
            self._context.run(plan.initializer, *plan.initargs)
        if plan.resource is not None:
            self._call = self._with_resource(plan.resource)
        elif plan.spread:
            self._call = spread(plan.fn)
        if not (is_plain(self._context) or plan.brings_context):
            self._call = isolated(self._call, self._context)
        if not plan.brings_context:
            self._call = self._proven(self._call)

    def _proven(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return ``call`` such that a coroutine is an error, until it has returned something else once."""

        def prove(item: Any) -> Any:
            result = call(item)
            if type(result) is CoroutineType:
                raise never_awaited(result)
            self._call = call  # the next chunk's calls do without this look
            return result

        return prove

    def get_ready(self) -> None:
        """Do nothing: what was opened stays open."""

    def make_calls(self, chunk: Chunk) -> None:
        """Make the calls of ``chunk``, each with a fresh view of the submitter's context.

        Where that is empty, as in most programs, an empty context serves until a call has set something in
        it: one test a call, which costs a fraction of a context for each. What a call has entered sets something.
        """
        around = Around()
        try:
            if self._plan.brings_context:  # each chunk has one call
                self._drain(chunk, self._call, ())
                self._note_left_open(around.take_out(), chunk)
                return
            context = Context()
            while not context.run(self._drain, chunk, self._call, context):
                if has_entered in context:
                    self._note_left_open(around.take_out(), chunk)
                context = Context()
        finally:
            around.put_back()

    def _note_left_open(self, left: list[str], chunk: Chunk) -> None:
        """Say in the log, once, that a call has not left all that it had entered."""
        if not left or self._has_told:
            return
        self._has_told = True
        which, what = describe(chunk.items[len(chunk.results) - 1]), " and ".join(left)
        tell(
            logging.WARNING,
            "the call for %s has ended and left %s open: for other calls that does not count",
            which,
            what,
        )

    def interrupt(self) -> None:
        """Do nothing: a thread cannot be interrupted from outside."""

    def kill(self) -> None:
        """Do nothing: nor can it be killed."""

    def close(self) -> None:
        """Close the resource, if one was opened."""
        if self._close_resource is not None:
            self._close_resource()
        self._context.run(self._open.close)  # in the context it was opened in: it may hold tokens of it

    def _with_resource(self, factory: Callable[[], Any]) -> Callable[[Any], Any]:
        fn = self._plan.fn
        if isinstance(factory, Resource):
            resource = OpenResource(factory, self._context.run)
            resource.open()
            self._close_resource = resource.close
            return _with_last(self._plan.spread, partial(resource.call, fn), ())
        return _with_last(self._plan.spread, fn, (self._context.run(enter, factory, self._open),))


def _drain(chunk: Chunk, fn: Callable[[Any], Any], context: Context | tuple[()]) -> bool:
    """Make calls until none is left (True) or one of them set something in ``context`` (False).

    This loop is what a tiny call costs. It notes nothing that a thief or an onlooker could find out: the
    item being called is the one at ``len(chunk.results)``.
    """
    take = chunk.todo.pop
    results = results_of(chunk)
    while True:
        try:
            item = take()
        except IndexError:
            return True
        try:
            results.append(fn(item))
        except BaseException as error:  # also SystemExit and StopIteration: they are this item's outcome
            chunk.fail(error)
            results.append(None)
        if context:
            return False


def results_of(chunk: Chunk) -> Any:
    """Return where the owner of ``chunk`` is to put its results: they stay there, should the chunk be frozen."""
    return chunk.results if chunk.ends is None else _TimedResults(chunk, chunk.ends)


class _TimedResults:
    """Stands for a chunk's list of results where somebody wants to know how long each call took."""

    def __init__(self, chunk: Chunk, ends: list[float]) -> None:
        self._results = chunk.results
        self._ends = ends

    def append(self, result: Any) -> None:
        """Note the time, then the result: whoever sees the result finds its time."""
        self._ends.append(perf_counter())
        self._results.append(result)


def spread(fn: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return ``fn`` as a function of a tuple of its arguments."""

    def call(arguments: tuple[Any, ...]) -> Any:
        return fn(*arguments)

    return call


def _with_last(is_spread: bool, fn: Callable[..., Any], last: tuple[Any, ...]) -> Callable[[Any], Any]:
    def call(item: Any) -> Any:
        return fn(item, *last)

    def call_spread(arguments: tuple[Any, ...]) -> Any:
        return fn(*arguments, *last)

    return call_spread if is_spread else call
