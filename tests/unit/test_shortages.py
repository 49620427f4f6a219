"""What the system refuses for a moment - a thread, a connection - costs what was asked in that moment, and no more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import treadle
from tests.conftest import Gate
from tests.places import wait_until
from tests.programs import finish, start_program
from treadle._crew import muster
from treadle.testing import ManualClock

Refusal = Callable[..., Any]
MESSAGE = "can't start new thread"


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """Return a block in which the system starts no thread, or none with such a name."""
    start = threading.Thread.start

    @contextmanager
    def block(prefix: str = "") -> Iterator[None]:
        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith(prefix):
                raise RuntimeError(MESSAGE)
            start(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            yield

    return block


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass before another worker is tried again."""
    monkeypatch.setattr(muster, "FIRST_PAUSE_SECONDS", 0.0)


def test_an_executor_goes_on_after_a_moment_without_threads(no_threads: Refusal) -> None:
    with treadle.PoolExecutor(2) as pool:
        with no_threads():
            refused = pool.submit(abs, -1)
            with pytest.raises(RuntimeError, match=MESSAGE):
                refused.result(timeout=10)

        assert pool.submit(abs, -2).result(timeout=10) == 2


def test_to_thread_goes_on_after_a_moment_without_threads(no_threads: Refusal) -> None:
    async def main() -> int:
        with no_threads(), pytest.raises(RuntimeError, match=MESSAGE):
            await treadle.to_thread(abs, -1)
        return await treadle.to_thread(abs, -2)

    assert asyncio.run(main()) == 2


def test_a_group_in_a_moment_without_threads_ends_with_that(no_threads: Refusal) -> None:
    with pytest.raises(ExceptionGroup) as caught, no_threads(), treadle.TaskGroup() as group:
        group.submit(abs, -1)

    assert [str(error) for error in caught.value.exceptions] == [MESSAGE]


def test_every_goes_on_after_a_moment_without_threads(no_threads: Refusal, caplog: pytest.LogCaptureFixture) -> None:
    """The run that found no thread has failed, like one that raised."""
    with ManualClock() as clock, ExitStack() as stack:
        with no_threads("treadle-beat"):
            beat = stack.enter_context(treadle.every(5, lambda: 7, name="beat", on_error=print))
            wait_until(lambda: beat.runs == 1 and not beat._is_busy)
            assert str(beat.last_error) == MESSAGE
        clock.advance(10)
        wait_until(lambda: beat.runs == 2)

        assert (beat.last_result, beat.failures) == (7, 1)

    assert "on_error of periodic 'beat' failed" in caplog.text, "it had no thread either"


@pytest.mark.usefixtures("at_once")
def test_an_executor_has_as_many_workers_as_ever_when_threads_start_again(
    no_threads: Refusal, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """It had two of its eight in the moment when no more could be had; that is not its size from then on."""
    with treadle.PoolExecutor(8, "pool") as pool:
        for _ in range(2):
            pool.submit(gate.hold)
        gate.wait_for_arrivals(2)
        with no_threads():
            waiting = [pool.submit(gate.hold) for _ in range(6)]
            assert pool.stats.workers == 2
        pool.submit(abs, -1)  # whoever asks next finds that there are more
        gate.wait_for_arrivals(6)
        gate.open()

    assert all(task.done() for task in waiting)
    told = [record.getMessage() for record in caplog.records]
    assert [text.split(" (")[0] for text in told] == [
        "executor 'pool' goes on with 2 workers for now: no further thread starts"
    ], "said once, however often it is tried"


def test_a_run_has_as_many_workers_as_ever_when_threads_start_again(
    no_threads: Refusal, gate: Gate, caplog: pytest.LogCaptureFixture, at_once: None
) -> None:
    with no_threads():
        pass
    run = treadle.map(gate.hold, range(8), max_workers=4, chunksize=1, name="work")
    gate.wait_for_arrivals(4)
    crew = run._course.crew
    with crew.lock:
        crew._shortage.begin(1)
        crew._max_workers = 1

    assert crew.has_room() is False
    assert crew.max_workers == 4
    gate.open()
    assert list(run) == list(range(8))


def test_a_pause_before_another_worker_is_tried_doubles_up_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is short of threads is not asked for one with each call."""
    now = 1000.0
    monkeypatch.setattr(muster, "perf_counter", lambda: now)
    shortage = muster.Shortage()
    pauses = []
    for _ in range(8):
        shortage.begin(3)
        began = now
        while shortage.most_workers() == 3:
            now += 0.5
        pauses.append(now - began)

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    shortage.end()
    assert shortage.begin(3), "it is news again"
    assert not shortage.begin(3)
    assert shortage.begin(2)


def test_a_resource_that_does_not_open_costs_the_tasks_that_wait(caplog: pytest.LogCaptureFixture) -> None:
    """A database that was down for a moment is no reason to break an executor that lives as long as the program."""

    def connect() -> str:
        if is_down:
            raise ConnectionRefusedError("the database is down")
        return "connection"

    is_down = True
    with treadle.PoolExecutor(2, "pool", resource=connect) as pool:
        refused = pool.submit(str.upper)
        with pytest.raises(ConnectionRefusedError) as caught:
            refused.result(timeout=10)
        is_down = False

        assert pool.submit(str.upper).result(timeout=10) == "CONNECTION"

    assert "treadle: no worker of executor 'pool' could get ready" in caught.value.__notes__


@pytest.mark.usefixtures("at_once")
def test_while_one_worker_has_its_resource_others_that_do_not_get_theirs_cost_nothing(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """They would take most of the tasks: whoever fails at once is soon free for the next."""
    free = ["connection"]

    def connect() -> str:
        try:
            return free.pop()
        except IndexError:
            raise ConnectionRefusedError("too many connections") from None

    def call(number: int, connection: str) -> int:
        if number == 0:
            gate.hold()
        return number

    with treadle.PoolExecutor(8, "pool", resource=connect) as pool:
        tasks = [pool.submit(call, number) for number in range(50)]
        gate.wait_for_arrivals()
        wait_until(lambda: bool(caplog.records))
        gate.open()
        assert [task.result(timeout=10) for task in tasks] == list(range(50))

    assert "executor 'pool' goes on with 1 worker for now: no further one gets ready (too many conn" in caplog.text


def test_an_initializer_that_fails_breaks_the_executor_as_in_the_standard_library() -> None:
    def fail() -> None:
        raise OSError

    with treadle.PoolExecutor(1, initializer=fail) as pool:
        with pytest.raises(RuntimeError):
            pool.submit(abs, -1).result(timeout=10)
        with pytest.raises(RuntimeError, match="is broken"):
            pool.submit(abs, -1)


def test_an_executor_goes_on_when_the_calls_it_had_left_behind_have_ended(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that hung for an hour is no reason to make no call any more."""
    pool = treadle.PoolExecutor(2, "pool", call_timeout=0.01, grace=0, max_abandoned=0)
    stuck = pool.submit(gate.hold)
    with pytest.raises(treadle.CallTimedOut):
        stuck.result(timeout=10)
    wait_until(lambda: pool._book.broken is not None)
    with pytest.raises(treadle.TooManyAbandoned):
        pool.submit(abs, -1)

    gate.open()
    wait_until(lambda: not pool._book._stragglers.are_too_many() and not pool._book.crew.workers)
    assert pool.submit(abs, -2).result(timeout=10) == 2
    pool.shutdown()
    with pytest.raises(treadle.PoolClosed):
        pool.submit(abs, -1)

    assert "executor 'pool' goes on: enough of the calls left behind have ended" in caplog.text


def test_a_broken_executor_that_was_shut_down_does_not_go_on(gate: Gate) -> None:
    pool = treadle.PoolExecutor(1, call_timeout=0.01, grace=0, max_abandoned=0)
    pool.submit(gate.hold)
    wait_until(lambda: pool._book.broken is not None)
    pool.shutdown()
    gate.open()
    wait_until(lambda: not pool._book._stragglers.are_too_many())

    with pytest.raises(treadle.TooManyAbandoned):
        pool.submit(abs, -1)
    assert pool._shutdown


def test_a_retry_for_which_no_thread_waits_is_not_made_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError(MESSAGE)

    def fail(item: int) -> None:
        raise OSError("later")

    monkeypatch.setattr("treadle._sync.timekeeper.call_at", refuse)
    run = treadle.map(fail, [0], retry=treadle.Retry(3), name="work")
    (outcome,) = run.outcomes()

    assert (outcome.status, outcome.attempts) == ("failed", 1)
    assert outcome.error is not None
    assert outcome.error.__notes__[0] == (
        f'treadle: no further attempt, as no thread starts that would wait for its time: RuntimeError("{MESSAGE}")'
    )


def test_a_retry_after_the_end_of_the_main_thread_is_made_or_says_why_not() -> None:
    """Python 3.12 starts no thread after that, and the timer's has left by then."""
    status, out, err = finish(
        start_program("""
import threading, treadle
calls = []
def flaky(item):
    while threading.main_thread().is_alive():
        pass
    calls.append(item)
    if len(calls) == 1:
        raise OSError("later")
    return item
def work():
    (outcome,) = treadle.map(flaky, [0], retry=treadle.Retry(3, backoff=0.01)).outcomes()
    notes = getattr(outcome.error, "__notes__", [])
    print(outcome.status, outcome.attempts, any("no further attempt" in note for note in notes), flush=True)
threading.Thread(target=work).start()
while not calls and not threading.active_count() > 2:
    pass
""")
    )

    assert status == 0, err
    assert out in ("succeeded 2 False\n", "failed 1 True\n")


def test_calls_with_a_timeout_are_made_where_no_thread_times_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were lost with their workers, all of them; that they may take too long is little beside that."""

    def refuse(*_: object) -> None:
        raise RuntimeError(MESSAGE)

    monkeypatch.setattr("treadle._sync.timekeeper.call_at", refuse)

    assert list(treadle.map(abs, range(20), call_timeout=10, hedge=treadle.Hedge())) == list(range(20))
