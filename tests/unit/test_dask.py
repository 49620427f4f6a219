"""A Dask cluster as an engine: what its workers need, and what becomes of a run when one, or the scheduler, dies."""

from __future__ import annotations

import colorsys
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

import treadle
from tests.calls import FileGate
from tests.clusters import DaskCluster
from tests.conftest import PATIENCE_SECONDS
from tests.contract.run_contract import is_alive
from tests.places import wait_until
from treadle._engines import errand

distributed: Any = pytest.importorskip("distributed", exc_type=ImportError)

# As on a machine where it is not installed.
NO_TREADLE = "import sys\nsys.modules['treadle'] = None\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., DaskCluster]]:
    started: list[DaskCluster] = []

    def start(**options: Any) -> DaskCluster:
        folder = tmp_path / f"cluster-{len(started)}"
        folder.mkdir()
        started.append(DaskCluster(folder, **options).__enter__())
        return started[-1]

    yield start
    for cluster in started:
        cluster.__exit__(None, None, None)


def tell_pid(number: int) -> tuple[int, int]:
    return number, os.getpid()


def test_workers_need_no_treadle_and_what_is_lost_in_pickling_is_one_items_failure(
    start: Callable[..., DaskCluster], tmp_path: Path
) -> None:
    """The function is of this module, which a bare worker does not have: hence the lambda."""
    preload = tmp_path / "no_treadle.py"
    preload.write_text(NO_TREADLE)

    class Unpicklable(Exception):
        def __init__(self) -> None:
            super().__init__("bad")
            self.lock = __import__("threading").Lock()

    def call(item: object) -> object:
        import sys
        import threading

        if item == "unpicklable result":
            return {"lock": threading.Lock()}
        if item == "unpicklable error":
            raise Unpicklable
        if item == "error":
            raise KeyError("of the user's")
        return sys.modules["treadle"]

    items = ["fine", "unpicklable result", "unpicklable error", "error", sys._getframe()]
    with treadle.dask(start(preload=preload, workers=1).address) as cluster:
        outcomes = list(treadle.map(call, items, engine=cluster).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", "failed", "failed", "failed"]
    assert outcomes[0].value is None
    errors = [outcome.error for outcome in outcomes[1:]]
    assert [type(error) for error in errors] == [
        treadle.NotPicklable,
        treadle.RemoteError,
        KeyError,
        treadle.NotPicklable,
    ]
    assert "the result ({'lock': " in str(errors[0])
    assert "Unpicklable('bad')" in str(errors[1])
    assert "in call" in str(errors[2] and errors[2].__cause__)


def test_what_a_worker_cannot_make_of_its_pickle_fails(
    start: Callable[..., DaskCluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with another version of Python. Of a task that it cannot read, a worker of Dask says nothing to anybody."""
    preload = tmp_path / "no_colorsys.py"
    preload.write_text("import sys\nsys.modules['colorsys'] = None\n")
    monkeypatch.setattr(errand, "_pickle", pickle.dumps(colorsys.rgb_to_hsv))

    with treadle.dask(start(preload=preload, workers=1).address) as cluster:
        outcomes = list(treadle.map(abs, range(3), engine=cluster, timeout=PATIENCE_SECONDS).outcomes())

    assert [type(outcome.error) for outcome in outcomes] == [ModuleNotFoundError] * 3


@pytest.mark.parametrize("nanny", [False, True])
def test_a_worker_killed_midway_loses_no_item(start: Callable[..., DaskCluster], tmp_path: Path, nanny: bool) -> None:
    gate = FileGate(tmp_path)

    def call(number: int) -> object:
        return gate.hold(number) if number in (100, 101) else number

    with treadle.dask(start(nanny=nanny).address) as cluster:
        run = treadle.map(call, range(200), engine=cluster, intake="thread", buffersize=200)
        pids = gate.wait_for_arrivals()
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: not is_alive(pids[0]) or _is_zombie(pids[0]))
        gate.open()
        outcomes = list(run.outcomes())

    assert [(outcome.index, outcome.value, outcome.error) for outcome in outcomes] == [
        (number, number, None) for number in range(200)
    ]
    assert run.stats.succeeded == 200


def test_a_lost_scheduler_ends_the_run(start: Callable[..., DaskCluster], tmp_path: Path) -> None:
    gate = FileGate(tmp_path)
    cluster = start()
    client = distributed.Client(cluster.address, set_as_default=False, timeout=1)
    try:
        run = treadle.map(gate.hold, range(10), engine=client.get_executor(), chunksize=1)
        gate.wait_for_arrivals(2)
        assert cluster.scheduler is not None
        cluster.scheduler.kill()

        with pytest.raises(BrokenExecutor, match="has cancelled its calls") as caught:
            list(run)

        assert any("makes no calls any more" in note for note in caught.value.__notes__)
        assert [outcome.index for outcome in run.rest()] == list(range(run.stats.taken))
        assert {outcome.status for outcome in run.rest()} <= {"failed", "not_started"}
    finally:
        gate.open()
        client.close()


def test_it_ends_with_its_block_and_the_cluster_goes_on(start: Callable[..., DaskCluster]) -> None:
    address = start().address
    for _ in range(2):
        with treadle.dask(f"dask://{address.removeprefix('tcp://')}") as cluster:
            assert len({pid for _, pid in treadle.map(tell_pid, range(100), engine=cluster, chunksize=5)}) <= 2
            assert cluster.submit(pow, 2, 3).result(PATIENCE_SECONDS) == 8
        with pytest.raises(RuntimeError, match="after shutdown"):
            list(treadle.map(tell_pid, range(3), engine=cluster))


def test_calls_with_equal_items_are_made_each(start: Callable[..., DaskCluster], tmp_path: Path) -> None:
    """Dask would make equal calls once, as it takes functions for pure."""
    gate = FileGate(tmp_path)

    with distributed.Client(start().address, set_as_default=False) as client:
        run = treadle.map(gate.hold, ["x", "x"], engine=client.get_executor(), chunksize=1)
        gate.wait_for_arrivals(2)
        gate.open()
        assert list(run) == ["x", "x"]


def test_workers_are_as_many_as_the_cluster_has_threads(start: Callable[..., DaskCluster]) -> None:
    with treadle.dask(start().address) as cluster:
        run = treadle.map(abs, [1], engine=cluster)
        assert list(run) == [1]
    assert "at most 2 workers" in str(run.stats.decision)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
