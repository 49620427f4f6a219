"""Plain and coroutine functions side by side in one group or executor, whichever comes first."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

import treadle
from tests.calls import FOR_EVER_SECONDS
from tests.places import wait_until
from treadle._core.gil import is_gil_enabled

Kind = Callable[..., Any]

number: ContextVar[int] = ContextVar("number", default=0)


def plain(item: object = None) -> object:
    return item


async def later(item: object = None) -> object:
    await asyncio.sleep(0)
    return item


@pytest.fixture(params=["plain first", "coroutine first"])
def kinds(request: pytest.FixtureRequest) -> tuple[Kind, Kind]:
    """The function whose kind decides, and one of the other kind."""
    return (plain, later) if request.param == "plain first" else (later, plain)


def one_that_sleeps(kind: Kind, begun: Callable[[], object], told: list[str]) -> Kind:
    """Return a function of that ``kind`` which sleeps for ever, and notes that it was cancelled."""

    def nap() -> None:
        begun()
        try:
            treadle.sleep(FOR_EVER_SECONDS)
        except treadle.Cancelled:
            told.append("plain")
            raise

    async def nap_later() -> None:
        begun()
        try:
            await asyncio.sleep(FOR_EVER_SECONDS)
        except asyncio.CancelledError:
            told.append("later")
            raise

    return nap if kind is plain else nap_later


def one_that_fails(kind: Kind, when: threading.Semaphore) -> Kind:
    def fail() -> None:
        assert when.acquire(timeout=10)
        raise ValueError("of the user's")

    async def fail_later() -> None:
        await treadle.to_thread(fail)

    return fail if kind is plain else fail_later


@pytest.mark.parametrize("owner", [treadle.TaskGroup, treadle.PoolExecutor])
def test_both_kinds_are_called_in_one_group_or_executor(owner: Callable[[], Any], kinds: tuple[Kind, Kind]) -> None:
    with owner() as group:
        tasks = [group.submit(kinds[at % 2], at) for at in range(20)]

    assert [task.result() for task in tasks] == list(range(20))


def test_plain_functions_have_threads_and_coroutines_one_loop(kinds: tuple[Kind, Kind]) -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    with treadle.TaskGroup(name="both") as group:
        group.submit(kinds[0]).result()
        loops = [group.submit(loop) for _ in range(5)]
        threads = [group.submit(threading.current_thread) for _ in range(5)]

    assert len({task.result() for task in loops}) == 1, "they may share a lock of asyncio's"
    assert all(task.result().name.startswith("treadle-both-") for task in threads)
    assert not any(task.result().name.endswith("-loop") for task in threads)


@pytest.mark.parametrize("fails", [plain, later])
def test_a_failure_cancels_both_kinds(kinds: tuple[Kind, Kind], fails: Kind) -> None:
    told: list[str] = []
    begun = threading.Semaphore(0)
    both_sleep = threading.Semaphore(0)

    with pytest.raises(ExceptionGroup, match="group 'group' failed") as caught, treadle.TaskGroup(grace=60) as group:
        naps = [group.submit(one_that_sleeps(kind, begun.release, told)) for kind in kinds]
        group.submit(one_that_fails(fails, both_sleep))
        for _ in naps:
            assert begun.acquire(timeout=10)
        both_sleep.release()

    assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert sorted(told) == ["later", "plain"]
    assert all(nap.cancelled() for nap in naps)
    assert "treadle: task 2 of group 'group': fail" in "".join(caught.value.exceptions[0].__notes__)


@pytest.mark.parametrize("sleeps", [plain, later])
def test_a_call_past_its_time_is_timed_out_and_told(kinds: tuple[Kind, Kind], sleeps: Kind) -> None:
    told: list[str] = []
    with treadle.TaskGroup(on_error="collect", call_timeout=0.05, grace=60) as group:
        group.submit(kinds[0])
        late = group.submit(one_that_sleeps(sleeps, int, told))

        assert isinstance(late.exception(), treadle.CallTimedOut)
    assert len(told) == 1


@pytest.mark.parametrize("fails", [plain, later])
def test_a_call_of_either_kind_is_made_again(kinds: tuple[Kind, Kind], fails: Kind) -> None:
    attempts: list[int] = []

    def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("not yet")
        return "at last"

    async def flaky_later() -> str:
        return flaky()

    with treadle.TaskGroup(retry=treadle.Retry(3, backoff=0)) as group:
        group.submit(kinds[0])
        task = group.submit(flaky if fails is plain else flaky_later)

    assert (task.result(), len(attempts)) == ("at last", 3)


def test_tasks_wait_for_those_of_the_other_kind_with_a_single_worker(kinds: tuple[Kind, Kind]) -> None:
    """A plain call that waits makes room, on whichever kind of worker its place is."""

    def wait_for(fn: Kind) -> object:
        return group.submit(fn, "inner").result()

    with treadle.TaskGroup(max_workers=1) as group:
        group.submit(kinds[0]).result()
        waiting = [group.submit(wait_for, kind) for kind in kinds]

        assert [task.result() for task in waiting] == ["inner", "inner"]


def test_max_workers_bounds_both_kinds_together(kinds: tuple[Kind, Kind]) -> None:
    inside: list[int] = []
    most: list[int] = []

    def call() -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.001)
        inside.pop()

    async def call_later() -> None:
        inside.append(1)
        most.append(len(inside))
        await asyncio.sleep(0.001)
        inside.pop()

    with treadle.TaskGroup(max_workers=2) as group:
        group.submit(kinds[0]).result()
        for _ in range(20):
            group.submit(call)
            group.submit(call_later)

    assert max(most) <= 2


def test_both_kinds_see_the_submitters_context_and_keep_theirs(kinds: tuple[Kind, Kind]) -> None:
    def count() -> int:
        number.set(number.get() + 1)
        return number.get()

    async def count_later() -> int:
        return count()

    number.set(7)
    with treadle.TaskGroup() as group:
        group.submit(kinds[0])
        tasks = [group.submit(fn) for fn in (count, count_later, count, count_later)]

    assert [task.result() for task in tasks] == [8, 8, 8, 8]
    assert number.get() == 7


def test_both_kinds_know_their_task_and_whether_they_were_cancelled(kinds: tuple[Kind, Kind]) -> None:
    async def ask() -> object:
        treadle.check_cancelled()
        return treadle.current_task()

    def ask_plainly() -> object:
        treadle.check_cancelled()
        return treadle.current_task()

    with treadle.TaskGroup() as group:
        group.submit(kinds[0])
        tasks = [group.submit(ask), group.submit(ask_plainly)]

    assert [task.result() for task in tasks] == tasks


def test_a_coroutine_may_not_hold_up_the_loop_of_a_group_on_threads() -> None:
    async def hold_up() -> None:
        treadle.sleep(1)

    with treadle.TaskGroup(on_error="collect") as group:
        group.submit(plain)
        task = group.submit(hold_up)

        assert isinstance(task.exception(), treadle.BlocksEventLoop)


def test_a_plain_function_that_returns_a_coroutine_is_told_so_by_either(kinds: tuple[Kind, Kind]) -> None:
    with treadle.TaskGroup(on_error="collect") as group:
        group.submit(kinds[0])
        task = group.submit(lambda: later())

        assert "which nobody awaits" in str(task.exception())


def test_what_does_not_fit_its_function_is_told_of_both_kinds(kinds: tuple[Kind, Kind]) -> None:
    def take(one: int) -> None: ...
    async def take_later(one: int) -> None: ...

    with treadle.TaskGroup(on_error="collect") as group:
        group.submit(kinds[0])
        submit: Any = group.submit
        errors = [submit(fn).exception() for fn in (take, take_later)]

    assert [error.__notes__[1].partition(";")[0] for error in errors] == [
        "treadle: take takes (one)",
        "treadle: take_later takes (one)",
    ]


@pytest.mark.parametrize("sleeps", [plain, later])
def test_one_cancelled_alone_leaves_the_others(kinds: tuple[Kind, Kind], sleeps: Kind) -> None:
    begun, told = threading.Event(), list[str]()
    with treadle.TaskGroup(grace=60) as group:
        group.submit(kinds[0])
        nap = group.submit(one_that_sleeps(sleeps, begun.set, told))
        assert begun.wait(10)
        nap.cancel()
        others = [group.submit(kind, 5) for kind in kinds]

    assert len(told) == 1
    assert [task.result() for task in others] == [5, 5]


def test_an_answer_given_in_spite_of_a_cancellation_counts(kinds: tuple[Kind, Kind]) -> None:
    begun = threading.Semaphore(0)

    def give() -> str:
        begun.release()
        try:
            treadle.sleep(FOR_EVER_SECONDS)
        except treadle.Cancelled:
            return "what there is"
        return "never"

    async def give_later() -> str:
        begun.release()
        try:
            await asyncio.sleep(FOR_EVER_SECONDS)
        except asyncio.CancelledError:
            return "what there is"
        return "never"

    with treadle.TaskGroup(grace=60) as group:
        group.submit(kinds[0])
        tasks = [group.submit(give), group.submit(give_later)]
        for _ in tasks:
            assert begun.acquire(timeout=10)
        group.cancel()

    assert [task.result() for task in tasks] == ["what there is"] * 2


@pytest.mark.skipif(not is_gil_enabled(), reason="reference counts are settled later there")
@pytest.mark.parametrize("fails", [plain, later])
def test_nothing_of_a_failed_call_stays(kinds: tuple[Kind, Kind], fails: Kind) -> None:
    class Large:
        pass

    def fail() -> None:
        large = Large()
        alive.add(large)
        raise ValueError

    async def fail_later() -> None:
        large = Large()
        alive.add(large)
        raise ValueError

    def run() -> None:
        with pytest.raises(ExceptionGroup), treadle.TaskGroup() as group:
            group.submit(kinds[0]).result()
            group.submit(fail if fails is plain else fail_later)

    alive = weakref.WeakSet[Large]()
    gc.collect()
    gc.disable()
    try:
        run()
        wait_until(lambda: len(alive) == 0)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("options", "fn", "message"),
    [
        ({"engine": "threads"}, later, "must be a plain function, as this group makes its calls on threads"),
        ({"resource": list}, later, "without engine= and resource= it takes both kinds"),
    ],
)
def test_an_engine_or_a_resource_is_for_one_kind(options: dict[str, Any], fn: Kind, message: str) -> None:
    def use(*_: object) -> None: ...

    with treadle.TaskGroup(**options) as group:
        group.submit(use)
        with pytest.raises(treadle.WrongType, match=message):
            group.submit(fn)


def test_with_a_resource_a_plain_function_is_refused_where_coroutines_came_first() -> None:
    async def use(*_: object) -> None: ...

    submit: Any
    with treadle.TaskGroup(resource=list) as group:
        submit = group.submit
        submit(use)
        with pytest.raises(treadle.WrongType, match="must be a coroutine function, as this group makes its"):
            submit(plain)
