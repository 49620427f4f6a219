"""Cancellation: it reaches whatever waits, within moments, and only who asked for it takes it."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import TypeVar

import pytest

import treadle
from tests.calls import FOR_EVER_SECONDS, Nap
from tests.conftest import PATIENCE_SECONDS, Gate
from treadle._core.cancellation import current_scope
from treadle.testing import ManualClock

Item = TypeVar("Item")
Value = TypeVar("Value")


@pytest.fixture
def nap() -> Nap:
    return Nap()


def fail(text: str = "bad") -> None:
    raise ValueError(text)


def filled(run: treadle.Run[Item, Value]) -> treadle.Run[Item, Value]:
    """Take what there is room for: a busy machine may leave that to when results are asked for."""
    while run._course.intake.refill():
        pass
    return run


class Waiting:
    """Tells whether the call that announced itself here waits, or has something to be told, as seen from outside."""

    def __init__(self) -> None:
        self._scope: object = None

    def announce(self) -> None:
        self._scope = current_scope()

    def wait_until_it_waits(self) -> None:
        """Wait until something in the call's scope is to be woken or called."""
        while self._scope is None or not (self._scope._wakers or self._scope._callbacks):  # type: ignore[attr-defined]  # internal
            pass


# check_cancelled and sleep


def test_outside_of_any_call_nothing_is_cancelled() -> None:
    treadle.check_cancelled()
    treadle.sleep(0)


def test_a_call_of_a_group_sees_its_cancellation(gate: Gate) -> None:
    seen: list[str] = []

    def call() -> None:
        treadle.check_cancelled()
        gate.hold()
        try:
            treadle.check_cancelled()
        except treadle.Cancelled as cancelled:
            seen.append(cancelled.reason)
            raise

    with treadle.TaskGroup(name="told") as group:
        task = group.submit(call)
        gate.wait_for_arrivals()
        group.cancel()
        gate.open()

    assert task.cancelled()
    assert seen == ["group 'told' was cancelled"]


def test_a_cancellation_is_not_an_exception() -> None:
    """So that ``except Exception`` in somebody's call lets it pass."""
    assert not issubclass(treadle.Cancelled, Exception)


def test_a_cancellation_is_felt_again_by_whoever_swallows_it(gate: Gate) -> None:
    felt: list[int] = []

    def call() -> str:
        gate.hold()
        for number in range(3):
            try:
                treadle.sleep(FOR_EVER_SECONDS)
            except treadle.Cancelled:
                felt.append(number)
        return "done all the same"

    with treadle.TaskGroup() as group:
        task = group.submit(call)
        gate.wait_for_arrivals()
        group.cancel()
        gate.open()

    assert felt == [0, 1, 2]
    assert task.result() == "done all the same"


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_sleep_is_never_negative(seconds: float) -> None:
    with pytest.raises(treadle.InvalidArgument, match="seconds must be 0 seconds or more"):
        treadle.sleep(seconds)
    with pytest.raises(treadle.InvalidArgument, match="seconds must be 0 seconds or more"), treadle.shield(seconds):
        pass


def test_a_sleep_lasts_as_long_as_the_clock_says() -> None:
    with ManualClock() as clock, treadle.TaskGroup() as group:
        task = group.submit(treadle.sleep, 5)
        clock.wait_for_sleepers()
        clock.advance(4.9)
        clock.wait_for_sleepers()
        assert not task.done()
        clock.advance(0.1)

    assert not task.cancelled()


def test_a_cancellation_of_one_task_ends_its_wait_for_another(gate: Gate) -> None:
    with treadle.TaskGroup() as group:
        held = group.submit(gate.hold)
        gate.wait_for_arrivals()
        waiting = Waiting()

        def wait() -> object:
            waiting.announce()
            return held.result()

        waiter = group.submit(wait)
        waiting.wait_until_it_waits()
        waiter.cancel()
        with pytest.raises(CancelledError):
            waiter.result()
        assert not held.done()
        gate.open()


# on_cancel


def test_a_socket_can_be_shut_down_by_a_cancellation() -> None:
    """A ``recv()`` that nothing else would end."""
    ours, theirs = socket.socketpair()
    receives = Waiting()

    def receive() -> bytes:
        with treadle.on_cancel(ours.shutdown, socket.SHUT_RDWR):
            receives.announce()
            return ours.recv(1)

    with ours, theirs, treadle.TaskGroup() as group:
        task = group.submit(receive)
        receives.wait_until_it_waits()
        group.cancel()

    assert task.result() == b""


def test_a_child_process_can_be_killed_by_a_cancellation() -> None:
    waits = Waiting()

    def run() -> int:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
            waits.announce()
            with treadle.on_cancel(process.kill):
                return process.wait()

    with treadle.TaskGroup() as group:
        task = group.submit(run)
        waits.wait_until_it_waits()
        group.cancel()

    assert task.result() < 0


def test_a_callback_is_called_in_calls_of_map_too(gate: Gate) -> None:
    event = threading.Event()

    def call(_: int) -> bool:
        with treadle.on_cancel(event.set):
            gate.hold()
            return event.wait(10)

    run = treadle.map(call, [1], grace=60)
    gate.wait_for_arrivals()
    gate.open()
    run.close()

    (outcome,) = run.rest()
    assert outcome.value is True


def test_a_callback_has_ended_when_the_block_is_left_and_runs_once() -> None:
    called: list[str] = []
    began, go_on, leaves = threading.Event(), threading.Event(), threading.Event()
    waits = Waiting()

    def callback(name: str) -> None:
        began.set()
        assert go_on.wait(10)
        called.append(name)

    def call() -> None:
        with treadle.on_cancel(callback, "callback"):
            waits.announce()
            assert began.wait(10)
            leaves.set()
        called.append("block")

    with treadle.TaskGroup() as group:
        task = group.submit(call)
        waits.wait_until_it_waits()
        task.cancel()
        assert leaves.wait(10)
        assert not task.done()
        go_on.set()
        task.exception()
        task.cancel()
        group.cancel()

    assert called == ["callback", "block"]


def test_a_callback_is_not_called_after_its_block(gate: Gate) -> None:
    called: list[int] = []

    def call() -> None:
        with treadle.on_cancel(called.append, 1):
            pass
        gate.hold()
        with pytest.raises(treadle.Cancelled):
            treadle.check_cancelled()

    with treadle.TaskGroup() as group:
        task = group.submit(call)
        gate.wait_for_arrivals()
        task.cancel()
        gate.open()

    assert called == []


def test_a_callback_for_a_cancellation_that_was_before_is_called_at_once(gate: Gate) -> None:
    called: list[str] = []

    def call() -> None:
        gate.hold()
        with treadle.on_cancel(called.append, "callback"):
            called.append("block")

    with treadle.TaskGroup() as group:
        group.submit(call)
        gate.wait_for_arrivals()
        group.cancel()
        gate.open()

    assert called == ["callback", "block"]


def test_a_callback_that_raises_is_logged_and_keeps_no_other_from_being_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called = threading.Event()
    waits = Waiting()

    def call() -> str:
        with treadle.on_cancel(called.set), treadle.on_cancel(fail, "from a callback"):
            waits.announce()
            assert called.wait(10)
        return "went on"

    with treadle.TaskGroup() as group:
        task = group.submit(call)
        waits.wait_until_it_waits()
        group.cancel()

    assert task.result() == "went on"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "a callback for a cancellation failed"
    assert "ValueError: from a callback" in caplog.text


def test_a_callback_in_the_block_of_a_group() -> None:
    called: list[int] = []

    with treadle.TaskGroup() as group:
        with treadle.on_cancel(called.append, 1):
            group.cancel()
        with treadle.on_cancel(called.append, 2):
            pass

    assert called == [1, 2]


def test_a_callback_where_nothing_can_be_cancelled_is_never_called() -> None:
    called: list[int] = []

    with treadle.on_cancel(called.append, 1):
        pass
    with pytest.raises(treadle.WrongType, match="callback must be callable"), treadle.on_cancel(3):  # type: ignore[arg-type]  # what this is about
        pass

    assert called == []


# shield


def test_a_shield_holds_a_cancellation_off_for_so_long(gate: Gate) -> None:
    with ManualClock() as clock:
        steps: list[str] = []

        def call() -> None:
            with treadle.shield(5):
                gate.hold()
                treadle.check_cancelled()
                steps.append("shielded")
                try:
                    treadle.sleep(FOR_EVER_SECONDS)
                except treadle.Cancelled as cancelled:
                    steps.append(cancelled.reason)
            treadle.check_cancelled()
            steps.append("never here")

        with treadle.TaskGroup() as group:
            task = group.submit(call)
            gate.wait_for_arrivals()
            group.cancel()
            gate.open()
            clock.wait_for_sleepers(2)  # the call, and the timekeeper
            clock.advance(4.9)
            clock.wait_for_sleepers(2)
            assert steps == ["shielded"]
            clock.advance(0.1)

    assert steps == ["shielded", "group 'group' was cancelled"]
    assert task.cancelled()


def test_a_cancellation_is_felt_right_after_the_shield(gate: Gate) -> None:
    steps: list[str] = []

    def call() -> None:
        with treadle.shield(FOR_EVER_SECONDS):
            gate.hold()
            treadle.sleep(0.001)
            steps.append("cleaned up")
        treadle.sleep(0)
        steps.append("never here")

    with treadle.TaskGroup() as group:
        group.submit(call)
        gate.wait_for_arrivals()
        group.cancel()
        gate.open()

    assert steps == ["cleaned up"]


def test_a_shield_for_what_was_cancelled_before(nap: Nap) -> None:
    """The usual place: in the ``finally`` of a call that was cancelled."""
    steps: list[str] = []

    def call() -> None:
        try:
            nap()
        finally:
            with treadle.shield(FOR_EVER_SECONDS):
                treadle.sleep(0.001)
                steps.append("said goodbye")

    with treadle.TaskGroup() as group:
        task = group.submit(call)
        nap.wait_until_begun()
        group.cancel()

    assert steps == ["said goodbye"]
    assert task.cancelled()


def test_of_nested_shields_the_earlier_end_counts(gate: Gate) -> None:
    with ManualClock() as clock:
        cut: list[str] = []

        def call() -> None:
            with treadle.shield(5), treadle.shield(500):
                gate.hold()
                try:
                    treadle.sleep(FOR_EVER_SECONDS)
                except treadle.Cancelled:
                    cut.append("after the earlier one")

        with treadle.TaskGroup() as group:
            group.submit(call)
            gate.wait_for_arrivals()
            clock.advance(5)
            group.cancel()
            gate.open()
            clock.wait_for_sleepers(2)  # the call, and the timekeeper
            clock.advance(494)
            assert cut == []
            clock.advance(1)

    assert cut == ["after the earlier one"]


def test_a_shield_makes_nobody_wait_longer(gate: Gate) -> None:
    """A run that ends gives its calls ``grace`` seconds, shielded or not."""

    def call(_: int) -> None:
        with treadle.shield(FOR_EVER_SECONDS):
            gate.hold()

    run = treadle.map(call, [1], grace=0)
    gate.wait_for_arrivals()
    run.close()

    assert [(outcome.status, outcome.abandoned) for outcome in run.rest()] == [("cancelled", True)]


def test_a_callback_inside_a_shield_is_held_off_with_it(gate: Gate) -> None:
    called: list[int] = []

    def call() -> None:
        with treadle.shield(FOR_EVER_SECONDS), treadle.on_cancel(called.append, 1):
            gate.hold()

    with treadle.TaskGroup() as group:
        group.submit(call)
        gate.wait_for_arrivals()
        group.cancel()
        gate.open()

    assert called == []


def test_a_shield_outside_of_any_call_does_nothing() -> None:
    with treadle.shield(0):
        treadle.sleep(0)


# current_task


def test_the_current_task_is_the_one_whose_call_runs_here() -> None:
    def in_map(_: int) -> treadle.Task[object] | None:
        return treadle.current_task()

    def call() -> list[object]:
        with treadle.TaskGroup() as inner:
            inside = inner.submit(treadle.current_task)
            here = treadle.current_task()
        return [here, inside.result() is inside, *treadle.map(in_map, [1]), treadle.current_task()]

    with treadle.TaskGroup() as group:
        assert treadle.current_task() is None
        task = group.submit(call)

    assert task.result() == [task, True, None, task]


def test_the_current_task_of_a_call_made_while_another_waits_for_it() -> None:
    """Both calls are made by one thread, one on top of the other."""

    def outer() -> list[object]:
        before = treadle.current_task()
        inner = group.submit(treadle.current_task)
        return [before, inner.result() is inner, treadle.current_task()]

    with treadle.TaskGroup(max_workers=1) as group:
        task = group.submit(outer)

    assert task.result() == [task, True, task]


def test_a_task_may_cancel_itself() -> None:
    def call() -> None:
        task = treadle.current_task()
        assert task is not None
        assert not task.cancel()
        treadle.check_cancelled()

    with treadle.TaskGroup() as group:
        task = group.submit(call)

    assert task.cancelled()


# Who takes it


def test_a_cancellation_raised_by_the_body_itself_passes_the_group(nap: Nap) -> None:
    """The group did not ask for it, so it is not the group's to swallow."""
    with pytest.raises(treadle.Cancelled, match="mine"), treadle.TaskGroup() as group:
        task = group.submit(nap)
        nap.wait_until_begun()
        raise treadle.Cancelled("mine")

    assert task.cancelled()


def test_a_cancellation_raised_by_a_task_that_nobody_cancelled_is_a_failure() -> None:
    def call() -> None:
        raise treadle.Cancelled("mine")

    with pytest.raises(BaseExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(call)

    assert [str(error) for error in caught.value.exceptions] == ["mine"]
    assert not isinstance(caught.value, ExceptionGroup)


def test_a_cancellation_raised_by_a_call_that_nobody_cancelled_is_a_failure() -> None:
    def call(_: int) -> None:
        raise treadle.Cancelled("mine")

    (outcome,) = treadle.map(call, [1]).outcomes()

    assert outcome.status == "failed"
    assert isinstance(outcome.error, treadle.Cancelled)


def test_the_cancellation_of_an_inner_group_is_not_that_of_the_call(gate: Gate) -> None:
    def call() -> str:
        with treadle.TaskGroup() as inner:
            inner.cancel()
            treadle.sleep(FOR_EVER_SECONDS)
        treadle.check_cancelled()
        return "went on"

    with treadle.TaskGroup() as group:
        task = group.submit(call)

    assert task.result() == "went on"


def test_the_cancellation_of_a_call_passes_the_groups_inside_it(nap: Nap) -> None:
    """Each takes it for its own block, and then feels the one around it."""
    steps: list[str] = []

    def call() -> None:
        with treadle.TaskGroup() as inner:
            inner.submit(nap)
            treadle.sleep(FOR_EVER_SECONDS)
        steps.append("never here")

    with treadle.TaskGroup() as group:
        task = group.submit(call)
        nap.wait_until_begun()
        assert not task.cancel()
        fine = group.submit(abs, -1)
        fine.result()

    assert steps == []
    assert task.cancelled()
    assert fine.result() == 1
    assert nap.cancelled == 1


# Calls of a map


def fail_beside(nap: Nap, count: int) -> Callable[[int], object]:
    """Return a call that naps, but for item 0, which fails when ``count`` others have begun."""

    def call(item: int) -> object:
        if item == 0:
            nap.wait_until_begun(count)
            fail()
        return nap(item)

    return call


@pytest.mark.parametrize("ordered", [True, False])
def test_calls_beside_a_failure_are_cancelled_and_not_left_behind(nap: Nap, ordered: bool) -> None:
    run = treadle.map(fail_beside(nap, 2), range(9), max_workers=3, ordered=ordered, buffersize=0, grace=60)

    with pytest.raises(ValueError, match="bad"):
        next(run)

    outcomes = {outcome.index: outcome for outcome in run.rest()}
    assert outcomes[0].status == "failed"
    for index in (1, 2):
        assert (outcomes[index].status, outcomes[index].abandoned) == ("cancelled", False)
        assert isinstance(outcomes[index].error, treadle.CallCancelled)
    assert sorted(outcomes) == [0, 1, 2]
    assert nap.cancelled == 2
    assert (run.stats.cancelled, run.stats.abandoned) == (2, 0)


def test_calls_of_a_closed_run_are_cancelled_and_not_left_behind(nap: Nap) -> None:
    with filled(treadle.map(nap, range(9), max_workers=2, grace=60)) as run:
        nap.wait_until_begun(2)

    outcomes = list(run.rest())
    assert [(outcome.status, outcome.abandoned) for outcome in outcomes[:2]] == [("cancelled", False)] * 2
    assert run.stats.abandoned == 0
    assert nap.cancelled == 2


def test_calls_of_a_run_out_of_time_are_cancelled_and_not_left_behind(nap: Nap) -> None:
    with ManualClock() as clock:
        run = filled(treadle.map(nap, range(9), max_workers=2, timeout=5, grace=60))
        nap.wait_until_begun(2)
        clock.advance(5)
        with pytest.raises(TimeoutError, match="timeout=5"):
            next(run)

        outcomes = list(run.rest())
    assert [(outcome.status, outcome.abandoned) for outcome in outcomes[:2]] == [("cancelled", False)] * 2
    assert run.stats.abandoned == 0


def test_calls_of_a_dropped_run_are_cancelled(nap: Nap) -> None:
    run = filled(treadle.map(nap, range(9), max_workers=2))
    nap.wait_until_begun(2)
    with pytest.warns(RuntimeWarning, match="never read"):
        del run

    while nap.cancelled < 2:
        pass


def test_a_call_that_returns_though_it_was_cancelled_has_its_result() -> None:
    begun = threading.Event()

    def call(_: int) -> str:
        begun.set()
        try:
            treadle.sleep(FOR_EVER_SECONDS)
        except treadle.Cancelled:
            return "what there is"
        return "never"

    with treadle.map(call, [1], grace=60) as run:
        assert begun.wait(10)

    assert [(outcome.status, outcome.value) for outcome in run.rest()] == [("succeeded", "what there is")]


def test_a_call_that_fails_when_it_is_cancelled_has_failed() -> None:
    begun = threading.Event()

    def call(_: int) -> None:
        begun.set()
        try:
            treadle.sleep(FOR_EVER_SECONDS)
        finally:
            fail()

    with treadle.map(call, [1], grace=60) as run:
        assert begun.wait(10)

    assert [outcome.status for outcome in run.rest()] == ["failed"]


def test_in_order_the_calls_before_a_failure_are_given_time_to_succeed(gate: Gate) -> None:
    """The results before a failure do not depend on who was faster: item 0 is not cancelled, though it is late."""

    def call(item: int) -> int:
        if item == 1:
            gate.wait_for_arrivals()
            fail()
        gate.hold()
        treadle.check_cancelled()
        return item

    run = filled(treadle.map(call, [0, 1], max_workers=2, grace=60))
    with run._course.crew.lock:
        run._delivery._choose()  # results are wanted; what next(run) does first
    while not run._course.crew.is_stopping:
        pass
    gate.open()

    assert next(run) == 0
    with pytest.raises(ValueError, match="bad"):
        next(run)
    assert [(outcome.index, outcome.status) for outcome in run.rest()] == [(1, "failed")]


def test_in_order_the_calls_before_a_failure_are_asked_to_end_after_half_of_the_grace(nap: Nap) -> None:
    with ManualClock() as clock:

        def call(item: int) -> object:
            if item == 1:
                nap.wait_until_begun()
                fail()
            return nap(item)

        run = filled(treadle.map(call, [0, 1], max_workers=2, grace=10))
        with run._course.crew.lock:
            run._delivery._choose()
        while not run._course.crew.is_stopping:
            pass
        clock.wait_for_sleepers(2)  # item 0, and the timekeeper
        clock.advance(4.9)
        clock.wait_for_sleepers(2)
        assert nap.cancelled == 0
        clock.advance(0.1)
        with pytest.raises(ValueError, match="bad"):
            next(run)

    rest = [(outcome.index, outcome.status, outcome.abandoned) for outcome in run.rest()]
    assert rest == [(0, "cancelled", False), (1, "failed", False)]
    assert nap.cancelled == 1


# Nested runs


@pytest.mark.parametrize("consume", [list, lambda run: list(run.outcomes())])
def test_a_run_inside_a_cancelled_task_is_cancelled(
    consume: Callable[[treadle.Run[int, object]], object], nap: Nap
) -> None:
    runs: list[treadle.Run[int, object]] = []

    def call() -> object:
        runs.append(treadle.map(nap, range(9), max_workers=2, grace=60))
        return consume(runs[0])

    with treadle.TaskGroup() as group:
        task = group.submit(call)
        nap.wait_until_begun(2)
        assert not task.cancel()

    assert task.cancelled()
    assert nap.cancelled == 2
    assert runs[0].stats.abandoned == 0
    assert sorted({outcome.status for outcome in runs[0].rest()}) in (["cancelled", "not_started"], ["not_started"], [])


def test_a_run_inside_a_cancelled_task_is_cancelled_though_nobody_waits_for_it(nap: Nap, gate: Gate) -> None:
    def call() -> None:
        run = filled(treadle.map(nap, range(9), max_workers=2, grace=60))
        gate.hold()
        run.close()

    with treadle.TaskGroup() as group:
        group.submit(call)
        nap.wait_until_begun(2)
        group.cancel()
        while nap.cancelled < 2:
            pass
        gate.open()


def test_a_run_inside_the_call_of_a_closed_run_is_cancelled(nap: Nap) -> None:
    def call(_: int) -> list[object]:
        return list(treadle.map(nap, range(9), max_workers=2))

    with treadle.map(call, [1], grace=60) as run:
        nap.wait_until_begun(2)

    assert [(outcome.status, outcome.abandoned) for outcome in run.rest()] == [("cancelled", False)]
    assert nap.cancelled == 2


def test_a_group_inside_the_call_of_a_closed_run_is_cancelled(nap: Nap) -> None:
    def call(_: int) -> None:
        with treadle.TaskGroup() as group:
            group.submit(nap)

    with treadle.map(call, [1], grace=60) as run:
        nap.wait_until_begun()

    assert [(outcome.status, outcome.abandoned) for outcome in run.rest()] == [("cancelled", False)]
    assert nap.cancelled == 1


def test_what_was_cancelled_starts_no_run() -> None:
    called: list[int] = []

    with treadle.TaskGroup() as group:
        group.cancel()
        treadle.map(called.append, [1])

    assert called == []


# Coroutines


def test_a_cancelled_coroutine_cancels_the_calls_of_the_run_it_was_iterating(nap: Nap) -> None:
    async def consume(run: treadle.Run[int, object]) -> None:
        async for _ in run:
            pass

    async def main() -> treadle.Run[int, object]:
        run = filled(treadle.map(nap, range(9), max_workers=2, grace=60))
        consumer = asyncio.ensure_future(consume(run))
        await asyncio.get_running_loop().run_in_executor(None, nap.wait_until_begun, 2)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        return run

    run = asyncio.run(main())
    outcomes = list(run.rest())

    assert nap.cancelled == 2
    assert len(outcomes) == run.stats.taken
    assert [(outcome.status, outcome.abandoned) for outcome in outcomes[:2]] == [("cancelled", False)] * 2
    assert {outcome.status for outcome in outcomes[2:]} <= {"not_started"}


def test_a_timeout_of_asyncio_cancels_the_calls_too(nap: Nap) -> None:
    async def main() -> None:
        run = filled(treadle.map(nap, range(9), max_workers=2, grace=60))
        async with asyncio.timeout(FOR_EVER_SECONDS) as timeout:
            await asyncio.get_running_loop().run_in_executor(None, nap.wait_until_begun, 2)
            timeout.reschedule(0)
            async for _ in run.outcomes():
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    while nap.cancelled < 2:
        pass


@pytest.fixture(autouse=True)
def _leaves_no_scope() -> Iterator[None]:
    """Whatever a test does, the main thread is in no scope afterwards."""
    yield
    assert current_scope() is None


def test_a_log_that_fails_keeps_no_other_callback_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those for a cancellation nor those of a task that is done."""
    begun, woken, done = threading.Event(), threading.Event(), threading.Event()

    def fail(*_: object) -> None:
        raise ValueError("bad")

    def wait_to_be_woken() -> bool:
        with treadle.on_cancel(woken.set), treadle.on_cancel(fail):  # the latest is called first
            begun.set()
            return woken.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(logging.getLogger("treadle"), "handle", fail)
    with treadle.TaskGroup() as group:
        task = group.submit(wait_to_be_woken)
        task.add_done_callback(fail)
        task.add_done_callback(lambda _: done.set())
        begun.wait()
        group.cancel()

    assert woken.is_set()
    assert done.is_set()
