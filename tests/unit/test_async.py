"""``async for`` over a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

import pytest

import treadle
from tests.conftest import Gate


async def collect(stream: AsyncIterable[int]) -> list[int]:
    return [item async for item in stream]


def test_results_come_in_order() -> None:
    assert asyncio.run(collect(treadle.map(abs, range(3000)))) == list(range(3000))


def test_the_loop_goes_on_while_calls_are_made(gate: Gate) -> None:
    """The gate is opened by the loop itself: if the run blocked it, nobody would."""

    async def main() -> list[object]:
        run = treadle.map(gate.hold, [1, 2], max_workers=2)
        asyncio.get_running_loop().call_later(0.05, gate.open)
        return [item async for item in run]

    assert asyncio.run(main()) == [1, 2]


def test_outcomes_too() -> None:
    async def main() -> list[str]:
        return [outcome.status async for outcome in treadle.map(int, ["1", "x"]).outcomes()]

    assert asyncio.run(main()) == ["succeeded", "failed"]


def test_a_failure_is_raised_where_it_is_awaited() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(collect(treadle.map(int, ["1", "x"])))


def test_a_stop_async_iteration_of_a_call_does_not_end_the_loop_silently() -> None:
    def call(_: int) -> int:
        raise StopAsyncIteration

    with pytest.raises(RuntimeError, match="StopAsyncIteration"):
        asyncio.run(collect(treadle.map(call, [1])))


def test_a_cancelled_consumer_stops_the_run(gate: Gate) -> None:
    async def main() -> treadle.Run[int, object]:
        run = treadle.map(gate.hold, range(100), max_workers=2, grace=10)
        task = asyncio.ensure_future(collect(run))  # type: ignore[arg-type]
        await asyncio.get_running_loop().run_in_executor(None, gate.wait_for_arrivals, 2)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        return run

    run = asyncio.run(main())
    rest = list(run.rest())
    assert len(rest) == run.stats.taken
    assert {outcome.status for outcome in rest} == {"succeeded", "not_started"}


def test_timeout_is_raised(gate: Gate) -> None:
    with pytest.raises(TimeoutError, match="timeout=0.1"):
        asyncio.run(collect(treadle.map(gate.hold, [1], timeout=0.1)))  # type: ignore[arg-type]


def test_async_and_plain_iteration_divide_the_results() -> None:
    async def main() -> list[int]:
        run = treadle.map(abs, range(500))
        first = [next(run) for _ in range(100)]
        return first + [item async for item in run]

    assert asyncio.run(main()) == list(range(500))
