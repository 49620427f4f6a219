"""What a server makes as it loads, before it forks its workers, works in them where it was not in use."""

from __future__ import annotations

import os
import textwrap

import pytest

from tests.programs import finish, start_program

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

PREAMBLE = """
import asyncio, os, sys, threading, time, warnings
import treadle
warnings.simplefilter("ignore")
def in_child(*calls):
    "Make calls in a forked child, and print what they come to."
    if (child := os.fork()) == 0:
        for call in calls:
            try:
                print(call(), flush=True)
            except Exception as error:
                print(type(error).__name__, error, flush=True)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0, "the child did not end well"
"""


def lines_of_child(body: str) -> list[str]:
    code, out, err = finish(start_program(PREAMBLE + textwrap.dedent(body)))
    assert code == 0, err
    assert err == ""
    return out.splitlines()


@pytest.mark.parametrize("engine", ["None", "'threads'", "'coroutines'", "'processes'"])
def test_an_executor_that_was_never_used(engine: str) -> None:
    lines = lines_of_child(f"""
        async def answer(number):
            return -number
        pool = treadle.PoolExecutor(2, engine={engine})
        fn = answer if {engine} == "coroutines" else abs
        in_child(lambda: pool.submit(fn, -3).result(10), lambda: pool.stats.taken, pool.shutdown)
        print(pool.submit(fn, -4).result(10))
    """)

    assert lines == ["3", "1", "None", "4"]


@pytest.mark.parametrize("engine", ["None", "'threads'", "'processes'"])
def test_an_executor_in_which_nothing_was_pending(engine: str) -> None:
    """Its threads stayed with the parent: it is made anew, and counts from the beginning."""
    lines = lines_of_child(f"""
        pool = treadle.PoolExecutor(2, engine={engine})
        for number in range(5):
            pool.submit(abs, number).result()
        in_child(lambda: pool.submit(abs, -3).result(10), lambda: pool.stats.taken, lambda: pool.stats.workers)
        in_child(lambda: list(pool.map(abs, [-1, -2])))
        print(pool.stats.taken)
    """)

    assert lines == ["3", "1", "1", "[1, 2]", "5"]


def test_an_executor_with_something_pending_is_the_parents() -> None:
    lines = lines_of_child("""
        stuck = threading.Event()
        pool = treadle.PoolExecutor(1, "busy")
        task = pool.submit(stuck.wait)
        in_child(lambda: pool.submit(abs, -3), task.result, pool.shutdown)
        stuck.set()
        print(task.result())
    """)

    belongs = "cannot schedule new futures: executor 'busy' belongs to the process that was forked"
    assert lines == [f"PoolClosed {belongs}", f"PoolClosed {belongs}", "None", "True"]


def test_an_executor_that_was_shut_down_stays_so() -> None:
    lines = lines_of_child("""
        pool = treadle.PoolExecutor(1, "done")
        pool.submit(abs, -1).result()
        pool.shutdown()
        in_child(lambda: pool.submit(abs, -3))
    """)

    assert lines == ["PoolClosed cannot schedule new futures: executor 'done' was shut down"]


def test_an_executor_of_the_child_finishes_its_work_at_exit() -> None:
    """It is as good as one made there, also where its name was on the parent's list."""
    lines = lines_of_child("""
        pool = treadle.PoolExecutor(1)
        pool.submit(abs, -1).result()
        def say_late():
            while threading.main_thread().is_alive():
                time.sleep(0.001)
            print("late", flush=True)
        in_child(lambda: [pool.submit(say_late) and None for _ in range(2)])
    """)

    assert lines == ["[None, None]", "late", "late"]


def test_one_fork_in_another() -> None:
    lines = lines_of_child("""
        pool = treadle.PoolExecutor(2)
        in_child(lambda: pool.submit(abs, -1).result(10), lambda: in_child(lambda: pool.submit(abs, -2).result(10)))
    """)

    assert lines == ["1", "2", "None"]


def test_the_pool_behind_to_thread() -> None:
    lines = lines_of_child("""
        asyncio.run(treadle.to_thread(abs, -1))
        in_child(lambda: asyncio.run(treadle.to_thread(abs, -2)))
    """)

    assert lines == ["2"]


def test_a_group_that_was_not_entered() -> None:
    lines = lines_of_child("""
        group = treadle.TaskGroup(name="later")
        def use():
            with group:
                return group.submit(abs, -2).result()
        in_child(use)
        print(use())
    """)

    assert lines == ["2", "2"]


def test_the_block_of_a_group_is_the_parents() -> None:
    """Its timeout is kept, and its end waited for, by the parent's threads."""
    lines = lines_of_child("""
        with treadle.TaskGroup(name="open") as group:
            in_child(lambda: group.submit(abs, -2))
            print(group.submit(abs, -3).result())
    """)

    assert lines[0].startswith("GroupClosed group 'open' belongs to the process that was forked")
    assert lines[1:] == ["3"]


def test_a_channel_and_a_limiter_that_nobody_uses() -> None:
    """Also where another thread was in the middle of a step at that moment, and held the lock."""
    lines = lines_of_child("""
        channel, limiter = treadle.Channel(2, name="orders"), treadle.Limiter(max_concurrent=1)
        channel.put(1), channel.get(), channel.task_done()
        def use():
            with limiter:
                channel.put(3)
            return channel.get()
        channel._lock.acquire(), limiter._state().lock.acquire()
        in_child(use, lambda: channel.closed)
    """)

    assert lines == ["3", "False"]


@pytest.mark.parametrize("use", ["channel.put(1)", "end = channel.producer()", "threading.Thread(target=get).start()"])
def test_a_channel_in_use_is_the_parents(use: str) -> None:
    lines = lines_of_child(f"""
        channel = treadle.Channel(2, name="orders")
        def get():
            try:
                channel.get()
            except treadle.ChannelClosed:
                pass
        {use}
        while not (len(channel) or channel._producers or channel._getters.waiting):
            pass
        in_child(lambda: channel.put(2))
        channel.close()
    """)

    (line,) = lines
    assert line.startswith("ChannelClosed channel 'orders' is closed in a forked process")


def test_a_resource_whose_lock_a_thread_of_the_parents_holds() -> None:
    lines = lines_of_child("""
        resource = treadle.Resource(lambda: 7, one_at_a_time=True)
        resource._locks.threads.acquire()
        in_child(lambda: list(treadle.map(lambda item, seven: item + seven, [1], resource=resource)))
    """)

    assert lines == ["[8]"]
