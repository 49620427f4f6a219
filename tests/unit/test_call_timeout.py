"""``call_timeout``: one call's time, in ``map``, groups and executors alike. The clock is turned by hand."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import PLACES, RESULTS, Calls, wait_until
from treadle._crew.policy import Policy
from treadle._crew.watch import Watch
from treadle._sync import timekeeper
from treadle.testing import ManualClock

LIMIT = 10.0
GRACE = 2.0


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


def wait_for_deaf(clock: ManualClock, calls: Calls, abandoned: int = 1) -> None:
    """Turn the clock until calls that heed nothing have been left behind."""
    clock.advance(LIMIT)
    wait_until(lambda: all(chunk.is_cancelled for chunk in calls_in_hand(calls)))
    clock.advance(GRACE)
    wait_until(lambda: calls.stats.abandoned >= abandoned)


def calls_in_hand(calls: Calls) -> list[Any]:
    crew = calls.owner._course.crew if calls.is_map else calls.owner._book.crew
    chunks: list[Any] = crew.chunks_in_hand()
    return chunks


@pytest.mark.parametrize("seconds", [-1, math.nan, 0])
def test_a_call_timeout_is_more_than_zero_seconds(seconds: float) -> None:
    with pytest.raises(treadle.InvalidArgument, match="call_timeout"):
        treadle.map(abs, [1], call_timeout=seconds)
    with pytest.raises(treadle.InvalidArgument, match="call_timeout"):
        treadle.TaskGroup(call_timeout=seconds)
    with pytest.raises(treadle.InvalidArgument, match="call_timeout"):
        treadle.PoolExecutor(call_timeout=seconds)


@pytest.mark.parametrize("seconds", ["1", True, [1]])
def test_a_call_timeout_is_a_number(seconds: Any) -> None:
    with pytest.raises(treadle.WrongType, match="call_timeout"):
        treadle.map(abs, [1], call_timeout=seconds)


@pytest.mark.parametrize("place", PLACES)
def test_a_late_call_that_heeds_it_ends_and_is_not_left_behind(place: str, clock: ManualClock) -> None:
    """Being told to end is enough: its thread is free for the next call."""
    began = threading.Event()

    def call(item: str) -> str:
        if item == "late":
            began.set()
            treadle.sleep(1e6)
        return item

    with Calls(place, call, ["late", "next"], max_workers=1, call_timeout=LIMIT, grace=GRACE) as calls:
        assert began.wait(PATIENCE_SECONDS)
        clock.wait_for_sleepers(2)  # the call, and the one that watches it
        clock.advance(LIMIT)
        late, after = calls.ends()

    assert (late.status, after.status, after.value) == ("timed_out", "succeeded", "next")
    assert isinstance(late.error, treadle.CallTimedOut)
    assert isinstance(late.error, TimeoutError)
    assert (late.error.index, late.error.seconds) == (0, LIMIT)
    assert str(late.error).endswith("took longer than call_timeout=10.0 seconds")
    assert not late.abandoned
    stats = calls.stats
    assert (stats.timed_out, stats.succeeded, stats.failed, stats.abandoned) == (1, 1, 0, 0)


@pytest.mark.parametrize("place", PLACES)
def test_a_call_is_not_late_before_its_time(place: str, clock: ManualClock, gate: Gate) -> None:
    with Calls(place, gate.hold, ["in time"], call_timeout=LIMIT) as calls:
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(LIMIT * 0.99)
        gate.open()
        (end,) = calls.ends()

    assert (end.status, end.value) == ("succeeded", "in time")


@pytest.mark.parametrize("place", RESULTS)
def test_a_late_call_ends_the_run_where_results_are_iterated(place: str, clock: ManualClock) -> None:
    """It is a failure there, like any other; the results before it come first."""
    run = treadle.map(treadle.sleep, [0, 1e6], ordered=place == "results", call_timeout=LIMIT, max_workers=1)
    assert next(run) is None
    clock.wait_for_sleepers(2)
    clock.advance(LIMIT)

    with pytest.raises(treadle.CallTimedOut) as caught:
        next(run)

    assert [outcome.status for outcome in run.rest()] == ["timed_out"]
    assert caught.value.__notes__ == ["treadle: item 1 of run 'sleep': 1000000.0"]


@pytest.mark.parametrize("place", PLACES)
def test_a_deaf_call_is_left_behind_after_grace_and_replaced(
    place: str, clock: ManualClock, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise a few stuck calls would stop the rest for good."""

    def call(item: str) -> object:
        return gate.hold() if item == "deaf" else item

    with (
        caplog.at_level(logging.WARNING, "treadle"),
        Calls(place, call, ["deaf", "next"], max_workers=1, call_timeout=LIMIT, grace=GRACE) as calls,
    ):
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        wait_for_deaf(clock, calls)
        deaf, after = calls.ends()

    assert (deaf.status, after.status) == ("timed_out", "succeeded")
    assert isinstance(deaf.error, treadle.CallTimedOut)
    assert deaf.abandoned in (True, None)
    assert not after.abandoned
    assert (calls.stats.abandoned, calls.stats.timed_out) == (1, 1)
    wait_until(lambda: "leaves a thread behind: the call for item 0" in caplog.text)
    assert caplog.text.count("leaves a thread behind") == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_deaf_call_has_its_grace(place: str, clock: ManualClock, gate: Gate) -> None:
    """What ends within grace was late, but is not left behind; what it returns does not count."""
    with Calls(place, gate.hold, ["late"], max_workers=1, call_timeout=LIMIT, grace=GRACE) as calls:
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(LIMIT)
        wait_until(lambda: all(chunk.is_cancelled for chunk in calls_in_hand(calls)))
        clock.advance(GRACE / 2)
        gate.open()
        (end,) = calls.ends()

    assert (end.status, end.value, bool(end.abandoned)) == ("timed_out", None, False)
    assert (calls.stats.succeeded, calls.stats.timed_out, calls.stats.abandoned) == (0, 1, 0)


@pytest.mark.parametrize("place", PLACES)
def test_no_more_run_than_max_workers_and_those_left_behind(place: str, clock: ManualClock) -> None:
    """Each one left behind is replaced by one, not more."""
    lock, running, most_healthy = threading.Lock(), set[int](), [0]
    stuck, deaf_begun = threading.Event(), threading.Semaphore(0)

    def call(item: int) -> int:
        is_deaf = item < 2
        with lock:
            running.add(item)
            most_healthy[0] = max(most_healthy[0], len(running))
        if is_deaf:
            deaf_begun.release()
            assert stuck.wait(PATIENCE_SECONDS)
        with lock:
            running.discard(item)
        return item

    with Calls(place, call, range(12), max_workers=2, call_timeout=LIMIT, grace=GRACE, max_abandoned=5) as calls:
        for _ in range(2):
            assert deaf_begun.acquire(timeout=PATIENCE_SECONDS)
        assert len(running) == 2  # nobody else begins while both places are taken
        clock.wait_for_sleepers()
        wait_for_deaf(clock, calls, 2)
        ends = calls.ends()
        stuck.set()

    assert [end.status for end in ends] == ["timed_out"] * 2 + ["succeeded"] * 10
    assert most_healthy[0] <= 2 + 2
    assert calls.stats.abandoned == 2


@pytest.mark.parametrize("place", PLACES)
def test_a_call_that_comes_back_late_is_ignored_and_its_thread_leaves(
    place: str, clock: ManualClock, gate: Gate
) -> None:
    threads: list[threading.Thread] = []

    def call(item: str) -> object:
        if item == "deaf":
            threads.append(threading.current_thread())
            return gate.hold("too late")
        gate.open()
        threads[0].join(PATIENCE_SECONDS)  # while the crew goes on
        return item

    with Calls(place, call, ["deaf", "next"], max_workers=1, call_timeout=LIMIT, grace=GRACE) as calls:
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        wait_for_deaf(clock, calls)
        deaf, after = calls.ends()

    assert not threads[0].is_alive()
    assert (deaf.status, deaf.value, after.status) == ("timed_out", None, "succeeded")
    assert (calls.stats.succeeded, calls.stats.timed_out, calls.stats.cancelled) == (1, 1, 0)


@pytest.mark.parametrize("kind", [ValueError, TimeoutError])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_that_comes_late_does_not_count_either(
    place: str, kind: type[Exception], clock: ManualClock, gate: Gate
) -> None:
    def call(item: str) -> None:
        gate.hold()
        raise kind("too late")

    with Calls(place, call, ["late"], call_timeout=LIMIT, grace=GRACE) as calls:
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(LIMIT)
        wait_until(lambda: all(chunk.is_cancelled for chunk in calls_in_hand(calls)))
        gate.open()
        (end,) = calls.ends()

    assert isinstance(end.error, treadle.CallTimedOut)


@pytest.mark.parametrize("place", PLACES)
def test_a_timeout_error_of_the_functions_own_is_a_failure(place: str) -> None:
    error = TimeoutError("the server did not answer")

    def call(item: int) -> None:
        raise error

    with Calls(place, call, [0], call_timeout=LIMIT) as calls:
        (end,) = calls.ends()

    assert (end.status, end.error) == ("failed", error)
    assert (calls.stats.failed, calls.stats.timed_out) == (1, 0)


@pytest.mark.parametrize("place", ["map", "unordered map", *RESULTS])
def test_each_call_of_a_chunk_has_its_own_time(place: str, clock: ManualClock) -> None:
    """With ``call_timeout`` a worker takes one call at a time, whatever ``chunksize`` says."""

    def call(item: int) -> int:
        clock.advance(LIMIT * 0.75)  # two together would be late
        clock.wait_for_sleepers()  # whoever watches has looked
        return item

    with Calls(place, call, range(6), max_workers=1, chunksize=6, call_timeout=LIMIT) as calls:
        ends = calls.ends()

    assert [(end.status, end.value) for end in ends] == [("succeeded", item) for item in range(6)]


@pytest.mark.parametrize("ordered", [True, False])
def test_too_many_left_behind_end_a_run(ordered: bool, clock: ManualClock, gate: Gate) -> None:
    run = treadle.map(
        gate.hold, range(3), max_workers=1, ordered=ordered, call_timeout=LIMIT, grace=GRACE, max_abandoned=0
    )
    gate.wait_for_arrivals()
    clock.wait_for_sleepers()
    clock.advance(LIMIT)
    wait_until(lambda: all(chunk.is_cancelled for chunk in run._course.crew.chunks_in_hand()))
    clock.advance(GRACE)
    stream = run.outcomes()
    outcomes = []
    with pytest.raises(treadle.TooManyAbandoned, match="left 1 stuck calls behind, more than max_abandoned=0"):
        for outcome in stream:
            outcomes.append(outcome)  # those that came before the error are wanted
    outcomes += run.rest()

    by_index = sorted(outcomes, key=lambda outcome: outcome.index)
    assert [(outcome.status, outcome.abandoned) for outcome in by_index[:1]] == [("timed_out", True)]
    assert {outcome.status for outcome in by_index[1:]} <= {"not_started"}
    assert len(outcomes) == run.stats.taken


@pytest.mark.parametrize("ordered", [True, False])
def test_too_many_left_behind_end_the_results_of_a_run(ordered: bool, clock: ManualClock, gate: Gate) -> None:
    """The results raise the failure that is in their way, and its note names the trouble."""
    run = treadle.map(
        gate.hold, range(3), max_workers=1, ordered=ordered, call_timeout=LIMIT, grace=GRACE, max_abandoned=0
    )
    gate.wait_for_arrivals()
    clock.wait_for_sleepers()
    clock.advance(LIMIT)
    wait_until(lambda: all(chunk.is_cancelled for chunk in run._course.crew.chunks_in_hand()))
    clock.advance(GRACE)
    with pytest.raises((treadle.TooManyAbandoned, treadle.CallTimedOut)):
        next(run)

    assert isinstance(run._course.too_many, treadle.TooManyAbandoned)
    assert [outcome.status for outcome in run.rest()] == ["timed_out", *["not_started"] * (run.stats.taken - 1)]


def test_too_many_left_behind_break_an_executor(clock: ManualClock, gate: Gate) -> None:
    with treadle.PoolExecutor(1, call_timeout=LIMIT, grace=GRACE, max_abandoned=0) as pool:
        stuck, waiting = pool.submit(gate.hold), pool.submit(abs, -1)
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(LIMIT)
        wait_until(lambda: all(chunk.is_cancelled for chunk in pool._book.crew.chunks_in_hand()))
        clock.advance(GRACE)

        assert isinstance(waiting.exception(), treadle.TooManyAbandoned)
        assert isinstance(stuck.exception(), treadle.CallTimedOut)
        with pytest.raises(treadle.TooManyAbandoned):
            pool.submit(abs, -1)


@pytest.mark.parametrize("on_error", ["cancel", "collect"])
def test_too_many_left_behind_fail_a_group(on_error: Any, clock: ManualClock, gate: Gate) -> None:
    with (
        pytest.raises(ExceptionGroup) as caught,
        treadle.TaskGroup(1, call_timeout=LIMIT, grace=GRACE, max_abandoned=0, on_error=on_error) as group,
    ):
        group.submit(gate.hold)
        waiting = group.submit(abs, -1)
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(LIMIT)
        wait_until(lambda: all(chunk.is_cancelled for chunk in group._book.crew.chunks_in_hand()))
        clock.advance(GRACE)

    kinds = {type(error) for error in caught.value.exceptions}
    assert treadle.TooManyAbandoned in kinds
    assert treadle.CallTimedOut in kinds
    assert waiting.done()


def test_a_group_that_broke_says_so_also_if_nothing_waited(clock: ManualClock, gate: Gate) -> None:
    with (
        pytest.raises(ExceptionGroup) as caught,
        treadle.TaskGroup(1, call_timeout=LIMIT, grace=GRACE, max_abandoned=0, on_error="collect") as group,
    ):
        stuck = group.submit(gate.hold)
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(LIMIT)
        wait_until(lambda: all(chunk.is_cancelled for chunk in group._book.crew.chunks_in_hand()))
        clock.advance(GRACE)
        assert isinstance(stuck.exception(), treadle.CallTimedOut)

    assert treadle.TooManyAbandoned in {type(error) for error in caught.value.exceptions}


def test_a_call_that_came_back_makes_room_among_those_left_behind(clock: ManualClock) -> None:
    """``max_abandoned`` is about what is stuck at the same time."""
    gates = [Gate(), Gate()]
    threads: list[threading.Thread] = []

    def call(item: int) -> object:
        threads.append(threading.current_thread())
        return gates[item].hold()

    with treadle.PoolExecutor(1, call_timeout=LIMIT, grace=GRACE, max_abandoned=1) as pool:
        for number, gate in enumerate(gates):
            task = pool.submit(call, number)
            gate.wait_for_arrivals()
            clock.wait_for_sleepers()
            clock.advance(LIMIT)
            wait_until(lambda: all(chunk.is_cancelled for chunk in pool._book.crew.chunks_in_hand()))
            clock.advance(GRACE)
            assert isinstance(task.exception(), treadle.CallTimedOut)
            gate.open()
            threads[number].join(PATIENCE_SECONDS)
        assert pool.submit(abs, -1).result() == 1

    assert pool.stats.abandoned == 2


def test_a_group_without_grace_is_not_held_by_a_late_call_it_has_cancelled(clock: ManualClock, gate: Gate) -> None:
    """``grace=None`` waits for as long as it takes, but ``call_timeout`` still holds, and says so."""
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(1, call_timeout=LIMIT) as group:
        task = group.submit(gate.hold)
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        group.cancel()
        clock.advance(LIMIT)
        wait_until(lambda: bool(clock._sleepers))
        clock.advance(1.0)
        wait_until(lambda: group.stats.abandoned == 1)
        wait_until(task.done)

    assert caught.value.exceptions == (task.exception(),)
    assert isinstance(task.exception(), treadle.CallTimedOut)


@pytest.mark.parametrize("place", PLACES)
def test_no_timer_stays_behind_a_call_that_was_in_time(place: str) -> None:
    """The timekeeper's thread would live on for an hour, and all of the run with it."""
    with Calls(place, abs, [-1, -2], call_timeout=3600) as calls:
        ends = calls.ends()

    assert [end.value for end in ends] == [1, 2]
    wait_until(lambda: not any(thread.name == "treadle-timekeeper" for thread in threading.enumerate()))


@pytest.mark.parametrize("place", PLACES)
def test_callbacks_of_a_late_call_run_once_and_do_not_hold_the_others(
    place: str, clock: ManualClock, gate: Gate
) -> None:
    """They are code of the user's: nobody waits for them under a lock, nor on the timekeeper's thread."""
    called: list[int] = []
    began = threading.Semaphore(0)

    def call(item: int) -> int:
        woken = threading.Event()

        def end_it() -> None:
            called.append(item)
            woken.set()
            if item == 0:
                gate.hold()

        with treadle.on_cancel(end_it):
            began.release()
            woken.wait(PATIENCE_SECONDS)
            if item == 0:
                assert gate._open.wait(PATIENCE_SECONDS)
        return item

    with Calls(place, call, [0, 1], max_workers=2, call_timeout=LIMIT, grace=GRACE) as calls:
        for _ in range(2):
            assert began.acquire(timeout=PATIENCE_SECONDS)
        clock.wait_for_sleepers()
        clock.advance(LIMIT)
        gate.wait_for_arrivals()
        assert calls.stats.running >= 0  # asks for no lock, and would hang if it did
        gate.open()
        ends = calls.ends()

    assert [end.status for end in ends] == ["timed_out"] * 2
    assert sorted(called) == [0, 1]


# Nested deadlines


@pytest.mark.parametrize("place", PLACES)
def test_a_call_timeout_ends_a_group_inside_that_had_more_time(place: str, clock: ManualClock) -> None:
    inside: list[treadle.Task[None]] = []

    def call(item: int) -> None:
        with treadle.TaskGroup(timeout=LIMIT * 2) as group:
            inside.append(group.submit(treadle.sleep, 1e6))

    with Calls(place, call, [0], call_timeout=LIMIT, grace=1e6) as calls:
        clock.wait_for_sleepers(2)  # the inner task, and the timekeeper
        clock.advance(LIMIT)
        (end,) = calls.ends()

    assert end.status == "timed_out"
    assert inside[0].cancelled()


@pytest.mark.parametrize("place", PLACES)
def test_a_group_inside_with_less_time_ends_first_and_that_is_a_failure(place: str, clock: ManualClock) -> None:
    def call(item: int) -> None:
        with treadle.TaskGroup(timeout=LIMIT) as group:
            group.submit(treadle.sleep, 1e6)

    with Calls(place, call, [0], call_timeout=LIMIT * 2, grace=1e6) as calls:
        clock.wait_for_sleepers(2)
        clock.advance(LIMIT)
        (end,) = calls.ends()

    assert end.status == "failed"
    assert isinstance(end.error, TimeoutError)
    assert not isinstance(end.error, treadle.CallTimedOut)


@pytest.mark.parametrize("place", PLACES)
def test_a_call_timeout_ends_a_run_inside_that_had_more_time(place: str, clock: ManualClock) -> None:
    inside: list[str] = []

    def call(item: int) -> None:
        run = treadle.map(treadle.sleep, [1e6], timeout=LIMIT * 2)
        try:
            next(run)
        finally:
            inside.extend(outcome.status for outcome in run.rest())

    with Calls(place, call, [0], call_timeout=LIMIT, grace=1e6) as calls:
        clock.wait_for_sleepers(3)  # the inner call, its consumer, and the timekeeper
        clock.advance(LIMIT)
        (end,) = calls.ends()

    assert (end.status, inside) == ("timed_out", ["cancelled"])


@pytest.mark.parametrize("is_whole_first", [True, False])
def test_of_a_runs_timeout_and_its_calls_the_earlier_wins(is_whole_first: bool, clock: ManualClock) -> None:
    whole, single = (LIMIT, LIMIT * 2) if is_whole_first else (LIMIT * 2, LIMIT)
    run = treadle.map(treadle.sleep, [1e6], timeout=whole, call_timeout=single, grace=1e6)
    clock.wait_for_sleepers(2)
    clock.advance(LIMIT)

    with pytest.raises(TimeoutError) as caught:
        next(run)

    assert isinstance(caught.value, treadle.CallTimedOut) != is_whole_first
    assert [outcome.status for outcome in run.rest()] == ["cancelled" if is_whole_first else "timed_out"]


@pytest.mark.parametrize("is_whole_first", [True, False])
def test_of_a_groups_timeout_and_its_calls_the_earlier_wins(is_whole_first: bool, clock: ManualClock) -> None:
    whole, single = (LIMIT, LIMIT * 2) if is_whole_first else (LIMIT * 2, LIMIT)
    with (
        pytest.raises((TimeoutError, ExceptionGroup)) as caught,
        treadle.TaskGroup(timeout=whole, call_timeout=single) as group,
    ):
        task = group.submit(treadle.sleep, 1e6)
        clock.wait_for_sleepers(2)
        clock.advance(LIMIT)

    if is_whole_first:
        assert type(caught.value) is TimeoutError
        assert task.cancelled()
    else:
        assert isinstance(task.exception(), treadle.CallTimedOut)


@pytest.mark.parametrize("place", PLACES)
def test_a_long_grace_hides_no_later_call(place: str, clock: ManualClock, gate: Gate) -> None:
    """The one timer waits for the end of a grace; a call that begins meanwhile may be late before that."""
    late_begun = threading.Event()

    def call(item: str) -> object:
        if item == "deaf":
            return gate.hold()
        if item == "late":
            late_begun.set()
            treadle.sleep(1e9)
        return item

    with Calls(place, call, ["deaf", "next", "late"], max_workers=2, call_timeout=LIMIT, grace=1e6) as calls:
        assert late_begun.wait(PATIENCE_SECONDS)
        gate.wait_for_arrivals()
        clock.wait_for_sleepers(2)
        clock.advance(LIMIT)
        wait_until(lambda: calls.stats.running == 1)  # the late one has ended, the deaf one has its grace
        gate.open()
        ends = calls.ends()

    assert [end.status for end in ends] == ["timed_out", "succeeded", "timed_out"]
    assert calls.stats.abandoned == 0


def test_a_call_that_begins_in_the_grace_of_another_has_its_own_time(clock: ManualClock, gate: Gate) -> None:
    with treadle.PoolExecutor(2, call_timeout=LIMIT, grace=1e6) as pool:
        deaf = pool.submit(gate.hold)
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(LIMIT)
        wait_until(lambda: all(chunk.is_cancelled for chunk in pool._book.crew.chunks_in_hand()))
        later = pool.submit(treadle.sleep, 1e9)
        clock.wait_for_sleepers(2)
        clock.advance(LIMIT)

        assert isinstance(later.exception(), treadle.CallTimedOut)
        assert not deaf.done()
        gate.open()

    assert pool.stats.abandoned == 0


def test_a_run_closed_beside_its_consumer_does_not_wait_out_its_grace(clock: ManualClock, gate: Gate) -> None:
    """Both wait for the same calls, each in its own place."""
    run = treadle.map(gate.hold, range(2), max_workers=2, ordered=False, grace=1e6)
    outcomes = run.outcomes()
    gate.wait_for_arrivals(2)
    closer = threading.Thread(target=run.close)
    closer.start()
    wait_until(lambda: run._course.crew.is_stopping)
    consumer = threading.Thread(target=list, args=(outcomes,))
    consumer.start()
    wait_until(lambda: run._course.awaited is not False)
    gate.open()
    closer.join(PATIENCE_SECONDS)
    consumer.join(PATIENCE_SECONDS)

    assert not closer.is_alive()
    assert (run.stats.succeeded, run.stats.abandoned) == (2, 0)


def test_calls_are_made_and_watched_again_after_a_timer_was_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For want of a thread, say: the next call sets a timer, although the one before was to go off no later."""
    asked: list[float] = []

    def refuse(when: float, _: object) -> None:
        asked.append(when)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(timekeeper, "call_at", refuse)
    crew: Any = SimpleNamespace(lock=threading.Lock(), account=SimpleNamespace(kind="run"))
    attempts: Any = SimpleNamespace(policy=Policy(LIMIT), seconds=[])
    watch = Watch(crew, attempts, "test")
    for _ in range(2):
        watch.note_begun(0.0)

    assert [record.getMessage() for record in caplog.records] == [
        "run 'test' cannot time its calls for now: no thread for that starts (RuntimeError(\"can't start new thread\"))"
    ]
    assert asked == [LIMIT, LIMIT]
