"""A call leaves its thread as it found it, also if a generator that lives on holds a block that it has entered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from contextvars import ContextVar
from typing import Any

import pytest

import treadle
from tests.places import wait_until

variable: ContextVar[int] = ContextVar("variable")
BLOCKS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "shield": lambda: treadle.shield(100),
    "group": treadle.TaskGroup,
}
kept: list[Iterator[None]] = []


def hold(block: AbstractContextManager[Any]) -> None:
    """Enter ``block``, and return inside it."""

    def holding() -> Iterator[None]:
        with block:
            yield

    generator = holding()
    next(generator)
    kept.append(generator)


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    yield
    while kept:
        kept.pop().close()  # type: ignore[attr-defined]  # it is a generator


@pytest.fixture(params=["plain", "with a context", "held to a policy", "in an executor", "in chunks"])
def options(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """How calls are made, all of them on one thread."""
    if request.param == "with a context":
        token = variable.set(1)
        yield {}
        variable.reset(token)
    elif request.param == "in an executor":
        with ThreadPoolExecutor(1) as pool:
            yield {"engine": pool}
    else:
        yield {"held to a policy": {"call_timeout": 100}, "in chunks": {"chunksize": 2}}.get(request.param, {})


@pytest.mark.parametrize("block", BLOCKS)
def test_the_next_call_can_be_cancelled(block: str, options: dict[str, Any]) -> None:
    has_begun = threading.Event()

    def call(item: int) -> None:
        if item == 0:
            hold(BLOCKS[block]())
            return
        has_begun.set()
        treadle.sleep(100)

    with closing(treadle.map(call, range(2), max_workers=1, **options)) as run:
        run.stats  # noqa: B018  # it is read
        has_begun.wait()
        run.close()

        assert run.stats.cancelled == 1
        assert run.stats.abandoned == 0


def test_the_next_task_can_be_cancelled() -> None:
    has_begun = threading.Event()

    def wait() -> None:
        has_begun.set()
        treadle.sleep(100)

    with treadle.PoolExecutor(1) as pool:
        pool.submit(hold, treadle.shield(100)).result()
        task = pool.submit(wait)
        has_begun.wait()
        task.cancel()

        with pytest.raises(CancelledError):
            task.result()


def test_the_next_call_needs_a_place_of_its_own(options: dict[str, Any]) -> None:
    """It waits, until the block is left: on whichever thread."""
    limiter = treadle.Limiter(max_concurrent=1)

    def call(item: int) -> int:
        if item == 0:
            hold(limiter)
        else:
            with limiter:
                pass
        return item

    with closing(treadle.map(call, range(2), max_workers=1, **options)) as run:
        wait_until(lambda: bool(limiter._state().line))
        kept.pop().close()  # type: ignore[attr-defined]  # it is a generator

        assert list(run) == [0, 1]
    assert not limiter._state().holders
    assert not limiter._state().left_open


def test_a_block_that_a_later_call_leaves_is_left() -> None:
    limiter = treadle.Limiter(max_concurrent=1)

    def call(item: int) -> int:
        if item == 0:
            hold(limiter)
        if item == 2:
            kept.pop().close()  # type: ignore[attr-defined]  # it is a generator
        if item == 3:
            with limiter:
                return item
        return item

    assert list(treadle.map(call, range(4), max_workers=1)) == [0, 1, 2, 3]
    assert not limiter._state().holders


def test_a_place_that_the_resource_holds_is_shared_by_its_calls() -> None:
    """That one was entered around the calls, not by one of them."""
    limiter = treadle.Limiter(max_concurrent=1)

    @contextmanager
    def connect() -> Iterator[str]:
        with limiter:
            yield "connection"

    def call(item: int, connection: str) -> str:
        with limiter:
            return f"{connection} {item}"

    results = list(treadle.map(call, range(2), max_workers=1, resource=connect))

    assert results == ["connection 0", "connection 1"]
    assert not limiter._state().holders


def test_a_group_that_the_resource_holds_keeps_no_call_from_being_cancelled() -> None:
    has_begun = threading.Event()

    @contextmanager
    def open_group() -> Iterator[treadle.TaskGroup]:
        with treadle.TaskGroup() as group:
            yield group

    def call(_: int, group: treadle.TaskGroup) -> None:
        group.submit(abs, 1).result()
        has_begun.set()
        treadle.sleep(100)

    with closing(treadle.map(call, range(1), max_workers=1, resource=open_group)) as run:
        has_begun.wait()
        run.close()

        assert run.stats.abandoned == 0


def test_the_log_names_the_call_and_what_it_left_open_once(caplog: pytest.LogCaptureFixture) -> None:
    limiter = treadle.Limiter(max_concurrent=2)

    list(treadle.map(lambda _: hold(limiter), ["first", "second"], max_workers=1))

    (record,) = caplog.records
    assert "'first'" in record.getMessage()
    assert "Limiter(max_concurrent=2)" in record.getMessage()


def test_a_call_that_leaves_what_it_enters_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    limiter = treadle.Limiter(max_concurrent=1)

    def call(item: int) -> int:
        with limiter, treadle.shield(1), treadle.TaskGroup():
            pass
        return item

    assert list(treadle.map(call, range(3), max_workers=1)) == [0, 1, 2]
    assert not caplog.records
