"""An executor of somebody else's as an engine: what it is not asked for, what cannot be sent, and what if it breaks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

import treadle
from tests.calls import FileGate
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.contract.engine_contract import make_chunk
from tests.places import wait_until
from treadle._engines.engine import CallPlan
from treadle._engines.executor import PORTION_SECONDS, Dispatch, ExecutorEngine, Portion
from treadle._run.choosing import default_workers


@pytest.fixture
def processes(multiprocessing_helpers: None) -> Iterator[Executor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        yield pool


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Refuser(Executor):
    """Makes no call, and says when it is asked to."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.asked = threading.Semaphore(0)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        self.asked.release()
        return self.futures[-1]


# What goes there and comes back


def fail_to_come_back(_: object) -> object:
    return threading.Lock()


class HalfWay:
    """Pickles, and cannot be made again."""

    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_what_cannot_be_sent_is_one_items_failure_and_named(processes: Executor) -> None:
    items = [1, {"key": [threading.Lock()]}, HalfWay(), 2]

    outcomes = list(treadle.map(type, items, engine=processes, chunksize=4).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", "failed", "succeeded"]
    assert isinstance(outcomes[1].error, treadle.NotPicklable)
    assert "the argument['key'][0] (<unlocked _thread.lock" in str(outcomes[1].error)
    assert isinstance(outcomes[2].error, ValueError)


def test_a_result_that_cannot_come_back_is_named(processes: Executor) -> None:
    (outcome,) = treadle.map(fail_to_come_back, [1], engine=processes).outcomes()

    assert isinstance(outcome.error, treadle.NotPicklable)
    assert "the result (<unlocked _thread.lock" in str(outcome.error)


def test_a_function_that_cannot_be_sent_ends_the_run_with_what_is_to_blame(processes: Executor) -> None:
    lock = threading.Lock()

    with pytest.raises(treadle.NotPicklable, match="the function call, its variable 'lock'"):
        list(treadle.map(lambda_over(lock), range(10), engine=processes))


def lambda_over(lock: Any) -> Any:
    def call(item: int) -> object:
        return lock, item

    return call


def test_within_the_process_nothing_is_pickled(threads: Executor) -> None:
    lock = threading.Lock()

    assert list(treadle.map(lambda thing: thing, [lock], engine=threads)) == [lock]


@pytest.mark.parametrize("kind", ["group", "executor"])
def test_groups_and_executors_take_one_too(kind: str, processes: Executor) -> None:
    pool: Any = treadle.TaskGroup if kind == "group" else treadle.PoolExecutor
    with pool(engine=processes) as pool:
        tasks = [pool.submit(pow, 2, exp=number) for number in range(10)]
        pids = pool.submit(os.getpid)
    assert [task.result() for task in tasks] == [2**number for number in range(10)]
    assert pids.result() != os.getpid()


def test_a_coroutine_that_comes_back_is_an_error(threads: Executor) -> None:
    async def wait() -> None: ...

    with pytest.raises(treadle.WrongType, match="which nobody awaits"):
        list(treadle.map(lambda _: wait(), [1], engine=threads))


# What it is not asked for


def test_it_is_not_shut_down(threads: Executor) -> None:
    assert list(treadle.map(abs, [-1], engine=threads)) == [1]
    assert threads.submit(abs, -1).result(PATIENCE_SECONDS) == 1


@pytest.mark.parametrize("option", ["initializer", "resource"])
def test_its_workers_cannot_be_got_ready(option: str, threads: Executor) -> None:
    options: Any = {option: print}
    with pytest.raises(treadle.InvalidArgument, match=f"{option} must be None where engine is an executor"):
        treadle.map(abs, [1], engine=threads, **options)


def test_what_is_no_engine_is_refused() -> None:
    engine: Any = ThreadPoolExecutor
    with pytest.raises(treadle.InvalidArgument, match="or a concurrent.futures.Executor, not <class"):
        treadle.map(abs, [1], engine=engine)


def test_workers_are_as_many_as_it_has(threads: Executor) -> None:
    assert default_workers(threads) == 2
    assert default_workers(treadle.PoolExecutor(3)) == 3
    assert default_workers(Refuser()) == 32


# The end


def test_what_has_not_begun_there_is_not_begun_after_the_end() -> None:
    executor = Refuser()
    run = treadle.map(abs, range(10), engine=executor, max_workers=2, grace=PATIENCE_SECONDS)
    for _ in range(2):
        assert executor.asked.acquire(timeout=PATIENCE_SECONDS)

    run.close()

    assert all(future.cancelled() for future in executor.futures)
    assert {outcome.status for outcome in run.rest()} == {"not_started"}


def test_a_pool_that_breaks_ends_the_run(processes: Executor, tmp_path: Path) -> None:
    gate = FileGate(tmp_path)
    run = treadle.map(gate.hold, range(1000), engine=processes)
    pids = gate.wait_for_arrivals(2)

    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(BrokenProcessPool) as caught:
        list(run)

    gate.open()
    assert any(
        "the executor makes no calls any more: <concurrent.futures.process" in it for it in caught.value.__notes__
    )
    rest = list(run.rest())
    assert [outcome.index for outcome in rest] == list(range(run.stats.taken))
    assert [outcome.status for outcome in rest[:2]] == ["failed", "failed"]
    assert {outcome.status for outcome in rest[2:]} <= {"not_started"}


def die(status: int) -> None:
    """End the process it is called in."""
    os._exit(status)


def test_outcomes_end_as_well_when_the_pool_breaks(processes: Executor) -> None:
    seen = []
    with pytest.raises(BrokenProcessPool):
        for outcome in treadle.map(die, range(10_000), engine=processes).outcomes():
            seen.append(outcome.status)
    assert "succeeded" not in seen


def test_one_that_was_shut_down_ends_the_run_at_once() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()

    run = treadle.map(abs, range(10), engine=executor)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        list(run)

    assert {outcome.status for outcome in run.rest()} == {"not_started"}


def test_what_it_cancels_by_itself_is_no_success() -> None:
    executor = Refuser()
    run = treadle.map(abs, [-1], engine=executor, max_workers=1)
    assert executor.asked.acquire(timeout=PATIENCE_SECONDS)

    executor.futures[0].cancel()

    with pytest.raises(RuntimeError, match="the executor has cancelled its calls"):
        list(run)


def test_a_portion_that_fails_as_a_whole_fails_its_items() -> None:
    executor = Refuser()
    run = treadle.map(len, ["a"], engine=executor, max_workers=1)
    assert executor.asked.acquire(timeout=PATIENCE_SECONDS)

    executor.futures[0].set_exception(MemoryError("there"))

    (outcome,) = run.outcomes()
    assert isinstance(outcome.error, MemoryError)


def test_a_slow_call_sends_the_rest_of_its_portion_back(threads: Executor, gate: Gate) -> None:
    """A portion is no longer than its time, whatever was expected of its calls: a result waits for no other."""

    def call(item: str) -> object:
        if item == "slow":
            time.sleep(2 * PORTION_SECONDS)
        return gate.hold(item) if item == "held" else item

    dispatch = Dispatch(threads, CallPlan(call, copy_context()))
    dispatch.fitting = 10
    engine, chunk = ExecutorEngine(dispatch), make_chunk(["slow", "held"])
    owner = threading.Thread(target=engine.make_calls, args=(chunk,))
    owner.start()
    wait_until(lambda: chunk.results == ["slow"])

    gate.open()
    owner.join()
    assert chunk.results == ["slow", "held"]


# Dask, where there is none


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)

    with pytest.raises(treadle.MissingExtra, match=r"treadle.dask\(\) needs an extra: pip install 'treadle\[dask\]'"):
        treadle.dask("127.0.0.1:8786")


def test_an_address_where_nobody_listens_is_said_at_once() -> None:
    pytest.importorskip("distributed", exc_type=ImportError)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(ConnectionError, match=f"no Dask scheduler answers at '127.0.0.1:{port}'"):
        treadle.dask(f"dask://127.0.0.1:{port}")


@pytest.mark.parametrize(("address", "kind"), [("nonsense", treadle.InvalidArgument), (8786, treadle.WrongType)])
def test_an_address_that_is_none_is_refused(address: Any, kind: type[Exception]) -> None:
    pytest.importorskip("distributed", exc_type=ImportError)
    with pytest.raises(kind, match="address must be"):
        treadle.dask(address)


class Forgetful(Executor):
    """Loses portions, with an error of its own."""

    def __init__(self, losses: int) -> None:
        self.losses = losses

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.losses:
            self.losses -= 1
            future.set_exception(ValueError("too many values to unpack"))
        else:
            future.set_result(fn())
        return future


@pytest.mark.parametrize(("losses", "results"), [(1, [1, 2]), (2, [None, 2])])
def test_a_cluster_that_loses_an_answer_is_asked_once_more(losses: int, results: list[int | None]) -> None:
    """Dask makes calls of dead workers again by itself, but now and then loses count of an answer on its way."""
    engine = ExecutorEngine(Dispatch(Forgetful(losses), CallPlan(abs, copy_context())))
    engine._dispatch.tells_begun = False
    chunk = make_chunk([-1, -2])

    engine.make_calls(chunk)

    assert chunk.results == results


def test_an_executor_that_makes_each_call_once_is_not_asked_again() -> None:
    engine = ExecutorEngine(Dispatch(Forgetful(1), CallPlan(abs, copy_context())))
    chunk = make_chunk([-1, -2])

    engine.make_calls(chunk)

    assert chunk.results == [None, 2]


def test_after_a_call_that_is_asked_to_end_no_other_of_its_portion_begins(threads: Executor) -> None:
    """Each of them would only feel it in turn, and count as a failure."""
    made: list[int] = []

    def call(item: int) -> None:
        made.append(item)
        chunk.mark_cancelled()
        treadle.sleep(60)

    dispatch = Dispatch(threads, CallPlan(call, copy_context()))
    chunk = make_chunk([1, 2, 3])
    chunk.own_scope()

    def cancel() -> None:
        wait_until(lambda: bool(made))
        chunk.own_scope().cancel("it was cancelled")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    portion = Portion(dispatch, chunk, [1, 2, 3])
    results, _, errors, _, _ = portion()
    canceller.join()

    assert (made, results) == ([1], [None])
    assert isinstance(errors[0], treadle.Cancelled)
