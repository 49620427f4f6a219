"""The coroutine engine: each call is a task on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from contextvars import copy_context
from functools import partial
from inspect import isawaitable
from typing import Any

from treadle._core.cancellation import Scope, here
from treadle._core.chunk import Chunk
from treadle._core.coroutine import Inside, put_inside
from treadle._core.describe import describe
from treadle._engines.engine import CallPlan
from treadle._engines.inline import results_of
from treadle.errors import Cancelled, WrongType


class CoroutineEngine:
    """Awaits what the function returns, in a task for each call. All but ``interrupt`` runs on the loop's thread.

    Args:
        plan: How calls are made. Its context is that of the task which opens the engine and has it make calls.
        post: Has a function called on the loop's thread, from any; does nothing when the loop has ended.
    """

    is_killable = False

    def __init__(self, plan: CallPlan, post: Callable[[Callable[[], object]], object]) -> None:
        self._plan = plan
        self._post = post
        self._resource: tuple[Any, ...] = ()
        self._open = AsyncExitStack()
        self._name = ""  # of its tasks: that of the task it works for
        self._call: tuple[Chunk, asyncio.Task[Any]] | None = None

    async def open(self) -> None:
        """Run the initializer, and open the resource; either may be a coroutine function."""
        plan = self._plan
        if (task := asyncio.current_task()) is not None:
            self._name = task.get_name()
        if plan.initializer is not None:
            await _awaited(plan.initializer(*plan.initargs))
        if plan.resource is not None:
            self._resource = (await self._open_resource(plan.resource),)

    async def make_calls(self, chunk: Chunk) -> None:
        """Make the calls of ``chunk``, one after the other, each in a copy of the submitter's context."""
        take, results = chunk.todo.pop, results_of(chunk)
        while True:
            try:
                item = take()
            except IndexError:
                return
            value, error = await self._make_call(chunk, item)
            if error is not None:
                chunk.fail(error)
            results.append(value)

    async def _make_call(self, chunk: Chunk, item: Any) -> tuple[Any, BaseException | None]:
        loop = asyncio.get_running_loop()
        context, places = copy_context(), here.places
        if self._plan.brings_context:
            context, places = item.context.copy(), places or item.places
        put_inside(context, Inside(loop, _CallSeat(chunk), places))
        task = loop.create_task(self._answer(item), name=self._name, context=context)
        # First this, then the look: who cancels marks the chunk first.
        self._call = chunk, task
        if chunk.is_cancelled:
            task.cancel()
        try:
            value, error = await task
        except asyncio.CancelledError as cancelled:  # before its first step
            value, error = None, cancelled
        self._call = None
        if isinstance(error, asyncio.CancelledError) and chunk.is_cancelled:
            error = Cancelled("it was cancelled" if chunk.scope is None else chunk.scope.reason).with_traceback(
                error.__traceback__
            )
        return value, error

    async def _answer(self, item: Any) -> tuple[Any, BaseException | None]:
        """Return what the call comes to. It raises nothing: a task that raises SystemExit ends its loop."""
        plan = self._plan
        try:
            answer = plan.fn(*item, *self._resource) if plan.spread else plan.fn(item, *self._resource)
            if not hasattr(type(answer), "__await__"):
                raise WrongType("what fn returns", describe(answer), "awaitable where engine='coroutines'")
            return await answer, None
        except BaseException as error:
            return None, error

    def interrupt(self) -> None:
        """Cancel the task of the call that was asked to end, once."""
        call = self._call
        if call is not None and call[0].is_cancelled:
            self._post(partial(self._cancel, *call))

    def _cancel(self, chunk: Chunk, task: asyncio.Task[Any]) -> None:
        if self._call == (chunk, task):
            self._call = None
            task.cancel()

    def kill(self) -> None:
        """Do nothing: a coroutine cannot be killed."""

    async def close(self) -> None:
        """Close the resource, if one was opened."""
        await self._open.aclose()

    async def _open_resource(self, factory: Callable[[], Any]) -> Any:
        """Open a resource: what ``factory`` returns, awaited if it is a coroutine, and entered if that can be done."""
        resource = await _awaited(factory())
        kind = type(resource)
        if hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__"):
            return await self._open.enter_async_context(resource)
        if hasattr(kind, "__enter__") and hasattr(kind, "__exit__"):
            return self._open.enter_context(resource)
        close = getattr(resource, "aclose", None) or getattr(resource, "close", None)
        if callable(close):
            self._open.push_async_callback(_close, close)
        return resource


class _CallSeat:
    """Where one call is made, also after its slot has gone on to the next: tasks that it started may outlive it."""

    __slots__ = ("_chunk",)

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk

    def call_scope(self) -> Scope | None:
        """Return the call's scope."""
        return self._chunk.own_scope()

    def current_task(self) -> Any:
        """Return the call's task."""
        return getattr(self._chunk, "task", None)


async def _awaited(thing: Any) -> Any:
    return await thing if isawaitable(thing) else thing


async def _close(close: Callable[[], Any]) -> None:
    await _awaited(close())
