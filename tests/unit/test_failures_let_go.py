"""Whatever way an exception travels, what its frames hold is gone when the caller lets go, without the collector."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import treadle
from tests.conftest import end_shared_pool
from tests.held import Held, held, no_collector
from tests.places import wait_until
from treadle._core.chunk import Chunk
from treadle._core.gil import is_gil_enabled
from treadle._crew.chunking import MAX_CHUNK_BYTES, ChunkSizer

ONCE_AGAIN = treadle.Retry(2, backoff=0.001)


def fail(item: object) -> Any:
    here = Held()
    held.append(weakref.ref(here))
    raise ValueError(item)


async def fail_later(item: object) -> Any:
    fail(item)


def failing_items() -> Iterator[int]:
    yield 1
    fail(1)


class FailsOnce:
    def __init__(self) -> None:
        self.has_failed = False

    def __call__(self, item: object) -> object:
        if not self.has_failed:
            self.has_failed = True
            fail(item)
        return item


WAYS: dict[str, Callable[[], object]] = {}


def way(travel: Callable[[], object]) -> Callable[[], object]:
    WAYS[travel.__name__] = travel
    return travel


@way
def a_call_raises() -> None:
    list(treadle.map(fail, [1]))


@way
def the_input_raises_and_the_run_has_a_name() -> None:
    run = treadle.map(abs, failing_items())
    list(run)


@way
def for_each_raises() -> None:
    treadle.for_each(fail, [1])


@way
def for_each_collects() -> None:
    treadle.for_each(fail, [1, 2], on_error="collect")


@way
def outcomes_are_dropped() -> None:
    for outcome in treadle.map(fail, range(3)).outcomes():
        assert outcome.status == "failed"


@way
def an_outcome_raises() -> None:
    next(treadle.map(fail, [1]).outcomes()).result()


@way
def retries_give_up() -> None:
    list(treadle.map(fail, [1], retry=ONCE_AGAIN).outcomes())


@way
def a_retry_succeeds() -> None:
    assert list(treadle.map(FailsOnce(), [1], retry=ONCE_AGAIN)) == [1]


@way
def a_hedged_call_raises() -> None:
    list(treadle.map(fail, [1], hedge=treadle.Hedge(after=0.001)))


@way
def both_calls_of_a_hedge_raise() -> None:
    both = threading.Barrier(2)

    def fail_together(item: int) -> None:
        both.wait(30)
        fail(item)

    list(treadle.map(fail_together, [1], hedge=treadle.Hedge(after=0.001, max_extra=1)))


@way
def a_resource_is_renewed() -> None:
    resource = treadle.Resource(object, renew_on=ValueError)
    list(treadle.map(lambda item, held: fail(item), [1], resource=resource))


@way
def the_input_raises() -> None:
    list(treadle.map(abs, failing_items()))


@way
def the_input_raises_on_a_thread_of_its_own() -> None:
    list(treadle.map(abs, failing_items(), intake="thread"))


@way
def an_initializer_raises() -> None:
    list(treadle.map(abs, [1], initializer=fail, initargs=(1,)))


@way
def a_resource_does_not_open() -> None:
    list(treadle.map(pow, [1], resource=lambda: fail(1)))


@way
def the_consumer_raises() -> None:
    with treadle.map(abs, range(3)) as run:
        for result in run:
            fail(result)


@way
def a_coroutine_raises() -> None:
    list(treadle.map(fail_later, [1]))


@way
def an_asynchronous_consumer_is_told() -> None:
    async def consume() -> None:
        with contextlib.suppress(ValueError):  # not outside: asyncio.run() closes such a circle itself
            async for _ in treadle.map(fail, [1]):
                pass

    asyncio.run(consume())


@way
def an_asynchronous_consumer_reads_outcomes() -> None:
    async def consume() -> None:
        async for outcome in treadle.map(fail, [1]).outcomes():
            assert outcome.status == "failed"

    asyncio.run(consume())


@way
def a_visit_raises() -> None:
    list(treadle.traverse(fail, [1]))


@way
def a_source_of_a_pipeline_raises() -> None:
    list(treadle.pipeline(failing_items()).map(abs))


@way
def the_first_stage_raises() -> None:
    list(treadle.pipeline([1]).map(fail).map(abs))


@way
def the_last_stage_raises() -> None:
    list(treadle.pipeline([1]).map(abs).map(fail))


@way
def a_stage_before_batches_raises() -> None:
    list(treadle.pipeline([1]).map(fail).batched(2))


@way
def a_pipeline_for_each_raises() -> None:
    treadle.pipeline([1]).map(abs).for_each(fail)


@way
def a_task_of_an_executor_raises() -> None:
    with treadle.PoolExecutor(2) as pool:
        pool.submit(fail, 1).result()


@way
def a_retried_task_raises() -> None:
    with treadle.PoolExecutor(2, retry=ONCE_AGAIN) as pool:
        pool.submit(fail, 1).result()


@way
def an_executor_maps() -> None:
    with treadle.PoolExecutor(2) as pool:
        list(pool.map(fail, [1]))


@way
def a_task_of_a_group_raises() -> None:
    with treadle.TaskGroup() as group:
        group.submit(fail, 1)


@way
def a_group_collects() -> None:
    with treadle.TaskGroup(on_error="collect") as group:
        group.submit(fail, 1)


@way
def the_block_of_a_group_raises() -> None:
    with treadle.TaskGroup():
        fail(1)


@way
def first_success_finds_none() -> None:
    treadle.first_success(lambda: fail(1))


@way
def a_thread_is_awaited() -> None:
    async def consume() -> None:
        with contextlib.suppress(ValueError):
            await treadle.to_thread(fail, 1)

    asyncio.run(consume())
    if not is_gil_enabled():  # there, what a thread has made and others let go of is gone when that thread goes on
        end_shared_pool()


@way
def a_periodic_call_raises() -> None:
    with treadle.every(0.001, lambda: fail(1), on_error=lambda error: None) as periodic:
        periodic.wait_next(timeout=30)


@way
def an_update_of_a_guarded_value_raises() -> None:
    treadle.Guarded(0).update(fail)


@pytest.fixture
def _no_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with no_collector(monkeypatch):
        yield


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("travel", WAYS.values(), ids=WAYS)
def test_nothing_is_alive_when_the_caller_lets_go(travel: Callable[[], object]) -> None:
    """A circle from an error by a frame of ours back to it waits for the collector, which may come late."""
    with contextlib.suppress(ValueError, ExceptionGroup):
        travel()

    assert held
    wait_until(lambda: not any(ref() for ref in held))  # a worker may be at its last step


@pytest.mark.usefixtures("_no_collector")
def test_failures_that_hold_much_are_not_many_at_once() -> None:
    """Of what failed calls hold, no more is alive than the run's bound allows, while each waits for a retry."""
    size, most, count = 4 * MAX_CHUNK_BYTES, 0, threading.Lock()
    seen: set[int] = set()

    def call(item: int) -> int:
        nonlocal most
        with count:
            is_first = item not in seen
            seen.add(item)
        if is_first:
            room = bytearray(size)
            with count:
                most = max(most, sum(ref() is not None for ref in held))
            fail(len(room))
        return item

    assert len(list(treadle.map(call, range(300), max_workers=4, retry=ONCE_AGAIN))) == 300
    assert most <= 3 * 8


def test_a_failure_weighs_what_its_frames_hold() -> None:
    sizer = ChunkSizer(4, None, None)
    usual = _grown(sizer, None)

    try:
        _fail_with_much()
    except ValueError as error:
        _observe(sizer, error)

    assert sizer.limit(4) == 8 < usual
    assert _grown(sizer, None) == 8  # a success more, and it still counts


def _fail_with_much() -> None:
    much = bytearray(4 * MAX_CHUNK_BYTES)
    raise ValueError(len(much))


def _grown(sizer: ChunkSizer, error: BaseException | None) -> int:
    for _ in range(4):
        _observe(sizer, error)
    return sizer.limit(4)


def _observe(sizer: ChunkSizer, error: BaseException | None) -> None:
    chunk = Chunk(0, [1])
    chunk.begun, chunk.ended, chunk.results = 0.0, 1e-6, [None]
    chunk.failures = None if error is None else {0: error}
    sizer.observe(chunk)
