"""Calls of the other kind than their crew makes: a coroutine's for a thread, and a plain function's for a loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import Any

from treadle._core.cancellation import current_scope, here
from treadle._core.chunk import Chunk
from treadle._core.coroutine import Inside, inside, put_inside
from treadle._core.user_code import is_a
from treadle._crew.crew import Crew
from treadle._crew.worker import Worker
from treadle._engines.engine import never_awaited
from treadle._sync import cancelling
from treadle._sync.event_loop import EventLoop, LoopHost
from treadle._sync.parker import Parker
from treadle.errors import Cancelled

_Answer = tuple[Any, BaseException | None]  # what a call returned, or what it raised


class SharedLoop:
    """The loop of the coroutines of one group, which may share what belongs to a loop.

    It is there for as long as a thread is that has waited for a coroutine on it.

    Args:
        name: Of its thread.
    """

    def __init__(self, name: str) -> None:
        self.host = LoopHost(name)
        self._threads = threading.local()

    def stay_on(self, home: EventLoop, user: object) -> None:
        """Have this thread keep ``home`` going, which ``user`` has entered for it, in place of what it had before."""
        self._threads.stay = _Stay(home, user)


class _Stay:
    """What a thread keeps a loop going by. May be let go of on any thread, between any two lines."""

    def __init__(self, home: EventLoop, user: object) -> None:
        self._home = home
        self._user = user

    def __del__(self) -> None:
        with suppress(RuntimeError):  # it has been closed
            self._home.post(partial(self._home.leave, self._user))


class Awaited:
    """A coroutine function as a plain one: each coroutine runs on a loop, and the thread waits for it.

    Args:
        fn: The coroutine function.
        loop: Where.
    """

    def __init__(self, fn: Callable[..., Coroutine[Any, Any, Any]], loop: SharedLoop) -> None:
        self.func = fn  # in messages it goes by the function's name
        self._loop = loop

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What it takes."""
        return self.func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        crossing = _Crossing(_call(self.func, args, kwargs))
        self._loop.host.start(crossing.begin)
        value, error = crossing.wait(self._loop)
        crossing.forget()
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback leads here
        return value


class _Crossing:
    """One coroutine on a loop, and the thread that waits for it, which makes this."""

    def __init__(self, coroutine: Coroutine[Any, Any, _Answer]) -> None:
        current_scope()  # makes that of the call, which is the thread's to make
        self._coroutine = coroutine
        self._chunk: Chunk | None = getattr(here.seat, "chunk", None)
        self._places = here.places
        self._context = copy_context()
        self._parker = Parker()
        self._task: asyncio.Task[_Answer] | None = None
        self._answer: _Answer | None = None
        self._home: EventLoop | None = None
        self._user = object()  # of the loop, for as long as the thread stays: not this, which knows the answer

    def begin(self, home: EventLoop) -> None:
        """Start the coroutine. On the loop's thread, as the following two."""
        home.enter(self._user)
        self._home = home
        put_inside(self._context, Inside(home.loop, self._chunk, self._places))
        self._task = home.loop.create_task(self._coroutine, context=self._context)
        self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[_Answer]) -> None:
        if task.cancelled():  # before its first step
            self._coroutine.close()
            self._answer = None, asyncio.CancelledError()
        else:
            self._answer = task.result()
        self._parker.wake()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def wait(self, loop: SharedLoop) -> _Answer:
        """Wait for what the coroutine comes to; a cancellation of this thread's call is passed on to it, once."""
        unwanted: Cancelled | None = None
        while self._answer is None:
            try:
                cancelling.wait(self._parker, None)
            except Cancelled as cancelled:
                unwanted = cancelled
                loop.host.post(self._cancel)  # comes after ``begin``
                while self._answer is None:
                    self._parker.wait()
        assert self._home is not None
        loop.stay_on(self._home, self._user)
        value, error = self._answer
        return value, unwanted if unwanted is not None and is_a(error, asyncio.CancelledError) else error

    def forget(self) -> None:
        """Let go of the answer: an error's traceback leads back here."""
        self._answer = self._task = None


async def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Answer:
    try:
        return await fn(*args, **kwargs), None
    except BaseException as error:  # not all can pass through a task as they are
        return None, error


class Threaded:
    """A plain function as a coroutine function: each call is made on a thread of its own, and awaited.

    Args:
        fn: The function.
        crew: Whose calls they are. Their waits make room in it, as those of its own threads would.
    """

    def __init__(self, fn: Callable[..., Any], crew: Crew) -> None:
        self.func = fn  # in messages it goes by the function's name
        self._crew = crew

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What it takes."""
        return self.func

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        value, error = await self._answer(args, kwargs)
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback leads here
        return value

    async def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Answer:
        """Have the call made, and return what it comes to, however often the waiting is cancelled."""
        deputy = Deputy(self._crew)
        answers: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        task: Any = asyncio.current_task()
        work = partial(copy_context().run, deputy.work, partial(self.func, *args, **kwargs), answers)
        threading.Thread(target=work, name=f"{task.get_name()}-thread", daemon=True).start()
        while not answers.done():
            with suppress(asyncio.CancelledError):  # by its scope the thread knows, and answers in its time
                await asyncio.wait([answers])
        return answers.result()


class Deputy(Worker):
    """Stands for a worker of ``crew`` on the thread that makes a call for it. Made on the loop."""

    __slots__ = ("_places",)

    def __init__(self, crew: Crew) -> None:
        no_engine: Any = None  # that of the worker it stands for has the call in hand
        super().__init__(crew, no_engine)
        found = inside()
        self.chunk = None if found is None else found.chunk
        self._places = () if found is None else found.places
        self.call_scope()  # makes it, which is the loop's thread to make

    def work(self, call: Callable[[], Any], answers: asyncio.Future[_Answer]) -> None:
        """Make the call, and give what it comes to, on the loop. On the thread."""
        here.seat, here.places = self, self._places
        answer = self._make(call)
        with suppress(RuntimeError):  # the loop has ended, as this call was left behind
            answers.get_loop().call_soon_threadsafe(answers.set_result, answer)
        del answer, answers  # an error's traceback leads here

    def _make(self, call: Callable[[], Any]) -> _Answer:
        try:
            value = call()
            if type(value) is CoroutineType:
                raise never_awaited(value)
        except BaseException as error:
            return None, error
        return value, None
