"""A ``Limiter`` as the gate of every call: of ``map``, groups, executors, all of them together, and calls inside calls.

The gate itself is tested in ``test_limiter.py``.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import treadle
from tests.calls import Meter
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import PLACES, RESULTS, Calls, wait_until
from treadle._sync import timekeeper
from treadle.testing import ManualClock


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


def waiting_in(limiter: treadle.Limiter) -> int:
    state = limiter._state()
    with state.lock:
        return len(set(state.line) | set(state.turns))


def inside(limiter: treadle.Limiter) -> int:
    return len(limiter._state().holders)


@pytest.mark.parametrize("given", [5, "1/s", True])
def test_only_a_limiter_is_taken_for_one(given: Any) -> None:
    with pytest.raises(treadle.WrongType, match=r"limiter must be a treadle\.Limiter, or None"):
        treadle.map(abs, [1], limiter=given)
    with pytest.raises(treadle.WrongType, match="limiter"):
        treadle.TaskGroup(limiter=given)
    with pytest.raises(treadle.WrongType, match="limiter"):
        treadle.PoolExecutor(limiter=given)


# Every call passes


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_no_more_calls_are_made_at_once_than_allowed(place: str) -> None:
    limiter, meter = treadle.Limiter(max_concurrent=2), Meter()

    def call(item: int) -> int:
        with meter:
            return item

    with Calls(place, call, range(100), max_workers=8, limiter=limiter) as calls:
        ends = calls.ends()

    assert sorted(end.value for end in ends) == list(range(100))
    assert meter.most <= 2
    assert inside(limiter) == 0


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_calls_begin_no_faster_than_allowed(place: str, clock: ManualClock) -> None:
    limiter, begun = treadle.Limiter(0.1, burst=2), list[int]()
    with Calls(place, begun.append, range(5), max_workers=5, limiter=limiter) as calls:
        for number in range(2, 6):
            wait_until(lambda: waiting_in(limiter) == calls.stats.taken - len(begun))
            assert len(begun) == number
            if number < 5:
                clock.wait_for_sleepers()
                clock.advance(9.9)
                clock.wait_for_sleepers()
                assert len(begun) == number
                clock.advance(0.1)
                wait_for_length(begun, number + 1)
        calls.ends()

    assert sorted(begun) == list(range(5))


def wait_for_length(things: list[Any], length: int) -> None:
    wait_until(lambda: len(things) >= length)


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_first_tries_and_retries_pass_alike(place: str, clock: ManualClock) -> None:
    limiter, made = treadle.Limiter(0.1), Counter[int]()

    def call(item: int) -> int:
        made[item] += 1
        if made[item] == 1:
            raise ConnectionError
        return item

    policy = treadle.Retry(2, backoff=1, jitter=0)
    with Calls(place, call, range(2), max_workers=4, limiter=limiter, retry=policy) as calls:
        wait_until(lambda: made.total() == 1)
        for number in range(1, 4):
            wait_until(partial(has_retried, calls, min(number, 2)))  # a call is made before its failure is known
            wait_until(lambda: waiting_in(limiter) > 0)
            clock.wait_for_sleepers()
            clock.advance(1.5)  # long enough for any backoff
            wait_until(lambda: waiting_in(limiter) > 0)
            clock.wait_for_sleepers()
            assert made.total() == number
            clock.advance(8.5)
            wait_for_total(made, number + 1)
        ends = calls.ends()

    assert sorted(end.value for end in ends) == [0, 1]
    assert made == {0: 2, 1: 2}


def has_retried(calls: Calls, number: int) -> bool:
    return calls.stats.retried == number


def wait_for_total(made: Counter[int], total: int) -> None:
    wait_until(lambda: made.total() >= total)


@pytest.mark.parametrize("place", PLACES)
def test_a_hedges_second_call_passes_too(place: str, clock: ManualClock, gate: Gate) -> None:
    limiter = treadle.Limiter(max_concurrent=1)
    with Calls(place, gate.hold, ["x"], limiter=limiter, hedge=treadle.Hedge(5, max_extra=1)) as calls:
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(5)
        wait_until(lambda: waiting_in(limiter) == 1)
        gate.open()
        (end,) = calls.ends()

    assert end.value == "x"


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_the_time_at_the_gate_is_not_the_calls(place: str, clock: ManualClock) -> None:
    """``call_timeout`` is for the call, which has not begun."""
    limiter = treadle.Limiter(max_concurrent=1)
    limiter.pause(1000)
    with Calls(place, abs, [-1], limiter=limiter, call_timeout=10, grace=1) as calls:
        clock.wait_for_sleepers()
        clock.advance(999)
        clock.wait_for_sleepers()
        clock.advance(1)
        (end,) = calls.ends()

    assert (end.status, end.value) == ("succeeded", 1)


def test_one_gate_for_a_run_a_group_an_executor_and_a_thread(gate: Gate) -> None:
    limiter, meter = treadle.Limiter(max_concurrent=3), Meter()

    def call(item: int) -> int:
        with meter:
            gate.hold()
            return item

    def pass_by() -> None:
        with limiter:
            call(0)

    thread = threading.Thread(target=pass_by)
    thread.start()
    with (
        treadle.map(call, range(4), max_workers=4, limiter=limiter) as run,
        treadle.TaskGroup(limiter=limiter) as group,
        treadle.PoolExecutor(limiter=limiter) as pool,
    ):
        tasks = [each.submit(call, item) for each in (group, pool) for item in range(4)]
        gate.wait_for_arrivals(3)
        wait_until(lambda: waiting_in(limiter) >= 6)
        assert meter.most == 3
        gate.open()
        assert list(run) == list(range(4))
    thread.join(PATIENCE_SECONDS)

    assert [task.result() for task in tasks] == [*range(4), *range(4)]
    assert (meter.most, meter.passed, inside(limiter)) == (3, 13, 0)


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_pause_holds_the_calls_of_all(place: str, clock: ManualClock) -> None:
    limiter, called = treadle.Limiter(max_concurrent=5), list[int]()
    limiter.pause(10)
    with Calls(place, called.append, range(3), limiter=limiter) as calls:
        clock.wait_for_sleepers()
        clock.advance(9.9)
        clock.wait_for_sleepers()
        assert called == []
        clock.advance(0.1)
        calls.ends()

    assert sorted(called) == [0, 1, 2]


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_call_that_fails_gives_its_place_back(place: str) -> None:
    limiter = treadle.Limiter(max_concurrent=1)

    def fail(item: int) -> None:
        raise ValueError("bad")

    with Calls(place, fail, range(3), max_workers=3, limiter=limiter) as calls:
        calls.ends()

    wait_until(lambda: inside(limiter) == 0)
    with limiter:
        pass


# Calls inside a call share its place


def in_map(call: Callable[[int], Any], **options: Any) -> list[Any]:
    return list(treadle.map(call, range(3), max_workers=2, **options))


def in_group(call: Callable[[int], Any], **options: Any) -> list[Any]:
    with treadle.TaskGroup(max_workers=2, **options) as group:
        tasks = [group.submit(call, item) for item in range(3)]
    return [task.result() for task in tasks]


def in_executor(call: Callable[[int], Any], **options: Any) -> list[Any]:
    with treadle.PoolExecutor(max_workers=2, **options) as pool:
        return list(pool.map(call, range(3)))


@pytest.mark.parametrize("has_retry", [False, True])
@pytest.mark.parametrize("inner", [in_map, in_group, in_executor])
@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_calls_inside_a_call_share_its_place(place: str, inner: Callable[..., list[Any]], has_retry: bool) -> None:
    """With one place for all of them there is no other way; the inner ones take it in turns."""
    limiter, meter, failed = treadle.Limiter(max_concurrent=1), Meter(), set[int]()

    def innermost(item: int) -> int:
        with meter:
            if has_retry and item not in failed:
                failed.add(item)
                raise ConnectionError
            return item

    retry = treadle.Retry(2, backoff=0) if has_retry else None
    with Calls(
        place, lambda _: inner(innermost, limiter=limiter, retry=retry), ["x", "y"], max_workers=2, limiter=limiter
    ) as calls:
        ends = calls.ends()

    assert [end.value for end in ends] == [[0, 1, 2], [0, 1, 2]]
    assert meter.most == 1
    assert inside(limiter) == 0


@pytest.mark.parametrize("inner", [in_map, in_group, in_executor])
def test_calls_inside_a_block_share_its_place(inner: Callable[..., list[Any]]) -> None:
    limiter = treadle.Limiter(max_concurrent=1)
    with limiter:
        assert inner(abs, limiter=limiter) == [0, 1, 2]

    assert inside(limiter) == 0


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_call_may_enter_its_own_gate(place: str) -> None:
    limiter = treadle.Limiter(max_concurrent=1)

    def call(item: int) -> int:
        with limiter:
            return item

    with Calls(place, call, range(3), max_workers=3, limiter=limiter) as calls:
        assert sorted(end.value for end in calls.ends()) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["group", "executor"])
def test_a_task_that_waits_for_one_of_its_own_crew_shares_its_place(kind: str) -> None:
    """A task waits for a task, which waits for a task: all of them behind one place, on two workers."""
    limiter = treadle.Limiter(max_concurrent=1)

    def count_down(number: int) -> int:
        return 0 if number == 0 else 1 + crew.submit(count_down, number - 1).result()

    crew: Any
    options: dict[str, Any] = {"max_workers": 2, "limiter": limiter}
    with treadle.TaskGroup(**options) if kind == "group" else treadle.PoolExecutor(**options) as crew:
        assert crew.submit(count_down, 30).result() == 30

    assert inside(limiter) == 0


def test_a_stranger_does_not_get_a_place_that_is_only_shared(gate: Gate) -> None:
    """Sharing is for calls inside: nobody else comes in that way."""
    limiter = treadle.Limiter(max_concurrent=1)

    def outer(_: int) -> list[Any]:
        return list(treadle.map(gate.hold, [1], limiter=limiter))

    with treadle.PoolExecutor(2, limiter=limiter) as pool:
        first = pool.submit(outer, 0)
        gate.wait_for_arrivals()
        stranger = pool.submit(gate.hold, "stranger")
        wait_until(lambda: waiting_in(limiter) == 1)
        assert not gate._arrived.acquire(blocking=False)
        gate.open()

        assert (first.result(), stranger.result()) == ([1], "stranger")


# Whoever waits at the gate has not begun


@pytest.mark.parametrize("place", ["group", "executor"])
def test_a_task_cancelled_at_the_gate_is_cancelled_at_once_and_not_called(place: str, gate: Gate) -> None:
    limiter = treadle.Limiter(max_concurrent=1)
    with Calls(place, gate.hold, ["inside", "waits", "last"], max_workers=3, limiter=limiter) as calls:
        gate.wait_for_arrivals()
        wait_until(lambda: waiting_in(limiter) == 2)
        held = next(task for task in calls.tasks if not task._chunk.todo)  # type: ignore[union-attr]  # not ended yet
        waits = next(task for task in calls.tasks if task is not held)

        assert waits.cancel()
        assert waits.cancelled()
        wait_until(lambda: waiting_in(limiter) == 1)
        gate.open()
        ends = calls.ends()

    assert sorted(end.status for end in ends) == ["cancelled", "succeeded", "succeeded"]
    assert (calls.stats.cancelled, calls.stats.succeeded) == (1, 2)
    assert inside(limiter) == 0


@pytest.mark.parametrize("grace", [0, PATIENCE_SECONDS])
@pytest.mark.parametrize("place", ["map", "unordered map", *RESULTS])
def test_items_that_wait_at_the_gate_when_a_run_ends_are_not_started(place: str, grace: float) -> None:
    """Nor are they left behind, however short the grace."""
    limiter, called, began = treadle.Limiter(max_concurrent=1), list[int](), threading.Event()

    def call(item: int) -> None:
        called.append(item)
        began.set()
        treadle.sleep(1e6)

    options: dict[str, Any] = {"max_workers": 4, "limiter": limiter, "grace": grace, "max_abandoned": 1}
    with Calls(place, call, range(4), **options) as calls:
        assert began.wait(PATIENCE_SECONDS)
        wait_until(lambda: waiting_in(limiter) == 3)
        calls.stop()
        ends = calls.ends()

    statuses = {end.item: end.status for end in ends}
    assert statuses == {item: "cancelled" if item == called[0] else "not_started" for item in range(4)}
    assert {end.attempts for end in ends if end.status == "not_started"} == {0}
    assert len(called) == 1
    assert not any(end.abandoned for end in ends if end.status == "not_started")
    assert calls.stats.abandoned <= 1
    assert not isinstance(calls.raised, treadle.TooManyAbandoned)
    wait_until(lambda: (inside(limiter), waiting_in(limiter)) == (0, 0))


def test_tasks_that_wait_at_the_gate_when_a_group_ends_are_cancelled() -> None:
    limiter, called = treadle.Limiter(max_concurrent=1), list[int]()

    def call(item: int) -> None:
        called.append(item)
        treadle.sleep(1e6)

    with treadle.TaskGroup(limiter=limiter) as group:
        tasks = [group.submit(call, item) for item in range(3)]
        wait_until(lambda: (len(called), waiting_in(limiter)) == (1, 2))
        group.cancel()

    assert all(task.cancelled() for task in tasks)
    assert len(called) == 1
    assert (inside(limiter), waiting_in(limiter)) == (0, 0)


def test_a_first_failure_ends_the_wait_of_the_others() -> None:
    """The next one may get the place in the moment before the failure is known, but nobody waits any more."""
    limiter, begun = treadle.Limiter(max_concurrent=1), list[int]()

    def fail_first(item: int) -> None:
        begun.append(item)
        if len(begun) == 1:
            wait_until(lambda: waiting_in(limiter) == 2)
            raise ValueError("bad")
        treadle.sleep(3600)

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(limiter=limiter) as group:
        tasks = [group.submit(fail_first, item) for item in range(3)]

    assert len(caught.value.exceptions) == 1
    assert sorted(task.cancelled() for task in tasks) == [False, True, True]


def test_an_executor_lets_everybody_pass_before_it_ends(gate: Gate) -> None:
    limiter = treadle.Limiter(max_concurrent=1)
    pool = treadle.PoolExecutor(3, limiter=limiter)
    tasks = [pool.submit(gate.hold, item) for item in range(3)]
    wait_until(lambda: waiting_in(limiter) == 2)
    pool.shutdown(wait=False)
    gate.open()
    pool.shutdown()

    assert [task.result() for task in tasks] == [0, 1, 2]


def test_whoever_waits_at_the_gate_for_a_pause_is_woken_by_a_cancellation(clock: ManualClock) -> None:
    limiter, called = treadle.Limiter(1), list[int]()
    limiter.pause(1e9)
    with treadle.TaskGroup(limiter=limiter) as group:
        tasks = [group.submit(called.append, item) for item in range(3)]
        wait_until(lambda: waiting_in(limiter) == 3)
        group.cancel()

    assert all(task.cancelled() for task in tasks)
    assert called == []


@pytest.mark.parametrize("place", PLACES)
def test_a_call_that_was_left_behind_keeps_its_place(place: str, clock: ManualClock, gate: Gate) -> None:
    """It still uses what the limiter is there to spare."""
    limiter = treadle.Limiter(max_concurrent=2)
    begun: list[str] = []

    def call(item: str) -> object:
        begun.append(item)
        return gate.hold(item) if item == "deaf" else item

    with Calls(place, call, ["deaf", *"abc"], max_workers=4, limiter=limiter, call_timeout=10, grace=1) as calls:
        gate.wait_for_arrivals()
        wait_until(lambda: len(begun) == 4 and calls.stats.running == 1)  # all others have ended
        clock.wait_for_sleepers()
        clock.advance(10)
        crew = calls.owner._course.crew if calls.is_map else calls.owner._book.crew
        wait_until(lambda: all(chunk.is_cancelled for chunk in crew.chunks_in_hand()))
        clock.advance(1)
        wait_until(lambda: calls.stats.abandoned == 1)
        ends = calls.ends()
        assert inside(limiter) == 1
        with limiter:
            assert inside(limiter) == 2
        gate.open()
        wait_until(lambda: inside(limiter) == 0)

    assert [end.status for end in ends] == ["timed_out"] + ["succeeded"] * 3


def test_a_call_left_behind_in_its_only_place_holds_up_the_rest(clock: ManualClock, gate: Gate) -> None:
    """``max_concurrent`` is a promise about what really runs: time does not break it."""
    limiter = treadle.Limiter(max_concurrent=1)
    with treadle.PoolExecutor(2, limiter=limiter, call_timeout=10, grace=1) as pool:
        deaf = pool.submit(gate.hold)
        gate.wait_for_arrivals()
        after = pool.submit(abs, -1)
        clock.wait_for_sleepers()
        clock.advance(10)
        wait_until(lambda: any(chunk.is_cancelled for chunk in pool._book.crew.chunks_in_hand()))
        clock.advance(1)
        assert isinstance(deaf.exception(), treadle.CallTimedOut)
        wait_until(lambda: waiting_in(limiter) == 1)
        assert not after.done()
        gate.open()

        assert after.result() == 1


def test_coroutines_wait_at_the_gate_by_their_loop_where_no_thread_is_to_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A timer needs a thread of its own; a call that only waits for its turn must not fail for want of one."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def call(item: int) -> int:
        return item

    monkeypatch.setattr(timekeeper, "call_at", refuse)
    run = treadle.map(call, range(6), max_workers=3, limiter=treadle.Limiter(200, max_concurrent=2))

    assert list(run) == list(range(6))
