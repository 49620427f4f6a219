"""The crew, its tasks and their cancellation, whatever the order of their steps."""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextlib import suppress

import pytest

import treadle
from tests.explore.conftest import Search, at_once
from treadle._core.chunk import Chunk
from treadle._crew.crew import Crew
from treadle._run.ledger import Ledger
from treadle._run.task import Task
from treadle._sync.cancelling import wait
from treadle._sync.parker import Parker

FOR_EVER_SECONDS = 100_000.0


def wait_for_ever() -> None:
    """Until it is cancelled."""
    while True:
        wait(Parker())


def one_task_after_the_other() -> None:
    """The worker goes idle between them, or is just about to."""
    with treadle.TaskGroup(max_workers=1) as group:
        for number in range(3):
            assert group.submit(abs, -number).result() == number


def test_nobody_sleeps_beside_work_that_waits(search: Search) -> None:
    search(one_task_after_the_other)


def test_it_is_found_out_if_a_worker_does_not_look_again_before_it_sleeps(
    find: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Crew._take

    monkeypatch.setattr(Crew, "_take", lambda crew: None if crew._idle else take(crew))

    find(one_task_after_the_other)


def test_it_is_found_out_if_a_submitter_looks_before_it_writes(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(crew: Crew, chunks: list[Chunk]) -> None:
        is_needed = not crew.workers or bool(crew._idle)
        crew._queue.extend(chunks)
        if is_needed:
            crew._help()

    monkeypatch.setattr(Crew, "submit", submit)

    find(one_task_after_the_other)


def tasks_from_two_threads() -> None:
    with treadle.TaskGroup(max_workers=2) as group:
        calls: list[int] = []
        at_once(*(lambda number=number: group.submit(calls.append, number).result() for number in range(2)))

    assert sorted(calls) == [0, 1]
    assert group.stats.succeeded == 2
    assert group.stats.workers == 0


def test_what_two_threads_submit_is_called_once_each(search: Search) -> None:
    search(tasks_from_two_threads)


def a_task_cancelled_at_any_moment() -> None:
    calls: list[int] = []
    with treadle.TaskGroup(max_workers=1) as group:
        task = group.submit(calls.append, 1)
        never_begins = task.cancel()

    assert task.done()
    assert not (never_begins and calls), "what never begins was called"
    assert task.cancelled() == (not calls)
    assert (group.stats.succeeded, group.stats.cancelled) == (len(calls), 1 - len(calls))


def test_a_cancelled_task_is_called_or_not_and_says_so(search: Search) -> None:
    search(a_task_cancelled_at_any_moment)


def test_it_is_found_out_if_the_call_is_not_taken_in_one_step(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(task: Task[object]) -> bool:
        chunk = task._chunk
        if chunk is None:
            return task.cancelled()
        if not chunk.todo:
            return task._book.cancel_running(task)
        chunk.todo.clear()
        chunk.mark_cancelled()
        task._book.discard(task, chunk)
        return True

    monkeypatch.setattr(Task, "cancel", cancel)

    find(a_task_cancelled_at_any_moment)


def a_call_cancelled_at_any_moment() -> None:
    """It waits until it is told, or was told before it began to wait."""
    with treadle.TaskGroup(max_workers=1) as group:
        task = group.submit(wait_for_ever)
        task.cancel()
        with suppress(CancelledError):
            task.result()

        assert task.cancelled()


def test_a_call_that_is_cancelled_wakes_whenever_it_is(search: Search) -> None:
    search(a_call_cancelled_at_any_moment)


def a_failure_beside_submissions() -> None:
    calls: list[int] = []

    def fail() -> None:
        raise ValueError

    tasks: list[treadle.Task[None]] = []
    with suppress(ExceptionGroup), treadle.TaskGroup(max_workers=2) as group:
        group.submit(fail)
        for number in range(2):
            tasks.append(group.submit(calls.append, number))

    assert all(task.done() for task in tasks)
    assert group.stats.succeeded == len(calls) == sum(not task.cancelled() for task in tasks)
    assert group.stats.failed == 1
    assert group.stats.taken == 1 + len(tasks)
    assert group.stats.workers == 0


def test_a_failure_ends_a_group_to_which_somebody_submits(search: Search) -> None:
    search(a_failure_beside_submissions)


def a_group_cancelled_by_another_thread() -> None:
    with treadle.TaskGroup(max_workers=2) as group:
        tasks = [group.submit(wait_for_ever) for _ in range(2)]
        at_once(group.cancel)

    assert all(task.cancelled() for task in tasks)
    assert group.stats.cancelled == 2


def test_a_group_that_is_cancelled_leaves_nobody_asleep(search: Search) -> None:
    search(a_group_cancelled_by_another_thread)


def an_executor_shut_down_beside_a_submission() -> None:
    pool = treadle.PoolExecutor(max_workers=1)
    calls: list[int] = []
    tasks: list[treadle.Task[None]] = []

    def submit() -> None:
        with suppress(treadle.PoolClosed):
            tasks.append(pool.submit(calls.append, 1))

    at_once(submit, pool.shutdown)
    pool.shutdown()

    assert len(calls) == len(tasks)
    assert all(task.done() for task in tasks)
    assert pool.stats.workers == 0


def test_a_shutdown_finishes_what_was_taken_and_refuses_the_rest(search: Search) -> None:
    search(an_executor_shut_down_beside_a_submission)


def a_task_that_waits_for_a_task_of_its_own() -> None:
    with treadle.TaskGroup(max_workers=1) as group:

        def outer() -> int:
            inner = group.submit(abs, -1)
            return inner.result(FOR_EVER_SECONDS)  # with a timeout, the worker waits, and makes room for another

        assert group.submit(outer).result() == 1


def test_a_task_that_waits_for_its_own_group_finds_room(search: Search) -> None:
    search(a_task_that_waits_for_a_task_of_its_own)


def a_map_closed_after_its_first_result() -> None:
    calls: list[int] = []
    run = treadle.map(calls.append, range(4), max_workers=2, chunksize=1)
    next(run)
    run.close()
    rest = list(run.rest())

    statuses = [outcome.status for outcome in rest]
    assert 1 + statuses.count("succeeded") == len(calls) == len(set(calls))
    assert 1 + len(rest) == run.stats.taken


def test_a_run_that_is_closed_accounts_for_every_item(search: Search) -> None:
    search(a_map_closed_after_its_first_result)


def a_map_that_fails_beside_a_call_just_taken() -> None:
    calls: list[int] = []

    def call(number: int) -> int:
        calls.append(number)
        if number == 1:
            raise ValueError
        return number

    run = treadle.map(call, range(3), max_workers=2, chunksize=1)
    delivered: list[int] = []
    with suppress(ValueError):
        delivered.extend(run)
    begun = {*delivered, *(outcome.index for outcome in run.rest() if outcome.status != "not_started")}
    while run.stats.workers:
        treadle.sleep(0.1)

    # A worker held up for all of the grace, with a call that it has taken and not made yet, counts as left behind.
    assert set(calls) <= begun, "what counts as not started is not started later"


def test_a_run_that_fails_makes_no_call_after_its_account_is_closed(search: Search) -> None:
    search(a_map_that_fails_beside_a_call_just_taken)


def a_map_whose_chunks_are_split() -> None:
    """The first call of a chunk lasts, so that another worker takes from what is left."""

    def call(number: int) -> int:
        treadle.sleep(0.01)
        return number

    assert list(treadle.map(call, range(4), max_workers=2, chunksize=4, buffersize=8)) == [0, 1, 2, 3]


def test_items_that_are_stolen_have_one_taker(search: Search) -> None:
    search(a_map_whose_chunks_are_split)


def a_run_closed_by_another_thread() -> None:
    """Its consumer may be taking items, or results, in that moment."""
    run, delivered = treadle.map(abs, iter(range(3)), max_workers=1, chunksize=1, buffersize=0), list[int]()

    def consume() -> None:
        with suppress(treadle.RunClosed):
            for result in run:
                delivered.append(result)

    at_once(consume, run.close)

    stats, rest = run.stats, list(run.rest())
    assert [*delivered, *(outcome.item for outcome in rest)] == list(range(stats.taken))
    assert stats.succeeded + stats.cancelled + stats.not_started == stats.taken


def test_whoever_closes_a_run_finds_each_item_in_the_account(search: Search) -> None:
    search(a_run_closed_by_another_thread)


def test_it_is_found_out_if_items_enter_an_account_that_was_closed(
    find: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enter(ledger: Ledger, chunks: list[Chunk]) -> bool:
        ledger.chunks.update([(chunk.start, chunk) for chunk in chunks])
        ledger.taken += len(ledger.net)
        ledger.net = []
        return True

    monkeypatch.setattr(Ledger, "enter", enter)

    find(a_run_closed_by_another_thread)
