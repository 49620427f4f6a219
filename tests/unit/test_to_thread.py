"""``await treadle.to_thread``: a blocking call from a coroutine, with limits, cancellation and context."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

import treadle
from tests.calls import PATIENCE_SECONDS, Nap
from tests.conftest import Gate
from tests.programs import finish, start_program
from treadle._core.settings import DEFAULT_MAX_WORKERS
from treadle._run import to_thread as module

colour: ContextVar[str] = ContextVar("colour", default="none")


@pytest.fixture
def nap() -> Nap:
    return Nap()


@pytest.fixture(autouse=True)
def _own_pool(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> Iterator[None]:
    """Each test has a pool of its own, whose idle threads go with it."""
    monkeypatch.setattr(module, "_pool", None)
    yield
    gate.open()
    if module._pool is not None:
        module._pool.shutdown()


async def wait_on_the_side(wait: Callable[..., object], *args: object) -> None:
    """Wait for something without blocking the loop, and without the pool that is tested."""
    await asyncio.get_running_loop().run_in_executor(None, wait, *args)


def start(call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.ensure_future(call)


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel ``task``, and wait until it is."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def pool_stats() -> treadle.Stats:
    return module._shared_pool().stats


def test_it_returns_what_the_call_returns() -> None:
    def call(*args: object, **kwargs: object) -> object:
        return args, kwargs, threading.current_thread() is threading.main_thread()

    assert asyncio.run(treadle.to_thread(call, 1, fn=2)) == ((1,), {"fn": 2}, False)


def test_it_raises_what_the_call_raises() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(treadle.to_thread(int, "x"))


def test_only_plain_functions_can_be_called() -> None:
    async def coroutine() -> None:
        pass

    with pytest.raises(treadle.WrongType, match="fn must be"):
        asyncio.run(treadle.to_thread(3))  # type: ignore[arg-type]  # what this is about
    with pytest.raises(treadle.WrongType, match="coroutine function coroutine"):
        asyncio.run(treadle.to_thread(coroutine))  # type: ignore[unused-coroutine]  # it is refused


def test_the_loop_goes_on_meanwhile(gate: Gate) -> None:
    """The gate is opened by the loop itself: were it blocked, nobody would."""

    async def main() -> object:
        call = start(treadle.to_thread(gate.hold, "answer"))
        await wait_on_the_side(gate.wait_for_arrivals)
        gate.open()
        return await call

    assert asyncio.run(main()) == "answer"


def test_the_call_sees_the_context_of_the_coroutine_and_keeps_its_own() -> None:
    def call() -> str:
        seen = colour.get()
        colour.set("changed by the call")
        return seen

    async def main(name: str) -> list[str]:
        colour.set(name)
        return [await treadle.to_thread(call), await treadle.to_thread(call), colour.get()]

    async def both() -> tuple[list[str], list[str]]:
        return await asyncio.gather(main("red"), main("green"))

    red, green = asyncio.run(both())

    assert (red, green) == (["red"] * 3, ["green"] * 3)


# Limits


def test_no_more_calls_are_made_at_once_than_the_pool_allows(gate: Gate) -> None:
    async def main() -> tuple[treadle.Stats, list[object]]:
        calls = [start(treadle.to_thread(gate.hold, number)) for number in range(DEFAULT_MAX_WORKERS + 5)]
        await wait_on_the_side(gate.wait_for_arrivals, DEFAULT_MAX_WORKERS)
        stats = pool_stats()
        gate.open()
        return stats, await asyncio.gather(*calls)

    stats, results = asyncio.run(main())

    assert (stats.running, stats.workers) == (DEFAULT_MAX_WORKERS, DEFAULT_MAX_WORKERS)
    assert results == list(range(DEFAULT_MAX_WORKERS + 5))


def test_a_limiter_is_passed_on_the_way(gate: Gate) -> None:
    limiter = treadle.Limiter(max_concurrent=1)
    inside: list[int] = []

    def call(number: int) -> None:
        inside.append(number)
        gate.hold()

    async def main() -> list[int]:
        calls = [start(treadle.to_thread(call, number, limiter=limiter)) for number in range(3)]
        await wait_on_the_side(gate.wait_for_arrivals)
        await wait_on_the_side(wait_for_line, limiter, 2)
        seen = inside[:]
        gate.open()
        await asyncio.gather(*calls)
        return seen

    assert len(asyncio.run(main())) == 1
    assert sorted(inside) == [0, 1, 2]


def wait_for_line(limiter: treadle.Limiter, count: int) -> None:
    """Wait until ``count`` callers stand in line for a place."""
    while len(limiter._state().line) < count:
        pass


def test_a_call_cancelled_at_the_limiter_is_never_made(gate: Gate) -> None:
    called: list[int] = []
    limiter = treadle.Limiter(max_concurrent=1)

    async def main() -> None:
        holding = start(treadle.to_thread(gate.hold, limiter=limiter))
        await wait_on_the_side(gate.wait_for_arrivals)
        waiting = start(treadle.to_thread(called.append, 1, limiter=limiter))
        await wait_on_the_side(wait_for_line, limiter, 1)
        await cancel(waiting)
        gate.open()
        await holding
        await treadle.to_thread(called.append, 2, limiter=limiter)

    asyncio.run(main())

    assert called == [2]
    assert pool_stats().abandoned == 0


# Cancellation


def test_a_cancelled_coroutine_cancels_its_call(nap: Nap) -> None:
    async def main() -> int:
        call = start(treadle.to_thread(nap))
        await wait_on_the_side(nap.wait_until_begun)
        await cancel(call)
        return nap.cancelled

    assert asyncio.run(main()) == 1
    assert (pool_stats().cancelled, pool_stats().abandoned) == (1, 0)


def test_a_timeout_of_asyncio_cancels_the_call(nap: Nap) -> None:
    async def main() -> None:
        async with asyncio.timeout(None) as timeout:
            call = start(wait_on_the_side(nap.wait_until_begun))
            call.add_done_callback(lambda _: timeout.reschedule(0))
            await treadle.to_thread(nap)

    with pytest.raises(TimeoutError):
        asyncio.run(main())

    assert nap.cancelled == 1


def test_a_call_cancelled_before_it_begins_is_never_made(gate: Gate) -> None:
    called: list[int] = []

    async def main() -> None:
        holding = [start(treadle.to_thread(gate.hold)) for _ in range(DEFAULT_MAX_WORKERS)]
        await wait_on_the_side(gate.wait_for_arrivals, DEFAULT_MAX_WORKERS)
        waiting = start(treadle.to_thread(called.append, 1))
        await asyncio.sleep(0)
        await cancel(waiting)
        gate.open()
        await asyncio.gather(*holding)

    asyncio.run(main())

    assert called == []


def test_a_deaf_call_is_left_behind_and_makes_room(
    gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_pool", treadle.PoolExecutor(1, thread_name_prefix="small"))

    async def main() -> object:
        deaf = start(treadle.to_thread(gate.hold))
        await wait_on_the_side(gate.wait_for_arrivals)
        waiting = start(treadle.to_thread(abs, -1))
        await cancel(deaf)
        return await asyncio.wait_for(waiting, PATIENCE_SECONDS)

    assert asyncio.run(main()) == 1
    assert pool_stats().abandoned == 1
    assert "executor 'small' leaves a thread behind" in caplog.text


def test_a_deaf_call_that_ends_within_the_grace_is_not_left_behind(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_GRACE_SECONDS", 60.0)

    async def main() -> None:
        deaf = start(treadle.to_thread(gate.hold))
        await wait_on_the_side(gate.wait_for_arrivals)
        deaf.cancel()
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await deaf

    asyncio.run(main())

    assert (pool_stats().abandoned, pool_stats().succeeded) == (0, 1)


def test_what_a_cancelled_call_raises_on_its_way_out_disturbs_nobody(
    nap: Nap, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop would complain of an exception that was never retrieved."""

    def call() -> None:
        try:
            nap()
        finally:
            raise ValueError("on the way out")

    async def main() -> None:
        task = start(treadle.to_thread(call))
        await wait_on_the_side(nap.wait_until_begun)
        await cancel(task)

    asyncio.run(main())

    assert caplog.text == ""


def test_a_coroutine_cancelled_twice_does_not_wait_for_the_grace(gate: Gate) -> None:
    async def main() -> None:
        deaf = start(treadle.to_thread(gate.hold))
        await wait_on_the_side(gate.wait_for_arrivals)
        deaf.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await cancel(deaf)

    asyncio.run(main())

    assert pool_stats().abandoned == 1


def test_a_pool_with_too_many_deaf_calls_is_replaced_and_its_waiting_calls_are_told(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no worker left that could tell them: the only one is stuck."""
    monkeypatch.setattr(module, "_pool", treadle.PoolExecutor(1, max_abandoned=0))

    async def main() -> object:
        deaf = start(treadle.to_thread(gate.hold))
        await wait_on_the_side(gate.wait_for_arrivals)
        waiting = start(treadle.to_thread(abs, -1))
        await asyncio.sleep(0)
        await cancel(deaf)
        with pytest.raises(treadle.TooManyAbandoned):
            await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        return await treadle.to_thread(abs, -2)

    assert asyncio.run(main()) == 2


def test_calls_from_several_loops_share_the_pool() -> None:
    assert asyncio.run(treadle.to_thread(abs, -1)) == 1
    first = module._pool
    assert asyncio.run(treadle.to_thread(abs, -2)) == 2

    assert module._pool is first


# In processes of their own


def test_a_forked_child_has_a_pool_of_its_own() -> None:
    process = start_program("""
        import asyncio, os, warnings
        import treadle
        warnings.simplefilter("ignore")
        print(asyncio.run(treadle.to_thread(abs, -1)), flush=True)
        pid = os.fork()
        if pid == 0:
            print(asyncio.run(treadle.to_thread(abs, -2)), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print(asyncio.run(treadle.to_thread(abs, -3)))
    """)
    code, out, err = finish(process)

    assert code == 0, err
    assert out == "1\n2\n3\n"


def test_an_interpreter_exits_though_a_call_was_left_behind() -> None:
    process = start_program("""
        import asyncio, threading
        import treadle
        begun = threading.Event()
        def deaf():
            begun.set()
            threading.Event().wait(60)
        async def main():
            call = asyncio.ensure_future(treadle.to_thread(deaf))
            while not begun.is_set():
                await asyncio.sleep(0.001)
            call.cancel()
            try:
                await call
            except asyncio.CancelledError:
                print("cancelled")
        asyncio.run(main())
    """)
    code, out, err = finish(process)

    assert (code, out) == (0, "cancelled\n")
    assert "leaves a thread behind" in err
