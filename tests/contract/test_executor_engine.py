"""Executors of others keep the contracts, as far as they can: the standard library's, loky's, Dask's, and our own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

import treadle
from tests.contract.engine_contract import EngineContract
from tests.contract.run_contract import RunContract
from treadle._engines.engine import CallPlan, Engine
from treadle._engines.executor import Dispatch, ExecutorEngine


@pytest.fixture(autouse=True, scope="module")
def _helpers_run() -> None:
    """What stays as long as this process is nothing that a test leaves behind."""
    for name in ("multiprocessing.forkserver", "multiprocessing.resource_tracker", "loky.backend.resource_tracker"):
        with suppress(ImportError):
            import_module(name).ensure_running()


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
    def executor(self) -> Iterator[Executor]:
        with self.make_executor() as self.engine:
            yield self.engine

    def make_engine(self, plan: CallPlan) -> Engine:
        return ExecutorEngine(Dispatch(self.engine, plan))


class TestThreadPoolExecutor(ByAnExecutor):
    """Calls in this process, with the objects themselves."""

    carries_context = True
    hears_cancellation = True

    def make_executor(self) -> Executor:
        return ThreadPoolExecutor(4)


class TestPoolExecutor(ByAnExecutor):
    """Our own, whose tasks are futures."""

    carries_context = True
    hears_cancellation = True

    def make_executor(self) -> Executor:
        return treadle.PoolExecutor(4)


class TestProcessPoolExecutor(ByAnExecutor):
    """Calls in processes that are forked by a server."""

    def make_executor(self) -> Executor:
        return ProcessPoolExecutor(2, multiprocessing.get_context("forkserver"))


class TestLoky(ByAnExecutor):
    """Calls in processes of loky's."""

    def make_executor(self) -> Executor:
        loky: Any = pytest.importorskip("loky")
        executor: Executor = loky.ProcessPoolExecutor(2)
        return executor


class TestInterpreterPoolExecutor(ByAnExecutor):
    """Calls in interpreters of their own, in this process."""

    def make_executor(self) -> Executor:
        futures: Any = pytest.importorskip("concurrent.futures")
        if not hasattr(futures, "InterpreterPoolExecutor"):
            pytest.skip("from Python 3.14 on")
        executor: Executor = futures.InterpreterPoolExecutor(2)
        return executor
