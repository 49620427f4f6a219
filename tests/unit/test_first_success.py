"""``first_success``: one answer is enough, and the other calls are told so."""

from __future__ import annotations

import threading

import pytest

import treadle
from tests.calls import FOR_EVER_SECONDS, Nap
from tests.conftest import Gate
from treadle.testing import ManualClock


@pytest.fixture
def nap() -> Nap:
    return Nap()


def fail(text: str = "bad") -> None:
    raise ValueError(text)


def test_the_first_success_wins_and_the_others_are_cancelled(nap: Nap) -> None:
    def answer() -> str:
        nap.wait_until_begun(2)
        return "first"

    assert treadle.first_success(nap, answer, nap) == "first"
    assert nap.cancelled == 2


def test_a_failure_beside_a_success_is_not_told(nap: Nap) -> None:
    failed = threading.Event()

    def fail_first() -> str:
        try:
            raise ValueError("bad")
        finally:
            failed.set()

    def answer() -> str:
        assert failed.wait(10)
        return "second"

    assert treadle.first_success(fail_first, answer) == "second"


def test_what_is_false_is_a_success_too() -> None:
    assert treadle.first_success(lambda: None) is None


def test_only_the_first_of_several_successes_counts(gate: Gate, nap: Nap) -> None:
    """The second comes, too, as it does not heed that it was cancelled."""

    def answer() -> object:
        nap.wait_until_begun()
        gate.wait_for_arrivals()
        return "first"

    def open_when_cancelled() -> object:
        try:
            return nap()
        finally:
            gate.open()

    assert treadle.first_success(lambda: gate.hold("second"), open_when_cancelled, answer, grace=60) == "first"


def test_all_failing_raises_the_group_in_order() -> None:
    second_has_failed = threading.Event()

    def fail_first() -> None:
        assert second_has_failed.wait(10)
        fail("first")

    def fail_second() -> None:
        second_has_failed.set()
        fail("second")

    with pytest.raises(ExceptionGroup, match="group 'first_success' failed") as caught:
        treadle.first_success(fail_first, fail_second)

    assert [str(error) for error in caught.value.exceptions] == ["first", "second"]


def test_none_in_time_raises_the_builtin_timeout(nap: Nap) -> None:
    with ManualClock() as clock:

        def turn() -> None:
            clock.wait_for_sleepers(3)  # both calls, and the timekeeper
            clock.advance(5)

        turner = threading.Thread(target=turn)
        turner.start()
        with pytest.raises(TimeoutError, match="timeout=5 seconds"):
            treadle.first_success(nap, nap, timeout=5)
        turner.join()

    assert nap.cancelled == 2


def test_a_timeout_beside_failures_tells_both(nap: Nap) -> None:
    with ManualClock() as clock:

        def fail_and_turn() -> None:
            clock.wait_for_sleepers(2)  # the other call, and the timekeeper
            task = treadle.current_task()
            assert task is not None
            task.add_done_callback(lambda _: clock.advance(5))
            fail()

        with pytest.raises(ExceptionGroup) as caught:
            treadle.first_success(nap, fail_and_turn, timeout=5)

    assert [type(error) for error in caught.value.exceptions] == [TimeoutError, ValueError]


def test_a_loser_that_is_deaf_is_left_behind(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    def answer() -> str:
        gate.wait_for_arrivals()
        return "first"

    assert treadle.first_success(gate.hold, answer, grace=0) == "first"
    assert "group 'first_success' leaves a thread behind" in caplog.text


def test_what_a_loser_raises_on_its_way_out_is_not_told() -> None:
    begun = threading.Event()

    def lose() -> str:
        try:
            begun.set()
            treadle.sleep(FOR_EVER_SECONDS)
        except treadle.Cancelled:
            raise ValueError("on the way out") from None
        return "never"

    def answer() -> str:
        assert begun.wait(10)
        return "first"

    assert treadle.first_success(lose, answer) == "first"


def test_it_is_cancelled_with_the_task_it_is_called_in(nap: Nap) -> None:
    with treadle.TaskGroup() as group:
        task = group.submit(treadle.first_success, nap, nap)
        nap.wait_until_begun(2)
        task.cancel()

    assert task.cancelled()
    assert nap.cancelled == 2


def test_each_call_has_a_thread_of_its_own() -> None:
    """All are called at once, so each may wait for all others."""
    barrier = threading.Barrier(50)

    assert treadle.first_success(*[lambda: barrier.wait(10) >= 0] * 50) is True


def test_without_functions_there_is_no_success() -> None:
    with pytest.raises(treadle.InvalidArgument, match="fns must be at least one function, not none"):
        treadle.first_success()


def test_what_cannot_be_called_is_refused_and_nothing_goes_on(nap: Nap) -> None:
    with pytest.raises(treadle.WrongType, match="must be callable"):
        treadle.first_success(nap, 3)  # type: ignore[arg-type]  # what this is about
