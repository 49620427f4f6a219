"""Deadlocks through tasks, groups and executors: the last to arrive is told, whoever that is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS
from tests.others import Other, wait_until_it_waits
from tests.places import wait_until
from treadle._core.chunk import Chunk
from treadle._crew.bringers import bringers_of_call
from treadle._sync import wait_graph


@pytest.fixture(autouse=True)
def _graph_is_empty_after() -> Iterator[None]:
    yield
    wait_until(lambda: not wait_graph._waits)  # a call that was left behind may be on its way out of its wait


class Taker:
    """A call that takes a lock, once it may."""

    def __init__(self, lock: treadle.Lock, may_take: bool = False) -> None:
        self.lock = lock
        self.has_begun = threading.Event()
        self.may_take = threading.Event()
        self.ident = 0
        if may_take:
            self.may_take.set()

    def __call__(self) -> str:
        self.ident = threading.get_ident()
        self.has_begun.set()
        assert self.may_take.wait(PATIENCE_SECONDS)
        with self.lock:
            return "had it"

    def wait_until_it_waits(self) -> None:
        assert self.has_begun.wait(PATIENCE_SECONDS)
        wait_until_it_waits(self.ident)


@pytest.fixture
def pool() -> Iterator[treadle.PoolExecutor]:
    with treadle.PoolExecutor(max_workers=1, thread_name_prefix="baker") as pool:
        yield pool


# Task.result()


def test_a_result_waited_for_with_the_lock_in_hand(pool: treadle.PoolExecutor) -> None:
    """The task waits already; whoever asks for its result is the last."""
    lock = treadle.Lock("oven")
    call = Taker(lock, may_take=True)

    with lock:
        task = pool.submit(call)
        call.wait_until_it_waits()
        with pytest.raises(treadle.Deadlock, match=r"task 0 of executor 'baker': .*Taker"):
            task.result()
        with pytest.raises(treadle.Deadlock):
            task.exception()

    assert task.result() == "had it"


def test_a_lock_taken_by_a_task_that_its_holder_waits_for(pool: treadle.PoolExecutor) -> None:
    """Whoever asks for the result waits already; the task is the last, and fails."""
    lock = treadle.Lock("oven")
    call = Taker(lock)
    task = pool.submit(call)
    main = threading.get_ident()

    def let_it() -> None:
        wait_until_it_waits(main)
        call.may_take.set()

    other = Other(let_it)
    with lock, pytest.raises(treadle.Deadlock, match="holds Lock 'oven'"):
        task.result()

    other.join()
    assert isinstance(task.exception(), treadle.Deadlock)


def test_a_result_waited_for_with_a_timeout_is_no_deadlock(pool: treadle.PoolExecutor) -> None:
    lock = treadle.Lock()
    call = Taker(lock, may_take=True)

    with lock:
        task = pool.submit(call)
        call.wait_until_it_waits()
        with pytest.raises(TimeoutError):
            task.result(timeout=0.01)

    assert task.result() == "had it"


def test_two_tasks_that_wait_for_each_other() -> None:
    with treadle.PoolExecutor(max_workers=2) as pool:
        tasks: list[treadle.Task[str]] = []
        both = threading.Event()

        def first() -> str:
            assert both.wait(PATIENCE_SECONDS)
            return tasks[1].result()

        def second() -> str:
            assert both.wait(PATIENCE_SECONDS)
            return tasks[0].result()

        tasks += [pool.submit(first), pool.submit(second)]
        wait_until(lambda: all(task.running() for task in tasks))
        both.set()
        errors = [task.exception() for task in tasks]

    assert all(isinstance(error, treadle.Deadlock) for error in errors)
    assert errors[0] is errors[1], "the one that was told ends the other's wait"


def test_a_task_that_waits_for_itself(pool: treadle.PoolExecutor) -> None:
    def ask() -> object:
        task = treadle.current_task()
        assert task is not None
        return task.result()

    with pytest.raises(treadle.Deadlock, match="waits for what it has to bring itself"):
        pool.submit(ask).result()


# The end of groups and executors


def test_a_group_left_with_the_lock_in_hand() -> None:
    """Its task waits already: the block is told, and the task cancelled, so that the block ends."""
    lock = treadle.Lock("oven")
    call = Taker(lock, may_take=True)

    with lock, pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(name="bakery") as group:
        task = group.submit(call)
        call.wait_until_it_waits()

    assert len(caught.value.exceptions) == 1
    assert caught.group_contains(treadle.Deadlock, match="waits for the end of group 'bakery'")
    assert task.cancelled()


def test_a_lock_taken_by_a_task_of_a_group_that_its_holder_leaves() -> None:
    """The block waits already: the task is told, and fails."""
    lock = treadle.Lock("oven")
    call = Taker(lock)
    main = threading.get_ident()

    def let_it() -> None:
        wait_until_it_waits(main)
        call.may_take.set()

    other = Other(let_it)
    with lock, pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(name="bakery") as group:
        task = group.submit(call)

    other.join()
    assert caught.group_contains(treadle.Deadlock, match="has to bring the end of group 'bakery'")
    assert caught.group_contains(treadle.Deadlock, match="waits for the end of group 'bakery'")
    assert isinstance(task.exception(), treadle.Deadlock)


def test_one_stuck_task_is_enough_for_a_group() -> None:
    """Whatever the others do meanwhile."""
    lock = treadle.Lock("oven")
    call, nap = Taker(lock, may_take=True), threading.Event()

    with lock, pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        busy = group.submit(nap.wait, PATIENCE_SECONDS)
        wait_until(busy.running)
        group.submit(call).add_done_callback(lambda _: nap.set())
        call.wait_until_it_waits()

    assert caught.group_contains(treadle.Deadlock)


def test_an_executor_shut_down_with_the_lock_in_hand() -> None:
    lock = treadle.Lock("oven")
    call = Taker(lock, may_take=True)
    pool = treadle.PoolExecutor(thread_name_prefix="baker")

    with lock:
        task = pool.submit(call)
        call.wait_until_it_waits()
        with pytest.raises(treadle.Deadlock, match="waits for the end of executor 'baker'"):
            pool.shutdown()

    assert task.cancelled()


def test_a_group_that_was_told_waits_for_those_it_has_cancelled() -> None:
    """Though one of them takes its time: it is not left behind."""
    lock, has_begun = treadle.Lock("oven"), threading.Event()

    def take_shielded() -> None:
        with treadle.shield(0.2):
            has_begun.set()
            lock.acquire()

    with lock, pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(take_shielded)
        assert has_begun.wait(PATIENCE_SECONDS)
        wait_until(lambda: bool(wait_graph._waits))

    assert caught.group_contains(treadle.Deadlock)
    assert group.stats.abandoned == 0
    assert group.stats.cancelled == 1


def test_a_group_with_a_timeout_ends_by_itself() -> None:
    lock = treadle.Lock()
    call = Taker(lock, may_take=True)

    with lock, pytest.raises(TimeoutError), treadle.TaskGroup(timeout=0.05) as group:
        group.submit(call)
        call.wait_until_it_waits()


@pytest.mark.parametrize("is_failing", [False, True])
def test_an_executor_whose_worker_is_stuck_telling_of_an_end(is_failing: bool) -> None:
    """Its call has ended, and is in nobody's hands; but the executor cannot end before its worker."""
    lock, main = treadle.Lock("oven"), threading.get_ident()
    told: list[BaseException] = []

    def wait_and_end() -> None:
        wait_until_it_waits(main)
        if is_failing:
            raise ValueError

    def note(_: object) -> None:
        try:
            lock.acquire()
        except treadle.Deadlock as error:
            told.append(error)

    pool = treadle.PoolExecutor(thread_name_prefix="baker")
    with lock:
        pool.submit(wait_and_end).add_done_callback(note)
        pool.shutdown()

    assert "has to bring the end of executor 'baker'" in str(told[0])


def test_a_worker_that_gets_ready_and_waits_for_whoever_waits_for_it() -> None:
    """There is room for others, but nobody sends one as long as this one is to take what waits."""
    lock, has_begun = treadle.Lock("oven"), threading.Event()

    def get_ready() -> None:
        has_begun.set()
        lock.acquire()

    with treadle.PoolExecutor(max_workers=4, initializer=get_ready) as pool, lock:
        task = pool.submit(abs, -1)
        assert has_begun.wait(PATIENCE_SECONDS)
        wait_until(lambda: bool(wait_graph._waits))
        with pytest.raises(treadle.Deadlock, match="task 0 of executor"):
            task.result()


def test_one_call_that_goes_on_is_enough_for_first_success() -> None:
    """Its success cancels those that are stuck."""
    lock = treadle.Lock("oven")
    call, main = Taker(lock, may_take=True), threading.get_ident()

    def succeed() -> str:
        wait_until_it_waits(main)
        call.wait_until_it_waits()
        return "brought by another"

    with lock:
        assert treadle.first_success(call, succeed) == "brought by another"


def test_first_success_with_all_of_its_calls_stuck() -> None:
    lock = treadle.Lock("oven")

    def fail() -> None:
        raise ValueError

    with lock, pytest.raises(ExceptionGroup) as caught:
        treadle.first_success(Taker(lock, may_take=True), Taker(lock, may_take=True), fail)

    assert caught.group_contains(treadle.Deadlock)


# The results of a map


def take(lock: treadle.Lock, item: int) -> int:
    with lock:
        return item


@pytest.mark.parametrize("options", [{}, {"ordered": False}, {"chunksize": 3}, {"chunksize": 3, "ordered": False}])
def test_results_waited_for_with_the_lock_in_hand(options: Any) -> None:
    """What can be had without the lock is delivered; then whoever comes last is told."""
    lock, had = treadle.Lock("oven"), []

    def take_some(item: int) -> int:
        return item if item % 3 == 0 else take(lock, item)

    with lock, pytest.raises(treadle.Deadlock, match=r"the next result of run 'bakery'"):
        for result in treadle.map(take_some, range(6), name="bakery", max_workers=2, **options):
            had.append(result)

    assert 0 in had


def test_a_run_goes_on_until_none_of_its_calls_does() -> None:
    """Any result will do in completion order: one stuck call is no deadlock."""
    lock, main = treadle.Lock("oven"), threading.get_ident()

    def take_one(item: int) -> int:
        if item == 0:
            return take(lock, item)
        wait_until_it_waits(main)
        return item

    with lock:
        run = treadle.map(take_one, range(2), ordered=False, max_workers=2)
        assert next(run) == 1
    assert list(run) == [0]


def test_a_result_that_was_not_delivered_yet_is_no_deadlock() -> None:
    """The consumer looks for it soon, though the rest of its chunk is stuck, and may let the lock go then."""
    lock = treadle.Lock("oven")

    with lock:
        run = treadle.map(lambda item: take(lock, item) if item else item, range(2), chunksize=2)
        assert next(run) == 0
    assert list(run) == [1]


def test_a_stage_of_a_pipeline_that_is_stuck_far_from_the_end() -> None:
    """Each stage waits for the feeder of the next, and that for its result."""
    lock = treadle.Lock("oven")
    flow = treadle.pipeline(range(3)).map(lambda item: take(lock, item)).map(abs).map(abs)

    with lock, pytest.raises(treadle.Deadlock):
        list(flow)


def test_a_run_with_a_timeout_ends_by_itself() -> None:
    lock = treadle.Lock()

    with lock, pytest.raises(TimeoutError):
        list(treadle.map(lambda item: take(lock, item), range(3), timeout=0.4))


# Saturation


def test_an_executor_whose_workers_all_wait_for_whoever_waits_for_it(pool: treadle.PoolExecutor) -> None:
    """The one worker waits for the lock; so the task in the queue never begins."""
    lock = treadle.Lock("oven")
    call = Taker(lock, may_take=True)

    with lock:
        first = pool.submit(call)
        queued = pool.submit(abs, -1)
        call.wait_until_it_waits()
        with pytest.raises(treadle.Deadlock, match=r"task 1 of executor 'baker': abs\(-1\)"):
            queued.result()

    assert first.result() == "had it"
    assert queued.result() == 1


def test_one_free_worker_is_enough() -> None:
    """As long as one of them goes on, the queued task may begin; when that one waits as well, it is told."""
    lock = treadle.Lock("oven")
    calls = Taker(lock, may_take=True), Taker(lock)
    main = threading.get_ident()

    def let_it() -> None:
        wait_until_it_waits(main)
        calls[1].may_take.set()

    with treadle.PoolExecutor(max_workers=2) as pool:
        with lock:
            tasks = [pool.submit(call) for call in calls]
            calls[0].wait_until_it_waits()
            other = Other(let_it)
            assert pool.submit(abs, -1).result() == 1, "the worker that was told makes the call"
        other.join()

    assert tasks[0].result() == "had it"
    assert isinstance(tasks[1].exception(), treadle.Deadlock)


def test_a_crew_that_can_grow_is_not_saturated() -> None:
    lock = treadle.Lock()
    call = Taker(lock, may_take=True)

    with treadle.PoolExecutor(max_workers=2) as pool, lock:
        pool.submit(call)
        call.wait_until_it_waits()
        assert bringers_of_call(pool._book.crew, Chunk(1, [abs], [abs])) == wait_graph.GOES_ON
        assert pool.submit(abs, -1).result() == 1


def test_what_a_worker_waits_for_gets_a_worker_more() -> None:
    """Room is lent, as always: nothing here is a deadlock."""
    with treadle.PoolExecutor(max_workers=1) as outer, treadle.PoolExecutor(max_workers=1) as inner:

        def ping(depth: int) -> int:
            other = outer if depth % 2 else inner
            return depth if depth == 0 else other.submit(ping, depth - 1).result()

        assert outer.submit(ping, 20).result() == 0


def test_a_call_with_a_timeout_ends_by_itself() -> None:
    lock = treadle.Lock()
    call = Taker(lock, may_take=True)

    with lock, treadle.PoolExecutor(max_workers=1, call_timeout=0.05) as pool:
        task = pool.submit(call)
        call.wait_until_it_waits()
        with pytest.raises(treadle.CallTimedOut):
            task.result()


def test_a_circle_of_a_lock_a_task_and_a_group() -> None:
    """Each kind of wait in one: three threads, of which the last is told."""
    lock, have = treadle.Lock("oven"), threading.Event()
    call = Taker(lock)

    with treadle.PoolExecutor(max_workers=1, thread_name_prefix="baker") as pool:

        def lead() -> None:
            with lock:
                have.set()
                task.result()

        def run_group() -> str:
            assert have.wait(PATIENCE_SECONDS)
            with treadle.TaskGroup(name="bakery", on_error="collect") as group:
                return_value = group.submit(call)
            return return_value.result()

        task = pool.submit(run_group)
        leader = Other(lead, "leader").join
        wait_until(lambda: len(wait_graph._waits) == 2)
        call.may_take.set()
        error = task.exception()
        assert isinstance(leader().error, ExceptionGroup)

    assert isinstance(error, ExceptionGroup)
    assert isinstance(error.exceptions[0], treadle.Deadlock)
    assert len(error.exceptions[0].threads) == 3


def test_a_cancelled_wait_is_no_part_of_a_deadlock() -> None:
    """It ends anyway: whoever comes then waits, and gets the lock."""
    lock, mine = treadle.Lock("oven"), treadle.Lock("mine")
    have, leave = threading.Event(), threading.Event()

    def hold_and_wait() -> None:
        with mine:
            have.set()
            try:
                lock.acquire()
            finally:
                assert leave.wait(PATIENCE_SECONDS)  # it was cancelled, and has not left yet

    with treadle.TaskGroup() as group, lock:
        task = group.submit(hold_and_wait)
        assert have.wait(PATIENCE_SECONDS)
        wait_until(lambda: bool(wait_graph._waits))
        assert task.cancel() is False
        wait_until(lambda: not wait_graph._waits)
        leave.set()
        with mine:
            pass

    assert task.cancelled()
