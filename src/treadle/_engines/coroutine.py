"""The coroutine engine: each call is a task on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from contextvars import copy_context
from functools import partial
from typing import Any

from treadle._core.cancellation import here
from treadle._core.chunk import Chunk
from treadle._core.coroutine import Inside, put_inside
from treadle._core.describe import describe
from treadle._core.user_code import get_traceback, is_a
from treadle._engines.engine import CallPlan
from treadle._engines.inline import results_of
from treadle._engines.resource import AwaitedResource, Resource, awaited, enter_awaited
from treadle.errors import Cancelled, WrongType


class CoroutineEngine:
    """Awaits what the function returns, in a task for each call. All but ``interrupt`` runs on the loop's thread.

    Args:
        plan: How calls are made. Its context is that of the task which opens the engine and has it make calls.
        post: Has a function called on the loop's thread, from any; does nothing when the loop has ended.
    """

    __slots__ = ("_chunk", "_name", "_open", "_plan", "_post", "_resource", "_task")  # there may be thousands of us
    is_killable = False

    def __init__(self, plan: CallPlan, post: Callable[[Callable[[], object]], object]) -> None:
        self._plan = plan
        self._post = post
        self._resource: tuple[Any, ...] = ()
        self._open: AsyncExitStack | AwaitedResource | None = None  # seldom is there anything to close
        self._name = ""  # of its tasks: that of the task it works for
        self._chunk: Chunk | None = None  # of the call being made, set after its task; None: there is none to cancel
        self._task: asyncio.Task[Any] | None = None

    async def open(self) -> None:
        """Run the initializer, and open the resource; either may be a coroutine function."""
        plan = self._plan
        if (task := asyncio.current_task()) is not None:
            self._name = task.get_name()
        if plan.initializer is not None:
            await awaited(plan.initializer(*plan.initargs))
        if isinstance(plan.resource, Resource):
            self._open = AwaitedResource(plan.resource)
            await self._open.open()
        elif plan.resource is not None:
            self._open = AsyncExitStack()
            self._resource = (await enter_awaited(plan.resource, self._open),)

    async def make_calls(self, chunk: Chunk) -> None:
        """Make the calls of ``chunk``, one after the other, each in a copy of the submitter's context."""
        loop = asyncio.get_running_loop()
        results = results_of(chunk)
        while True:
            try:
                item = chunk.todo.pop()
            except IndexError:
                return
            context, places = copy_context(), here.places
            if self._plan.brings_context:
                context, places = item.context.copy(), places or item.places
            put_inside(context, Inside(loop, chunk, places))
            self._task = task = loop.create_task(self._answer(item), name=self._name, context=context)
            # First this, then the look: who cancels marks the chunk first.
            self._chunk = chunk
            if chunk.is_cancelled:
                task.cancel()
            try:
                value, error = await task
            except asyncio.CancelledError as cancelled:  # before its first step
                value, error = None, cancelled
            if error is not None:
                chunk.fail(_as_cancelled(error, chunk))
            results.append(value)
            self._chunk = self._task = value = error = None  # they are kept by whoever wants them

    async def _answer(self, item: Any) -> tuple[Any, BaseException | None]:
        """Return what the call comes to. It raises nothing: not all can pass through a task as it is."""
        plan = self._plan
        try:
            arguments = item if plan.spread else (item,)
            if isinstance(self._open, AwaitedResource):
                return await self._open.call(_answered, plan.fn, *arguments), None
            return await _answered(plan.fn, *arguments, *self._resource), None
        except BaseException as error:
            return None, error

    def interrupt(self) -> None:
        """Cancel the task of the call that was asked to end, once."""
        task, chunk = self._task, self._chunk
        if task is not None and chunk is not None and chunk.is_cancelled:
            self._post(partial(self._cancel, chunk, task))

    def _cancel(self, chunk: Chunk, task: asyncio.Task[Any]) -> None:
        if self._chunk is chunk and self._task is task:
            self._chunk = None
            task.cancel()

    def kill(self) -> None:
        """Do nothing: a coroutine cannot be killed."""

    async def close(self) -> None:
        """Close the resource, if one was opened."""
        if self._open is not None:
            await self._open.aclose()


async def _answered(fn: Callable[..., Any], *arguments: Any) -> Any:
    answer = fn(*arguments)
    if not hasattr(type(answer), "__await__"):
        raise WrongType("what fn returns", describe(answer), "awaitable where engine='coroutines'")
    return await answer


def _as_cancelled(error: BaseException, chunk: Chunk) -> BaseException:
    """Return what is to be recorded of a call that raised ``error``, in asyncio's word or in ours."""
    if not (chunk.is_cancelled and is_a(error, asyncio.CancelledError)):
        return error
    reason = "it was cancelled" if chunk.scope is None else chunk.scope.reason
    return Cancelled(reason).with_traceback(get_traceback(error))
