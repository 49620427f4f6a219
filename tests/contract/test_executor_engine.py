"""Executors of others keep the contracts, as far as they can: the standard library's, loky's, Dask's, and our own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from typing import Any

import pytest

import treadle
from tests.calls import FileGate
from tests.contract.engine_contract import EngineContract
from tests.contract.run_contract import RunContract, sum_of_squares
from tests.interpreters import interpreter_pool, needs_interpreters
from treadle._engines.engine import CallPlan, Engine
from treadle._engines.executor import Dispatch, ExecutorEngine

WORKERS = 2


@pytest.mark.usefixtures("multiprocessing_helpers")
class ByAnExecutor(RunContract, EngineContract):
    """Both suites with one executor, and what it is to be like."""

    carries_context = False
    hears_cancellation = False
    has_own_workers = True
    takes_back_what_waits = False
    engine_within = "threads"  # an executor does not pickle

    def make_executor(self) -> Executor:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def executor(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
        """Return the executor when its workers have started, which may take longer than some call may."""
        gate = FileGate(tmp_path_factory.mktemp("start"))
        with self.make_executor() as self.engine:
            started = [self.engine.submit(gate.hold) for _ in range(WORKERS)]
            gate.wait_for_arrivals(WORKERS)
            gate.open()
            wait(started)
            yield self.engine

    def make_engine(self, plan: CallPlan) -> Engine:
        return ExecutorEngine(Dispatch(self.engine, plan))


class TestThreadPoolExecutor(ByAnExecutor):
    """Calls in this process, with the objects themselves."""

    carries_context = True
    hears_cancellation = True

    def make_executor(self) -> Executor:
        return ThreadPoolExecutor(WORKERS)


class TestPoolExecutor(ByAnExecutor):
    """Our own, whose tasks are futures."""

    carries_context = True
    hears_cancellation = True

    def make_executor(self) -> Executor:
        return treadle.PoolExecutor(WORKERS)


class TestProcessPoolExecutor(ByAnExecutor):
    """Calls in processes that are forked by a server."""

    def make_executor(self) -> Executor:
        return ProcessPoolExecutor(WORKERS, multiprocessing.get_context("forkserver"))


class TestLoky(ByAnExecutor):
    """Calls in processes of loky's."""

    def make_executor(self) -> Executor:
        loky: Any = pytest.importorskip("loky")
        executor: Executor = loky.ProcessPoolExecutor(WORKERS)
        return executor


@needs_interpreters
class TestInterpreterPoolExecutor(ByAnExecutor):
    """Calls in interpreters of their own, in this process."""

    def make_executor(self) -> Executor:
        return interpreter_pool(WORKERS)

    def test_a_run_within_a_call(self) -> None:
        """Threads that are daemons, as workers are, cannot be started there."""
        with pytest.raises(RuntimeError, match="daemon threads"):
            list(self.map(lambda number: sum_of_squares(number, "threads"), [1]))
