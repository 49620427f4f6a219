"""The coroutine engine keeps the engines' contract."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import replace
from typing import Any

import pytest

from tests.calls import FileGate
from tests.contract.engine_contract import EngineContract, make_chunk
from treadle._core.chunk import Chunk
from treadle._engines.coroutine import CoroutineEngine
from treadle._engines.engine import CallPlan, Engine
from treadle._sync.event_loop import EventLoop, LoopHost


def awaited(fn: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return a coroutine function that does what ``fn`` does; what would hold up the loop, it does on a thread."""

    async def call(*arguments: Any) -> Any:
        if isinstance(getattr(fn, "__self__", None), FileGate):
            return await asyncio.to_thread(fn, *arguments)
        await asyncio.sleep(0)
        return fn(*arguments)

    return call


class Driven:
    """A coroutine engine driven by threads: one task on a loop does all that its slot would do."""

    is_killable = False

    def __init__(self, plan: CallPlan) -> None:
        self._context = plan.context
        self._orders: asyncio.Queue[tuple[Callable[..., Awaitable[object]], Any, asyncio.Future[Any]] | None]
        self._is_ready = threading.Event()
        host = LoopHost("engine-under-test")
        self._engine = CoroutineEngine(plan, host.post)
        host.start(self._begin)
        assert self._is_ready.wait(10)

    def _begin(self, home: EventLoop) -> None:
        home.enter(self)
        self._loop, self._orders = home.loop, asyncio.Queue()
        self._server = home.loop.create_task(self._serve(home), context=self._context.copy())
        self._is_ready.set()

    async def _serve(self, home: EventLoop) -> None:
        while (order := await self._orders.get()) is not None:
            do, arguments, done = order
            try:
                done.set_result(await do(*arguments))
            except BaseException as error:
                done.set_exception(error)
        home.leave(self)

    def _order(self, do: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        async def ask() -> None:
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._orders.put_nowait((do, arguments, done))
            await done

        asyncio.run_coroutine_threadsafe(ask(), self._loop).result(60)

    def open(self) -> None:
        self._order(self._engine.open)

    def get_ready(self) -> None: ...

    def make_calls(self, chunk: Chunk) -> None:
        self._order(self._engine.make_calls, chunk)

    def interrupt(self) -> None:
        self._engine.interrupt()

    def kill(self) -> None:
        self._engine.kill()

    def close(self) -> None:
        try:
            self._order(self._engine.close)
        finally:
            self._loop.call_soon_threadsafe(self._orders.put_nowait, None)


class TestCoroutineEngine(EngineContract):
    """Calls in tasks on an event loop."""

    def make_engine(self, plan: CallPlan) -> Engine:
        return Driven(replace(plan, fn=awaited(plan.fn)))

    def test_a_coroutine_cannot_raise_stop_iteration(self) -> None:
        """Python itself makes a RuntimeError of it, as it would end whoever awaits."""

        def explode(_: int) -> None:
            raise StopIteration

        engine, chunk = self.open_engine(explode), make_chunk([7])

        engine.make_calls(chunk)

        assert chunk.failures is not None
        assert type(chunk.failures[0]) is RuntimeError
        engine.close()

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, IndexError, asyncio.CancelledError])
    def test_whatever_a_call_raises_is_its_items_failure(self, kind: type[BaseException]) -> None:
        super().test_whatever_a_call_raises_is_its_items_failure(kind)

    def test_a_resource_may_be_opened_and_closed_by_coroutines(self) -> None:
        diary: list[str] = []

        class Connection:
            async def __aenter__(self) -> str:
                await asyncio.sleep(0)
                diary.append(f"entered by {asyncio.current_task()!r}")
                return "connection"

            async def __aexit__(self, *_: object) -> None:
                await asyncio.sleep(0)
                diary.append(f"entered by {asyncio.current_task()!r}")

        async def connect() -> Connection:
            return Connection()

        engine = self.open_engine(lambda item, got: (item, got), resource=connect)
        chunk = make_chunk([1, 2])
        engine.make_calls(chunk)
        engine.close()

        assert chunk.results == [(1, "connection"), (2, "connection")]
        assert len(diary) == 2
        assert diary[0] == diary[1], "what is entered in one task has to be left in the same"

    def test_what_can_only_be_closed_by_awaiting_is(self) -> None:
        closed: list[object] = []

        class Client:
            async def aclose(self) -> None:
                closed.append(self)

        engine = self.open_engine(lambda item, got: item, resource=Client)
        engine.close()

        assert len(closed) == 1

    def test_an_initializer_may_be_a_coroutine_function(self) -> None:
        seen: list[str] = []

        async def prepare(name: str) -> None:
            await asyncio.sleep(0)
            seen.append(name)

        engine = self.open_engine(lambda item: item, initializer=prepare, initargs=("once",))
        engine.make_calls(make_chunk([1, 2]))
        engine.close()

        assert seen == ["once"]

    def test_an_interrupt_cancels_the_call_that_was_marked_and_no_other(self) -> None:
        begun = threading.Event()

        async def nap(item: str) -> str:
            begun.set()
            await asyncio.sleep(1000 if item == "long" else 0)
            return item

        engine = Driven(CallPlan(nap, Context()))
        engine.open()
        chunk, other = make_chunk(["long"]), make_chunk(["short"])
        owner = threading.Thread(target=engine.make_calls, args=(chunk,))
        owner.start()
        assert begun.wait(10)
        engine.interrupt()  # not marked: a late message for a call that has ended
        chunk.mark_cancelled()
        engine.interrupt()
        owner.join()
        engine.interrupt()
        engine.make_calls(other)

        assert [type(error).__name__ for error in (chunk.failures or {}).values()] == ["Cancelled"]
        assert other.results == ["short"]
        engine.close()
