"""A PoolExecutor works where libraries accept an executor: three of them, as they are, and concurrent.futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate


@pytest.fixture
def pool() -> Iterator[treadle.PoolExecutor]:
    with treadle.PoolExecutor(2, thread_name_prefix="ours") as pool:
        yield pool


def thread_name() -> str:
    return threading.current_thread().name


def fail(message: str) -> None:
    raise ValueError(message)


# concurrent.futures


def test_wait_tells_the_done_from_the_others(pool: treadle.PoolExecutor, gate: Gate) -> None:
    held, fine, failing = pool.submit(gate.hold), pool.submit(abs, -1), pool.submit(fail, "bad")
    tasks: list[treadle.Task[Any]] = [held, fine, failing]

    first = concurrent.futures.wait(tasks, PATIENCE_SECONDS, concurrent.futures.FIRST_EXCEPTION)
    assert failing in first.done
    assert held in first.not_done
    gate.open()
    assert concurrent.futures.wait(tasks).done == set(tasks)


def test_wait_sees_tasks_that_are_cancelled(pool: treadle.PoolExecutor, gate: Gate) -> None:
    """Both those that have not begun and, which the standard library does not know, those that run."""
    sleeping, held = pool.submit(treadle.sleep, 3600), pool.submit(gate.hold)
    gate.wait_for_arrivals()
    unbegun = pool.submit(abs, -1)
    assert unbegun.cancel()
    sleeping.cancel()
    tasks: list[treadle.Task[Any]] = [sleeping, held, unbegun]

    done, not_done = concurrent.futures.wait(tasks, PATIENCE_SECONDS, concurrent.futures.FIRST_COMPLETED)
    assert (unbegun in done, held in not_done) == (True, True)
    assert concurrent.futures.wait([sleeping], PATIENCE_SECONDS).done == {sleeping}
    assert sleeping.cancelled()


def test_as_completed_yields_each_as_it_ends(pool: treadle.PoolExecutor, gate: Gate) -> None:
    held, fine = pool.submit(gate.hold, "held"), pool.submit(abs, -1)
    tasks: list[treadle.Task[Any]] = [held, fine]

    ending = concurrent.futures.as_completed(tasks, PATIENCE_SECONDS)
    assert next(ending) is fine
    gate.open()
    assert [task.result() for task in ending] == ["held"]


def test_futures_of_ours_and_theirs_can_be_waited_for_together(pool: treadle.PoolExecutor) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as theirs:
        futures: list[concurrent.futures.Future[int]] = [pool.submit(abs, -1), theirs.submit(abs, -2)]

        assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [1, 2]


# asyncio


def test_asyncio_runs_calls_on_it(pool: treadle.PoolExecutor) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(pool, pow, 2, number) for number in range(10)]
        with pytest.raises(ValueError, match="bad"):
            await loop.run_in_executor(pool, fail, "bad")
        return [*await asyncio.gather(*calls), await loop.run_in_executor(pool, thread_name)]

    *powers, name = asyncio.run(main())

    assert powers == [2**number for number in range(10)]
    assert name.startswith("ours_")


def test_asyncio_takes_tasks_as_futures(pool: treadle.PoolExecutor) -> None:
    async def main() -> int:
        return await asyncio.wrap_future(pool.submit(abs, -7))

    assert asyncio.run(main()) == 7


def test_cancelling_in_asyncio_cancels_the_call(pool: treadle.PoolExecutor, gate: Gate) -> None:
    """Also one that runs: with the standard library's executor, it would go on for its hour."""

    def sleep_long() -> None:
        gate.hold()
        try:
            treadle.sleep(3600)
        except treadle.Cancelled:
            ended.set()
            raise

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(pool, sleep_long)
        await asyncio.to_thread(gate.wait_for_arrivals)
        gate.open()
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    ended = threading.Event()
    asyncio.run(main())

    assert ended.wait(PATIENCE_SECONDS)


def test_asyncio_takes_it_as_the_default_executor() -> None:
    """It asks for a ThreadPoolExecutor, by isinstance(), and shuts it down when the loop ends."""
    pool = treadle.PoolExecutor(2, thread_name_prefix="default")

    async def main() -> tuple[str, str]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        return await loop.run_in_executor(None, thread_name), await asyncio.to_thread(thread_name)

    names = asyncio.run(main())

    assert all(name.startswith("default_") for name in names)
    with pytest.raises(treadle.PoolClosed):
        pool.submit(abs, -1)


def test_those_who_look_inside_a_standard_executor_find_the_same_here(gate: Gate) -> None:
    """Monitors count its threads and its queue by their private names; they have no others."""
    with treadle.PoolExecutor(2, thread_name_prefix="looked-at") as pool:
        assert isinstance(pool, concurrent.futures.ThreadPoolExecutor)
        assert (pool._max_workers, pool._threads, pool._shutdown, pool._broken) == (2, set(), False, False)
        for _ in range(2):
            pool.submit(gate.hold)
        gate.wait_for_arrivals(2)
        waiting = [pool.submit(abs, -1) for _ in range(3)]

        assert pool._work_queue.qsize() == 3
        assert not pool._work_queue.empty()
        assert waiting[0].cancel()
        assert pool._work_queue.qsize() == 2
        assert {thread.name for thread in pool._threads} == {"looked-at_0", "looked-at_1"}
        gate.open()

    assert pool._shutdown
    assert pool._work_queue.empty()
    assert pool._threads == set()


# Tornado


def test_tornado_runs_calls_on_it(pool: treadle.PoolExecutor) -> None:
    ioloop = pytest.importorskip("tornado.ioloop", reason="no wheel for this interpreter")

    async def main() -> tuple[str, int]:
        loop = ioloop.IOLoop.current()
        with pytest.raises(ValueError, match="bad"):
            await loop.run_in_executor(pool, fail, "bad")
        return await loop.run_in_executor(pool, thread_name), await loop.run_in_executor(pool, abs, -1)

    name, one = asyncio.run(main())

    assert name.startswith("ours_")
    assert one == 1


def test_tornado_runs_methods_on_it(pool: treadle.PoolExecutor) -> None:
    concurrent = pytest.importorskip("tornado.concurrent", reason="no wheel for this interpreter")

    class Handler:
        executor = pool

        def where(self) -> str:
            return thread_name()

        run_where = concurrent.run_on_executor(where)

    async def main() -> Any:
        return await Handler().run_where()

    assert asyncio.run(main()).startswith("ours_")


# Dask


def chain_of_sums(inc: Any, total: Any) -> dict[str, Any]:
    """Return a graph in which each key needs others, so that tasks become ready one after the other."""
    graph: dict[str, Any] = {"x0": 0}
    for number in range(1, 20):
        graph[f"x{number}"] = (inc, f"x{number - 1}")
    graph["sum"] = (total, [f"x{number}" for number in range(20)])
    return graph


def test_dask_computes_graphs_on_it(pool: treadle.PoolExecutor) -> None:
    threaded = pytest.importorskip("dask.threaded", reason="no wheel of pyyaml for this interpreter")

    assert threaded.get(chain_of_sums(lambda number: number + 1, sum), "sum", pool=pool) == sum(range(20))
    assert threaded.get({"name": (thread_name,)}, "name", pool=pool).startswith("ours_")
    assert pool.stats.succeeded > 0


def test_dask_takes_it_from_its_configuration(pool: treadle.PoolExecutor) -> None:
    dask = pytest.importorskip("dask", reason="no wheel of pyyaml for this interpreter")

    with dask.config.set(pool=pool, scheduler="threads"):
        names = dask.compute(*[dask.delayed(thread_name)() for _ in range(5)])
        with pytest.raises(ValueError, match="bad"):
            dask.delayed(fail)("bad").compute()

    assert all(name.startswith("ours_") for name in names)
