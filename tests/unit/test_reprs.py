"""What Treadle's objects look like in a debugger or a log: short, and shown whatever goes on, without waiting."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until


def test_a_run_tells_how_far_it_is(gate: Gate) -> None:
    run = treadle.map(gate.hold, range(2), max_workers=2, name="hold")
    gate.wait_for_arrivals(2)
    assert repr(run) == "<treadle.Run 'hold', is going on: 2 taken, 0 done>"

    gate.open()
    assert list(run) == [0, 1]
    assert repr(run) == "<treadle.Run 'hold', has ended: 2 taken, 2 done>"


def test_a_run_that_is_ending_says_so(gate: Gate) -> None:
    run = treadle.map(gate.hold, range(1), grace=60, name="hold")
    gate.wait_for_arrivals()
    closing = threading.Thread(target=run.close)
    closing.start()
    wait_until(lambda: repr(run) == "<treadle.Run 'hold', is stopping: 1 taken, 0 done>")
    gate.open()
    closing.join()

    assert "has ended" in repr(run)


def test_failures_are_among_what_it_tells() -> None:
    run = treadle.map(int, ["1", "x"], name="int")
    list(run.outcomes())

    assert repr(run) == "<treadle.Run 'int', has ended: 2 taken, 2 done, 1 failed>"


def test_a_traversal_and_a_pipeline() -> None:
    with treadle.traverse(lambda _: [], [1], name="walk") as walk:
        assert repr(walk).startswith("<treadle.Traversal 'walk', ")
    plan = treadle.pipeline([1], name="pages").map(str).batched(2)
    assert repr(plan) == "<treadle.Pipeline 'pages': source -> str -> batched(2)>"
    assert list(plan) == [["1"]]


def test_a_group_and_an_executor_tell_what_is_unfinished(gate: Gate) -> None:
    group = treadle.TaskGroup(name="load")
    assert repr(group) == "<treadle.TaskGroup 'load', has not begun: 0 unfinished>"
    with group:
        group.submit(gate.hold)
        gate.wait_for_arrivals()
        assert repr(group) == "<treadle.TaskGroup 'load', is open: 1 unfinished>"
        gate.open()
    assert "0 unfinished" in repr(group)

    with treadle.PoolExecutor(1, "pool") as pool:
        assert repr(pool) == "<treadle.PoolExecutor 'pool', is open: 0 unfinished>"
    assert repr(pool) == "<treadle.PoolExecutor 'pool', was shut down: 0 unfinished>"


def test_periodic_work() -> None:
    with treadle.every(1000, list[int], name="check") as check:
        assert repr(check) == "<treadle.Periodic 'check', is going on>"
    assert repr(check) == "<treadle.Periodic 'check', was stopped>"


def test_stats_tell_what_there_is_and_can_be_typed_in_again() -> None:
    stats = treadle.Stats(taken=3, succeeded=2, seconds=0.5)

    assert repr(stats) == "Stats(taken=3, succeeded=2, seconds=0.5)"
    assert eval(repr(stats), {"Stats": treadle.Stats}) == stats
    assert repr(treadle.StageStats(number=1, name="a", taken=1)) == "StageStats(taken=1, number=1, name='a')"


@pytest.mark.parametrize(
    "kind", [treadle.Run, treadle.Pipeline, treadle.TaskGroup, treadle.PoolExecutor, treadle.Periodic]
)
def test_one_that_was_never_made_ready_can_be_shown(kind: Any) -> None:
    """As a debugger does while the constructor raises."""
    assert kind.__name__ in repr(kind.__new__(kind))


@pytest.fixture(params=["map", "group", "executor", "every"])
def owner_and_locks(request: pytest.FixtureRequest) -> Iterator[tuple[object, list[Any]]]:
    """Yield something that makes calls, and all its locks."""
    if request.param == "map":
        with treadle.map(len, ["a"]) as run:
            yield run, [run._course.crew.lock]
    elif request.param == "group":
        with treadle.TaskGroup() as group:
            yield group, [group._book.crew.lock, group._book._counting, group._book._engine._choosing]
    elif request.param == "executor":
        with treadle.PoolExecutor() as pool:
            yield pool, [pool._book.crew.lock, pool._book._counting, pool._book._engine._choosing]
    else:
        with treadle.every(1000, list[int]) as periodic:
            yield periodic, [periodic._lock, periodic._book.crew.lock, periodic._book._counting]


def test_none_waits_for_a_lock(owner_and_locks: tuple[object, list[Any]]) -> None:
    """Another thread may hold it, and wait for whoever looks."""
    owner, locks = owner_and_locks
    for lock in locks:
        lock.acquire()
    shown: list[str] = []
    look = threading.Thread(target=lambda: shown.append(repr(owner)), daemon=True)
    try:
        look.start()
        look.join(PATIENCE_SECONDS)
        assert not look.is_alive(), "it waits"
    finally:
        for lock in locks:
            lock.release()
    look.join()
    assert shown


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("make", [lambda: treadle.map(len, ["a"]), treadle.TaskGroup])
def test_in_a_forked_child_it_says_whose_it_is(make: Callable[[], Any]) -> None:
    with make() as owner:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            os.write(writer, repr(owner).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with open(reader) as said:
            assert "belongs to the process that was forked" in said.read()
