"""What a signal handler or a finalizer does in the middle of a step of Treadle's, on the very thread that is at it.

Neither can wait for a lock that its own thread holds. So what they ask for is done at once, or by another thread a
moment later; and it takes nothing down, wherever it comes.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import pytest

import treadle
from tests.intrusions import Scene, intrude_everywhere
from tests.places import wait_until
from treadle._run.course import Course

INSIDE = ("/treadle/_run/", "/treadle/_crew/", "/treadle/_sync/", "/treadle/_core/")
# Of so many moments, one; each of them takes too long for every change.
STRIDE = 23

everywhere = pytest.mark.parametrize("stride", [STRIDE])


def fail(item: object) -> None:
    raise OSError(item)


def adds_up(stats: treadle.Stats) -> bool:
    ends = stats.succeeded + stats.failed + stats.timed_out + stats.cancelled + stats.not_started
    return ends == stats.taken


# Handlers: what people write for SIGTERM


def a_run_that_is_closed(ordered: bool) -> Scene:
    run = treadle.map(abs, iter(range(-6, 0)), max_workers=2, buffersize=1, chunksize=1, ordered=ordered)

    def consume() -> None:
        with suppress(treadle.RunClosed):
            list(run)

    def check() -> None:
        wait_until(lambda: run._course.is_sealed or run._course.is_finished)
        rest = list(run.rest())
        assert adds_up(run.stats)
        assert [outcome.index for outcome in rest] == sorted({outcome.index for outcome in rest})

    return Scene(consume, run.close, check)


@everywhere
@pytest.mark.parametrize("ordered", [True, False])
def test_a_run_may_be_closed_in_the_middle_of_its_own_step(ordered: bool, stride: int) -> None:
    """``run.close()`` in a handler of SIGTERM hung within 50 rounds, in the main thread, and so for good."""
    intrude_everywhere(lambda: a_run_that_is_closed(ordered), INSIDE, stride)


def a_run_with_outcomes_that_is_closed() -> Scene:
    retry = treadle.Retry(2, retry_on=OSError, backoff=0, jitter=0)
    run = treadle.map(fail, range(3), max_workers=2, retry=retry)

    def check() -> None:
        wait_until(lambda: run._course.is_sealed or run._course.is_finished)
        assert adds_up(run.stats)

    return Scene(lambda: list(run.outcomes()), run.close, check)


@everywhere
def test_a_run_with_retries_may_be_closed_in_the_middle_of_its_own_step(stride: int) -> None:
    intrude_everywhere(a_run_with_outcomes_that_is_closed, INSIDE, stride)


def a_flow_that_is_closed() -> Scene:
    flow = treadle.pipeline(range(-3, 0)).map(abs, max_workers=1).map(str, max_workers=1).start()

    def consume() -> None:
        with suppress(treadle.PipelineClosed):
            list(flow)

    return Scene(
        consume, flow.close, lambda: wait_until(lambda: all(is_over(leg.course) for leg in flow._account.legs))
    )


def is_over(course: Course) -> bool:
    return course.is_sealed or course.is_finished


@everywhere
def test_a_pipeline_may_be_closed_in_the_middle_of_its_own_step(stride: int) -> None:
    intrude_everywhere(a_flow_that_is_closed, INSIDE, stride)


def a_group_that_is_cancelled() -> Scene:
    group = treadle.TaskGroup(2, timeout=1000)
    tasks: list[treadle.Task[int]] = []

    def work() -> None:
        with suppress(treadle.GroupClosed), group:
            for number in range(3):
                tasks.append(group.submit(abs, number))

    def check() -> None:
        wait_until(lambda: not group._book.crew.workers)
        assert all(task.done() for task in tasks)
        assert adds_up(group.stats)

    return Scene(work, group.cancel, check)


@everywhere
def test_a_group_may_be_cancelled_in_the_middle_of_its_own_step(stride: int) -> None:
    intrude_everywhere(a_group_that_is_cancelled, INSIDE, stride)


def a_pool_that_is_shut_down(wait: bool) -> Scene:
    pool = treadle.PoolExecutor(2)
    tasks: list[treadle.Task[int]] = []

    def work() -> None:
        with suppress(treadle.PoolClosed):
            for number in range(3):
                tasks.append(pool.submit(abs, number))

    def check() -> None:
        pool.shutdown()
        wait_until(lambda: not pool._book.crew.workers)
        assert all(task.done() for task in tasks)
        assert adds_up(pool.stats)

    return Scene(work, lambda: pool.shutdown(wait=wait, cancel_futures=True), check)


@everywhere
@pytest.mark.parametrize("wait", [True, False])
def test_a_pool_may_be_shut_down_in_the_middle_of_its_own_step(wait: bool, stride: int) -> None:
    """With ``wait=True`` as well, as that is the default; it then does not wait for its own thread."""
    intrude_everywhere(lambda: a_pool_that_is_shut_down(wait), INSIDE, stride)


def a_pool_that_is_submitted_to() -> Scene:
    pool = treadle.PoolExecutor(2)
    tasks: list[treadle.Task[int]] = []

    def work() -> None:
        tasks.extend(pool.submit(abs, number) for number in range(2))

    def check() -> None:
        assert sorted(task.result(10) for task in tasks) == [0, 1, 3]
        pool.shutdown()

    return Scene(work, lambda: tasks.append(pool.submit(abs, -3)), check)


@everywhere
def test_a_handler_may_submit_in_the_middle_of_a_submission(stride: int) -> None:
    intrude_everywhere(a_pool_that_is_submitted_to, INSIDE, stride)


def tasks_that_are_cancelled() -> Scene:
    pool = treadle.PoolExecutor(1)
    tasks = [pool.submit(abs, number) for number in range(3)]

    def cancel_all() -> None:
        for task in tasks:
            task.cancel()
        assert pool.stats.abandoned == 0

    def check() -> None:
        pool.shutdown()
        assert all(task.done() for task in tasks)
        assert adds_up(pool.stats)

    return Scene(cancel_all, cancel_all, check)


@everywhere
def test_a_task_may_be_cancelled_in_the_middle_of_its_cancellation(stride: int) -> None:
    intrude_everywhere(tasks_that_are_cancelled, INSIDE, stride)


def a_periodic_that_is_stopped() -> Scene:
    monitors: list[treadle.Periodic[int]] = []

    def work() -> None:
        monitor = treadle.every(0.01, lambda: 1)  # soon again: the first run may be over before it is waited for
        monitors.append(monitor)
        with suppress(treadle.PeriodicStopped), monitor:
            monitor.wait_next()

    def stop() -> None:
        for monitor in monitors:
            monitor.stop()

    return Scene(work, stop, lambda: wait_until(lambda: not any(monitor._book.crew.workers for monitor in monitors)))


@everywhere
def test_a_periodic_may_be_stopped_in_the_middle_of_its_own_step(stride: int) -> None:
    intrude_everywhere(a_periodic_that_is_stopped, INSIDE, stride)


def a_run_within_a_run() -> Scene:
    found: list[Any] = []

    def use() -> None:
        found.append(list(treadle.map(abs, range(-3, 0), max_workers="auto", name="within")))

    def check() -> None:
        assert found == [[3, 2, 1]] * 2

    return Scene(use, use, check)


@everywhere
def test_a_handler_may_use_a_run_of_its_own_in_the_middle_of_another(stride: int) -> None:
    """They share what the process has once: the timekeeper, what was learnt, the register."""
    intrude_everywhere(a_run_within_a_run, INSIDE, stride)


# Finalizers: a garbage collection comes at any allocation, on any thread


@pytest.mark.parametrize("kind", ["retries pending", "calls running", "outcomes", "nothing begun"])
@everywhere
def test_a_run_may_be_collected_in_the_middle_of_anything(kind: str, stride: int) -> None:
    """Its end took locks, and cancelled timers: that of another, which this very thread might just be setting."""

    def make() -> Any:
        run = made()
        iter(run)  # otherwise it warns that nobody has ever read it
        return run

    def made() -> Any:
        retry = treadle.Retry(retry_on=OSError, backoff=9, jitter=0)
        if kind == "retries pending":
            return treadle.map(fail, range(3), max_workers=2, retry=retry)
        if kind == "outcomes":
            return treadle.map(fail, range(3), max_workers=2).outcomes()
        if kind == "calls running":
            return treadle.map(lambda _: treadle.sleep(1000), range(3), max_workers=2)
        return treadle.map(abs, iter(()), max_workers=2)

    def prepare() -> Scene:
        runs = [make()]
        course = runs[0]._course

        def work() -> None:
            with treadle.TaskGroup(2, timeout=1000) as group:
                group.submit(abs, 1)
                group.submit(abs, 2)

        return Scene(work, runs.clear, lambda: wait_until(lambda: is_over(course) and not course.crew.workers))

    intrude_everywhere(prepare, INSIDE, stride)


def test_a_run_is_collected_while_its_own_thread_is_at_a_step_of_it() -> None:
    run = treadle.map(treadle.sleep, itertools.repeat(1000), max_workers=1)
    iter(run)
    course = run._course
    with course.crew.lock:
        del run
        assert not course.crew.is_stopping
    wait_until(lambda: course.is_sealed)


def test_a_pool_may_be_collected_in_the_middle_of_anything() -> None:
    def prepare() -> Scene:
        pools = [treadle.PoolExecutor(1)]
        crew = pools[0]._book.crew
        pools[0].submit(abs, -1).result()

        def work() -> None:
            with treadle.TaskGroup(1, timeout=1000) as group:
                group.submit(abs, 1)

        return Scene(work, pools.clear, lambda: wait_until(lambda: not crew.workers))

    intrude_everywhere(prepare, INSIDE, STRIDE)
