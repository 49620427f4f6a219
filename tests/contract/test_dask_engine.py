"""A real Dask cluster keeps the contracts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import pytest

from tests.clusters import DaskCluster
from tests.contract.test_executor_engine import ByAnExecutor

distributed: Any = pytest.importorskip("distributed", exc_type=ImportError)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with (
        DaskCluster(tmp_path_factory.mktemp("cluster")) as cluster,
        distributed.Client(cluster.address, set_as_default=False) as client,
    ):
        yield client


class TestDask(ByAnExecutor):
    """Calls by two workers, which have one thread each."""

    @pytest.fixture(autouse=True)
    def executor(self, client: Any) -> Iterator[Executor]:
        with client.get_executor() as self.engine:
            yield self.engine
