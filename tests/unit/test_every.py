"""``treadle.every``: when runs begin, what becomes of them, and how it ends. Time is turned by hand."""

from __future__ import annotations

import contextvars
import gc
import io
import logging
import math
import os
import random
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import treadle
from tests.calls import Nap
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.interrupts import Interrupted
from tests.places import wait_until
from tests.programs import finish, start_program
from treadle._core import clock as core_clock
from treadle._core.ticks import Ticks
from treadle._sync import timekeeper
from treadle.testing import ManualClock


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


class Stamps:
    """Notes when each run began, in seconds since the first, and does something then."""

    def __init__(self, then: Callable[[int], object] = lambda number: number) -> None:
        self.times: list[float] = []
        self._then = then
        self._start: float | None = None

    def __call__(self) -> object:
        now = core_clock.now()
        if self._start is None:
            self._start = now
        self.times.append(round(now - self._start, 6))
        return self._then(len(self.times) - 1)


def wait_for_runs(monitor: treadle.Periodic[Any], count: int) -> None:
    """Wait until so many runs have ended, and the time of the next one is set."""
    wait_until(lambda: monitor.runs == count and not monitor._is_busy)


def has_made(monitor: treadle.Periodic[Any], count: int) -> bool:
    return monitor.runs == count


def fail(number: int = 0) -> None:
    raise ValueError(f"bad {number}")


# When runs begin


def test_the_first_run_is_at_once_and_the_others_at_each_tick(clock: ManualClock) -> None:
    stamps = Stamps()
    with treadle.every(10, stamps) as monitor:
        for number in range(4):
            wait_for_runs(monitor, number + 1)
            clock.advance(9)
            assert monitor.runs == number + 1
            clock.advance(1)
        wait_for_runs(monitor, 5)

    assert stamps.times == [0, 10, 20, 30, 40]
    assert (monitor.missed, monitor.failures, monitor.last_result, monitor.last_error) == (0, 0, 4, None)


def test_the_length_of_a_run_does_not_move_the_next_one(clock: ManualClock) -> None:
    stamps = Stamps(lambda number: clock.advance(3.7))
    with treadle.every(10, stamps) as monitor:
        for number in range(5):
            wait_for_runs(monitor, number + 1)
            clock.advance(6.3)
        wait_for_runs(monitor, 6)

    assert stamps.times == [0, 10, 20, 30, 40, 50]


def test_ticks_are_missed_while_a_run_takes_longer_than_the_period(clock: ManualClock) -> None:
    stamps = Stamps(lambda number: clock.advance(25))
    with treadle.every(10, stamps) as monitor:
        wait_for_runs(monitor, 1)
        clock.advance(4.9)
        assert monitor.runs == 1
        clock.advance(0.1)
        wait_for_runs(monitor, 2)

    assert stamps.times == [0, 30]
    assert monitor.missed == 2


def test_a_tick_that_the_run_itself_has_taken_is_not_kept(clock: ManualClock) -> None:
    """As one is that a late machine has taken."""
    stamps = Stamps(lambda number: clock.advance(15 if number == 0 else 0))
    with treadle.every(10, stamps) as monitor:
        wait_for_runs(monitor, 1)
        clock.advance(5)
        wait_for_runs(monitor, 2)

    assert stamps.times == [0, 20]
    assert monitor.missed == 1


def test_a_tick_that_the_report_of_a_failure_has_taken_is_not_kept(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    stamps = Stamps(lambda number: fail() if number == 0 else None)
    with treadle.every(10, stamps, on_error=lambda error: clock.advance(25)) as monitor:
        wait_for_runs(monitor, 1)
        clock.advance(5)
        wait_for_runs(monitor, 2)

    assert stamps.times == [0, 30]


def test_a_run_that_takes_exactly_its_period_misses_nothing(clock: ManualClock) -> None:
    stamps = Stamps(lambda number: clock.advance(10 if number < 5 else 1))
    with treadle.every(10, stamps) as monitor:
        wait_for_runs(monitor, 6)

    assert stamps.times == [0, 10, 20, 30, 40, 50]
    assert monitor.missed == 0


def test_no_run_begins_while_another_goes_on(clock: ManualClock, gate: Gate) -> None:
    with treadle.every(10, gate.hold) as monitor:
        gate.wait_for_arrivals()
        for _ in range(5):
            clock.wait_for_sleepers(0)
            clock.advance(10)
        assert monitor._book.stats().taken == 1
        gate.open()
        wait_for_runs(monitor, 2)  # its end is on the tick, as the clock stands
        assert monitor.missed == 4


def test_a_timer_that_goes_off_while_another_is_set_does_nothing(clock: ManualClock) -> None:
    with treadle.every(10, Stamps(lambda number: clock.advance(25))) as monitor:
        wait_for_runs(monitor, 1)
        monitor._begin(1, monitor._ticks._start + 10)
        assert monitor._book.stats().taken == 1


def test_a_clock_that_jumps_an_hour_makes_one_run(clock: ManualClock) -> None:
    stamps = Stamps()
    with treadle.every(10, stamps) as monitor:
        wait_for_runs(monitor, 1)
        clock.advance(3605)
        wait_for_runs(monitor, 2)
        assert monitor.missed == 359
        clock.advance(5)
        wait_for_runs(monitor, 3)

    assert stamps.times == [0, 3605, 3610], "the next one is on the old grid"
    assert monitor.missed == 359


def test_a_clock_cannot_go_back_and_if_it_did_no_tick_would_come_twice(clock: ManualClock) -> None:
    with pytest.raises(treadle.InvalidArgument):
        clock.advance(-3600)
    ticks = Ticks(0.0, 10.0, 0.0)
    ticks.take(*ticks.after(0.0), 0.0)

    assert ticks.after(-3600.0) == (1, 10.0)
    ticks.take(1, 10.0, -3600.0)
    assert ticks.after(10.0) == (2, 20.0)
    assert ticks.missed == 0


def test_the_first_tick_is_taken_however_long_it_takes_to_get_there() -> None:
    ticks = Ticks(0.0, 10.0, 0.0)

    assert ticks.after(9.9) == (0, 0.0)


def test_a_late_machine_keeps_a_tick_until_the_next_one_comes() -> None:
    """The run before it was short: it began late, or its worker was slow to hear of it."""
    ticks = Ticks(0.0, 10.0, 0.0)
    ticks.take(0, 0.0, 0.0)

    assert ticks.after(19.9, took=1.0) == (1, 10.0)
    assert ticks.after(19.9, took=10.0) == (2, 20.0)
    assert ticks.after(20.1, took=1.0) == (3, 30.0)


def test_jitter_makes_runs_late_by_a_share_of_the_period_and_does_not_add_up() -> None:
    random.seed(7)
    ticks = Ticks(100.0, 10.0, 0.25)
    late = []
    for number in range(1000):
        at, when = ticks.after(100.0 + 10 * (number - 1) + 3)
        ticks.take(at, when, when)
        assert at == number
        late.append(when - (100.0 + 10 * number))

    assert min(late) >= 0
    assert max(late) <= 2.5
    assert 1.0 < sum(late) / len(late) < 1.5
    assert ticks.missed == 0


def test_jitter_is_felt_by_runs(clock: ManualClock) -> None:
    random.seed(1)
    stamps = Stamps()
    with treadle.every(10, stamps, jitter=0.5) as monitor:
        start = monitor._ticks._start
        for number in range(20):
            timer = monitor._timer
            assert timer is not None
            assert 0 <= timer.when - (start + 10 * number) <= 5
            clock.advance(timer.when - clock.now())
            wait_for_runs(monitor, number + 1)

    assert len(set(stamps.times)) == 20
    assert monitor.missed == 0


@pytest.mark.parametrize(
    ("seconds", "distances"),
    [
        (0.01, [1, 2, 4, 8, 16, 32, 64, 64, 64]),
        (1, [1, 2, 4, 8, 16, 32, 60, 60, 60]),
        (25, [1, 2, 2, 2]),
        (3600, [1, 1, 1]),
        (1e300, [1, 1]),
        (1e-300, [1, 2, 4, 8, 16, 32, 64, 64]),
    ],
)
def test_each_failure_in_a_row_doubles_the_distance_up_to_a_ceiling(seconds: float, distances: list[int]) -> None:
    ticks = Ticks(0.0, seconds, 0.0)

    assert [ticks.expect(failures) for failures in range(len(distances))] == [steps * seconds for steps in distances]
    assert ticks.expect(1_000_000) == distances[-1] * seconds


def test_a_function_that_always_fails_is_called_less_and_less_often(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    stamps = Stamps(fail)
    with treadle.every(5, stamps, name="check") as monitor:
        for number, seconds in enumerate([10, 20, 40, 60, 60], 1):
            wait_for_runs(monitor, number)
            clock.advance(seconds - 0.1)
            assert monitor.runs == number
            clock.advance(0.1)
        wait_for_runs(monitor, 6)

    assert stamps.times == [0, 10, 30, 70, 130, 190]
    assert monitor.failures == monitor.runs
    assert monitor.missed == 0, "what is left out on purpose was not missed"
    assert "run 0 of periodic 'check' failed, 1 in a row; the next is 10 s after it" in caplog.text
    assert "ValueError: bad 0" in caplog.text


def test_a_success_brings_the_period_back_at_once(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    stamps = Stamps(lambda number: fail(number) if number < 2 else number)
    with treadle.every(5, stamps) as monitor:
        for number, seconds in enumerate([10, 20, 5, 5], 1):
            wait_for_runs(monitor, number)
            clock.advance(seconds)
        wait_for_runs(monitor, 5)

    assert stamps.times == [0, 10, 30, 35, 40]
    assert (monitor.failures, monitor.last_result, monitor.last_error) == (2, 4, None)


def test_without_a_backoff_a_function_that_fails_is_called_at_each_tick(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A health check that looks less often while something is down notices late that it is up again."""
    stamps = Stamps(fail)
    with treadle.every(5, stamps, backoff=None) as monitor:
        for number in range(1, 5):
            wait_for_runs(monitor, number)
            clock.advance(5)
        wait_for_runs(monitor, 5)

    assert stamps.times == [0, 5, 10, 15, 20]
    assert "5 in a row; the next is 5 s after it" in caplog.text


def test_a_backoff_of_ones_own_is_the_longest_distance(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    stamps = Stamps(fail)
    with treadle.every(5, stamps, backoff=15) as monitor:
        for number, seconds in enumerate([10, 15, 15], 1):
            wait_for_runs(monitor, number)
            clock.advance(seconds)
        wait_for_runs(monitor, 4)

    assert stamps.times == [0, 10, 25, 40]


# What a run comes to


def test_a_failure_is_kept_until_the_next_success(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    with treadle.every(5, Stamps(lambda number: fail() if number == 1 else number)) as monitor:
        wait_for_runs(monitor, 1)
        clock.advance(5)
        wait_for_runs(monitor, 2)
        failed = (monitor.last_result, repr(monitor.last_error))
        clock.advance(10)
        wait_for_runs(monitor, 3)

    assert failed == (0, "ValueError('bad 0')")
    assert (monitor.last_result, monitor.last_error) == (2, None)


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), StopIteration(1), GeneratorExit(), treadle.Cancelled("by nobody")]
)
def test_whatever_a_run_raises_it_is_a_failure_and_not_the_end(
    error: BaseException, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def call(number: int) -> int:
        if number == 0:
            raise error
        return number

    with treadle.every(5, Stamps(call)) as monitor:
        outcome = monitor.wait_next()
        wait_for_runs(monitor, 1)
        clock.advance(10)
        wait_for_runs(monitor, 2)

    assert (outcome.status, outcome.error) == ("failed", error)
    assert (monitor.runs, monitor.failures, monitor.last_result) == (2, 1, 1)
    assert "failed, 1 in a row" in caplog.text


class FailingHandler(logging.Handler):
    """What a program has its logs sent by, on a bad day."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self._error


@pytest.mark.parametrize("error", [OSError("the log server is down"), SystemExit(1)])
def test_a_log_that_fails_is_not_the_end(
    error: BaseException, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_twice(told: BaseException) -> None:
        raise ValueError("on_error")

    handler, logger = FailingHandler(error), logging.getLogger("treadle")
    logger.addHandler(handler)
    try:
        with treadle.every(5, Stamps(lambda number: fail() if number == 0 else number), on_error=fail_twice) as monitor:
            assert monitor.wait_next(PATIENCE_SECONDS).status == "failed"
            wait_for_runs(monitor, 1)
            clock.advance(10)
            wait_for_runs(monitor, 2)
    finally:
        logger.removeHandler(handler)

    assert (monitor.runs, monitor.failures, monitor.last_result) == (2, 1, 1)
    assert capsys.readouterr().err.count(type(error).__name__) == 2


def test_an_error_that_is_not_true_is_logged_like_any_other(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """``logging`` asks what it is given as ``exc_info`` whether it is true."""

    class EmptyError(Exception):
        def __len__(self) -> int:
            return 0

    def call(number: int) -> None:
        raise EmptyError("nothing in it")

    with treadle.every(5, Stamps(call)) as monitor:
        wait_for_runs(monitor, 1)

    assert "EmptyError: nothing in it" in caplog.text


def test_on_error_is_told_each_failure_before_the_next_run(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[object] = []

    def call(number: int) -> None:
        said.append(number)
        fail(number)

    with treadle.every(5, Stamps(call), on_error=said.append) as monitor:
        wait_for_runs(monitor, 1)
        clock.advance(10)
        wait_for_runs(monitor, 2)

    assert [repr(thing) for thing in said] == ["0", "ValueError('bad 0')", "1", "ValueError('bad 1')"]
    assert isinstance(said[3], ValueError)
    assert said[3].__notes__ == ["treadle: run 1 of periodic 'Stamps': Stamps()"], "as in the log, reports not counted"
    assert [record.getMessage() for record in caplog.records] == [
        "run 0 of periodic 'Stamps' failed, 1 in a row; the next is 10 s after it: ValueError('bad 0')",
        "run 1 of periodic 'Stamps' failed, 2 in a row; the next is 20 s after it: ValueError('bad 1')",
    ]
    assert "Traceback" not in caplog.text, "who is told the error logs it as he likes"
    assert isinstance(said[1], ValueError)
    assert said[1].__notes__ == ["treadle: run 0 of periodic 'Stamps': Stamps()"]


def test_an_on_error_that_raises_is_logged_and_not_the_end(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def complain(error: BaseException) -> None:
        raise SystemExit("what now?")

    with treadle.every(5, fail, name="check", on_error=complain) as monitor:
        wait_for_runs(monitor, 1)
        clock.advance(10)
        wait_for_runs(monitor, 2)

    assert caplog.text.count("on_error of periodic 'check' failed") == 2
    assert "SystemExit: what now?" in caplog.text
    assert monitor.failures == 2


def test_no_run_begins_while_a_failure_is_reported(
    clock: ManualClock, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with treadle.every(5, Stamps(fail), on_error=gate.hold) as monitor:
        gate.wait_for_arrivals()
        for _ in range(10):
            clock.advance(5)
        assert monitor.runs == 1
        gate.open()
        wait_for_runs(monitor, 2)


def test_a_run_past_its_timeout_has_failed(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    nap = Nap()
    with treadle.every(5, nap, timeout=2, name="nap") as monitor:
        nap.wait_until_begun()
        clock.advance(2)
        wait_for_runs(monitor, 1)
        clock.advance(8)
        nap.wait_until_begun()

    assert isinstance(monitor.last_error, treadle.CallTimedOut)
    assert str(monitor.last_error) == "call 0 of 'nap' took longer than timeout=2 seconds", (
        "as the option is called here"
    )
    assert (monitor.failures, monitor.abandoned, nap.cancelled) == (1, 0, 2)
    assert "run 0 of periodic 'nap' timed out" in caplog.text


def test_a_run_that_heeds_no_timeout_is_left_behind_and_the_next_one_waits_for_its_end(
    clock: ManualClock, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    stamps = Stamps(gate.hold)
    with treadle.every(5, stamps, timeout=2, name="stuck") as monitor:
        gate.wait_for_arrivals()
        clock.advance(2)
        wait_until(lambda: monitor._book.crew.chunks_in_hand()[0].is_cancelled)
        clock.advance(0.25)
        wait_until(lambda: monitor._is_held_up)
        for _ in range(8):
            clock.advance(5)
        shown = io.StringIO()
        treadle.dump(shown)
        assert len(stamps.times) == 1
        gate.open()
        wait_until(lambda: not monitor._is_busy)
        clock.advance(2.75)
        wait_for_runs(monitor, 2)

    assert (monitor.failures, monitor.abandoned, monitor.last_error) == (1, 1, None)
    assert stamps.times == [0, 45]
    assert "periodic 'stuck' leaves a thread behind: the call for item 0 (Stamps())" in caplog.text
    assert "has been at item 0 (Stamps())" in shown.getvalue()
    assert "left behind" in shown.getvalue()


def test_a_run_sees_the_context_of_whoever_started_it_and_keeps_its_own(clock: ManualClock) -> None:
    variable = contextvars.ContextVar("variable", default="nothing")
    variable.set("starter's")

    def call() -> str:
        seen = variable.get()
        variable.set("a run's")
        return seen

    with treadle.every(5, call) as monitor:
        variable.set("later")
        first = monitor.wait_next()
        wait_for_runs(monitor, 1)
        clock.advance(5)
        wait_for_runs(monitor, 2)

    assert first.result() == monitor.last_result == "starter's"


def test_a_run_shares_the_places_of_whoever_started_it() -> None:
    limiter = treadle.Limiter(max_concurrent=1)

    def call() -> str:
        with limiter:
            return "inside"

    for timeout in (None, 60):
        with limiter, treadle.every(60, call, timeout=timeout) as monitor:
            wait_for_runs(monitor, 1)
            assert monitor.last_result == "inside"


# Waiting for a run


def test_all_who_wait_are_given_the_same_outcome(gate: Gate) -> None:
    with treadle.every(3600, lambda: gate.hold("fine")) as monitor, treadle.TaskGroup() as group:
        waiting = [group.submit(monitor.wait_next) for _ in range(4)]
        wait_until(lambda: len(monitor._waiters) == 4)
        gate.open()

    outcomes = [task.result() for task in waiting]
    assert all(outcome is outcomes[0] for outcome in outcomes)
    assert (outcomes[0].index, outcomes[0].status, outcomes[0].result()) == (0, "succeeded", "fine")


def test_a_failed_run_is_an_outcome_and_raises_when_asked(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    def call() -> None:
        gate.hold()
        fail()

    with treadle.every(3600, call) as monitor:
        gate.open()
        outcome = monitor.wait_next()

    assert outcome.status == "failed"
    with pytest.raises(ValueError, match="bad"):
        outcome.result()


def test_a_wait_that_is_too_long_raises(clock: ManualClock) -> None:
    with treadle.every(3600, lambda: None) as monitor:
        wait_for_runs(monitor, 1)
        with pytest.raises(TimeoutError, match="no run of periodic '<lambda>' ended within 0 seconds"):
            monitor.wait_next(timeout=0)
        with treadle.TaskGroup(on_error="collect") as group:
            waiting = group.submit(monitor.wait_next, timeout=5)
            wait_until(lambda: bool(monitor._waiters))
            clock.wait_for_sleepers(2)
            clock.advance(5)
            assert isinstance(waiting.exception(), TimeoutError)


def test_a_wait_ends_with_the_stop() -> None:
    with treadle.every(3600, lambda: None, name="check") as monitor, treadle.TaskGroup(on_error="collect") as group:
        wait_for_runs(monitor, 1)
        waiting = group.submit(monitor.wait_next)
        wait_until(lambda: bool(monitor._waiters))
        monitor.stop()
        error = waiting.exception()

    assert isinstance(error, treadle.PeriodicStopped)
    assert "periodic 'check' was stopped" in str(error)
    with pytest.raises(treadle.PeriodicStopped):
        monitor.wait_next()


def test_a_wait_feels_its_cancellation() -> None:
    with treadle.every(3600, lambda: None) as monitor:
        wait_for_runs(monitor, 1)
        with treadle.TaskGroup() as group:
            waiting = group.submit(monitor.wait_next)
            wait_until(lambda: bool(monitor._waiters))
            group.cancel()

    assert waiting.cancelled()
    assert not monitor._waiters


def test_a_run_cannot_wait_for_the_next(caplog: pytest.LogCaptureFixture) -> None:
    monitors: list[treadle.Periodic[Any]] = []
    ready = threading.Event()

    def call() -> None:
        assert ready.wait(PATIENCE_SECONDS)
        monitors[0].wait_next()

    with treadle.every(3600, call) as monitor:
        monitors.append(monitor)
        ready.set()
        outcome = monitor.wait_next()

    assert isinstance(outcome.error, RuntimeError)
    assert "cannot wait for its next run in a run" in str(outcome.error)


# The end


def test_a_stop_ends_the_wait_for_the_next_tick(clock: ManualClock) -> None:
    stamps = Stamps()
    monitor = treadle.every(3600, stamps)
    wait_for_runs(monitor, 1)
    monitor.stop()
    monitor.stop()
    clock.advance(7200)

    assert len(stamps.times) == 1
    assert repr(monitor) == "<treadle.Periodic 'Stamps', was stopped>"


def test_a_stop_ends_the_run_that_goes_on() -> None:
    nap = Nap()
    with treadle.every(3600, nap) as monitor:
        nap.wait_until_begun()

    assert nap.cancelled == 1
    assert (monitor.runs, monitor.failures, monitor.abandoned) == (0, 0, 0)


def test_a_stop_ends_the_report_of_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    nap = Nap()
    with treadle.every(3600, fail, on_error=nap) as monitor:
        nap.wait_until_begun()

    assert nap.cancelled == 1
    assert monitor.failures == 1
    assert "on_error" not in caplog.text


def test_a_run_that_heeds_no_stop_is_left_behind(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    monitor = treadle.every(3600, gate.hold, name="stuck")
    gate.wait_for_arrivals()
    with treadle.PoolExecutor(1) as pool:
        waiting = pool.submit(monitor.wait_next)
        monitor.stop()
        assert isinstance(waiting.exception(), treadle.PeriodicStopped)
    shown = io.StringIO()
    treadle.dump(shown)

    assert monitor.abandoned == 1
    assert "periodic 'stuck' leaves a thread behind: the call for item 0 (hold())" in caplog.text
    assert "left behind" in shown.getvalue()


def test_a_run_may_stop_it_and_comes_to_its_end(clock: ManualClock) -> None:
    monitors: list[treadle.Periodic[str]] = []
    ready = threading.Event()

    def call() -> str:
        assert ready.wait(PATIENCE_SECONDS)
        monitors[0].stop()
        treadle.check_cancelled()
        return "done"

    with treadle.every(5, call) as monitor:
        monitors.append(monitor)
        wait_until(lambda: monitor._is_busy)
        ready.set()
        outcome = monitor.wait_next()
        clock.advance(100)
        with pytest.raises(treadle.PeriodicStopped):
            monitor.wait_next()

    assert outcome.result() == "done"
    assert (monitor.runs, monitor.last_result) == (1, "done")


def test_on_error_may_stop_it(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    monitors: list[treadle.Periodic[None]] = []
    ready = threading.Event()

    def give_up(_: BaseException) -> None:
        assert ready.wait(PATIENCE_SECONDS)
        monitors[0].stop()

    with treadle.every(5, fail, on_error=give_up) as monitor:
        monitors.append(monitor)
        ready.set()
        wait_until(lambda: monitor._book.closed is not None and not monitor._is_busy)
        clock.advance(100)

    assert monitor.runs == 1


def test_an_exception_of_the_block_passes_unchanged() -> None:
    error = ValueError("the block's")
    with pytest.raises(ValueError, match="the block's") as caught, treadle.every(3600, lambda: None) as monitor:
        raise error

    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert error.__context__ is None
    assert monitor._book.closed == "was stopped"


def test_ctrl_c_in_the_block_stops_it() -> None:
    nap = Nap()
    with Interrupted(), treadle.every(3600, nap):
        nap.wait_until_begun()
        signal.raise_signal(signal.SIGINT)

    assert nap.cancelled == 1


def test_ctrl_c_while_it_stops_leaves_the_run_behind_at_once(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    with ManualClock():  # so that the grace never ends by itself
        monitor = treadle.every(3600, gate.hold)
        gate.wait_for_arrivals()

        def interrupt() -> None:
            wait_until(lambda: bool(monitor._book._waiters))
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with Interrupted():
            monitor.stop()
        interrupter.join()

    assert monitor.abandoned == 1


def test_one_in_another(clock: ManualClock) -> None:
    def call() -> object:
        with treadle.every(1, lambda: "inner") as inner:
            return inner.wait_next().result()

    with treadle.every(10, call) as outer:
        wait_for_runs(outer, 1)
        clock.advance(10)
        wait_for_runs(outer, 2)

    assert outer.last_result == "inner"


def test_it_is_stopped_with_the_group_it_was_started_in() -> None:
    nap = Nap()
    with treadle.TaskGroup() as group:
        monitor = treadle.every(3600, nap)
        nap.wait_until_begun()
        group.cancel()

    wait_until(lambda: nap.cancelled == 1 and not monitor._is_busy)
    with pytest.raises(treadle.PeriodicStopped, match="a task of group|was cancelled"):
        monitor.wait_next()


def test_one_that_was_stopped_is_not_held_by_the_group_it_was_started_in() -> None:
    """A group may go on for as long as the program, and start and stop many."""
    with treadle.TaskGroup():
        with treadle.every(3600, lambda: None) as monitor:
            monitor.wait_next()
        alive = weakref.ref(monitor)
        del monitor

        wait_until(lambda: gc.collect() is not None and alive() is None)


def test_one_that_could_not_be_started_is_held_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody was given it who could stop it."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    alive: list[weakref.ref[Stamps]] = []

    def start() -> None:
        stamps = Stamps()
        alive.append(weakref.ref(stamps))
        with pytest.raises(RuntimeError, match="can't start new thread"):
            treadle.every(5, stamps)

    with treadle.TaskGroup():
        with monkeypatch.context() as patch:
            patch.setattr(timekeeper, "call_at", refuse)
            start()

        wait_until(lambda: gc.collect() is not None and alive[0]() is None)


def test_it_goes_on_though_nobody_holds_it_and_is_collected_after_its_end(clock: ManualClock) -> None:
    stamps = Stamps()
    monitor = treadle.every(10, stamps)
    wait_for_runs(monitor, 1)
    ref = weakref.ref(monitor)
    del monitor
    gc.collect()
    clock.advance(10)
    wait_until(lambda: len(stamps.times) == 2)
    held = ref()
    assert held is not None
    held.stop()
    del held

    wait_until(lambda: gc.collect() >= 0 and ref() is None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_none_and_the_parent_goes_on(clock: ManualClock, gate: Gate) -> None:
    """Forked in the middle of a run, and while another thread would have held the lock."""
    with treadle.every(10, gate.hold) as monitor:
        gate.wait_for_arrivals()
        held = monitor._lock
        held.acquire()
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # should it hang
            code = 1
            try:
                monitor.wait_next()
            except treadle.PeriodicStopped as error:
                monitor.stop()
                code = 0 if "was forked" in str(error) else 2
            finally:
                os._exit(code)
        held.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        gate.open()
        wait_for_runs(monitor, 1)
        clock.advance(10)
        wait_for_runs(monitor, 2)


def test_an_interpreter_that_exits_does_not_wait_for_a_stuck_run() -> None:
    source = """
        import logging, threading, time
        import treadle
        logging.basicConfig(format="%(message)s")
        begun = threading.Event()
        def call():
            begun.set()
            threading.Event().wait()
        treadle.every(0.01, call)
        treadle.every(0.01, lambda: None)
        begun.wait()
    """
    status, out, err = finish(start_program(source))

    assert (status, out) == (0, "")
    assert "periodic 'call' leaves a thread behind" in err


def test_where_no_thread_keeps_the_time_that_of_the_runs_does(
    clock: ManualClock, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment without threads is no reason to end what goes on for as long as the program."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    stamps = Stamps(gate.hold)
    with treadle.every(5, stamps, name="check") as monitor:
        gate.wait_for_arrivals()
        clock.advance(12)
        wait_until(lambda: monitor._timer is None)
        monkeypatch.setattr(timekeeper, "call_at", refuse)
        gate.open()
        for number, seconds in enumerate((3, 5, 5), 1):
            wait_until(partial(has_made, monitor, number))
            clock.wait_for_sleepers()
            clock.advance(seconds)
        wait_until(partial(has_made, monitor, 4))
        monkeypatch.undo()
        clock.wait_for_sleepers()
        clock.advance(5)
        wait_for_runs(monitor, 5)

    assert stamps.times == [0, 15, 20, 25, 30]
    assert caplog.text.count("periodic 'check' waits for its time on the thread of its runs for now") == 1


async def coroutine_function() -> None: ...


class Awaited:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0}, "seconds must be at least 1e-09"),
        ({"seconds": 5e-324}, "seconds must be at least 1e-09"),
        ({"seconds": -1}, "seconds must be 0 seconds or more"),
        ({"seconds": math.inf}, "seconds must be at least 1e-09, a nanosecond, and finite"),
        ({"seconds": math.nan}, "seconds must be"),
        ({"seconds": "1"}, "seconds must be a number"),
        ({"fn": 5}, "fn must be callable"),
        ({"fn": coroutine_function}, "fn must be a plain function"),
        ({"fn": Awaited()}, "fn must be a plain function"),
        ({"fn": partial(Awaited())}, "fn must be a plain function"),
        ({"name": 5}, "name must be a string"),
        ({"jitter": -0.1}, "jitter must be from 0 to 1"),
        ({"jitter": 1.1}, "jitter must be from 0 to 1"),
        ({"jitter": math.nan}, "jitter must be from 0 to 1"),
        ({"jitter": "1"}, "jitter must be a number"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": -1}, "timeout must be 0 seconds or more"),
        ({"on_error": 5}, "on_error must be callable"),
    ],
)
def test_what_is_not_right_is_refused(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"seconds": 1, "fn": fail, **options}
    with pytest.raises(treadle.InvalidArgument, match=message):
        treadle.every(arguments.pop("seconds"), arguments.pop("fn"), **arguments)


def test_in_what_was_cancelled_none_is_started() -> None:
    with treadle.TaskGroup() as group:
        group.cancel()
        with pytest.raises(treadle.Cancelled):
            treadle.every(1, fail)
