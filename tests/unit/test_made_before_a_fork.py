"""What a server makes as it loads, before it forks its workers, works in them where it was not in use."""

from __future__ import annotations

import os
import textwrap

import pytest

from tests.programs import finish, start_program

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

PREAMBLE = """
import asyncio, concurrent.futures, gc, os, sys, threading, time, warnings
import treadle
warnings.simplefilter("ignore")
def hold(lock):
    "Have another thread hold ``lock`` for good."
    is_held = threading.Event()
    def work():
        with lock:
            is_held.set()
            threading.Event().wait()
    threading.Thread(target=work, daemon=True).start()
    is_held.wait()
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


def test_an_executor_that_was_shut_down_while_another_thread_looks_at_it() -> None:
    """It is on no register of what lives any more; its locks have to be made anew all the same."""
    lines = lines_of_child("""
        pool = treadle.PoolExecutor(1)
        pool.submit(abs, -1).result()
        pool.shutdown()
        hold(pool._book._counting), hold(pool._book.crew.lock)
        in_child(lambda: pool.stats.succeeded, pool.shutdown)
    """)

    assert lines == ["1", "None"]


def test_an_executor_in_use_at_every_step_of_which_another_thread_is() -> None:
    lines = lines_of_child("""
        stuck = threading.Event()
        pool = treadle.PoolExecutor("auto", "busy")
        task = pool.submit(stuck.wait)
        book = pool._book
        hold(book._counting), hold(book.crew.lock), hold(book.crew.tuner._passing_on)
        hold(book._engine._choosing), hold(task._condition)
        def submit():
            pool.submit(abs, -3)
        def wait():
            return len(concurrent.futures.wait([task], timeout=0).not_done)
        in_child(lambda: pool.stats.succeeded, submit, wait, lambda: task.cancel(), pool.shutdown)
        os._exit(0)
    """)

    assert lines == [
        "0",
        "PoolClosed cannot schedule new futures: executor 'busy' belongs to the process that was forked",
        *("1", "False", "None"),
    ]


def test_an_executor_whose_engine_another_thread_chooses() -> None:
    """Nothing is pending then, nor chosen."""
    lines = lines_of_child("""
        pool = treadle.PoolExecutor(1)
        hold(pool._book._engine._choosing)
        in_child(lambda: pool.submit(abs, -3).result(10))
        os._exit(0)
    """)

    assert lines == ["3"]


def test_a_run_that_is_over() -> None:
    """What it came to can be had in the child, too, also where another thread is at its end."""
    lines = lines_of_child("""
        run = treadle.map(int, ["1", "x"], max_workers=1)
        try:
            list(run)
        except ValueError:
            pass
        hold(run._course.crew.lock), hold(run._course._over._cond)
        in_child(lambda: [outcome.item for outcome in run.rest()], run.close, lambda: run.stats.failed)
        os._exit(0)
    """)

    assert lines == ["['x']", "None", "1"]


def test_a_run_that_goes_on() -> None:
    lines = lines_of_child("""
        begun = threading.Event()
        run = treadle.map(lambda item: begun.set() or threading.Event().wait(), [1, 2], engine="auto", max_workers=1)
        threading.Thread(target=list, args=[run], daemon=True).start()
        begun.wait()
        hold(run._course.crew.lock), hold(run._course._decider._moving)
        in_child(lambda: next(run), run.close, lambda: run.stats.succeeded)
        os._exit(0)
    """)

    assert lines[0].startswith("RunClosed ")
    assert lines[1:] == ["None", "0"]


def test_what_is_called_again_and_again() -> None:
    """Also where it has stopped."""
    lines = lines_of_child("""
        going, stopped = treadle.every(60, int), treadle.every(60, int)
        stopped.stop()
        hold(going._lock), hold(stopped._lock)
        in_child(going.stop, stopped.stop)
        os._exit(0)
    """)

    assert lines == ["None", "None"]


def test_locks_of_the_whole_process() -> None:
    lines = lines_of_child("""
        from treadle._engines import process_start
        from treadle._sync import wait_graph, watching
        def wait():
            "Have a wait for a lock noted."
            lock, is_held = treadle.Lock(), threading.Event()
            def work():
                with lock:
                    is_held.set()
                    while not lock._line:
                        pass
            threading.Thread(target=work).start()
            is_held.wait()
            with lock:
                return "waited"
        def watch():
            with treadle.watch_locks():
                return type(threading.Lock()).__name__
        wait(), watch()
        hold(process_start._lock), hold(wait_graph._lock), hold(watching._lock)
        in_child(wait, watch, lambda: list(treadle.map(abs, [-1], engine="processes", max_workers=1)))
        os._exit(0)
    """)

    assert lines == ["waited", "WatchedLock", "[1]"]


def test_the_callback_of_a_cancellation_that_another_thread_runs() -> None:
    """The block waits for its end, but not in the child, where it never comes."""
    lines = lines_of_child("""
        begun, over = threading.Event(), threading.Event()
        def callback():
            begun.set()
            over.wait()
        def call():
            with treadle.on_cancel(callback):
                begun.wait()
                if child := os.fork():
                    os.waitpid(child, 0)
                    over.set()
            if not child:
                print("left", flush=True)
                os._exit(0)
        with treadle.TaskGroup() as group:
            task = group.submit(call)
            while not task.running():
                pass
            group.cancel()
    """)

    assert lines == ["left"]


def test_coroutines_are_the_parents_to_end() -> None:
    """Their loop's thread is not there. Collected, they would go through their last steps in the child as well."""
    lines = lines_of_child("""
        begun = threading.Event()
        async def wait(item):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                print("the last step", flush=True)
        run = treadle.map(wait, [1], max_workers=2)
        thread = threading.Thread(target=lambda: list(run.outcomes()))
        thread.start()
        begun.wait()
        host = run._course.crew.workers.__iter__().__next__()._host
        hold(host._lock)
        async def answer(item):
            return item
        in_child(lambda: gc.collect() * 0, lambda: list(treadle.map(answer, [1])))
        print("parent", flush=True)
        os._exit(0)
    """)

    assert lines == ["0", "[1]", "parent"]
