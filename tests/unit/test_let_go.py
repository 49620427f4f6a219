"""What nobody holds any more is not kept by threads of ours, and needs no collector to end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest

import treadle
from tests.held import held, hold, no_collector
from tests.places import wait_until
from treadle._core.gil import is_gil_enabled
from treadle._run import course


def rows() -> Iterator[int]:
    here = hold()
    yield from range(3)
    raise OSError(f"connection lost, beside {here}")


class Rows:
    """The same without a generator's frame."""

    def __init__(self) -> None:
        self.count = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        here = hold()
        self.count += 1
        if self.count > 3:
            raise OSError(f"connection lost, beside {here}")
        return self.count


def call(item: Any) -> Any:
    return item


async def call_later(item: Any) -> Any:
    return item


def fail(item: object) -> Any:
    here = hold()
    raise ValueError(item, id(here))


FRONTS: dict[str, Callable[[], Any]] = {
    "map": lambda: treadle.map(call, rows(), max_workers=2),
    "map of an iterator": lambda: treadle.map(call, Rows(), max_workers=2),
    "outcomes": lambda: treadle.map(call, rows(), max_workers=2).outcomes(),
    "feeder": lambda: treadle.map(call, rows(), max_workers=2, intake="thread"),
    "coroutines": lambda: treadle.map(call_later, rows(), max_workers=2),
    "processes": lambda: treadle.map(call, rows(), max_workers=1, engine="processes"),
    "starmap": lambda: treadle.starmap(pow, ((row, row) for row in rows()), max_workers=2),
    "traverse": lambda: treadle.traverse(lambda _: [], rows(), max_workers=2),
    "pipeline": lambda: treadle.pipeline(rows()).map(call, max_workers=2).map(call, max_workers=2).start(),
    "islice": lambda: islice(treadle.map(call, rows(), max_workers=2), 1),
}


@pytest.fixture(autouse=True)
def _no_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with no_collector(monkeypatch):
        yield


def assert_let_go(before: set[threading.Thread]) -> None:
    assert held
    # Without a GIL, what a thread has made and others let go of is gone when it goes on, or with the collector.
    wait_until(lambda: (is_gil_enabled() or gc.collect() >= 0) and not any(ref() for ref in held))
    wait_until(lambda: not [thread for thread in set(threading.enumerate()) - before if "treadle" in thread.name])


@pytest.mark.parametrize("front", FRONTS)
def test_a_run_whose_input_has_raised_ends_with_its_last_reference(front: str) -> None:
    """The frames of what the input raised led to those of its consumer, whose variables hold the run."""
    before = set(threading.enumerate())

    def consume() -> None:
        here = hold()
        run = FRONTS[front]()
        next(run)
        del here

    consume()

    assert_let_go(before)


@pytest.mark.parametrize("front", FRONTS)
def test_so_it_does_where_another_error_was_being_handled(front: str) -> None:
    """That one is the context of the input's, and its frames are the consumer's as well."""
    before = set(threading.enumerate())

    def consume() -> None:
        here = hold()
        try:
            raise KeyError
        except KeyError:
            run = FRONTS[front]()
            next(run)
        del here

    consume()

    assert_let_go(before)


def test_so_it_does_behind_an_async_for() -> None:
    before = set(threading.enumerate())

    async def consume() -> None:
        here = hold()
        run = treadle.map(call, rows(), max_workers=2)
        async for _ in run:
            break
        del here

    asyncio.run(consume())

    assert_let_go(before)


def test_the_error_of_the_input_says_where_it_was_raised_and_beside_what() -> None:
    """What is cut off for the time between comes back with the raising."""
    handled = KeyError()
    try:
        raise handled
    except KeyError:
        with pytest.raises(OSError, match="connection lost") as raised:
            list(treadle.map(call, rows()))

    assert raised.traceback[-1].name == "rows"
    assert "here" in raised.traceback[-1].locals
    assert raised.value.__context__ is handled


def test_the_context_that_the_input_itself_gives_its_error_stays() -> None:
    def translated() -> Iterator[int]:
        yield 1
        try:
            raise LookupError
        except LookupError:
            raise OSError  # noqa: B904  # the context is what this is about

    try:
        raise KeyError
    except KeyError:
        run = treadle.map(call, translated())

    with pytest.raises(OSError) as raised:
        list(run)
    assert type(raised.value.__context__) is LookupError


def test_a_call_that_is_left_behind_keeps_nothing_of_its_run() -> None:
    """It may be stuck for good; the run had failed, with an error whose frames are the consumer's."""
    stuck, end = threading.Event(), threading.Event()

    def fail_beside_another(item: int) -> None:
        if item == 0:
            stuck.wait()
            fail(item)
        stuck.set()
        end.wait()

    def consume() -> weakref.ref[Any]:
        run = treadle.map(fail_beside_another, range(2), max_workers=2, grace=0)
        with contextlib.suppress(ValueError):
            list(run)
        assert run.stats.abandoned == 1
        return weakref.ref(run)

    run = consume()

    def is_gone() -> bool:
        gc.collect()  # for the circle that is the consumer's own: run, failed item, its error, the frame with the run
        return run() is None

    wait_until(is_gone)  # the other worker may be at its last step
    end.set()


def test_too_many_left_behind_is_no_reason_to_keep_the_run() -> None:
    begun, end = threading.Event(), threading.Event()

    def get_stuck(_: int) -> None:
        begun.set()
        end.wait()

    def consume() -> weakref.ref[Any]:
        run = treadle.map(get_stuck, range(1), max_workers=1, grace=0, max_abandoned=0)
        begun.wait()
        with pytest.raises(treadle.TooManyAbandoned):
            run.close()
        return weakref.ref(run)

    run = consume()

    wait_until(lambda: run() is None)
    end.set()


def coroutines_of_a_run() -> object:
    run = treadle.map(call_later, iter(int, 1), max_workers=4)
    next(run)
    wait_until(lambda: all(worker.is_idle for worker in list(run._course.crew.workers)))
    return run


def coroutines_of_a_pipeline() -> object:
    flow = treadle.pipeline(iter(int, 1)).map(call_later, max_workers=4).map(call_later, max_workers=4).start()
    next(flow)
    wait_until(lambda: all(worker.is_idle for worker in list(flow._account.legs[-1].course.crew.workers)))
    return flow


def coroutines_of_an_executor() -> object:
    pool = treadle.PoolExecutor(4)
    pool.submit(call_later, 1).result()
    wait_until(lambda: all(worker.is_idle for worker in list(pool._book.crew.workers)))
    return pool


def coroutines_beside_an_executors_threads() -> object:
    pool = treadle.PoolExecutor(4)
    pool.submit(call, 1).result()
    pool.submit(call_later, 1).result()
    wait_until(lambda: all(worker.is_idle for worker in list(pool._book.crew.workers)))
    return pool


@pytest.mark.parametrize(
    "start",
    [
        coroutines_of_a_run,
        coroutines_of_a_pipeline,
        coroutines_of_an_executor,
        coroutines_beside_an_executors_threads,
    ],
)
def test_coroutines_that_are_collected_in_a_circle_end_on_their_loop(
    start: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    """The collector took owner, workers and their tasks in one go, in any order, in the middle of what these did."""

    class Owner:
        def __init__(self) -> None:
            self.me = self
            self.started = start()

    before = set(threading.enumerate())
    for _ in range(10):
        Owner()
        gc.collect()

    wait_until(lambda: not [thread for thread in set(threading.enumerate()) - before if "treadle" in thread.name])
    assert not caplog.records


class Owner:
    """Keeps the run of its own method: a circle, in which the threads that make its calls are."""

    def __init__(self) -> None:
        self.run = treadle.map(self.call, iter(range(10_000)), max_workers=2)

    def call(self, item: int) -> int:
        return item


def test_an_owner_whose_run_calls_its_own_method_goes_when_its_workers_have_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that have nothing of their own leave after a while, and the rest is the collector's."""
    monkeypatch.setattr(course, "IDLE_SECONDS", 0.01)
    before = threading.active_count()
    owner = Owner()
    assert next(owner.run) == 0
    ref = weakref.ref(owner)
    del owner

    wait_until(lambda: gc.collect() >= 0 and ref() is None and threading.active_count() == before)


def test_a_run_whose_workers_have_left_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "IDLE_SECONDS", 0.0)
    with treadle.map(call, range(1000), max_workers=2) as run:
        for number in range(1000):
            assert next(run) == number
            if number % 100 == 0:
                wait_until(lambda: not run._course.crew.workers)
