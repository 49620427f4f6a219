"""Coroutine functions in the place of plain ones: what is special about an event loop."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Self

import pytest

import treadle
from tests.calls import FOR_EVER_SECONDS, Nap
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import PLACES, Calls, make_late, wait_until
from tests.programs import finish, start_program
from treadle._core.gil import is_gil_enabled
from treadle.testing import ManualClock

_colour: ContextVar[str] = ContextVar("_colour", default="white")


async def double(number: int) -> int:
    """Return twice the number, after a turn of the loop."""
    await asyncio.sleep(0)
    return 2 * number


class Doubler:
    """What it is called for is to be awaited."""

    async def __call__(self, number: int) -> int:
        return await double(number)

    async def method(self, number: int) -> int:
        return await double(number)


class Sleepers:
    """Coroutines that sleep for ever, say when they have begun, and count how they end."""

    def __init__(self) -> None:
        self._begun = threading.Semaphore(0)
        self.cancelled = 0

    async def sleep(self, item: object = None) -> object:
        self._begun.release()
        try:
            await asyncio.sleep(FOR_EVER_SECONDS)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return item

    async def sleep_stubbornly(self, is_over: threading.Event) -> str:
        self._begun.release()
        while not is_over.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.001)
        return "over"

    def wait_until_begun(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._begun.acquire(timeout=PATIENCE_SECONDS), "it never began"


@pytest.fixture
def sleepers() -> Sleepers:
    return Sleepers()


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Return an event that is set at the end of the test whatever happens."""
    event = threading.Event()
    yield event
    event.set()


# What is awaited, and where


@pytest.mark.parametrize(
    "fn", [double, functools.partial(double), functools.partial(Doubler()), Doubler(), Doubler().method]
)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_to_be_awaited_is(place: str, fn: Callable[[int], Any]) -> None:
    with Calls(place, fn, range(3)) as calls:
        assert [end.value for end in calls.ends()] == [0, 2, 4]


def test_all_calls_are_made_on_one_daemon_thread_and_no_more_at_once_than_there_are_workers() -> None:
    running, most, threads = 0, 0, set()

    async def call(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threads.add(threading.current_thread())
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1

    list(treadle.map(call, range(50), max_workers=3, name="calls", buffersize=50))

    (thread,) = threads
    assert most == 3
    assert thread.name == "treadle-calls-loop"
    assert thread.daemon


def test_a_thousand_are_in_flight_at_once() -> None:
    count = 1000
    arrived = itertools.count(1)
    all_are_here: asyncio.Event | None = None

    async def meet(item: int) -> int:
        nonlocal all_are_here
        all_are_here = all_are_here or asyncio.Event()
        if next(arrived) == count:
            all_are_here.set()
        await all_are_here.wait()
        return item

    assert list(treadle.map(meet, range(count), max_workers=count)) == list(range(count))


def test_the_default_is_as_many_at_once_as_on_threads(sleepers: Sleepers) -> None:
    run = treadle.map(sleepers.sleep, range(100))

    sleepers.wait_until_begun(32)

    assert run.stats.workers == 32
    assert run.stats.decision == "coroutines, at most 32 workers"
    run.close()


def test_a_coroutine_that_nobody_would_await_is_a_failure_that_says_so() -> None:
    with pytest.raises(treadle.WrongType, match=r"what fn returns .*not the coroutine double\(\).*engine='coroutines'"):
        list(treadle.map(lambda number: double(number), [1]))  # it hides what it is
    with treadle.PoolExecutor() as pool, pytest.raises(treadle.WrongType, match="which nobody awaits"):
        pool.submit(lambda: double(1)).result()


@pytest.mark.parametrize("place", PLACES)
def test_what_only_turns_out_to_be_awaitable_is_awaited_where_that_was_said(place: str) -> None:
    with Calls(place, lambda number: double(number), range(3), engine="coroutines") as calls:
        assert [end.value for end in calls.ends()] == [0, 2, 4]


def test_what_cannot_be_awaited_is_a_failure_that_says_so() -> None:
    with pytest.raises(treadle.WrongType, match="what fn returns must be awaitable where engine='coroutines', not 1"):
        list(treadle.map(abs, [-1], engine="coroutines"))


def test_an_asynchronous_generator_is_refused() -> None:
    async def generate(number: int) -> AsyncIterator[int]:
        yield number

    with pytest.raises(treadle.WrongType, match="the asynchronous generator function"):
        treadle.map(generate, [1])


def test_stages_and_visits_may_be_coroutine_functions() -> None:
    async def children(node: int) -> list[int]:
        return [2 * node, 2 * node + 1] if node < 4 else []

    async def is_even(number: int) -> bool:
        return number % 2 == 0

    async def twice(number: int) -> list[int]:
        return [number, number]

    flow = treadle.pipeline(range(4)).filter(is_even).map(double).flat_map(twice)

    assert list(flow) == [0, 0, 4, 4]
    assert sorted(treadle.traverse(children, [1])) == [1, 2, 3, 4, 5, 6, 7]


# Cancellation


@pytest.mark.parametrize("place", PLACES)
def test_a_call_that_is_asked_to_end_is_cancelled_as_asyncio_does(place: str, sleepers: Sleepers) -> None:
    with Calls(place, sleepers.sleep, range(3), max_workers=3) as calls:
        sleepers.wait_until_begun(3)
        calls.stop()

        assert [end.status for end in calls.ends()] == ["cancelled"] * 3
    assert sleepers.cancelled == 3


@pytest.mark.parametrize("place", PLACES)
def test_a_call_that_takes_too_long_is_cancelled(place: str, sleepers: Sleepers) -> None:
    with Calls(place, sleepers.sleep, range(2), max_workers=1, call_timeout=0.05) as calls:
        assert [end.status for end in calls.ends()] == ["timed_out"] * 2
    assert sleepers.cancelled == 2


@pytest.mark.parametrize("place", PLACES)
def test_a_cancelled_error_that_nobody_asked_for_is_a_failure(place: str) -> None:
    async def cancel_itself(_: int) -> None:
        raise asyncio.CancelledError("mine")

    with Calls(place, cancel_itself, [1]) as calls:
        (end,) = calls.ends()

    assert end.status == "failed"
    assert isinstance(end.error, asyncio.CancelledError)


def test_a_call_finds_out_by_looking_and_so_do_the_tasks_it_starts() -> None:
    seen: list[str] = []

    async def look(whose: str) -> None:
        while True:
            try:
                treadle.check_cancelled()
                await asyncio.sleep(0)
            except treadle.Cancelled:
                seen.append(whose)
                return
            except asyncio.CancelledError:
                pass  # not to be told so

    async def call(_: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(look("inner"))
            await look("own")

    with treadle.TaskGroup() as group:
        group.submit(call, 1)
        wait_until(lambda: group.stats.running == 1)
        group.cancel()

    assert sorted(seen) == ["inner", "own"]


def test_callbacks_for_a_cancellation_are_called(sleepers: Sleepers) -> None:
    called: list[str] = []

    async def call(_: int) -> object:
        with treadle.on_cancel(called.append, "cancelled"):
            return await sleepers.sleep()

    with treadle.map(call, [1]):
        sleepers.wait_until_begun()

    assert called == ["cancelled"]


def test_what_takes_no_notice_of_its_cancellation_is_left_behind_and_its_slot_replaced(
    sleepers: Sleepers, over: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    async def call(item: str) -> str:
        return await sleepers.sleep_stubbornly(over) if item == "stuck" else item

    with ManualClock() as clock:
        run = treadle.map(call, ["stuck", "fine"], max_workers=1, call_timeout=10, grace=2)
        sleepers.wait_until_begun()
        make_late(run, clock, 10, 2)
        outcomes = list(run.outcomes())

    assert [(outcome.status, outcome.abandoned) for outcome in outcomes] == [("timed_out", True), ("succeeded", False)]
    wait_until(lambda: "leaves a coroutine behind: the call for item 0 ('stuck')" in caplog.text)


def test_each_call_is_a_task_of_its_own_with_nothing_left_of_the_one_before() -> None:
    """One that swallowed its cancellation must not have the next one cancelled, or think that it is."""
    tasks: list[asyncio.Task[Any] | None] = []

    async def call(item: int) -> int:
        task = asyncio.current_task()
        tasks.append(task)
        assert task is not None
        assert task.cancelling() == 0
        if item == 0:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.sleep(0)
        return item

    assert list(treadle.map(call, range(3), max_workers=1)) == [0, 1, 2]
    assert len(set(tasks)) == 3


def test_whoever_cancels_all_tasks_of_the_loop_ends_calls_and_not_the_run() -> None:
    async def call(item: int) -> int:
        if item == 0:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        return item

    results = list(treadle.map(call, range(100), max_workers=4, chunksize=1).outcomes())

    assert [outcome.index for outcome in results] == list(range(100))
    assert results[-1].status == "succeeded"


# A loop that is held up


def test_a_coroutine_that_holds_up_the_loop_does_not_hold_us_and_the_log_says_where(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async def block(_: int) -> object:
        return gate.hold()

    run = treadle.map(block, [1, 2], max_workers=2)
    gate.wait_for_arrivals()

    run.close()

    assert next(outcome.status for outcome in run.rest()) == "cancelled"
    assert run.stats.abandoned >= 1
    assert "leaves a coroutine behind: the call for item 0 (1)" in caplog.text
    assert "whose event loop is held up at" in caplog.text
    assert ", in hold" in caplog.text or not is_gil_enabled()
    gate.open()


@pytest.mark.parametrize(
    ("wait", "instead"),
    [
        (lambda: treadle.sleep(1), r"await asyncio\.sleep\(\)"),
        (lambda: list(treadle.map(abs, [1])), "async for"),
        (lambda: treadle.TaskGroup().__enter__(), r"asyncio\.TaskGroup"),
        (lambda: treadle.Limiter(max_concurrent=1).__enter__(), "async with limiter"),
        (lambda: treadle.Channel(1).get(), "nowait"),
        (lambda: treadle.Guarded(0).wait_for(bool), "treadle.to_thread"),
        (lambda: treadle.shield(1).__enter__(), r"asyncio\.shield"),
    ],
)
def test_a_wait_of_ours_that_would_hold_up_the_loop_says_what_to_do_instead(
    wait: Callable[[], object], instead: str
) -> None:
    async def call(_: int) -> None:
        wait()

    with pytest.raises(treadle.BlocksEventLoop, match=instead):
        list(treadle.map(call, [1]))


def test_waiting_for_a_task_that_has_ended_is_no_wait(nap: Nap) -> None:
    async def call(pool: treadle.PoolExecutor) -> int:
        task = pool.submit(abs, -1)
        await asyncio.wrap_future(task)
        unfinished = pool.submit(nap)
        with pytest.raises(treadle.BlocksEventLoop, match="wrap_future"):
            unfinished.result()
        unfinished.cancel()
        return task.result()

    with treadle.PoolExecutor() as pool:
        assert list(treadle.map(call, [pool])) == [1]


@pytest.fixture
def nap() -> Nap:
    return Nap()


# The limiter


@pytest.mark.parametrize("place", PLACES)
def test_calls_pass_the_gate_while_the_loop_goes_on(place: str) -> None:
    inside, most = 0, 0

    two_are_here: asyncio.Event | None = None

    async def call(item: int) -> int:
        nonlocal inside, most, two_are_here
        two_are_here = two_are_here or asyncio.Event()
        inside += 1
        most = max(most, inside)
        if inside == 2:
            two_are_here.set()
        await two_are_here.wait()
        inside -= 1
        return item

    limiter = treadle.Limiter(max_concurrent=2)
    with Calls(place, call, range(20), limiter=limiter, max_workers=10) as calls:
        assert [end.value for end in calls.ends()] == list(range(20))
    assert most == 2


def test_threads_and_coroutines_share_one_gate() -> None:
    limiter = treadle.Limiter(max_concurrent=1)
    inside: list[str] = []

    def pass_by() -> None:
        with limiter:
            inside.append("thread")
            assert len(inside) == 1
            inside.pop()

    async def pass_awaiting() -> None:
        async with limiter:
            inside.append("coroutine")
            await asyncio.sleep(0)
            assert len(inside) == 1
            inside.pop()

    with treadle.TaskGroup() as threaded, treadle.TaskGroup() as awaiting:
        for _ in range(50):
            threaded.submit(pass_by)
            awaiting.submit(pass_awaiting)


def test_coroutines_of_one_loop_hold_their_places_each_for_itself() -> None:
    """In a plain program too: what one has entered, another on the same thread has not."""
    limiter = treadle.Limiter(max_concurrent=1)
    order: list[str] = []

    async def enter_twice(name: str) -> None:
        async with limiter:
            order.append(f"{name} in")
            await asyncio.sleep(0)
            async with limiter:  # in its own place
                await asyncio.sleep(0)
            order.append(f"{name} out")

    async def main() -> None:
        await asyncio.gather(*(enter_twice(name) for name in "abc"))

    asyncio.run(main())

    assert order == ["a in", "a out", "b in", "b out", "c in", "c out"]


def test_a_coroutine_that_is_cancelled_at_the_gate_leaves_the_line() -> None:
    limiter = treadle.Limiter(max_concurrent=1)

    async def enter() -> None:
        async with limiter:
            pass

    async def main() -> None:
        async with limiter:
            waiting = asyncio.create_task(enter(), context=None)
            await asyncio.sleep(0)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        await asyncio.wait_for(enter(), PATIENCE_SECONDS)

    asyncio.run(main())


@pytest.mark.parametrize("place", PLACES)
def test_a_call_that_waits_at_the_gate_is_cancelled_there(place: str, sleepers: Sleepers) -> None:
    limiter = treadle.Limiter(max_concurrent=1)
    with Calls(place, sleepers.sleep, range(3), max_workers=3, limiter=limiter) as calls:
        sleepers.wait_until_begun()
        calls.stop()

        statuses = [end.status for end in calls.ends()]
    assert statuses[0] == "cancelled"
    assert set(statuses[1:]) <= {"cancelled", "not_started"}
    with limiter:
        pass  # nobody is left inside


# Retries, hedges, resources


@pytest.mark.parametrize("place", PLACES)
def test_a_failed_call_is_made_again(place: str) -> None:
    attempts = itertools.count(1)

    async def fail_once(item: int) -> int:
        await asyncio.sleep(0)
        if next(attempts) == 1:
            raise ConnectionError
        return item

    with Calls(place, fail_once, [7], retry=treadle.Retry(retry_on=ConnectionError, backoff=0.001)) as calls:
        assert calls.ends()[0].value == 7


def test_a_slow_call_is_started_a_second_time_and_the_loser_cancelled(sleepers: Sleepers) -> None:
    attempts = itertools.count(1)

    async def call(item: int) -> object:
        return await sleepers.sleep() if next(attempts) == 1 else item

    assert list(treadle.map(call, [7], hedge=treadle.Hedge(after=0.01, max_extra=1.0))) == [7]
    wait_until(lambda: sleepers.cancelled == 1)


def test_no_two_calls_at_once_have_the_same_resource() -> None:
    opened = itertools.count(1)
    in_use: set[int] = set()

    async def connect() -> int:
        return next(opened)

    async def call(item: int, connection: int) -> int:
        assert connection not in in_use
        in_use.add(connection)
        await asyncio.sleep(0)
        in_use.remove(connection)
        return item

    assert list(treadle.map(call, range(100), resource=connect, max_workers=5)) == list(range(100))
    assert next(opened) <= 6


def test_each_resource_is_closed_before_the_run_is_over() -> None:
    diary: list[str] = []

    class Session:
        async def __aenter__(self) -> Self:
            diary.append("open")
            return self

        async def __aexit__(self, *_: object) -> None:
            await asyncio.sleep(0)
            diary.append("closed")

    async def call(item: int, session: Session) -> int:
        assert isinstance(session, Session)
        return item

    assert list(treadle.map(call, range(20), resource=Session, max_workers=4)) == list(range(20))
    assert diary.count("open") == diary.count("closed") >= 1


# What runs inside


def test_a_call_may_wait_for_other_runs_executors_and_threads() -> None:
    async def call(number: int) -> list[object]:
        return [
            [result async for result in treadle.map(abs, [-number])],
            [result async for result in treadle.map(double, [number])],
            await treadle.to_thread(abs, -number),
            await asyncio.wrap_future(pool.submit(abs, -number)),
        ]

    with treadle.PoolExecutor() as pool:
        assert list(treadle.map(call, [1, 2])) == [[[1], [2], 1, 1], [[2], [4], 2, 2]]


def test_a_nested_run_is_cancelled_with_the_call(nap: Nap) -> None:
    async def call(_: int) -> None:
        async for _result in treadle.map(nap, [1]):
            pass

    with treadle.map(call, [1]):
        nap.wait_until_begun()

    wait_until(lambda: nap.cancelled == 1)


def test_each_call_sees_the_context_of_whoever_submits_it_and_keeps_its_own() -> None:
    async def call() -> str:
        found = _colour.get()
        _colour.set("painted over")
        await asyncio.sleep(0)
        return found

    with treadle.TaskGroup() as group:
        tasks = []
        for colour in ("blue", "red"):
            token = _colour.set(colour)
            tasks += [group.submit(call), group.submit(call)]
            _colour.reset(token)

    assert [task.result() for task in tasks] == ["blue", "blue", "red", "red"]


def test_the_current_task_is_known_in_the_call_and_in_tasks_that_it_starts() -> None:
    async def call() -> tuple[object, object]:
        async def inner() -> object:
            await asyncio.sleep(0)
            return treadle.current_task()

        return treadle.current_task(), await asyncio.create_task(inner())

    with treadle.TaskGroup() as group:
        tasks = [group.submit(call) for _ in range(3)]

    assert [task.result() for task in tasks] == [(task, task) for task in tasks]


def test_stray_tasks_are_cancelled_when_the_loop_ends() -> None:
    ended = threading.Event()
    strays: list[asyncio.Task[None]] = []

    async def stray() -> None:
        try:
            await asyncio.sleep(FOR_EVER_SECONDS)
        finally:
            ended.set()

    async def call(item: int) -> int:
        strays.append(asyncio.create_task(stray()))
        await asyncio.sleep(0)
        return item

    assert list(treadle.map(call, [1])) == [1]
    assert ended.wait(PATIENCE_SECONDS)


def test_a_stray_task_that_would_end_the_loop_ends_itself_alone(sleepers: Sleepers) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def call(item: int) -> int:
        if item == 0:
            stray = asyncio.create_task(leave())
            with suppress(SystemExit):
                await stray
        await asyncio.sleep(0)
        return item

    assert list(treadle.map(call, range(20), max_workers=5)) == list(range(20))


def test_an_executor_whose_loop_has_ended_gets_another() -> None:
    threads: list[threading.Thread] = []

    async def call() -> None:
        threads.append(threading.current_thread())

    with treadle.PoolExecutor() as pool:
        pool._book.crew.idle_seconds = 0.0
        for _ in range(3):
            pool.submit(call).result()
            wait_until(lambda: not threads[-1].is_alive())

    assert len(set(threads)) == 3


def test_an_initializer_that_fails_breaks_the_executor() -> None:
    async def refuse() -> None:
        raise ConnectionError("no")

    with treadle.PoolExecutor(initializer=refuse) as pool:
        task = pool.submit(double, 1)
        with pytest.raises(Exception, match="broken"):
            task.result()


def test_a_dump_shows_what_each_coroutine_is_at(sleepers: Sleepers) -> None:
    import io

    out = io.StringIO()
    with treadle.map(sleepers.sleep, ["a", "b"], name="naps"):
        sleepers.wait_until_begun(2)
        treadle.dump(out)

    assert "treadle-naps-0 has been at item 0 ('a')" in out.getvalue()
    assert "treadle-naps-1 has been at item 1 ('b')" in out.getvalue()


# The end of the program


def test_ctrl_c_ends_a_run_of_coroutines_at_once() -> None:
    program = start_program("""
    import asyncio, threading, treadle
    interruptible = threading.Event()
    async def call(item):
        try:
            interruptible.wait()
            print("begun", flush=True)
            await asyncio.sleep(1000)
        finally:
            print("cancelled", flush=True)
    run = treadle.map(call, [1])
    try:
        interruptible.set()
        list(run)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """)
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    program.send_signal(signal.SIGINT)

    status, out, err = finish(program)

    assert (status, err) == (0, "")
    assert sorted(out.split()) == ["cancelled", "interrupted"]


def test_an_interpreter_that_exits_finishes_what_was_submitted() -> None:
    program = start_program("""
    import asyncio, treadle
    async def call(item):
        await asyncio.sleep(0.1)
        print("done", item, flush=True)
    pool = treadle.PoolExecutor()
    pool.submit(call, 1)
    """)

    assert finish(program) == (0, "done 1\n", "")


def test_a_coroutine_that_never_lets_go_does_not_hold_the_exit() -> None:
    program = start_program("""
    import asyncio, threading, time, treadle
    begun = threading.Event()
    async def call(item):
        print("begun", flush=True)
        begun.set()
        time.sleep(1000)
    run = treadle.map(call, [1])
    begun.wait()
    """)

    status, out, err = finish(program)

    assert (status, out) == (0, "begun\n")
    assert "whose event loop is held up at" in err


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_after_a_fork_the_run_stays_with_its_parent(sleepers: Sleepers) -> None:
    with treadle.map(sleepers.sleep, [1]) as run:
        sleepers.wait_until_begun()
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                try:
                    next(run)
                except treadle.RunClosed:
                    ok = list(treadle.map(double, [1])) == [2]
                    os._exit(0 if ok else 1)
            os._exit(2)

        assert os.waitpid(pid, 0)[1] == 0


def test_the_log_is_quiet_when_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    list(treadle.map(double, range(100)))

    assert [record for record in caplog.records if record.name != "asyncio"] == []


def test_those_at_the_gate_leave_though_nobody_makes_room(gate: Gate) -> None:
    limiter = treadle.Limiter(max_concurrent=1)

    def hold() -> None:
        with limiter:
            gate.hold()

    with treadle.PoolExecutor() as pool:  # by another thread: calls share the places of whoever asks for them
        pool.submit(hold)
        gate.wait_for_arrivals()
        run = treadle.map(double, range(3), max_workers=3, limiter=limiter)
        wait_until(lambda: len(limiter._state().line) == 3)
        run.close()
        wait_until(lambda: "treadle-double-loop" not in [thread.name for thread in threading.enumerate()])
        gate.open()


def test_a_slot_that_rests_is_not_cancelled_with_all_tasks_of_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    barrier: list[asyncio.Event] = []

    async def meet() -> None:
        barrier.append(asyncio.Event())
        if len(barrier) == 2:
            for event in barrier:
                event.set()
        await barrier[0].wait()

    async def cancel_all() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    with treadle.PoolExecutor(max_workers=2) as pool:
        for task in [pool.submit(meet), pool.submit(meet)]:
            task.result()
        wait_until(lambda: len(pool._book.crew._idle) == 2)
        pool.submit(cancel_all).result()

    assert "died" not in caplog.text
