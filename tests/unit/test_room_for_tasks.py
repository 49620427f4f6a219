"""Tasks that wait for tasks of their own full executor: where Treadle sees it, it makes room; else it says so.

Each executor here is full with the calls that wait; what they wait for has not begun.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from traceback import FrameSummary
from typing import Any

import pytest

import treadle
from tests.asides import Aside
from tests.calls import FOR_EVER_SECONDS, Nap
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until
from treadle._core.gil import is_gil_enabled
from treadle._crew import room
from treadle._run import seen_waits, starvation
from treadle.testing import ManualClock, assert_no_leaked_threads

Pool = treadle.PoolExecutor


@pytest.fixture(name="pool")
def full_pool() -> Iterator[Pool]:
    with treadle.PoolExecutor(1, "full") as pool:
        yield pool


# What concurrent.futures waits for


@pytest.mark.parametrize("how", ["wait", "first", "as_completed", "mixed"])
@pytest.mark.parametrize("depth", [1, 4])
def test_waits_of_the_standard_library_for_tasks(pool: Pool, how: str, depth: int) -> None:
    def call(depth: int) -> int:
        if depth == 0:
            return 1
        inner = [pool.submit(call, depth - 1) for _ in range(2)]
        if how == "wait":
            concurrent.futures.wait(inner)
        elif how == "first":
            concurrent.futures.wait(inner, return_when=concurrent.futures.FIRST_COMPLETED)
            concurrent.futures.wait(inner, return_when=concurrent.futures.FIRST_EXCEPTION)
        elif how == "mixed":
            done: concurrent.futures.Future[int] = concurrent.futures.Future()
            done.set_result(0)
            concurrent.futures.wait([done, *inner])
        else:
            return sum(task.result() for task in concurrent.futures.as_completed(inner))
        return sum(task.result(timeout=0) for task in inner)

    assert pool.submit(call, depth).result(PATIENCE_SECONDS) == 2**depth


def test_a_wait_with_a_timeout_gets_what_it_waits_for(pool: Pool) -> None:
    def call() -> int:
        inner = [pool.submit(abs, -1)]
        return len(concurrent.futures.wait(inner, timeout=PATIENCE_SECONDS).done)

    assert pool.submit(call).result() == 1


def test_a_wait_with_a_timeout_ends_by_itself(pool: Pool, gate: Gate) -> None:
    def call() -> tuple[int, int]:
        done, not_done = concurrent.futures.wait([pool.submit(gate.hold)], timeout=0.001)
        with pytest.raises(TimeoutError):
            list(concurrent.futures.as_completed(not_done, timeout=0.001))
        return len(done), len(not_done)

    assert pool.submit(call).result() == (0, 1)
    gate.open()


def test_such_a_wait_ends_when_the_call_is_cancelled(gate: Gate) -> None:
    nap = Nap()

    def call() -> None:
        concurrent.futures.wait([inner])

    with treadle.PoolExecutor(2) as pool:
        inner = pool.submit(nap)
        nap.wait_until_begun()
        waiting = pool.submit(call)
        wait_until(lambda: bool(inner._waiters))
        waiting.cancel()
        assert concurrent.futures.wait([waiting], PATIENCE_SECONDS).done
        assert waiting.cancelled()
        inner.cancel()


def test_a_deadlock_is_told_there_as_well() -> None:
    """A wait for a task that waits for a lock which the waiting call holds."""
    lock = treadle.Lock()

    def take() -> None:
        with lock:
            pass

    def call() -> None:
        with lock:
            tasks: list[treadle.Task[Any]] = [pool.submit(take), pool.submit(abs, -1)]
            concurrent.futures.wait(tasks)

    with treadle.PoolExecutor(2) as pool, pytest.raises(treadle.Deadlock):
        try:
            pool.submit(call).result(PATIENCE_SECONDS)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def test_of_tasks_that_were_yielded_nothing_keeps_the_results(pool: Pool, gate: Gate) -> None:
    """As in the standard library, which takes care of that."""

    def call() -> list[int]:
        tasks: list[treadle.Task[Any]] = [pool.submit(abs, -1), pool.submit(gate.hold, 2)]
        ending = concurrent.futures.as_completed(tasks)
        first = next(ending)
        (waiter,) = tasks[1]._waiters
        assert isinstance(waiter.event, seen_waits._SeenEvent)
        assert list(waiter.event.tasks) == [tasks[1]]
        gate.open()
        return [first.result(), *(task.result() for task in ending)]

    assert pool.submit(call).result(PATIENCE_SECONDS) == [1, 2]


def test_on_other_threads_the_standard_librarys_own_event_stays(pool: Pool, gate: Gate) -> None:
    task = pool.submit(gate.hold)
    waiting = Aside(lambda: concurrent.futures.wait([task], PATIENCE_SECONDS).done)
    wait_until(lambda: bool(task._waiters))

    assert isinstance(task._waiters[0].event, threading.Event)
    gate.open()
    assert waiting.value() == {task}


# What any thread might bring


def put_and_get(pool: Pool) -> object:
    channel: treadle.Channel[int] = treadle.Channel(1)
    waiting = pool.submit(channel.get)
    pool.submit(channel.put, 1)
    return waiting.result(PATIENCE_SECONDS)


def put_where_it_is_full(pool: Pool) -> object:
    channel: treadle.Channel[int] = treadle.Channel(1)
    channel.put(1)
    waiting = pool.submit(channel.put, 2)
    pool.submit(channel.get)
    waiting.result(PATIENCE_SECONDS)
    return channel.get() - 1


def join_a_channel(pool: Pool) -> object:
    channel: treadle.Channel[int] = treadle.Channel(1)
    channel.put(1)

    def work() -> None:
        channel.get()
        channel.task_done()

    waiting = pool.submit(channel.join)
    pool.submit(work)
    waiting.result(PATIENCE_SECONDS)
    return 1


def loop_over_a_channel(pool: Pool) -> object:
    channel: treadle.Channel[int] = treadle.Channel(1)
    waiting = pool.submit(list, channel)
    pool.submit(channel.put, 1)
    pool.submit(channel.close)
    return sum(waiting.result(PATIENCE_SECONDS))


def wait_for_a_value(pool: Pool) -> object:
    guarded = treadle.Guarded(0)
    waiting = pool.submit(guarded.wait_for, bool)
    pool.submit(guarded.set, 1)
    waiting.result(PATIENCE_SECONDS)
    return guarded.copy()


def wait_for_a_value_in_a_block(pool: Pool) -> object:
    guarded = treadle.Guarded(0)

    def wait() -> int:
        with guarded as handle:
            handle.wait_for(bool)
            return handle.value

    waiting = pool.submit(wait)
    pool.submit(guarded.set, 1)
    return waiting.result(PATIENCE_SECONDS)


def pass_a_limiter(pool: Pool) -> object:
    limiter = treadle.Limiter(max_concurrent=1)
    channel: treadle.Channel[int] = treadle.Channel(1)

    def hold() -> int:
        with limiter:
            return channel.get()

    def wait() -> int:
        with limiter:
            return 1

    holding = Aside(hold)
    wait_until(lambda: bool(limiter._state().holders))
    waiting = pool.submit(wait)
    pool.submit(channel.put, 1)
    waiting.result(PATIENCE_SECONDS)
    return holding.value()


def take_a_lock(pool: Pool) -> object:
    lock = treadle.Lock()
    channel: treadle.Channel[int] = treadle.Channel(1)

    def hold() -> int:
        with lock:
            return channel.get()

    def wait() -> int:
        with lock:
            return 1

    holding = Aside(hold)
    wait_until(lock.locked)
    waiting = pool.submit(wait)
    pool.submit(channel.put, 1)
    waiting.result(PATIENCE_SECONDS)
    return holding.value()


@pytest.mark.parametrize(
    "way",
    [
        put_and_get,
        put_where_it_is_full,
        join_a_channel,
        loop_over_a_channel,
        wait_for_a_value,
        wait_for_a_value_in_a_block,
        pass_a_limiter,
        take_a_lock,
    ],
)
def test_a_wait_that_any_thread_may_end_makes_room_for_what_has_not_begun(
    pool: Pool, way: Callable[[Pool], Any]
) -> None:
    assert way(pool) == 1


def test_in_a_group_too() -> None:
    channel: treadle.Channel[int] = treadle.Channel(1)
    with treadle.TaskGroup(1) as group:
        waiting = group.submit(channel.get)
        group.submit(channel.put, 1)

    assert waiting.result() == 1


def test_with_a_resource_each_worker_has_its_own() -> None:
    opened: list[int] = []

    def connect() -> int:
        opened.append(len(opened))
        return len(opened)

    channel: treadle.Channel[int] = treadle.Channel(1)
    with treadle.PoolExecutor(1, resource=connect) as pool:
        waiting = pool.submit(lambda own: (channel.get(), own))
        pool.submit(lambda own: channel.put(own))

        assert waiting.result(PATIENCE_SECONDS) == (2, 1)
    assert len(opened) == 2


def test_what_a_waiting_call_has_submitted_is_begun_before_what_others_have() -> None:
    """A hundred others that would wait as well need not be begun for its sake."""
    most = treadle.Guarded(0)

    def node(number: int) -> int:
        answers: treadle.Channel[int] = treadle.Channel(4)
        for _ in range(3):
            pool.submit(answers.put, number)
        most.update(lambda count: max(count, pool.stats.workers))
        return sum(answers.get() for _ in range(3))

    with treadle.PoolExecutor(2) as pool:
        nodes = [pool.submit(node, number) for number in range(50)]
        assert [task.result(60) for task in nodes] == [3 * number for number in range(50)]

    assert most.copy() <= 4, "the two that wait, and one or two for what they wait for"


def test_others_are_begun_in_their_order(pool: Pool) -> None:
    """Who submits work in an order, to an executor with one worker, may count on it."""
    channel: treadle.Channel[int] = treadle.Channel(10)
    waiting = pool.submit(list, channel)
    for number in range(5):
        pool.submit(channel.put, number)
    pool.submit(channel.close)

    assert waiting.result(PATIENCE_SECONDS) == [0, 1, 2, 3, 4]


def test_while_one_call_goes_on_no_place_is_lent(gate: Gate) -> None:
    channel: treadle.Channel[int] = treadle.Channel(1)
    with treadle.PoolExecutor(2) as pool:
        pool.submit(gate.hold)
        gate.wait_for_arrivals()
        waiting = pool.submit(channel.get)
        last = pool.submit(channel.put, 1)
        wait_until(lambda: pool._book.crew.room._for_any == 1)

        assert not pool._book.crew.has_room()
        assert pool.stats.workers == 2
        gate.open()
        assert waiting.result(PATIENCE_SECONDS) == 1
        last.result()


def test_what_waits_for_the_world_outside_is_not_waited_for_by_ever_more_calls(pool: Pool) -> None:
    """Each further place is lent later than the one before: there may be thousands of tasks."""
    crew = pool._book.crew
    patience = []
    for lent in range(4):
        crew.workers = dict.fromkeys(range(1 + lent))  # type: ignore[arg-type]
        patience.append(crew.room.patience())
    crew.workers = dict.fromkeys(range(100))  # type: ignore[arg-type]
    most = crew.room.patience()
    crew.workers = {}

    assert patience == [room.PATIENCE_SECONDS * room.PATIENCE_GROWTH**lent for lent in range(4)]
    assert most == room.MOST_PATIENCE_SECONDS


def test_a_lent_place_is_given_back_when_the_wait_is_over(pool: Pool, gate: Gate) -> None:
    channel: treadle.Channel[int] = treadle.Channel(1)

    def wait() -> object:
        channel.get()
        return gate.hold("held")

    waiting = pool.submit(wait)
    pool.submit(channel.put, 1)
    gate.wait_for_arrivals()
    behind = pool.submit(abs, -1)
    wait_until(lambda: pool.stats.workers == 1)

    assert not behind.running()
    gate.open()
    assert (waiting.result(), behind.result()) == ("held", 1)


def test_a_worker_left_behind_in_a_wait_is_not_counted_among_those_that_wait() -> None:
    """Its place is another's by then."""
    channel: treadle.Channel[int] = treadle.Channel(1)
    with treadle.PoolExecutor(1, call_timeout=0.05, grace=0) as pool:

        def deaf() -> None:
            with treadle.shield(FOR_EVER_SECONDS):
                channel.get()

        stuck = pool.submit(deaf)
        with pytest.raises(treadle.CallTimedOut):
            stuck.result(PATIENCE_SECONDS)
        assert pool.submit(abs, -1).result(PATIENCE_SECONDS) == 1
        crew_room = pool._book.crew.room
        assert (crew_room._blocked, crew_room._for_any) == (0, 0)
        channel.put(1)


# Loops, and inputs


def test_to_thread_within_to_thread_however_many() -> None:
    def inner() -> Any:
        return asyncio.run(treadle.to_thread(abs, -1))

    async def main() -> int:
        return sum(await asyncio.gather(*[treadle.to_thread(inner) for _ in range(40)]))

    assert asyncio.run(asyncio.wait_for(main(), 60)) == 40


def test_a_loop_on_a_worker_that_waits_for_its_own_executor_by_to_thread(pool: Pool) -> None:
    def wait() -> int:
        return pool.submit(abs, -1).result()

    def call() -> object:
        return asyncio.run(treadle.to_thread(wait))

    assert pool.submit(call).result(PATIENCE_SECONDS) == 1


def test_an_input_on_the_feeders_thread_that_waits_for_the_executor_of_the_consumer(pool: Pool) -> None:
    def answers() -> Iterator[int]:
        for number in range(3):
            yield pool.submit(abs, -number).result()

    def consume_run() -> list[str]:
        return list(treadle.map(str, answers(), intake="thread"))

    def consume_pipeline() -> list[str]:
        return list(treadle.pipeline(answers()).map(str).map(str))

    async def consume() -> list[str]:
        return [text async for text in treadle.map(str, answers(), intake="thread")]

    def wait_for_all() -> Iterator[int]:
        tasks = [pool.submit(abs, -number) for number in range(3)]
        concurrent.futures.wait(tasks)
        yield from (task.result(0) for task in tasks)

    for consumer in (
        consume_run,
        consume_pipeline,
        lambda: asyncio.run(consume()),
        lambda: list(treadle.map(str, wait_for_all(), intake="thread")),
    ):
        assert pool.submit(consumer).result(PATIENCE_SECONDS) == ["0", "1", "2"]


# What cannot be seen


class Starved:
    """An executor that is full, by a clock that is turned by hand."""

    def __init__(self, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
        self._clock = clock
        self._caplog = caplog

    def told(self) -> list[str]:
        return [text for text in self._caplog.messages if "may be starved" in text]

    def look(self, pool: Pool, times: int) -> None:
        watch = pool._book._starvation
        for _ in range(times):
            before = watch._timers.get("next")
            self._clock.advance(starvation.LOOK_SECONDS)
            wait_until(lambda before=before: watch._timers.get("next") is not before)  # type: ignore[misc]
            wait_until(lambda: bool(watch._timers) or watch._is_told)


@pytest.fixture
def starved(caplog: pytest.LogCaptureFixture) -> Iterator[Starved]:
    with ManualClock() as clock:
        yield Starved(clock, caplog)


def test_calls_that_wait_unseen_for_tasks_they_have_submitted_are_told(starved: Starved) -> None:
    def node() -> int:
        answers: queue.SimpleQueue[int] = queue.SimpleQueue()
        all_queues.append(answers)
        begun.release()
        assert both.wait(PATIENCE_SECONDS)
        pool.submit(answers.put, 1)
        submitted.release()
        return answers.get()

    all_queues: list[queue.SimpleQueue[int]] = []
    both, begun, submitted = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
    with treadle.PoolExecutor(2, "nodes") as pool:
        nodes = [pool.submit(node) for _ in range(2)]
        for _ in nodes:
            assert begun.acquire(timeout=PATIENCE_SECONDS)
        both.set()
        for _ in nodes:
            assert submitted.acquire(timeout=PATIENCE_SECONDS)
        try:
            starved.look(pool, starvation.LOOKS_AT_PARENTS)
            wait_until(lambda: bool(starved.told()))
        finally:
            for answers in all_queues:
                answers.put(1)

    (text,) = starved.told()
    assert text.startswith("executor 'nodes' may be starved: all 2 workers have been in the same calls for 0.")
    assert "and 2 tasks cannot begin" in text
    assert ("return answers.get()" in text) == is_gil_enabled()


@pytest.mark.skipif(not is_gil_enabled(), reason="stacks of other threads are not read without a GIL")
def test_calls_that_wait_for_other_threads_while_tasks_wait_are_told_later(starved: Starved) -> None:
    """They may wait for threads that have nothing to do with Treadle, for as long as these need."""
    answers: queue.Queue[int] = queue.Queue()
    with treadle.PoolExecutor(1, "full") as pool:
        waiting = pool.submit(answers.get)
        wait_until(waiting.running)
        pool.submit(answers.put, 1)
        try:
            starved.look(pool, starvation.LOOKS_AT_WAITS - 1)
            assert starved.told() == []
            starved.look(pool, 1)
            wait_until(lambda: bool(starved.told()))
        finally:
            answers.put(1)

    assert len(starved.told()) == 1


@pytest.mark.parametrize("body", ["sleep", "compute", "wait in Treadle"])
def test_calls_that_may_come_back_are_not_told(starved: Starved, gate: Gate, body: str) -> None:
    """Long calls in a full executor are what executors are for."""
    stop = threading.Event()

    def call() -> None:
        if body == "sleep":
            stopped.acquire()
        elif body == "compute":
            while not stop.is_set():
                sum(range(1000))
        else:
            with treadle.TaskGroup() as group:
                group.submit(gate.hold)

    stopped = threading.Lock()
    stopped.acquire()
    with treadle.PoolExecutor(1) as pool:
        running = pool.submit(call)
        wait_until(running.running)
        pool.submit(abs, -1)
        try:
            starved.look(pool, starvation.LOOKS_AT_WAITS + 1)
        finally:
            stop.set()
            gate.open()
            stopped.release()

    assert starved.told() == []


def test_nobody_looks_where_no_task_waits(gate: Gate) -> None:
    with ManualClock() as clock, treadle.PoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(gate.hold)
            gate.wait_for_arrivals()  # otherwise the first may still wait as the second comes
        clock.advance(starvation.LOOK_SECONDS)
        wait_until(lambda: not pool._book._starvation._timers)
        pool.submit(abs, -1)
        assert pool._book._starvation._timers
        gate.open()

    assert not pool._book._starvation._timers


def test_whoever_looks_as_it_ends_leaves_no_timer(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep a thread for the time until the next look."""

    def end_meanwhile() -> dict[int, list[FrameSummary]]:
        gate.open()
        pool.shutdown()
        looked.set()
        return {}

    looked = threading.Event()
    monkeypatch.setattr(starvation, "read_stacks", end_meanwhile)
    with ManualClock() as clock, assert_no_leaked_threads():
        pool = treadle.PoolExecutor(1)
        pool.submit(gate.hold)
        gate.wait_for_arrivals()
        pool.submit(abs, -1)
        clock.advance(starvation.LOOK_SECONDS)
        assert looked.wait(PATIENCE_SECONDS)


def test_looking_keeps_no_executor_alive(gate: Gate) -> None:
    """The timer's thread may hold the action for long."""
    pool = treadle.PoolExecutor(1)
    pool.submit(gate.hold)
    gate.wait_for_arrivals()
    pool.submit(abs, -1)
    (timer,) = pool._book._starvation._timers.values()
    watch = weakref.ref(pool._book._starvation)
    gate.open()
    pool.shutdown()
    del pool

    wait_until(lambda: gc.collect() >= 0 and watch() is None)
    assert timer.is_cancelled
