"""Task groups: what begins in the block has ended after it, and every failure is told, once."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import pytest

import treadle
from tests.calls import FOR_EVER_SECONDS, Nap
from tests.conftest import Gate
from tests.places import wait_until
from tests.programs import WAIT_FOR_CTRL_C, finish, lines_of, start_program
from treadle._core.cancellation import Scope, current_scope
from treadle._core.gil import is_gil_enabled
from treadle.testing import ManualClock

colour: ContextVar[str] = ContextVar("colour", default="none")


@pytest.fixture
def nap() -> Nap:
    return Nap()


def fail(text: str = "bad") -> None:
    raise ValueError(text)


def texts(error: BaseException) -> list[str]:
    """Return what a group's exceptions say, in order."""
    assert isinstance(error, BaseExceptionGroup)
    return [str(inner) for inner in error.exceptions]


# What is joined


def test_the_end_of_the_block_waits_for_every_task() -> None:
    body_is_over = threading.Event()
    order: list[str] = []

    def call() -> None:
        assert body_is_over.wait(10)
        order.append("task")

    with treadle.TaskGroup() as group:
        group.submit(call)
        order.append("body")
        body_is_over.set()
    order.append("after")

    assert order == ["body", "task", "after"]
    assert group.stats.workers == 0


def test_tasks_may_submit_siblings_when_the_body_is_over() -> None:
    body_is_over = threading.Event()
    sibling: list[treadle.Task[int]] = []

    def call() -> None:
        assert body_is_over.wait(10)
        sibling.append(group.submit(abs, -1))

    with treadle.TaskGroup(max_workers=1) as group:
        group.submit(call)
        body_is_over.set()

    assert sibling[0].done()
    assert sibling[0].result() == 1


def test_a_task_that_submits_itself_again_is_joined_to_the_last() -> None:
    calls: list[int] = []

    def call(left: int) -> None:
        calls.append(left)
        if left:
            group.submit(call, left - 1)

    with treadle.TaskGroup() as group:
        group.submit(call, 500)

    assert calls == list(range(500, -1, -1))


def test_a_task_that_submits_itself_for_ever_ends_when_the_group_is_cancelled() -> None:
    """What it tries to submit then is cancelled with it, and no failure of its own."""
    hundredth = threading.Event()

    def call(number: int) -> None:
        if number == 100:
            hundredth.set()
        group.submit(call, number + 1)

    with treadle.TaskGroup() as group:
        group.submit(call, 0)
        assert hundredth.wait(10)
        group.cancel()


def test_a_task_that_submits_while_the_group_is_being_cancelled_does_not_fail(gate: Gate) -> None:
    """Whoever cancels is held up halfway here: it has decided, but the tasks have not been told."""

    def call() -> None:
        gate.hold()
        group.submit(abs, -1)

    with treadle.TaskGroup() as group:
        task = group.submit(call)
        gate.wait_for_arrivals()
        with group._book.crew.lock:
            canceller = threading.Thread(target=group.cancel)
            canceller.start()
            while not group._scope.is_cancelled:
                pass
            gate.open()
            while group.stats.taken == 1 and not task.done():
                pass
        canceller.join()

    assert group.stats.failed == 0


def test_submitting_after_the_end_says_so() -> None:
    with treadle.TaskGroup(name="short") as group:
        pass

    with pytest.raises(treadle.GroupClosed, match="group 'short' has ended; submit inside its with block"):
        group.submit(abs, -1)


def test_submitting_before_the_beginning_says_so() -> None:
    group = treadle.TaskGroup(name="early")

    with pytest.raises(treadle.GroupClosed, match="group 'early' has not begun"):
        group.submit(abs, -1)


def test_a_group_is_entered_once() -> None:
    with treadle.TaskGroup() as group, pytest.raises(treadle.GroupClosed, match="was entered before"):
        group.__enter__()
    with pytest.raises(treadle.GroupClosed, match="was entered before"):
        group.__enter__()


def test_a_task_outside_the_group_cannot_submit_to_one_that_was_cancelled() -> None:
    caught: list[BaseException] = []

    def submit() -> None:
        try:
            group.submit(abs, -1)
        except treadle.GroupClosed as error:
            caught.append(error)

    with treadle.TaskGroup() as group:
        group.cancel()
        stranger = threading.Thread(target=submit)
        stranger.start()
        stranger.join()

    assert "was cancelled" in str(caught[0])


def test_what_is_to_be_awaited_is_refused_where_calls_are_made_on_threads() -> None:
    async def coroutine() -> None:
        pass

    with treadle.TaskGroup(engine="threads") as group:
        with pytest.raises(treadle.WrongType, match="coroutine function coroutine"):
            group.submit(coroutine)
        with pytest.raises(treadle.WrongType, match="fn must be callable"):
            group.submit(3)  # type: ignore[call-overload]  # what this is about

    assert group.stats.taken == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_workers": 0}, "max_workers must be at least 1"),
        ({"timeout": -1}, "timeout must be 0 seconds or more"),
        ({"grace": float("nan")}, "grace must be 0 seconds or more"),
        ({"name": 3}, "name must be a string"),
        ({"on_error": "ignore"}, "on_error must be 'cancel' or 'collect'"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(treadle.InvalidArgument, match=message):
        treadle.TaskGroup(**options)


def test_ten_thousand_tasks_in_one_group() -> None:
    with treadle.TaskGroup(max_workers=4) as group:
        tasks = [group.submit(abs, -number) for number in range(10_000)]

    assert [task.result() for task in tasks] == list(range(10_000))
    assert group.stats.succeeded == group.stats.taken == 10_000


def test_no_more_than_max_workers_calls_at_once(gate: Gate) -> None:
    with treadle.TaskGroup(max_workers=2) as group:
        for _ in range(5):
            group.submit(gate.hold)
        gate.wait_for_arrivals(2)

        assert group.stats.running == group.stats.workers == 2
        gate.open()


# The first failure


def test_the_first_failure_cancels_what_runs_and_what_waits(gate: Gate, nap: Nap) -> None:
    def fail_later() -> None:
        gate.hold()
        fail()

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(max_workers=2, name="doomed") as group:
        running, failing = group.submit(nap), group.submit(fail_later)
        waiting = [group.submit(abs, -1) for _ in range(3)]
        nap.wait_until_begun()
        gate.open()

    assert str(caught.value) == "group 'doomed' failed (1 sub-exception)"
    assert caught.value.exceptions == (failing.exception(),)
    assert nap.cancelled == 1
    assert running.cancelled()
    assert all(task.cancelled() for task in waiting)
    assert (group.stats.failed, group.stats.cancelled, group.stats.succeeded) == (1, 4, 0)


def wait_in_sleep(_: treadle.TaskGroup) -> None:
    treadle.sleep(FOR_EVER_SECONDS)


def submit_running(group: treadle.TaskGroup) -> treadle.Task[None]:
    """Return a task that has begun: a worker that waits for one that has not makes its call itself."""
    task = group.submit(treadle.sleep, FOR_EVER_SECONDS)
    while not task.running():
        pass
    return task


def wait_in_result(group: treadle.TaskGroup) -> None:
    submit_running(group).result()


def wait_in_exception(group: treadle.TaskGroup) -> None:
    submit_running(group).exception()


def wait_in_inner_group(_: treadle.TaskGroup) -> None:
    with treadle.TaskGroup() as inner:
        inner.submit(treadle.sleep, FOR_EVER_SECONDS)


def wait_in_map(_: treadle.TaskGroup) -> None:
    list(treadle.map(treadle.sleep, [FOR_EVER_SECONDS]))


def wait_in_limiter(_: treadle.TaskGroup) -> None:
    limiter = treadle.Limiter(max_per_second=1 / FOR_EVER_SECONDS)
    with limiter:
        pass
    with limiter:
        pass


def wait_in_first_success(_: treadle.TaskGroup) -> None:
    treadle.first_success(lambda: treadle.sleep(FOR_EVER_SECONDS))


WAITS = [
    *(wait_in_sleep, wait_in_result, wait_in_exception, wait_in_inner_group, wait_in_map, wait_in_limiter),
    wait_in_first_success,
]


def fail_beside(find_scope: Callable[[], Scope | None]) -> None:
    """Fail as soon as something waits in the scope."""
    while (scope := find_scope()) is None or not (scope._wakers or scope._callbacks):
        pass
    fail()


@pytest.mark.parametrize("wait", WAITS)
def test_a_failure_ends_the_waits_of_the_body(wait: Callable[[treadle.TaskGroup], None]) -> None:
    """And the body's ``Cancelled`` is the group's own: it is not told."""
    passed = []

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(fail_beside, lambda: group._scope)
        wait(group)
        passed.append(wait)

    assert texts(caught.value) == ["bad"]
    assert passed == []


@pytest.mark.parametrize("wait", WAITS)
def test_a_failure_ends_the_waits_of_tasks(wait: Callable[[treadle.TaskGroup], None]) -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        waiting = group.submit(wait, group)
        group.submit(fail_beside, lambda: None if waiting._chunk is None else waiting._chunk.scope)

    assert texts(caught.value) == ["bad"]
    assert waiting.cancelled()


def test_a_body_that_does_not_wait_goes_on_to_its_end() -> None:
    reached = False

    with pytest.raises(ExceptionGroup), treadle.TaskGroup() as group:
        assert isinstance(group.submit(fail).exception(), ValueError)
        reached = True

    assert reached


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_a_sibling_that_was_cancelled_too_is_no_second_failure_for_who_asks_it(ask: str, nap: Nap) -> None:
    """The body is busy while the group fails, and asks for the answer later: that is its cancellation, too."""
    asked = []

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        cancelled = group.submit(nap)
        nap.wait_until_begun()
        group.submit(fail)
        while not cancelled.cancelled():
            pass
        asked.append(cancelled)
        getattr(cancelled, ask)()

    assert asked
    assert texts(caught.value) == ["bad"]


def test_a_cancelled_task_asked_outside_of_any_cancellation_says_so() -> None:
    with treadle.TaskGroup() as group:
        task = group.submit(treadle.sleep, FOR_EVER_SECONDS)
        group.cancel()

    with pytest.raises(CancelledError):
        task.result()
    with pytest.raises(CancelledError):
        task.exception()


def test_failures_are_told_in_the_order_of_the_tasks(gate: Gate) -> None:
    """Not in the order in which they came: the second fails first here."""
    second_has_failed = threading.Event()

    def fail_first() -> None:
        assert second_has_failed.wait(10)
        fail("first")

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(fail_first)
        group.submit(fail, "second").add_done_callback(lambda _: second_has_failed.set())

    assert texts(caught.value) == ["first", "second"]


def test_a_failure_names_its_task() -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(name="named") as group:
        group.submit(fail, text="bad")

    (error,) = caught.value.exceptions
    assert error.__notes__ == ["treadle: task 0 of group 'named': fail(text='bad')"]
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code is fail.__code__


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_task_that_raises_what_is_no_exception_makes_a_base_exception_group(kind: type[BaseException]) -> None:
    def call() -> None:
        raise kind("from a task")

    with pytest.raises(BaseExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(call)

    assert not isinstance(caught.value, ExceptionGroup)
    assert [type(error) for error in caught.value.exceptions] == [kind]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_is_no_exception_leaves_the_body_as_it_is(kind: type[BaseException], nap: Nap) -> None:
    error = kind("from the body")

    with pytest.raises(kind) as caught, treadle.TaskGroup() as group:
        task = group.submit(nap)
        nap.wait_until_begun()
        raise error

    assert caught.value is error
    assert task.cancelled()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_it_stays_bare_beside_failing_tasks_and_names_them(kind: type[BaseException]) -> None:
    error = kind("from the body")

    with pytest.raises(kind) as caught, treadle.TaskGroup(name="both") as group:
        group.submit(fail).exception()
        raise error

    assert caught.value is error
    assert "treadle: group 'both' also had the failure ValueError('bad')" in error.__notes__


def test_an_exception_of_the_body_cancels_the_tasks(nap: Nap) -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        task = group.submit(nap)
        nap.wait_until_begun()
        fail("body")

    assert texts(caught.value) == ["body"]
    assert task.cancelled()


def test_an_exception_of_the_body_comes_together_with_those_of_tasks(gate: Gate) -> None:
    def fail_when_cancelled() -> None:
        try:
            gate.hold()
            treadle.sleep(FOR_EVER_SECONDS)
        finally:
            fail("task")

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(fail_when_cancelled)
        gate.wait_for_arrivals()
        gate.open()
        fail("body")

    assert texts(caught.value) == ["body", "task"]


def test_a_result_read_early_is_not_reported_twice() -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(fail).result()

    assert texts(caught.value) == ["bad"]


def test_one_exception_raised_by_several_tasks_is_told_once() -> None:
    error = ValueError("shared")

    def call() -> None:
        raise error

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(on_error="collect") as group:
        for _ in range(3):
            group.submit(call)

    assert caught.value.exceptions == (error,)


def test_a_failure_that_cancelled_the_group_is_raised_even_if_it_was_read() -> None:
    """Its siblings were cancelled for it; a group that then ended in silence would have lost them."""
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(fail).exception()

    assert texts(caught.value) == ["bad"]


# on_error="collect"


def test_collecting_lets_siblings_and_the_body_go_on(gate: Gate) -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(max_workers=1, on_error="collect") as group:
        failing = [group.submit(fail, text) for text in ("one", "two")]
        fine = group.submit(gate.hold, "fine")
        gate.wait_for_arrivals()
        assert all(task.done() for task in failing)
        treadle.check_cancelled()
        gate.open()

    assert texts(caught.value) == ["one", "two"]
    assert fine.result() == "fine"


@pytest.mark.parametrize("read", ["result", "exception"])
def test_collecting_tells_what_nobody_was_told(read: str) -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(on_error="collect") as group:
        told, untold = group.submit(fail, "told"), group.submit(fail, "untold")
        if read == "result":
            with pytest.raises(ValueError, match="told"):
                told.result()
        else:
            assert isinstance(told.exception(), ValueError)

    assert texts(caught.value) == ["untold"]
    assert untold.done()


def test_collecting_raises_nothing_if_all_was_told() -> None:
    with treadle.TaskGroup(on_error="collect") as group:
        assert isinstance(group.submit(fail).exception(), ValueError)


def test_a_wait_that_gave_up_was_told_nothing(gate: Gate) -> None:
    def fail_later() -> None:
        gate.hold()
        fail()

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(on_error="collect") as group:
        task = group.submit(fail_later)
        with pytest.raises(TimeoutError):
            task.result(timeout=0)
        gate.open()

    assert texts(caught.value) == ["bad"]


def test_collecting_still_ends_with_an_exception_of_the_body(nap: Nap) -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(on_error="collect") as group:
        task = group.submit(nap)
        nap.wait_until_begun()
        fail("body")

    assert texts(caught.value) == ["body"]
    assert task.cancelled()


# group.cancel()


def test_a_cancelled_group_ends_quietly(nap: Nap) -> None:
    after = []

    with treadle.TaskGroup(max_workers=1) as group:
        running, waiting = group.submit(nap), group.submit(abs, -1)
        nap.wait_until_begun()
        group.cancel()
        with pytest.raises(treadle.Cancelled, match="group 'group' was cancelled"):
            treadle.check_cancelled()
        treadle.sleep(1)
        after.append("the wait went on")

    assert after == []
    assert running.cancelled()
    assert waiting.cancelled()
    assert nap.cancelled == 1


def test_a_task_may_cancel_its_group(nap: Nap) -> None:
    def call() -> None:
        nap.wait_until_begun()
        group.cancel()

    with treadle.TaskGroup() as group:
        napping = group.submit(nap)
        cancelling = group.submit(call)

    assert napping.cancelled()
    assert cancelling.done()


def test_cancelling_twice_or_after_the_end_does_nothing() -> None:
    with treadle.TaskGroup() as group:
        task = group.submit(abs, -1)
        assert task.result() == 1
        group.cancel()
        group.cancel()
    group.cancel()

    assert task.result() == 1
    with pytest.raises(treadle.GroupClosed):
        group.submit(abs, -1)


def test_a_group_cancelled_before_its_block_begins_no_call() -> None:
    group = treadle.TaskGroup()
    group.cancel()

    with group:
        group.submit(fail)

    assert group.stats.taken == 0


def test_a_submission_by_a_cancelled_body_ends_it_quietly() -> None:
    with treadle.TaskGroup() as group:
        group.cancel()
        group.submit(fail)


def test_a_failure_while_being_cancelled_is_told() -> None:
    """Quiet is the cancellation, not what goes wrong beside it."""
    begun = threading.Event()

    def call() -> None:
        try:
            begun.set()
            treadle.sleep(FOR_EVER_SECONDS)
        finally:
            fail("while cleaning up")

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(call)
        assert begun.wait(10)
        group.cancel()

    assert texts(caught.value) == ["while cleaning up"]


# timeout


def test_the_timeout_cancels_and_raises_the_builtin_error(nap: Nap) -> None:
    late = pytest.raises(TimeoutError, match="group 'late' did not end within timeout=5 seconds")
    with ManualClock() as clock, late, treadle.TaskGroup(timeout=5, name="late") as group:
        task = group.submit(nap)
        clock.wait_for_sleepers(2)  # the task, and the timekeeper
        clock.advance(4.9)
        treadle.check_cancelled()
        clock.advance(0.1)

    assert task.cancelled()


def test_the_timeout_ends_the_waits_of_the_body() -> None:
    begun = threading.Event()
    passed = []

    def turn() -> None:
        assert begun.wait(10)
        clock.wait_for_sleepers()  # the timekeeper
        clock.advance(5)

    with ManualClock() as clock:
        turner = threading.Thread(target=turn)
        turner.start()
        with pytest.raises(TimeoutError), treadle.TaskGroup(timeout=5):
            begun.set()
            treadle.sleep(FOR_EVER_SECONDS)
            passed.append("slept")
        turner.join()

    assert passed == []


def test_the_timeout_comes_together_with_failures() -> None:
    def fail_when_cancelled() -> None:
        try:
            treadle.sleep(FOR_EVER_SECONDS)
        finally:
            fail("on the way out")

    with ManualClock() as clock, pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(timeout=5) as group:
        group.submit(fail_when_cancelled)
        clock.wait_for_sleepers(2)  # the task, and the timekeeper
        clock.advance(5)

    assert [type(error) for error in caught.value.exceptions] == [TimeoutError, ValueError]


def test_a_group_that_ends_in_time_has_no_timeout(gate: Gate) -> None:
    with ManualClock() as clock:
        with treadle.TaskGroup(timeout=5) as group:
            task = group.submit(gate.hold, "in time")
            clock.advance(4.9)
            gate.open()
        clock.advance(10)

    assert task.result() == "in time"


def test_a_timeout_of_nothing_leaves_no_time() -> None:
    with pytest.raises(TimeoutError), treadle.TaskGroup(timeout=0):
        treadle.sleep(FOR_EVER_SECONDS)


def test_of_nested_timeouts_the_earlier_counts(nap: Nap) -> None:
    outer, inner = treadle.TaskGroup(timeout=1, name="outer"), treadle.TaskGroup(timeout=100, name="inner")

    with ManualClock() as clock, pytest.raises(TimeoutError, match="group 'outer'"), outer, inner:
        inner.submit(nap)
        clock.wait_for_sleepers(2)  # the task, and the timekeeper
        clock.advance(1)

    assert nap.cancelled == 1


def test_a_timeout_error_of_a_task_is_a_failure_like_any_other() -> None:
    def call() -> None:
        raise TimeoutError("my own")

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(call)

    assert texts(caught.value) == ["my own"]


# Tasks that ignore it


class Waiting:
    """A group on a thread of its own, whose end waits for a deaf task, and what it says meanwhile."""

    def __init__(self, clock: ManualClock, caplog: pytest.LogCaptureFixture, gate: Gate) -> None:
        self.clock = clock
        self.group = treadle.TaskGroup(name="deaf")
        self._caplog = caplog
        self._gate = gate

    @contextmanager
    def __call__(self, body: Callable[[treadle.TaskGroup], object]) -> Iterator[None]:
        """Let it wait, after ``body``, for as long as the block runs."""
        thread = threading.Thread(target=self._run, args=(body,))
        thread.start()
        try:
            self.clock.wait_for_sleepers()
            yield
        finally:
            self._gate.open()
            thread.join()

    def _run(self, body: Callable[[treadle.TaskGroup], object]) -> None:
        with self.group:
            self.group.submit(self._gate.hold, "me")
            self._gate.wait_for_arrivals()
            body(self.group)

    def told(self) -> list[logging.LogRecord]:
        return [record for record in self._caplog.records if "waits for" in record.getMessage()]

    def advance_until_told(self, seconds: float) -> None:
        """Turn the clock to just before the next report, and then to it."""
        before = len(self.told())
        self.clock.advance(seconds - 0.5)
        self.clock.wait_for_sleepers()  # still, or again: woken too early, it would have said something
        assert len(self.told()) == before
        self.clock.advance(0.5)
        self.clock.wait_for_sleepers()
        assert len(self.told()) == before + 1


def test_while_it_waits_for_deaf_tasks_it_says_so_at_growing_intervals(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with ManualClock() as clock:
        waiting = Waiting(clock, caplog, gate)
        with waiting(treadle.TaskGroup.cancel):
            for seconds in (1, 1, 2, 4, 8):  # after 1, 2, 4, 8 and 16 seconds
                waiting.advance_until_told(seconds)

    record = waiting.told()[0]
    assert record.name == "treadle"
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert re.match(
        r"group 'deaf' waits for 1 call, asked to end \(with grace=, a group leaves calls behind\)\n"
        r"  treadle-deaf-0 has been at task 0 \(hold\('me'\)\) for \d+\.\d s\n",
        message,
    )
    has_stack = "in hold" in message and "never opened" in message
    assert has_stack == is_gil_enabled(), "without a GIL, reading stacks can crash"


def test_while_it_waits_for_tasks_that_nobody_cancelled_it_says_so_once_and_then_more_softly(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """It may never end, so somebody is to see it; it may also be what was asked for."""
    caplog.set_level(logging.INFO)
    with ManualClock() as clock:
        waiting = Waiting(clock, caplog, gate)
        with waiting(id):
            for seconds in (5, 5, 10):
                waiting.advance_until_told(seconds)

    assert [record.levelno for record in waiting.told()] == [logging.WARNING, logging.INFO, logging.INFO]
    assert "asked to end" not in caplog.text


def test_while_calls_begin_and_end_it_waits_in_silence(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """A long list of work, each part of which comes to its end, is what groups are for."""
    with ManualClock() as clock:
        waiting = Waiting(clock, caplog, gate)
        with waiting(id):
            for number in range(1, 4):
                clock.advance(4)
                waiting.group.submit(abs, -1).result()
                wait_until(lambda number=number: waiting.group.stats.succeeded == number)  # type: ignore[misc]
                clock.advance(4)
                clock.wait_for_sleepers()

            assert waiting.told() == []
            waiting.advance_until_told(5)


def test_how_long_it_waited_before_the_cancellation_does_not_delay_the_reports_after_it(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with ManualClock() as clock:
        waiting = Waiting(clock, caplog, gate)
        with waiting(id):
            for seconds in (5, 5, 10, 20, 40):
                waiting.advance_until_told(seconds)
            waiting.group.cancel()
            while not is_due_within(clock, 1):  # woken by the cancellation, it goes to sleep again for less
                pass
            waiting.advance_until_told(1)

    assert waiting.told()[-1].levelno == logging.WARNING


def is_due_within(clock: ManualClock, seconds: float) -> bool:
    """Tell whether somebody sleeps by the clock for so long at most."""
    return any(when <= clock.now() + seconds for when, _ in list(clock._sleepers.values()))


def test_a_clock_that_jumps_makes_one_report_not_many(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """As when the body itself takes its time after the cancellation."""
    with ManualClock() as clock:

        def cancel_and_linger(group: treadle.TaskGroup) -> None:
            group.cancel()
            clock.advance(100)

        waiting = Waiting(clock, caplog, gate)
        with waiting(cancel_and_linger):
            assert len(waiting.told()) == 1
            waiting.advance_until_told(28)  # 100 seconds were over, the next is due at 128


def test_without_grace_it_waits_for_as_long_as_it_takes(gate: Gate) -> None:
    with ManualClock() as clock, treadle.TaskGroup() as group:
        task = group.submit(gate.hold, "done")
        gate.wait_for_arrivals()
        group.cancel()
        clock.advance(1_000_000)
        gate.open()

    assert task.result() == "done"
    assert group.stats.abandoned == 0


def test_after_grace_deaf_tasks_are_left_behind_logged_and_counted(
    gate: Gate, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with ManualClock() as clock, treadle.TaskGroup(grace=3, name="stuck") as group:
        task = group.submit(gate.hold)
        gate.wait_for_arrivals()
        group.cancel()
        assert not task.done()
        clock.advance(3)

    assert task.cancelled()
    assert (group.stats.abandoned, group.stats.cancelled, group.stats.running) == (1, 1, 0)
    assert "group 'stuck' leaves a thread behind" in caplog.text
    assert "hold()" in caplog.text
    treadle.dump()
    assert "left behind" in capsys.readouterr().err


def test_grace_is_counted_from_the_cancellation(gate: Gate) -> None:
    with ManualClock() as clock, treadle.TaskGroup(grace=3) as group:
        task = group.submit(gate.hold, "done")
        gate.wait_for_arrivals()
        clock.advance(100)
        gate.open()

    assert task.result() == "done"


def test_who_heeds_the_cancellation_is_not_left_behind(nap: Nap) -> None:
    with ManualClock(), treadle.TaskGroup(grace=3) as group:
        group.submit(nap)
        nap.wait_until_begun()
        group.cancel()

    assert nap.cancelled == 1
    assert group.stats.abandoned == 0


def test_what_a_task_left_behind_does_later_changes_nothing(gate: Gate) -> None:
    def call() -> None:
        gate.hold()
        fail("too late")

    with treadle.TaskGroup(grace=0) as group:
        task = group.submit(call)
        gate.wait_for_arrivals()
        (worker,) = [thread for thread in threading.enumerate() if thread.name == "treadle-group-0"]
        group.cancel()
    gate.open()
    worker.join(10)

    assert task.cancelled()
    assert (group.stats.cancelled, group.stats.failed) == (1, 0)


def test_a_deaf_task_is_left_behind_beside_a_failure(gate: Gate) -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(grace=0) as group:
        group.submit(gate.hold)
        gate.wait_for_arrivals()
        group.submit(fail)

    assert texts(caught.value) == ["bad"]
    assert group.stats.abandoned == 1


# Nesting


def test_cancellation_flows_down_into_the_groups_of_tasks(nap: Nap) -> None:
    def inner() -> None:
        with treadle.TaskGroup(name="inner") as group:
            group.submit(nap)

    with treadle.TaskGroup(name="outer") as group:
        task = group.submit(inner)
        nap.wait_until_begun()
        group.cancel()

    assert nap.cancelled == 1
    assert task.cancelled()


def test_cancellation_flows_down_into_a_group_in_the_block_of_another(nap: Nap) -> None:
    passed = []

    with treadle.TaskGroup() as outer:
        with treadle.TaskGroup() as inner:
            inner.submit(nap)
            nap.wait_until_begun()
            outer.cancel()
        passed.append("the block of the outer one goes on, though it was cancelled")

    assert nap.cancelled == 1
    assert passed == []


def test_a_group_cancelled_by_itself_does_not_cancel_the_one_around_it() -> None:
    with treadle.TaskGroup() as outer:
        fine = outer.submit(abs, -1)
        with treadle.TaskGroup() as inner:
            inner.submit(treadle.sleep, FOR_EVER_SECONDS)
            inner.cancel()
        treadle.check_cancelled()
        later = outer.submit(abs, -2)

    assert (fine.result(), later.result()) == (1, 2)


def test_errors_flow_up(nap: Nap) -> None:
    def inner() -> None:
        with treadle.TaskGroup(name="inner") as group:
            group.submit(fail)

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(name="outer") as group:
        napping = group.submit(nap)
        nap.wait_until_begun()
        group.submit(inner)

    (error,) = caught.value.exceptions
    assert str(error) == "group 'inner' failed (1 sub-exception)"
    assert texts(error) == ["bad"]
    assert napping.cancelled()


def test_errors_of_a_group_in_the_block_flow_up(nap: Nap) -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as outer, treadle.TaskGroup() as inner:
        outer.submit(nap)
        nap.wait_until_begun()
        inner.submit(fail)

    assert texts(caught.value.exceptions[0]) == ["bad"]
    assert nap.cancelled == 1


def test_a_group_is_not_entered_by_what_was_cancelled() -> None:
    entered = []

    with treadle.TaskGroup() as outer:
        outer.cancel()
        with treadle.TaskGroup():
            entered.append("inner")

    assert entered == []


def test_the_block_has_its_own_scope_back_after_a_group() -> None:
    with treadle.TaskGroup() as outer:
        with treadle.TaskGroup() as inner:
            inner.cancel()
        treadle.check_cancelled()
        outer.cancel()
        with pytest.raises(treadle.Cancelled):
            treadle.check_cancelled()
    treadle.check_cancelled()


def test_groups_a_hundred_deep_are_cancelled_from_the_outermost(nap: Nap) -> None:
    def descend(depth: int) -> None:
        with treadle.TaskGroup(max_workers=1) as group:
            if depth:
                group.submit(descend, depth - 1)
            else:
                group.submit(nap)

    with treadle.TaskGroup() as group:
        task = group.submit(descend, 100)
        nap.wait_until_begun()
        group.cancel()

    assert nap.cancelled == 1
    assert task.cancelled()


def test_a_failure_a_hundred_groups_deep_comes_up() -> None:
    def descend(depth: int) -> None:
        with treadle.TaskGroup(max_workers=1) as group:
            if depth:
                group.submit(descend, depth - 1)
            else:
                group.submit(fail)

    with pytest.raises(ExceptionGroup) as caught:
        descend(100)

    depth, error = 0, caught.value.exceptions[0]
    while isinstance(error, ExceptionGroup):
        depth, error = depth + 1, error.exceptions[0]
    assert depth == 100
    assert str(error) == "bad"


def test_a_hundred_groups_in_one_thread_are_cancelled_from_the_outermost(nap: Nap) -> None:
    with treadle.TaskGroup() as outer, ExitStack() as stack:
        for _ in range(100):
            innermost = stack.enter_context(treadle.TaskGroup(max_workers=1))
        innermost.submit(nap)
        nap.wait_until_begun()
        outer.cancel()

    assert nap.cancelled == 1


# One task


def test_a_task_cancelled_before_its_start_is_never_called(gate: Gate) -> None:
    called: list[int] = []

    with treadle.TaskGroup(max_workers=1) as group:
        group.submit(gate.hold)
        gate.wait_for_arrivals()
        task = group.submit(called.append, 1)
        assert not task.running()
        assert task.cancel()
        assert task.cancelled()
        with pytest.raises(CancelledError):
            task.result()
        gate.open()

    assert called == []
    assert group.stats.cancelled == 1


def test_a_task_cancelled_while_it_runs_is_asked_to_end(nap: Nap) -> None:
    """The group goes on: that one task was cancelled is not a failure."""
    with treadle.TaskGroup() as group:
        task = group.submit(nap)
        nap.wait_until_begun()
        assert task.running()
        assert not task.cancel()
        with pytest.raises(CancelledError):
            task.result()
        fine = group.submit(abs, -1)

    assert task.cancelled()
    assert fine.result() == 1


def test_a_task_that_ignores_its_cancellation_keeps_its_answer(gate: Gate) -> None:
    with treadle.TaskGroup() as group:
        task = group.submit(gate.hold, "answer")
        gate.wait_for_arrivals()
        assert not task.cancel()
        gate.open()

    assert not task.cancelled()
    assert task.result() == "answer"


def test_a_task_that_fails_when_cancelled_has_failed(gate: Gate) -> None:
    def call() -> None:
        gate.hold()
        fail()

    with pytest.raises(ExceptionGroup), treadle.TaskGroup() as group:
        task = group.submit(call)
        gate.wait_for_arrivals()
        task.cancel()
        gate.open()

    assert isinstance(task.exception(), ValueError)


def test_cancelling_after_the_end_changes_nothing() -> None:
    with treadle.TaskGroup() as group:
        task = group.submit(abs, -1)
        assert task.result() == 1

        assert not task.cancel()
        assert not task.cancelled()
    assert not task.cancel()
    assert task.result() == 1


def test_cancelling_twice_is_cancelling_once(gate: Gate, nap: Nap) -> None:
    with treadle.TaskGroup(max_workers=2) as group:
        group.submit(gate.hold)
        gate.wait_for_arrivals()
        running = group.submit(nap)
        nap.wait_until_begun()
        waiting = group.submit(abs, -1)

        assert (waiting.cancel(), waiting.cancel()) == (True, True)  # first: the other one's worker may take it
        assert (running.cancel(), running.cancel()) in {(False, False), (False, True)}
        gate.open()

    assert (running.cancel(), waiting.cancel()) == (True, True)
    assert nap.cancelled == 1
    assert group.stats.cancelled == 2


def test_a_result_can_be_waited_for_by_several_threads(gate: Gate) -> None:
    results: list[object] = []

    with treadle.TaskGroup() as group:
        task = group.submit(gate.hold, "answer")
        waiters = [threading.Thread(target=lambda: results.append(task.result())) for _ in range(3)]
        for waiter in waiters:
            waiter.start()
        while len(task._done_callbacks) < 3:
            pass
        gate.open()
        for waiter in waiters:
            waiter.join(10)

    assert results == ["answer"] * 3


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_an_answer_is_waited_for_so_long_by_the_clock(ask: str, gate: Gate) -> None:
    def wait_for_it() -> str:
        with pytest.raises(TimeoutError):
            getattr(task, ask)(timeout=5)
        return "gave up"

    with ManualClock() as clock, treadle.TaskGroup() as group:
        task = group.submit(gate.hold)
        waiter = group.submit(wait_for_it)
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(4.9)
        assert not waiter.done()
        clock.advance(0.1)
        assert waiter.result() == "gave up"
        gate.open()


def test_an_answer_that_is_there_is_given_though_the_wait_was_cancelled_as_well() -> None:
    """The cancellation wakes the waiter first here; whoever is faster, it is given the same."""
    given: list[str] = []

    def call() -> str:
        while not group._scope._wakers:  # until the body waits
            pass
        return "answer"

    with treadle.TaskGroup() as group:
        task = group.submit(call)
        task.add_done_callback(lambda _: group.cancel())
        given.append(task.result())

    assert given == ["answer"]


def test_a_done_callback_may_submit() -> None:
    """Also that of the last task, after the body is over: it counts as running until its callbacks have run."""
    body_is_over = threading.Event()
    submitted: list[treadle.Task[int]] = []

    with treadle.TaskGroup() as group:
        task = group.submit(body_is_over.wait, 10)
        task.add_done_callback(lambda _: submitted.append(group.submit(abs, -1)))
        body_is_over.set()

    assert submitted[0].result() == 1


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_done_callback_that_raises_is_logged_and_harms_nobody(
    kind: type[BaseException], gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[object] = []

    def callback(_: object) -> None:
        raise kind("from a callback")

    with treadle.TaskGroup(max_workers=1) as group:
        task = group.submit(gate.hold, "answer")
        task.add_done_callback(callback)
        task.add_done_callback(called.append)
        gate.open()
        fine = group.submit(abs, -1)

    assert called == [task]
    assert (task.result(), fine.result()) == ("answer", 1)
    assert "from a callback" in caplog.text


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_done_callback_that_raises_when_its_task_is_cancelled_stops_nothing(kind: type[BaseException]) -> None:
    def callback(_: object) -> None:
        raise kind("from a callback")

    with treadle.TaskGroup(max_workers=1) as group:
        tasks = [group.submit(treadle.sleep, FOR_EVER_SECONDS) for _ in range(3)]
        for task in tasks:
            task.add_done_callback(callback)
        group.cancel()

    assert all(task.cancelled() for task in tasks)


def test_a_wait_that_ends_meanwhile_takes_no_done_callback_with_it() -> None:
    """A waiter leaves the list of callbacks while it is being worked off."""
    begin, has_result = threading.Event(), threading.Event()
    called: list[int] = []

    def wait_for_result() -> None:
        task.result()
        has_result.set()

    def wait_for_waiter(_: object) -> None:
        assert has_result.wait(10)
        called.append(1)

    with treadle.TaskGroup() as group:
        task = group.submit(begin.wait, 10)
        waiter = threading.Thread(target=wait_for_result)
        waiter.start()
        while not task._done_callbacks:
            pass
        task.add_done_callback(wait_for_waiter)
        task.add_done_callback(lambda _: called.append(2))
        begin.set()
        waiter.join(10)

    assert called == [1, 2]


def test_a_call_sees_the_context_of_whoever_submits_and_keeps_its_own() -> None:
    def call() -> str:
        seen = colour.get()
        colour.set("changed by a task")
        return seen

    def submit() -> treadle.Task[str]:
        colour.set("of a task")
        return group.submit(call)

    token = colour.set("of the body")
    try:
        with treadle.TaskGroup(max_workers=1) as group:
            first, inner = group.submit(call), group.submit(submit)
            colour.set("later")
            second = group.submit(call)
    finally:
        seen = colour.get()
        colour.reset(token)

    assert (first.result(), second.result(), inner.result().result()) == ("of the body", "later", "of a task")
    assert seen == "later"


def test_stats_are_the_account_of_the_tasks(gate: Gate, nap: Nap) -> None:
    with pytest.raises(ExceptionGroup), treadle.TaskGroup(max_workers=2, on_error="collect") as group:
        group.submit(abs, -1).result()
        group.submit(fail)
        held, napping = group.submit(gate.hold), group.submit(nap)
        gate.wait_for_arrivals()
        nap.wait_until_begun()
        group.submit(abs, -2)
        during = group.stats
        napping.cancel()
        gate.open()
    after = group.stats

    assert (during.taken, during.succeeded, during.failed, during.running, during.workers) == (5, 1, 1, 2, 2)
    assert (after.taken, after.succeeded, after.failed, after.cancelled) == (5, 3, 1, 1)
    assert (after.running, after.workers, after.abandoned) == (0, 0, 0)
    assert held.done()


def test_threads_carry_the_name_of_the_group() -> None:
    with treadle.TaskGroup(name="fetch") as group:
        name = group.submit(lambda: threading.current_thread().name).result()

    assert name == "treadle-fetch-0"


# Ctrl-C, exit and fork, in real processes

PREAMBLE = """
import os, sys, threading, time, treadle
stuck, sleeps = threading.Event(), threading.Event()
def main_thread_waits():
    frame = sys._current_frames()[threading.main_thread().ident]
    return frame.f_code.co_name == "wait_watchfully"
def joined(group):
    while not (group._book._waiters and main_thread_waits()):
        time.sleep(0.001)
def say(*texts):
    print(*texts, flush=True)
"""


def run_interrupted(body: str) -> tuple[str, str]:
    """Run a program, send it Ctrl-C whenever it says so, and return what it wrote otherwise."""
    process = start_program(WAIT_FOR_CTRL_C + PREAMBLE + body)
    lines = []
    for line in lines_of(process):
        if line == "ready\n":
            process.send_signal(signal.SIGINT)
        else:
            lines.append(line)
    code, _, err = finish(process)
    assert "Traceback" not in err, err
    assert code == 0, err
    return "".join(lines), err


def test_ctrl_c_in_the_body_cancels_joins_and_passes() -> None:
    out, _ = run_interrupted("""
try:
    with treadle.TaskGroup() as group:
        task = group.submit(treadle.sleep, 60)
        say("ready")
        wait_for_ctrl_c()
except KeyboardInterrupt as error:
    say("bare", task.cancelled(), group.stats.workers, getattr(error, "__notes__", []))
""")

    assert out == "bare True 0 []\n"


def test_ctrl_c_in_a_wait_of_the_body_does_so_too() -> None:
    out, _ = run_interrupted("""
def call():
    while not main_thread_waits():
        time.sleep(0.001)
    say("ready")
    treadle.sleep(60)
try:
    with treadle.TaskGroup() as group:
        task = group.submit(call)
        task.result()
except KeyboardInterrupt:
    say("bare", task.cancelled())
""")

    assert out == "bare True\n"


def test_ctrl_c_at_the_join_cancels_joins_and_passes() -> None:
    out, _ = run_interrupted("""
def call():
    joined(group)
    say("ready")
    treadle.sleep(60)
try:
    with treadle.TaskGroup() as group:
        task = group.submit(call)
except KeyboardInterrupt as error:
    say("bare", task.cancelled(), group.stats.workers, getattr(error, "__notes__", []))
""")

    assert out == "bare True 0 []\n"


def test_ctrl_c_at_the_join_stops_a_task_that_submits_itself() -> None:
    """What it tries to submit then is part of the end, and no failure."""
    out, _ = run_interrupted("""
def call():
    if group._book._waiters and main_thread_waits() and not told:
        told.append(1)
        say("ready")
    group.submit(call)
told = []
try:
    with treadle.TaskGroup() as group:
        group.submit(call)
except KeyboardInterrupt as error:
    say("bare", getattr(error, "__notes__", []))
""")

    assert out == "bare []\n"


def test_ctrl_c_waits_for_a_task_that_cleans_up() -> None:
    out, _ = run_interrupted("""
def call():
    try:
        sleeps.wait()
        say("ready")
        treadle.sleep(60)
    finally:
        joined(group)
        say("cleaned up")
try:
    with treadle.TaskGroup() as group:
        group.submit(call)
        sleeps.set()
        wait_for_ctrl_c()
except KeyboardInterrupt:
    say("bare")
""")

    assert out == "cleaned up\nbare\n"


def test_ctrl_c_in_the_body_and_at_the_join_leaves_a_deaf_task_behind() -> None:
    out, err = run_interrupted("""
def call():
    sleeps.wait()
    say("ready")
    joined(group)
    say("ready")
    stuck.wait(60)
try:
    with treadle.TaskGroup(name="deaf") as group:
        task = group.submit(call)
        sleeps.set()
        wait_for_ctrl_c()
except KeyboardInterrupt:
    say("bare", task.cancelled(), group.stats.abandoned)
""")

    assert out == "bare True 1\n"
    assert "group 'deaf' leaves a thread behind" in err


def test_ctrl_c_twice_at_the_join_leaves_a_deaf_task_behind() -> None:
    out, err = run_interrupted("""
def call():
    joined(group)
    say("ready")
    while group._book.stopped_at is None:
        time.sleep(0.001)
    joined(group)
    say("asked to end")
    say("ready")
    stuck.wait(60)
try:
    with treadle.TaskGroup(name="deaf") as group:
        task = group.submit(call)
except KeyboardInterrupt:
    say("bare", task.cancelled(), group.stats.abandoned)
""")

    assert out == "asked to end\nbare True 1\n"
    assert "group 'deaf' leaves a thread behind" in err


def test_ctrl_c_beside_a_failure_is_bare_and_names_it() -> None:
    out, _ = run_interrupted("""
def call():
    try:
        sleeps.wait()
        say("ready")
        treadle.sleep(60)
    finally:
        raise ValueError("while cleaning up")
try:
    with treadle.TaskGroup() as group:
        group.submit(call)
        sleeps.set()
        wait_for_ctrl_c()
except KeyboardInterrupt as error:
    say(error.__notes__)
""")

    assert "also had the failure ValueError('while cleaning up')" in out


def test_an_interpreter_that_exits_with_an_open_group_cancels_it_and_leaves_the_deaf() -> None:
    process = start_program(
        PREAMBLE
        + """
def heeds():
    begun.release()
    try:
        treadle.sleep(60)
    finally:
        say("heeded")
def deaf():
    begun.release()
    stuck.wait(60)
begun = threading.Semaphore(0)
group = treadle.TaskGroup(max_workers=2, name="open").__enter__()
group.submit(heeds), group.submit(deaf), group.submit(print, "never")
begun.acquire(), begun.acquire()
say("exits")
"""
    )
    code, out, err = finish(process)

    assert code == 0
    assert out == "exits\nheeded\n"
    assert "group 'open' leaves a thread behind" in err
    assert "deaf()" in err


def test_an_interpreter_that_exits_beside_a_group_on_a_daemon_thread_ends_it() -> None:
    process = start_program(
        PREAMBLE
        + """
def work():
    with treadle.TaskGroup() as group:
        group.submit(begun.set)
        treadle.sleep(60)
begun = threading.Event()
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""
    )
    code, _, err = finish(process)

    assert (code, err) == (0, "")


def test_a_forked_child_can_leave_the_group_but_not_use_it() -> None:
    process = start_program(
        PREAMBLE
        + """
import warnings
warnings.simplefilter("ignore")
pid = None
try:
    with treadle.TaskGroup() as group:
        done = group.submit(abs, -1)
        done.result()
        task = group.submit(stuck.wait, 60)
        while not task.running():
            pass
        pid = os.fork()
        if pid == 0:
            for use in (lambda: group.submit(abs, -1), task.result):
                try:
                    use()
                except treadle.GroupClosed as error:
                    say(error.reason)
            say(done.result())
        else:
            os.waitpid(pid, 0)
            stuck.set()
finally:
    if pid == 0:
        say("left")
        os._exit(0)
say(task.result())
"""
    )
    code, out, err = finish(process)

    assert code == 0, err
    reason = "belongs to the process that was forked"
    assert out == f"{reason}\n{reason}\n1\nleft\nTrue\n"


def test_a_group_can_be_used_in_a_forked_child() -> None:
    process = start_program(
        PREAMBLE
        + """
import warnings
warnings.simplefilter("ignore")
with treadle.TaskGroup(timeout=60) as outer:
    outer.submit(treadle.sleep, 0.01).result()
    pid = os.fork()
    if pid == 0:
        with treadle.TaskGroup(timeout=50) as group:
            say(group.submit(abs, -1).result(), group.submit(treadle.sleep, 0.01).result())
        os._exit(0)
    os.waitpid(pid, 0)
"""
    )
    code, out, err = finish(process)

    assert code == 0, err
    assert out == "1 None\n"


@pytest.fixture(autouse=True)
def _keeps_the_scope() -> Iterator[None]:
    """Whatever a test does, the main thread is in no group's block afterwards."""
    yield
    assert current_scope() is None
