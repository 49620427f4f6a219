"""``resource=`` of groups and executors: each worker opens one for itself, and calls get it as their last argument."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import treadle
from tests.asides import Aside
from tests.conftest import Gate

Make = Callable[..., Any]
OWNERS = [treadle.TaskGroup, treadle.PoolExecutor]


class Connection:
    """Counts itself among those that were opened, and those that were closed."""

    opened: list[Connection]
    closed: list[Connection]

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.users = 0
        self.opened.append(self)

    def close(self) -> None:
        self.closed.append(self)


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> type[Connection]:
    monkeypatch.setattr(Connection, "opened", [], raising=False)
    monkeypatch.setattr(Connection, "closed", [], raising=False)
    return Connection


@pytest.mark.parametrize("make", OWNERS)
def test_each_worker_opens_one_and_its_calls_get_it(make: Make, connect: type[Connection], gate: Gate) -> None:
    def call(number: int, connection: Connection, *, key: str) -> tuple[int, str, bool]:
        gate.hold()
        connection.users += 1
        return number, key, connection.thread == threading.get_ident()

    with make(2, resource=connect) as owner:
        tasks = [owner.submit(call, number, key="k") for number in range(6)]
        gate.wait_for_arrivals(2)
        gate.open()
        answers = [task.result() for task in tasks]

    assert answers == [(number, "k", True) for number in range(6)]
    assert len(connect.opened) == 2
    assert connect.closed == connect.opened or connect.closed == connect.opened[::-1]
    assert sum(connection.users for connection in connect.opened) == 6


@pytest.mark.parametrize("make", OWNERS)
def test_a_call_that_waits_for_another_keeps_its_resource_to_itself(make: Make, connect: type[Connection]) -> None:
    """It may be in the middle of a transaction: the worker that waits does not make the other call on its stack."""

    def call(depth: int, connection: Connection) -> list[Connection]:
        connection.users += 1
        try:
            assert connection.users == 1, "two calls use it at the same time"
            return [connection] + (owner.submit(call, depth - 1).result() if depth else [])
        finally:
            connection.users -= 1

    with make(1, resource=connect) as owner:
        used = owner.submit(call, 3).result()

    assert len(set(used)) == 4
    assert sorted(map(id, connect.closed)) == sorted(map(id, connect.opened))


@pytest.mark.parametrize("make", OWNERS)
def test_a_broken_one_is_replaced_and_its_task_is_called_again(make: Make, connect: type[Connection]) -> None:
    def call(number: int, connection: Connection) -> int:
        if connection is connect.opened[0] and number == 1:
            raise ConnectionResetError
        return number

    with make(1, resource=treadle.Resource(connect, renew_on=ConnectionError)) as owner:
        assert [owner.submit(call, number).result() for number in range(3)] == [0, 1, 2]

    assert len(connect.opened) == 2


def open_here() -> list[int]:
    return [os.getpid()]


def process_of(item: int, opened: list[int]) -> tuple[int, bool]:
    return item, opened == [os.getpid()] != [item]


@pytest.mark.parametrize("make", OWNERS)
def test_in_a_process_it_is_opened_there(make: Make) -> None:
    with make(1, engine="processes", resource=open_here) as owner:
        task = owner.submit(process_of, os.getpid())

    assert task.result() == (os.getpid(), True)


@pytest.mark.parametrize("make", OWNERS)
def test_calls_of_coroutine_functions_get_one_each_at_a_time(make: Make, connect: type[Connection]) -> None:
    async def call(number: int, connection: Connection) -> int:
        connection.users += 1
        await asyncio.sleep(0.001)
        assert connection.users == 1
        connection.users -= 1
        return number

    with make(3, resource=connect) as owner:
        tasks = [owner.submit(call, number) for number in range(9)]

    assert [task.result() for task in tasks] == list(range(9))
    assert len(connect.opened) == len(connect.closed) <= 3


def test_an_executor_as_the_engine_has_its_own() -> None:
    with ThreadPoolExecutor(1) as theirs, pytest.raises(treadle.InvalidArgument, match="resource must be None"):
        treadle.TaskGroup(engine=theirs, resource=list)


@pytest.mark.parametrize("make", OWNERS)
def test_a_factory_must_be_callable(make: Make) -> None:
    with pytest.raises(treadle.WrongType, match="resource must be callable"):
        make(resource="connection")


def test_nothing_is_opened_before_a_task_needs_it(connect: type[Connection]) -> None:
    with treadle.PoolExecutor(4, resource=connect):
        pass

    assert connect.opened == []


def test_shutdown_waits_until_it_is_closed(gate: Gate) -> None:
    """Whoever ends a pool means to have its connections closed."""

    class Slow:
        def close(self) -> None:
            gate.hold()
            closed.set()

    closed = threading.Event()
    pool = treadle.PoolExecutor(1, resource=Slow)
    pool.submit(len, ()).exception()
    leaving = Aside(pool.shutdown)
    gate.wait_for_arrivals()
    assert not leaving.is_over()
    gate.open()
    leaving.value()

    assert closed.is_set()
