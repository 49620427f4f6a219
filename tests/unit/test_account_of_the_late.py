"""What an item is said to have come to where its call was late, given up, or left behind: what did happen, no less."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

import treadle
from tests.asides import Aside
from tests.calls import FOR_EVER_SECONDS
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.contract.engine_contract import make_chunk
from tests.places import wait_until
from treadle._core.chunk import Chunk
from treadle._core.trial import Failure, Trial
from treadle._engines.engine import CallPlan
from treadle._engines.executor import Dispatch, ExecutorEngine
from treadle.testing import ManualClock


@pytest.mark.parametrize("intake", ["caller", "thread"])
@pytest.mark.parametrize("as_outcomes", [False, True])
def test_an_input_that_ends_after_the_deadline_is_told(intake: Any, as_outcomes: bool) -> None:
    """It blocked beyond ``timeout``; that nothing followed does not make the run one that ended in time."""
    with ManualClock() as clock:

        def source() -> Iterator[int]:
            yield 1
            clock.advance(10)

        run = treadle.map(abs, source(), timeout=5, max_workers=1, intake=intake)
        got: list[Any] = []

        with pytest.raises(TimeoutError, match="within timeout=5 seconds"):
            for result in run.outcomes() if as_outcomes else run:
                got.append(result)

    assert len([*got, *run.rest()]) == 1


def test_a_consumer_that_is_late_is_told_nothing_of_an_input_that_was_in_time() -> None:
    with ManualClock() as clock:
        run = treadle.map(abs, [1, 2, 3], timeout=5, max_workers=4)
        wait_until(lambda: run.stats.succeeded == 3 and all(worker.is_idle for worker in run._course.crew.workers))

        clock.advance(10)

        assert list(run) == [1, 2, 3]


def test_a_worker_that_is_woken_after_the_deadline_begins_no_call() -> None:
    """It rested, so it was not told of the deadline by looking at the clock between two calls."""
    calls: list[int] = []
    is_late, idle = threading.Event(), threading.Event()
    with ManualClock() as clock:

        def source() -> Iterator[int]:
            yield 0
            idle.set()
            assert is_late.wait(PATIENCE_SECONDS)
            yield 1

        run = treadle.map(calls.append, source(), timeout=5, max_workers=1, intake="thread")
        assert idle.wait(PATIENCE_SECONDS)
        wait_until(lambda: all(worker.is_idle for worker in run._course.crew.workers) and calls == [0])
        clock.advance(10)
        is_late.set()
        wait_until(lambda: run.stats.taken == 2)
        wait_until(lambda: run._course.crew.is_stopping)

        with pytest.raises(TimeoutError):
            list(run)

    assert calls == [0]
    assert run.stats.not_started == 1


@pytest.mark.parametrize("place", ["map", "group"])
def test_a_call_that_was_late_has_timed_out_though_a_retry_was_to_follow(place: str) -> None:
    options: dict[str, Any] = {"call_timeout": 0.01, "retry": treadle.Retry(3, backoff=3600, jitter=0)}
    if place == "map":
        run = treadle.map(treadle.sleep, [60], **options)
        wait_until(lambda: run.stats.retried == 1)
        run.close()
        (outcome,) = run.rest()
        assert (outcome.status, outcome.attempts) == ("timed_out", 1)
        assert isinstance(outcome.error, treadle.CallTimedOut)
        stats = run.stats
    else:
        with treadle.TaskGroup(**options) as group:
            group.submit(treadle.sleep, 60)
            wait_until(lambda: group.stats.retried == 1)
            group.cancel()
        stats = group.stats
    assert (stats.timed_out, stats.failed) == (1, 0)


def test_a_hedged_item_whose_second_call_never_began_is_what_the_first_came_to(gate: Gate) -> None:
    """The second was still waiting at the limiter when the run ended; the first had run, and failed."""

    def call(item: int) -> None:
        gate.hold()
        raise ValueError(item)

    limiter = treadle.Limiter(max_per_second=0.001, burst=1)
    hedge = treadle.Hedge(after=0.001, max_extra=1)
    run = treadle.map(call, [7], max_workers=2, hedge=hedge, limiter=limiter, grace=PATIENCE_SECONDS)
    gate.wait_for_arrivals()
    wait_until(lambda: len(run._course.crew.chunks_in_hand()) == 2)
    gate.open()
    wait_until(lambda: len(run._course.crew.chunks_in_hand()) == 1)

    run.close()

    (outcome,) = run.rest()
    assert (outcome.status, outcome.attempts) == ("failed", 1)
    assert isinstance(outcome.error, ValueError)
    assert run.stats.failed == 1


def test_a_second_call_that_never_began_leaves_the_item_to_the_first_that_still_runs(gate: Gate) -> None:
    """As the run ends, the second ends first, at the limiter."""

    def call(_: int) -> None:
        try:
            treadle.sleep(FOR_EVER_SECONDS)
        finally:
            gate.hold()

    limiter = treadle.Limiter(max_per_second=0.001, burst=1)
    hedge = treadle.Hedge(after=0.001, max_extra=1)
    run = treadle.map(call, [7], max_workers=2, hedge=hedge, limiter=limiter, grace=PATIENCE_SECONDS)
    wait_until(lambda: len(run._course.crew.chunks_in_hand()) == 2)

    closing = Aside(run.close)
    gate.wait_for_arrivals()
    wait_until(lambda: len(run._course.crew.chunks_in_hand()) == 1)
    gate.open()
    closing.value()

    (outcome,) = run.rest()
    assert (outcome.status, outcome.attempts) == ("cancelled", 1)


def test_a_call_that_ended_as_it_was_cancelled_has_begun_though_its_second_never_did() -> None:
    """The second has its account, and its own call was not made."""
    chunk = Chunk(0, ["item"])
    chunk.trial = Trial(beside=Failure(treadle.Cancelled(), 0.0))
    chunk.failures, chunk.results = {0: treadle.Cancelled()}, [None]
    chunk.mark_cancelled()

    chunk.withdraw_cancelled()

    assert chunk.status(0) == "cancelled"


def test_items_left_behind_with_an_executor_may_have_begun(gate: Gate) -> None:
    """They were sent off together: nobody can say any more that one of them was not started."""
    with ThreadPoolExecutor(1) as threads:
        dispatch = Dispatch(threads, CallPlan(gate.hold, copy_context()))
        dispatch.fitting = 3
        chunk = make_chunk([0, 1, 2, 3])
        worker = threading.Thread(target=ExecutorEngine(dispatch).make_calls, args=(chunk,))
        worker.start()
        gate.wait_for_arrivals()

        chunk.freeze()
        chunk.todo.clear()
        said = [chunk.status(offset) for offset in range(4)]

        gate.open()
        worker.join(PATIENCE_SECONDS)

    assert said == ["cancelled", "cancelled", "cancelled", "not_started"]
    assert [chunk.status(offset) for offset in range(4)] == said
