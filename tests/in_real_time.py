"""Things that need the time to go on. Run by programs of ``tests/unit/test_replaced_time.py``, which have frozen it."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable

import treadle
from treadle._core.retry import find_retry_after

LONG_SECONDS = 3600.0
SHORT_SECONDS = 0.02


class Busy(Exception):
    """What a server answers, until it is asked at its own time: a date long over."""

    def __init__(self) -> None:
        self.headers = {"Retry-After": "Wed, 01 Jan 2020 00:00:30 GMT"}


def expect_timeout(wait: Callable[[], object]) -> None:
    try:
        wait()
    except TimeoutError:
        return
    except ExceptionGroup as errors:
        if errors.subgroup(TimeoutError) is not None:
            return
    raise AssertionError("it did not end in time")


def calls_pass_at_a_rate() -> None:
    limiter = treadle.Limiter(max_per_second=500)
    assert list(treadle.map(abs, range(10), limiter=limiter)) == list(range(10))
    with limiter:
        pass


def failed_calls_are_made_again() -> None:
    tries: list[int] = []

    def fail_twice(item: int) -> None:
        tries.append(item)
        if len(tries) < 3:
            raise OSError

    assert list(treadle.map(fail_twice, [1], retry=treadle.Retry(3, backoff=SHORT_SECONDS))) == [None]
    assert (find_retry_after(Busy()) or 0) <= 0


def late_calls_are_ended() -> None:
    for engine in "threads", "processes":
        run = treadle.map(treadle.sleep, [LONG_SECONDS], call_timeout=SHORT_SECONDS, engine=engine)
        assert [outcome.status for outcome in run.outcomes()] == ["timed_out"], engine


def late_runs_are_ended() -> None:
    expect_timeout(lambda: list(treadle.map(treadle.sleep, [LONG_SECONDS], timeout=SHORT_SECONDS)))


def late_groups_are_ended() -> None:
    def wait_in_group() -> None:
        with treadle.TaskGroup(timeout=SHORT_SECONDS) as group:
            group.submit(treadle.sleep, LONG_SECONDS)

    expect_timeout(wait_in_group)


def stuck_calls_are_left_behind() -> None:
    gate = threading.Event()
    run = treadle.map(gate.wait, [LONG_SECONDS], call_timeout=SHORT_SECONDS, grace=SHORT_SECONDS)
    assert [outcome.abandoned for outcome in run.outcomes()] == [True]
    gate.set()


def waits_are_given_up() -> None:
    gate = threading.Event()
    with treadle.PoolExecutor(1) as pool:
        task = pool.submit(gate.wait)
        expect_timeout(lambda: task.result(timeout=SHORT_SECONDS))
        gate.set()
    expect_timeout(lambda: treadle.Channel[int](1).get(timeout=SHORT_SECONDS))
    expect_timeout(lambda: treadle.Guarded(0).wait_for(bool, timeout=SHORT_SECONDS))
    lock = treadle.Lock()
    with lock, treadle.PoolExecutor(1) as pool:
        assert pool.submit(lock.acquire, timeout=SHORT_SECONDS).result() is False


def sleepers_wake() -> None:
    treadle.sleep(SHORT_SECONDS)
    with treadle.TaskGroup() as group:
        group.submit(treadle.sleep, SHORT_SECONDS)


def ticks_come() -> None:
    with treadle.every(SHORT_SECONDS, int) as periodic:
        for _ in range(3):
            periodic.wait_next()


def coroutines_go_on() -> None:
    async def nap(item: float) -> float:
        await asyncio.sleep(item)
        return item

    naps = [SHORT_SECONDS] * 3
    assert list(treadle.map(nap, naps)) == naps
    assert list(treadle.map(nap, naps, limiter=treadle.Limiter(max_per_second=500))) == naps
    run = treadle.map(nap, [LONG_SECONDS], call_timeout=SHORT_SECONDS)
    assert [outcome.status for outcome in run.outcomes()] == ["timed_out"]


def batches_are_passed_on() -> None:
    items: queue.Queue[int | None] = queue.Queue()
    batches: list[list[int]] = []

    def note(batch: list[int]) -> None:
        batches.append(batch)
        items.put(None)

    items.put(1)
    treadle.pipeline(iter(items.get, None)).batched(10, timeout=SHORT_SECONDS).for_each(note)
    assert batches == [[1]]


ALL = (
    calls_pass_at_a_rate,
    failed_calls_are_made_again,
    late_calls_are_ended,
    late_runs_are_ended,
    late_groups_are_ended,
    stuck_calls_are_left_behind,
    waits_are_given_up,
    sleepers_wake,
    ticks_come,
    coroutines_go_on,
    batches_are_passed_on,
)


def check_all() -> None:
    """Do all of them, and say so."""
    logging.disable()  # of a call that is left behind
    for check in ALL:
        check()
        print(check.__name__, flush=True)
