"""PoolExecutor: what the standard library's does, and nested waits, cancellation and the end on top of it."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.thread import BrokenThreadPool
from contextlib import closing
from contextvars import ContextVar
from typing import Any

import pytest

import treadle
from tests.asides import Aside
from tests.calls import FOR_EVER_SECONDS, Nap
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until
from tests.programs import WAIT_FOR_CTRL_C, finish, lines_of, start_program
from treadle._run import executor as executor_module
from treadle.testing import ManualClock

colour: ContextVar[str] = ContextVar("colour", default="none")


@pytest.fixture
def nap() -> Nap:
    return Nap()


@pytest.fixture
def patient_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread leaves because it has been idle: those that leave have another reason."""
    monkeypatch.setattr(executor_module, "IDLE_SECONDS", FOR_EVER_SECONDS)


def fail(text: str = "bad") -> None:
    raise ValueError(text)


def threads_of(pool: treadle.PoolExecutor) -> list[threading.Thread]:
    threads = [worker.thread for worker in list(pool._book.crew.workers)]
    return [thread for thread in threads if isinstance(thread, threading.Thread)]


def wait_until_idle(pool: treadle.PoolExecutor, count: int) -> None:
    """Wait until ``count`` threads wait for work."""
    wait_until(lambda: len(pool._book.crew._idle) == count)


class Thing:
    """Something that can be referred to weakly."""

    def touch(self) -> Thing:
        return self


# submit


def test_a_task_is_a_future_of_the_answer() -> None:
    with treadle.PoolExecutor() as pool:
        task = pool.submit(pow, 2, 10)

        assert isinstance(task, concurrent.futures.Future)
        assert isinstance(pool, concurrent.futures.Executor)
        assert task.result() == 1024
        assert task.exception() is None


def test_arguments_may_have_any_name() -> None:
    """The executor's own parameters are positional only."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    with treadle.PoolExecutor() as pool:
        task = pool.submit(call, 1, self=2, fn=3, args=4)

        assert task.result() == ((1,), {"self": 2, "fn": 3, "args": 4})


def test_a_failure_is_the_tasks_and_names_it() -> None:
    with treadle.PoolExecutor(1, thread_name_prefix="names") as pool:
        failing, fine = pool.submit(fail, "bad"), pool.submit(abs, -1)

        with pytest.raises(ValueError, match="bad") as caught:
            failing.result()
        assert failing.exception() is caught.value
        assert caught.value.__notes__ == ["treadle: task 0 of executor 'names': fail('bad')"]
        assert fine.result() == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit, IndexError])
def test_whatever_a_call_raises_is_its_tasks(kind: type[BaseException]) -> None:
    """It ends neither the worker nor anything else."""

    def call() -> None:
        raise kind

    with treadle.PoolExecutor(1) as pool:
        failing, fine = pool.submit(call), pool.submit(abs, -1)

        with pytest.raises(kind):
            failing.result()
        assert fine.result() == 1


def test_what_is_to_be_awaited_is_refused_where_calls_are_made_on_threads() -> None:
    async def coroutine_function() -> None: ...

    with treadle.PoolExecutor(engine="threads") as pool:
        with pytest.raises(treadle.WrongType, match="fn must be callable"):
            pool.submit("abs")  # type: ignore[call-overload]  # that is the test
        with pytest.raises(treadle.WrongType, match="the coroutine function"):
            pool.submit(coroutine_function)
        assert pool.stats.taken == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_workers": 0}, "max_workers must be at least 1, not 0"),
        ({"max_workers": -1}, "max_workers must be at least 1, not -1"),
        ({"max_workers": 1.5}, "max_workers must be a whole number"),
        ({"max_workers": True}, "max_workers must be a whole number"),
        ({"thread_name_prefix": 1}, "thread_name_prefix must be a string"),
        ({"initializer": "init"}, "initializer must be callable"),
        ({"call_timeout": -1}, "call_timeout must be"),
        ({"max_abandoned": -1}, "max_abandoned must be at least 0"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    """By a ValueError, as the standard library does."""
    with pytest.raises(ValueError, match=message):
        treadle.PoolExecutor(**options)


def test_a_call_sees_the_context_of_whoever_submits_and_keeps_its_own() -> None:
    """Each submission takes what the variables are at that moment."""

    def call(name: str) -> str:
        before = colour.get()
        colour.set(name)
        return before

    token = colour.set("red")
    try:
        with treadle.PoolExecutor(1) as pool:
            colour.set("blue")
            first = pool.submit(call, "of the first call")
            colour.set("green")
            second = pool.submit(call, "of the second call")

            assert (first.result(), second.result()) == ("blue", "green")
            assert colour.get() == "green"
    finally:
        colour.reset(token)


def test_many_threads_may_submit_at_once() -> None:
    """Each task has one answer, its own, and the account is exact."""

    def use(base: int) -> None:
        tasks = [pool.submit(lambda number: number + 1, base + offset) for offset in range(300)]
        answers.extend((task.result() - 1, base + offset) for offset, task in enumerate(tasks))

    answers: list[tuple[int, int]] = []
    with treadle.PoolExecutor(4) as pool:
        threads = [threading.Thread(target=use, args=(1000 * number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(answers) == 6 * 300
        assert all(answer == wanted for answer, wanted in answers)
        wait_until(lambda: pool.stats.succeeded == pool.stats.taken == 6 * 300)


def test_an_answer_that_comes_as_somebody_begins_to_wait_is_not_missed() -> None:
    """Whoever waits and whoever answers see each other, in whatever order they come."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    seen: list[int] = []
    try:
        with treadle.PoolExecutor(2) as pool:
            for number in range(500):
                tasks = [pool.submit(abs, number) for _ in range(4)]
                tasks[1].add_done_callback(lambda task: seen.append(task.result()))
                assert tasks[0].result(PATIENCE_SECONDS) == number
                assert not concurrent.futures.wait(tasks, PATIENCE_SECONDS).not_done
    finally:
        sys.setswitchinterval(before)

    assert sorted(seen) == list(range(500))  # the one who waits is told first, then the callbacks


# map


def test_map_keeps_the_order_of_its_input(gate: Gate) -> None:
    def call(item: int) -> int:
        if item == 0:
            gate.hold()
        else:
            gate.open()
        return item

    with treadle.PoolExecutor(2) as pool:
        assert list(pool.map(call, [0, 1, 2])) == [0, 1, 2]
        assert list(pool.map(pow, [2, 3], [5, 2])) == [32, 9]
        assert list(pool.map(abs, range(-5, 5), chunksize=3)) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]


def test_map_begins_before_anybody_asks(gate: Gate) -> None:
    with treadle.PoolExecutor(2) as pool:
        results = pool.map(gate.hold, range(2))
        gate.wait_for_arrivals(2)
        gate.open()

        assert list(results) == [0, 1]


def test_map_raises_at_the_place_of_the_failure() -> None:
    with treadle.PoolExecutor(2) as pool:
        results = pool.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])

        assert [next(results), next(results)] == [(0, 1), (0, 1)]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_leaving_map_early_cancels_what_has_not_begun(gate: Gate) -> None:
    begun: list[int] = []

    def call(item: int) -> int:
        begun.append(item)
        if item == 1:
            gate.hold()
        return item

    with treadle.PoolExecutor(1) as pool:
        with closing(pool.map(call, range(10))) as results:  # type: ignore[type-var]  # it is a generator
            assert next(results) == 0
            gate.wait_for_arrivals()
        gate.open()

    assert begun == [0, 1]


def test_map_gives_up_after_its_timeout(nap: Nap) -> None:
    """The result that is not there in time is cancelled with the rest; ours even if its call runs."""
    with treadle.PoolExecutor(1) as pool:
        results = pool.map(nap, range(3), timeout=0.01)
        nap.wait_until_begun()

        with pytest.raises(TimeoutError):
            next(results)
        wait_until(lambda: pool.stats.cancelled == 3)


# Threads: how many, when, and what they are called


def test_no_more_than_max_workers_calls_at_once(gate: Gate) -> None:
    with treadle.PoolExecutor(3) as pool:
        tasks = [pool.submit(gate.hold, number) for number in range(10)]
        gate.wait_for_arrivals(3)

        assert [task.running() for task in tasks] == [True] * 3 + [False] * 7
        assert len(threads_of(pool)) == 3
        gate.open()
        assert [task.result() for task in tasks] == list(range(10))


def test_there_are_32_threads_at_most_unless_told(gate: Gate) -> None:
    with treadle.PoolExecutor() as pool:
        for _ in range(40):
            pool.submit(gate.hold)
        gate.wait_for_arrivals(32)

        assert (pool.stats.running, pool.stats.workers) == (32, 32)
        gate.open()


def test_threads_are_started_as_work_waits_for_them(gate: Gate) -> None:
    with treadle.PoolExecutor(10) as pool:
        assert threads_of(pool) == []
        for count in (1, 2, 3):
            pool.submit(gate.hold)
            gate.wait_for_arrivals()
            assert len(threads_of(pool)) == count
        gate.open()


def test_an_idle_thread_is_used_again() -> None:
    with treadle.PoolExecutor(10) as pool:
        idents = set()
        for _ in range(5):
            idents.add(pool.submit(threading.get_ident).result())
            wait_until_idle(pool, 1)

        assert len(idents) == 1


def test_threads_leave_when_idle_and_come_again(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    monkeypatch.setattr(executor_module, "IDLE_SECONDS", 0.01)
    with treadle.PoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(gate.hold)
        gate.wait_for_arrivals(3)
        first = threads_of(pool)
        gate.open()

        wait_until(lambda: pool.stats.workers == 0)
        for thread in first:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()
        assert list(pool.map(abs, [-1, -2, -3])) == [1, 2, 3]


def test_a_thread_that_goes_idle_for_good_as_work_comes_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "IDLE_SECONDS", 0.0)
    with treadle.PoolExecutor(1) as pool:
        for number in range(500):
            assert pool.submit(abs, -number).result(PATIENCE_SECONDS) == number


@pytest.mark.usefixtures("patient_threads")
def test_threads_stay_while_they_may_be_needed() -> None:
    """Ten seconds by default; here for ever."""
    with treadle.PoolExecutor(1) as pool:
        pool.submit(abs, -1).result()
        wait_until_idle(pool, 1)

        assert pool.stats.workers == 1


def test_threads_carry_the_prefix_and_a_number(gate: Gate) -> None:
    def name_after_the_gate() -> str:
        gate.hold()
        return threading.current_thread().name

    with treadle.PoolExecutor(2, "special") as pool, treadle.PoolExecutor(1) as other:
        tasks = [pool.submit(name_after_the_gate) for _ in range(2)] + [other.submit(name_after_the_gate)]
        gate.wait_for_arrivals(3)
        gate.open()

        assert {task.result() for task in tasks[:2]} == {"special_0", "special_1"}
        assert tasks[2].result().startswith("treadle-pool-")


def test_the_account_is_exact_while_it_changes(gate: Gate, nap: Nap) -> None:
    with treadle.PoolExecutor(3) as pool:
        pool.submit(abs, -1).result()
        pool.submit(fail).exception()
        held, sleeping = pool.submit(gate.hold), pool.submit(nap)
        gate.wait_for_arrivals()
        nap.wait_until_begun()

        wait_until(lambda: pool.stats.running == 2)
        stats = pool.stats
        assert (stats.taken, stats.succeeded, stats.failed, stats.cancelled) == (4, 1, 1, 0)
        sleeping.cancel()
        gate.open()
        held.result()
    stats = pool.stats
    assert (stats.taken, stats.succeeded, stats.failed, stats.cancelled) == (4, 2, 1, 1)
    assert (stats.running, stats.workers, stats.abandoned) == (0, 0, 0)
    assert stats.seconds > 0


# The initializer


def test_each_thread_is_initialized_before_its_first_call(gate: Gate) -> None:
    local = threading.local()
    calls: list[str] = []

    def initialize(text: str) -> None:
        calls.append(text)
        local.text = text

    def call() -> object:
        gate.hold()
        return local.text

    with treadle.PoolExecutor(2, initializer=initialize, initargs=("ready",)) as pool:
        tasks = [pool.submit(call) for _ in range(4)]
        gate.wait_for_arrivals(2)
        gate.open()

        assert [task.result() for task in tasks] == ["ready"] * 4
    assert calls == ["ready"] * 2


def test_a_failing_initializer_breaks_the_executor(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    def initialize() -> None:
        gate.hold()
        fail("no database")

    with treadle.PoolExecutor(1, "broken", initializer=initialize) as pool:
        tasks = [pool.submit(abs, -1) for _ in range(3)]
        gate.open()

        for task in tasks:
            with pytest.raises(BrokenThreadPool, match="executor 'broken'") as caught:
                task.result()
            assert isinstance(caught.value.__cause__, ValueError)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.submit(abs, -1)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.map(abs, [-1])

    assert pool.stats.failed == 3
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert record.getMessage() == "executor 'broken' is broken"
    assert "ValueError: no database" in caplog.text


def test_calls_that_run_as_another_thread_fails_to_initialize_keep_their_answers(gate: Gate) -> None:
    initialized: list[int] = []

    def initialize() -> None:
        initialized.append(1)
        if len(initialized) == 2:
            fail()

    with treadle.PoolExecutor(2, initializer=initialize) as pool:
        running = pool.submit(gate.hold, "answer")
        gate.wait_for_arrivals()
        unbegun = pool.submit(abs, -1)

        assert isinstance(unbegun.exception(), BrokenThreadPool)
        gate.open()
        assert running.result() == "answer"


def test_a_call_that_waits_for_another_as_the_executor_breaks_does_not_wait_for_ever() -> None:
    """It is asked to end, or told that the other cannot be made, whichever comes first."""
    initialized: list[int] = []

    def initialize() -> None:
        initialized.append(1)
        if len(initialized) == 2:
            fail()

    def outer() -> object:
        return pool.submit(abs, -1).result(timeout=PATIENCE_SECONDS)

    with treadle.PoolExecutor(2, initializer=initialize) as pool, pytest.raises((BrokenThreadPool, CancelledError)):
        pool.submit(outer).result()


# Tasks that wait for tasks


def count_down(pool: treadle.PoolExecutor, number: int, wait: Callable[[treadle.Task[int]], int]) -> int:
    return 0 if number == 0 else 1 + wait(pool.submit(count_down, pool, number - 1, wait))


WAITS: dict[str, Callable[[treadle.Task[int]], int]] = {
    "result": lambda task: task.result(),
    "result with a timeout": lambda task: task.result(timeout=60),
    "exception": lambda task: task.result() if task.exception() is None else -1,
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
@pytest.mark.parametrize("max_workers", [1, 2])
def test_tasks_wait_for_tasks_at_any_depth(max_workers: int, wait: Callable[[treadle.Task[int]], int]) -> None:
    with treadle.PoolExecutor(max_workers) as pool:
        assert pool.submit(count_down, pool, 50, wait).result(PATIENCE_SECONDS * 3) == 50


@pytest.mark.parametrize(
    "options",
    [{"call_timeout": 100}, {"retry": treadle.Retry(2)}, {"limiter": treadle.Limiter(max_concurrent=1)}],
    ids=lambda options: next(iter(options)),
)
def test_tasks_wait_for_tasks_under_any_policy(options: dict[str, Any]) -> None:
    with treadle.PoolExecutor(2, **options) as pool:
        assert pool.submit(count_down, pool, 50, WAITS["result"]).result(PATIENCE_SECONDS * 3) == 50


@pytest.mark.parametrize("max_workers", [1, 3])
def test_tasks_wait_for_trees_of_tasks(max_workers: int) -> None:
    """Several children each, submitted before the first is waited for."""

    def count_leaves(depth: int) -> int:
        if depth == 0:
            return 1
        return sum(task.result() for task in [pool.submit(count_leaves, depth - 1) for _ in range(3)])

    with treadle.PoolExecutor(max_workers) as pool:
        assert pool.submit(count_leaves, 5).result(PATIENCE_SECONDS * 3) == 3**5


@pytest.mark.parametrize("max_workers", [1, 2])
def test_tasks_map_over_their_own_executor(max_workers: int) -> None:
    def count_leaves(depth: int) -> int:
        return 1 if depth == 0 else sum(pool.map(count_leaves, [depth - 1] * 3))

    with treadle.PoolExecutor(max_workers) as pool:
        assert pool.submit(count_leaves, 4).result(PATIENCE_SECONDS * 3) == 3**4


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
@pytest.mark.parametrize("max_workers", [1, 2])
def test_tasks_of_two_executors_wait_for_each_other(max_workers: int, wait: Callable[[treadle.Task[int]], int]) -> None:
    """Neither has a free place when the other one asks for it."""

    def ping(number: int) -> int:
        return 0 if number == 0 else 1 + wait(second.submit(pong, number - 1))

    def pong(number: int) -> int:
        return 0 if number == 0 else 1 + wait(first.submit(ping, number - 1))

    with treadle.PoolExecutor(max_workers) as first, treadle.PoolExecutor(max_workers) as second:
        assert first.submit(ping, 40).result(PATIENCE_SECONDS * 3) == 40


def test_a_task_may_run_a_map_whose_calls_wait_for_tasks_of_its_executor() -> None:
    def outer(depth: int) -> int:
        if depth == 0:
            return 1
        return sum(treadle.map(lambda _: pool.submit(outer, depth - 1).result(), range(2), max_workers=2))

    with treadle.PoolExecutor(1) as pool:
        assert pool.submit(outer, 3).result(PATIENCE_SECONDS * 3) == 2**3


def test_a_task_may_open_a_group_whose_tasks_wait_for_tasks_of_its_executor() -> None:
    def outer(depth: int) -> int:
        if depth == 0:
            return 1
        with treadle.TaskGroup(max_workers=1) as group:
            tasks = [group.submit(lambda: pool.submit(outer, depth - 1).result()) for _ in range(2)]
        return sum(task.result() for task in tasks)

    with treadle.PoolExecutor(1) as pool:
        assert pool.submit(outer, 3).result(PATIENCE_SECONDS * 3) == 2**3


def test_a_task_in_a_group_of_its_own_may_wait_for_its_executor() -> None:
    """In the block of a group, a wait must end with the group, so it makes no call of another task's itself."""

    def outer(depth: int) -> int:
        if depth == 0:
            return 0
        with treadle.TaskGroup():
            below = pool.submit(outer, depth - 1).result()
        return 1 + below

    with treadle.PoolExecutor(1) as pool:
        assert pool.submit(outer, 20).result(PATIENCE_SECONDS * 3) == 20


def test_a_task_may_wait_for_one_that_was_submitted_before_it(gate: Gate) -> None:
    def last() -> object:
        return [task.result() for task in earlier]

    with treadle.PoolExecutor(1) as pool:
        pool.submit(gate.hold)
        earlier = [pool.submit(abs, -number) for number in range(3)]
        waiting = pool.submit(last)
        gate.open()

        assert waiting.result(PATIENCE_SECONDS) == [0, 1, 2]


def test_calls_that_do_not_wait_stay_within_max_workers() -> None:
    """A place is lent only while its holder waits."""
    at_work, most = 0, 0
    counting = threading.Lock()

    def leaf() -> None:
        nonlocal at_work, most
        with counting:
            at_work += 1
            most = max(most, at_work)
        for _ in range(1000):
            pass
        with counting:
            at_work -= 1

    def outer() -> None:
        for task in [pool.submit(leaf) for _ in range(20)]:
            task.result()

    with treadle.PoolExecutor(2) as pool:
        for task in [pool.submit(outer) for _ in range(20)]:
            task.result()

    assert pool.stats.succeeded == 20 + 20 * 20
    assert most <= 2


def test_a_failure_comes_up_through_all_who_wait_for_it() -> None:
    def dig(depth: int) -> None:
        if depth == 0:
            fail("deep down")
        else:
            pool.submit(dig, depth - 1).result()

    with treadle.PoolExecutor(1) as pool, pytest.raises(ValueError, match="deep down"):
        pool.submit(dig, 50).result()


def test_a_cancelled_task_stops_waiting_for_another(gate: Gate) -> None:
    """What it waited for belongs to whoever submitted it, and goes on."""
    inner: list[treadle.Task[object]] = []

    def outer() -> None:
        inner.append(pool.submit(gate.hold, "answer"))
        gate.wait_for_arrivals()
        waits.set()
        inner[0].result()

    waits = threading.Event()
    with treadle.PoolExecutor(2) as pool:
        task = pool.submit(outer)
        assert waits.wait(PATIENCE_SECONDS)
        task.cancel()

        with pytest.raises(CancelledError):
            task.result(PATIENCE_SECONDS)
        assert inner[0].running()
        gate.open()
        assert inner[0].result() == "answer"


# Cancelling one task


def test_a_task_cancelled_before_its_start_is_never_called(gate: Gate) -> None:
    called: list[int] = []
    with treadle.PoolExecutor(1) as pool:
        pool.submit(gate.hold)
        task = pool.submit(called.append, 1)

        assert (task.running(), task.done(), task.cancelled()) == (False, False, False)
        assert task.cancel()
        assert (task.running(), task.done(), task.cancelled()) == (False, True, True)
        assert task.cancel()
        with pytest.raises(CancelledError):
            task.result()
        with pytest.raises(CancelledError):
            task.exception()
        gate.open()

    assert called == []


def test_a_task_cancelled_while_it_runs_is_asked_to_end(nap: Nap) -> None:
    """The standard library cannot do that; it returns False as well."""
    with treadle.PoolExecutor(1) as pool:
        task = pool.submit(nap)
        nap.wait_until_begun()

        assert task.running()
        assert not task.cancel()
        with pytest.raises(CancelledError):
            task.result()
        assert (task.running(), task.done(), task.cancelled(), task.cancel()) == (False, True, True, True)
        assert pool.submit(abs, -1).result() == 1
    assert nap.cancelled == 1


def test_a_task_that_ignores_its_cancellation_keeps_its_answer(gate: Gate) -> None:
    with treadle.PoolExecutor(1) as pool:
        task = pool.submit(gate.hold, "answer")
        gate.wait_for_arrivals()
        assert (task.cancel(), task.cancel()) == (False, False)
        assert (task.running(), task.cancelled()) == (True, False)
        gate.open()

        assert task.result() == "answer"
        assert (task.cancel(), task.cancelled()) == (False, False)


def test_a_task_that_fails_when_cancelled_has_failed(gate: Gate) -> None:
    def call() -> None:
        gate.hold()
        fail()

    with treadle.PoolExecutor(1) as pool:
        task = pool.submit(call)
        gate.wait_for_arrivals()
        task.cancel()
        gate.open()

        assert isinstance(task.exception(), ValueError)
        assert not task.cancelled()


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_cancelling_after_the_end_changes_nothing(end: str) -> None:
    with treadle.PoolExecutor(1) as pool:
        task: treadle.Task[Any] = pool.submit(abs, -1) if end == "succeeded" else pool.submit(fail)
        error = task.exception()

        assert (task.cancel(), task.cancelled(), task.running(), task.done()) == (False, False, False, True)
        assert task.exception() is error
        wait_until(lambda: pool.stats.succeeded + pool.stats.failed == 1)
        assert pool.stats.cancelled == 0


def test_a_task_that_waits_for_its_next_attempt_is_cancelled_at_once() -> None:
    with ManualClock() as clock, treadle.PoolExecutor(1, retry=treadle.Retry(5, backoff=10, jitter=0)) as pool:
        task = pool.submit(fail)
        wait_until(lambda: pool.stats.retried == 1)
        clock.wait_for_sleepers()

        assert task.cancel()
        assert task.cancelled()


def test_a_result_is_waited_for_so_long_by_the_clock(gate: Gate) -> None:
    with ManualClock() as clock, treadle.PoolExecutor(1) as pool:
        task = pool.submit(gate.hold, "late")
        gate.wait_for_arrivals()
        waiting = Aside(lambda: task.result(timeout=60))
        waiting.wait_until_asleep(clock)
        clock.advance(59)
        assert not waiting.is_over()
        clock.advance(1)

        assert type(waiting.error()) is TimeoutError
        gate.open()
        assert task.result() == "late"


# Done-callbacks


def test_done_callbacks_are_called_once_with_the_task_however_it_ends(gate: Gate, nap: Nap) -> None:
    seen: list[tuple[object, str]] = []

    def note(name: str) -> Callable[[object], object]:
        return lambda task: seen.append((task, name))

    with treadle.PoolExecutor(2) as pool:
        held, sleeping = pool.submit(gate.hold), pool.submit(nap)
        gate.wait_for_arrivals()
        nap.wait_until_begun()
        unbegun, failing = pool.submit(abs, -1), pool.submit(fail)
        tasks: dict[str, treadle.Task[Any]] = {
            "succeeded": held,
            "cancelled": sleeping,
            "never begun": unbegun,
            "failed": failing,
        }
        for name, task in tasks.items():
            task.add_done_callback(note(name))
        unbegun.cancel()
        assert seen == [(unbegun, "never begun")]
        sleeping.cancel()
        gate.open()

    assert sorted(seen, key=lambda pair: pair[1]) == sorted(
        ((task, name) for name, task in tasks.items()), key=lambda pair: pair[1]
    )
    held.add_done_callback(note("late"))  # after the end: at once
    assert seen[-1] == (held, "late")


def test_a_done_callback_may_submit() -> None:
    tasks: list[treadle.Task[int]] = []
    with treadle.PoolExecutor(1) as pool:
        first = pool.submit(abs, -1)
        first.add_done_callback(lambda task: tasks.append(pool.submit(abs, -2)))
        wait_until(lambda: bool(tasks))

        assert tasks[0].result() == 2


def test_a_done_callback_may_submit_and_wait() -> None:
    """It runs on a worker, whose place counts as little as that of a call."""
    seen: list[object] = []

    def go_on(_: object) -> None:
        seen.append(pool.submit(abs, -2).result(timeout=PATIENCE_SECONDS))

    with treadle.PoolExecutor(1) as pool:
        held = threading.Event()
        first = pool.submit(held.wait)
        first.add_done_callback(go_on)
        held.set()
        wait_until(lambda: bool(seen))

    assert seen == [2]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_done_callback_that_raises_is_logged_and_harms_nobody(
    kind: type[BaseException], gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[object] = []

    def explode(_: object) -> None:
        raise kind("in a callback")

    with treadle.PoolExecutor(1) as pool:
        task = pool.submit(gate.hold, "answer")
        task.add_done_callback(explode)
        task.add_done_callback(seen.append)
        gate.open()

        assert task.result() == "answer"
        assert pool.submit(abs, -1).result() == 1
    assert seen == [task]
    assert f"{kind.__name__}: in a callback" in caplog.text


# What is let go


def wait_until_gone(*references: weakref.ref[Any]) -> None:
    def are_gone() -> bool:
        gc.collect()  # without a GIL, a thread's own objects may go later
        return all(reference() is None for reference in references)

    wait_until(are_gone)


@pytest.mark.usefixtures("patient_threads")
def test_arguments_and_results_are_let_go_while_the_threads_stay() -> None:
    argument, other = Thing(), Thing()
    gone = [weakref.ref(argument), weakref.ref(other)]
    with treadle.PoolExecutor(1) as pool:
        task = pool.submit(lambda thing, **more: thing, argument, more=other)
        task.result()
        del argument, other
        wait_until_gone(gone[1])  # the task holds its result, and nothing else
        assert task.result() is gone[0]()

        del task
        wait_until_gone(gone[0])
        assert pool.stats.workers == 1


@pytest.mark.usefixtures("patient_threads")
def test_the_function_is_let_go_with_its_task() -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    with treadle.PoolExecutor(1) as pool:
        pool.submit(thing.touch)
        del thing

        wait_until_gone(gone)


@pytest.mark.usefixtures("patient_threads")
def test_a_cancelled_task_lets_its_arguments_go(gate: Gate) -> None:
    argument = Thing()
    gone = weakref.ref(argument)
    with treadle.PoolExecutor(1) as pool:
        pool.submit(gate.hold)
        gate.wait_for_arrivals()
        task = pool.submit(id, argument)
        del argument
        task.cancel()
        gate.open()

        wait_until_gone(gone)
        assert task.cancelled()


def test_map_lets_each_result_go_as_it_hands_it_over() -> None:
    with treadle.PoolExecutor(2) as pool:
        for thing in pool.map(lambda _: Thing(), range(10)):
            gone = weakref.ref(thing)
            del thing
            wait_until_gone(gone)


@pytest.mark.usefixtures("patient_threads")
def test_a_failure_holds_nothing_once_its_task_is_dropped() -> None:
    def call(thing: Thing) -> None:
        fail()

    argument = Thing()
    gone = weakref.ref(argument)
    with treadle.PoolExecutor(1) as pool:
        task = pool.submit(call, argument)
        with pytest.raises(ValueError, match="bad"):
            task.result()
        del argument, task

        wait_until_gone(gone)


# The end


def test_the_block_waits_for_all_tasks_and_threads(gate: Gate) -> None:
    order: list[str] = []

    def call() -> None:
        gate.hold()
        order.append("call")

    with treadle.PoolExecutor(1) as pool:
        for _ in range(3):
            pool.submit(call)
        threading.Timer(0.01, gate.open).start()
    order.append("after")

    assert order == ["call"] * 3 + ["after"]
    assert pool.stats.workers == 0


def test_an_exception_of_the_block_passes_after_the_tasks(gate: Gate) -> None:
    """As in the standard library: an executor is not a group."""
    with pytest.raises(ValueError, match="bad"), treadle.PoolExecutor(1) as pool:
        tasks = [pool.submit(abs, -number) for number in range(3)]
        fail()

    assert [task.result() for task in tasks] == [0, 1, 2]


def test_submitting_after_the_shutdown_says_so() -> None:
    pool = treadle.PoolExecutor(1, "closed")
    pool.shutdown()

    with pytest.raises(treadle.PoolClosed, match="cannot schedule new futures: executor 'closed' was shut down"):
        pool.submit(abs, -1)
    with pytest.raises(RuntimeError):
        pool.map(abs, [-1])
    assert issubclass(treadle.PoolClosed, RuntimeError)


@pytest.mark.usefixtures("patient_threads")
def test_shutdown_need_not_wait(gate: Gate) -> None:
    pool = treadle.PoolExecutor(1)
    tasks = [pool.submit(gate.hold, number) for number in range(3)]
    gate.wait_for_arrivals()
    (thread,) = threads_of(pool)

    pool.shutdown(wait=False)
    assert not any(task.done() for task in tasks)
    gate.open()

    assert [task.result() for task in tasks] == [0, 1, 2]
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_shutdown_may_cancel_what_has_not_begun(gate: Gate) -> None:
    pool = treadle.PoolExecutor(2)
    tasks = [pool.submit(gate.hold, number) for number in range(5)]
    gate.wait_for_arrivals(2)

    pool.shutdown(wait=False, cancel_futures=True)
    assert [task.cancelled() for task in tasks] == [False, False, True, True, True]
    gate.open()
    pool.shutdown()

    assert [task.result() for task in tasks[:2]] == [0, 1]
    assert (pool.stats.succeeded, pool.stats.cancelled) == (2, 3)


def test_shutting_down_again_and_unused_does_nothing() -> None:
    pool = treadle.PoolExecutor()
    pool.shutdown()
    pool.shutdown(wait=True, cancel_futures=True)
    with pool:
        pass

    assert pool.stats.taken == 0


def test_several_threads_may_wait_for_the_end(gate: Gate) -> None:
    pool = treadle.PoolExecutor(1)
    task = pool.submit(gate.hold, "answer")
    closers = [threading.Thread(target=pool.shutdown) for _ in range(3)]
    for closer in closers:
        closer.start()
    wait_until(lambda: len(pool._book._waiters) == 3)
    gate.open()
    for closer in closers:
        closer.join(PATIENCE_SECONDS)

    assert not any(closer.is_alive() for closer in closers)
    assert task.result() == "answer"


def test_a_task_refused_for_the_shutdown_lets_the_end_come(gate: Gate) -> None:
    """A call that submits after the shutdown is refused, as in the standard library, and is told so itself."""

    def call() -> str:
        gate.hold()
        with pytest.raises(RuntimeError, match="was shut down") as caught:
            pool.submit(abs, -1)
        return str(caught.value)

    pool = treadle.PoolExecutor(1)
    task = pool.submit(call)
    gate.wait_for_arrivals()
    pool.shutdown(wait=False)
    gate.open()
    pool.shutdown()

    assert "was shut down" in task.result()
    assert pool.stats.workers == 0


def test_a_call_cannot_wait_for_the_end_of_its_own_executor(gate: Gate) -> None:
    """It would wait for itself; the standard library raises RuntimeError as well. Without waiting it may."""
    pool = treadle.PoolExecutor(1)
    pool.submit(gate.hold)
    waiting, ending = pool.submit(pool.shutdown), pool.submit(pool.shutdown, wait=False)
    gate.open()

    with pytest.raises(RuntimeError, match="cannot wait for its end in one of its own calls"):
        waiting.result(PATIENCE_SECONDS)
    ending.result(PATIENCE_SECONDS)
    pool.shutdown()


def test_nested_tasks_that_were_submitted_before_the_shutdown_come_to_their_end(gate: Gate) -> None:
    def outer() -> object:
        inner = pool.submit(abs, -1)
        gate.hold()
        return inner.result()

    pool = treadle.PoolExecutor(1)
    task = pool.submit(outer)
    gate.wait_for_arrivals()
    pool.shutdown(wait=False)
    gate.open()
    pool.shutdown()

    assert task.result() == 1


@pytest.mark.usefixtures("patient_threads")
def test_an_executor_that_nobody_holds_finishes_its_work_and_its_threads_leave(gate: Gate) -> None:
    pool = treadle.PoolExecutor(1)
    tasks = [pool.submit(gate.hold, number) for number in range(3)]
    gate.wait_for_arrivals()
    threads, gone = threads_of(pool), weakref.ref(pool)

    del pool
    wait_until_gone(gone)
    assert not any(task.done() for task in tasks)
    gate.open()

    assert [task.result() for task in tasks] == [0, 1, 2]
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.mark.usefixtures("patient_threads")
def test_an_idle_executor_that_nobody_holds_lets_its_threads_leave() -> None:
    pool = treadle.PoolExecutor(1)
    pool.submit(abs, -1).result()
    wait_until_idle(pool, 1)
    (thread,) = threads_of(pool)

    del pool
    gc.collect()
    thread.join(PATIENCE_SECONDS)

    assert not thread.is_alive()


# Ctrl-C, exit and fork, in real processes

PREAMBLE = """
import os, signal, sys, threading, time, treadle
stuck = threading.Event()
def say(*texts):
    print(*texts, flush=True)
def main_thread_waits():
    frame = sys._current_frames()[threading.main_thread().ident]
    return frame.f_code.co_name == "wait_watchfully"
def joined(pool):
    while not (pool._book._waiters and main_thread_waits()):
        time.sleep(0.001)
def asked_to_end(pool):
    while pool._book.stopped_at is None:
        time.sleep(0.001)
"""


def run_program(body: str, code: int = 0) -> tuple[str, str]:
    """Run a program, send it Ctrl-C whenever it says that it is ready, and return what else it wrote."""
    process = start_program(WAIT_FOR_CTRL_C + PREAMBLE + body)
    lines = []
    for line in lines_of(process):
        if line == "ready\n":
            process.send_signal(signal.SIGINT)
        else:
            lines.append(line)
    found, _, err = finish(process)
    assert found == code, err
    return "".join(lines), err


def test_ctrl_c_in_the_body_cancels_what_waits_and_asks_what_runs() -> None:
    out, err = run_program("""
def clean_up():
    try:
        treadle.sleep(60)
    finally:
        time.sleep(0.05)
        say("cleaned up")
try:
    with treadle.PoolExecutor(1) as pool:
        running, waiting = pool.submit(clean_up), pool.submit(say, "never")
        while not running.running():
            pass
        say("ready")
        wait_for_ctrl_c()
except KeyboardInterrupt:
    say("interrupted", running.cancelled(), waiting.cancelled(), pool.stats.workers)
""")

    assert out == "cleaned up\ninterrupted True True 0\n"
    assert err == ""


def test_ctrl_c_in_a_wait_for_a_result_does_so_too() -> None:
    out, err = run_program("""
def call():
    submitted.wait()
    while not task._done_callbacks:  # that is how somebody waits
        time.sleep(0.001)
    say("ready")
    treadle.sleep(60)
submitted = threading.Event()
try:
    with treadle.PoolExecutor(1) as pool:
        task = pool.submit(call)
        submitted.set()
        task.result()
except KeyboardInterrupt:
    say("interrupted", task.cancelled())
""")

    assert (out, err) == ("interrupted True\n", "")


def test_ctrl_c_in_the_shutdown_cancels_what_waits_and_asks_what_runs() -> None:
    out, err = run_program("""
def call():
    joined(pool)
    say("ready")
    treadle.sleep(60)
pool = treadle.PoolExecutor(1)
running, waiting = pool.submit(call), pool.submit(say, "never")
try:
    pool.shutdown()
except KeyboardInterrupt:
    say("interrupted", running.cancelled(), waiting.cancelled(), pool.stats.workers)
""")

    assert (out, err) == ("interrupted True True 0\n", "")


def test_ctrl_c_in_the_body_and_in_the_shutdown_leaves_a_deaf_task_behind() -> None:
    out, err = run_program("""
def call():
    submitted.wait()
    say("ready")
    asked_to_end(pool)
    joined(pool)
    say("ready")
    stuck.wait(60)
submitted = threading.Event()
try:
    with treadle.PoolExecutor(1, "deaf") as pool:
        task = pool.submit(call)
        submitted.set()
        wait_for_ctrl_c()
except KeyboardInterrupt:
    say("interrupted", task.cancelled(), pool.stats.abandoned)
""")

    assert out == "interrupted True 1\n"
    assert "executor 'deaf' leaves a thread behind" in err
    assert "Traceback" not in err


def test_ctrl_c_twice_in_the_shutdown_leaves_a_deaf_task_behind() -> None:
    out, err = run_program("""
def call():
    joined(pool)
    say("ready")
    asked_to_end(pool)
    joined(pool)
    say("asked")
    say("ready")
    stuck.wait(60)
pool = treadle.PoolExecutor(1, "deaf")
task = pool.submit(call)
try:
    pool.shutdown()
except KeyboardInterrupt:
    say("interrupted", task.cancelled(), pool.stats.abandoned)
""")

    assert out == "asked\ninterrupted True 1\n"
    assert "executor 'deaf' leaves a thread behind" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("end", ["", "pool.shutdown(wait=False)", "del pool"])
def test_an_interpreter_that_exits_finishes_what_was_submitted(end: str) -> None:
    out, err = run_program(f"""
def call(number):
    if number == 0:
        while threading.main_thread().is_alive():
            time.sleep(0.001)
    say(number)
pool = treadle.PoolExecutor(1)
for number in range(3):
    pool.submit(call, number)
{end}
""")

    assert (out, err) == ("0\n1\n2\n", "")


def test_an_interpreter_that_exits_finishes_nested_waits() -> None:
    out, err = run_program("""
def call(number):
    inner = pool.submit(abs, -number)
    submitted.set()
    while threading.main_thread().is_alive():
        time.sleep(0.001)
    say(inner.result())
submitted = threading.Event()
pool = treadle.PoolExecutor(1)
pool.submit(call, 7)
submitted.wait()
""")

    assert (out, err) == ("7\n", "")


def test_nothing_can_be_submitted_while_the_interpreter_exits() -> None:
    out, err = run_program("""
import atexit
@atexit.register
def too_late():
    try:
        pool.submit(abs, -1)
    except RuntimeError as error:
        say(type(error).__name__, error)
pool = treadle.PoolExecutor(1, "late")
pool.submit(abs, -1).result()
""")

    reason = "belongs to an interpreter that is shutting down"
    assert out in {
        f"PoolClosed cannot schedule new futures: executor 'late' {reason}\n",
        "PoolClosed cannot schedule new futures: executor 'late' was shut down\n",
    }
    assert err == ""


def test_ctrl_c_while_the_interpreter_waits_for_the_rest_cancels_it() -> None:
    out, err = run_program("""
def call():
    joined(pool)
    say("ready")
    try:
        treadle.sleep(60)
    finally:
        say("asked to end")
pool = treadle.PoolExecutor(1)
pool.submit(call)
pool.submit(say, "never")
""")

    assert out == "asked to end\n"
    assert "Traceback" not in err


def test_a_forked_child_is_told_so_and_does_not_hang() -> None:
    """Neither in a result that nobody will bring, nor in the shutdown, nor at its exit."""
    out, _ = run_program("""
import warnings
warnings.simplefilter("ignore")
with treadle.PoolExecutor(2, "forked") as pool:
    done = pool.submit(abs, -1)
    done.result()
    task, unbegun = pool.submit(stuck.wait, 60), [pool.submit(stuck.wait, 60) for _ in range(5)][-1]
    while not task.running():
        pass
    pid = os.fork()
    if pid == 0:
        for use in (lambda: pool.submit(abs, -1), task.result, unbegun.result, lambda: task.exception(60)):
            try:
                use()
            except treadle.PoolClosed as error:
                say(error.reason)
        say(done.result())
        pool.shutdown()
        with treadle.PoolExecutor(1) as own:
            say(own.submit(abs, -2).result())
        sys.exit()
    os.waitpid(pid, 0)
    stuck.set()
say(task.result(), unbegun.result())
""")

    reason = "belongs to the process that was forked\n"
    assert out == reason * 4 + "1\n2\nTrue True\n"


def test_a_child_forked_by_a_call_can_end() -> None:
    out, err = run_program("""
import warnings
warnings.simplefilter("ignore")
def call():
    pid = os.fork()
    if pid == 0:
        try:
            pool.submit(abs, -1)
        except RuntimeError as error:
            say("refused")
        os._exit(0)
    return os.waitpid(pid, 0)[1]
with treadle.PoolExecutor(1) as pool:
    say(pool.submit(call).result())
""")

    assert (out, err) == ("refused\n0\n", "")


@pytest.fixture(autouse=True)
def _leaves_no_reference() -> Iterator[None]:
    """An executor that a test dropped goes now, not in the middle of another test."""
    yield
    gc.collect()
