"""Groups and executors wait for their calls: at a block's end, in shutdown() and at the interpreter's exit.

They say for which ones, where a user will see it, and Ctrl-C twice leaves.
"""

from __future__ import annotations

import io
import logging
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

import treadle
from tests.asides import Aside
from tests.conftest import Gate
from tests.places import wait_until
from tests.programs import finish, lines_of, start_program
from treadle.testing import ManualClock

HOLDS = "holds the interpreter's exit, and waits for 1 call (Ctrl-C asks calls to end, Ctrl-C again leaves them behind)"
ASKED = "asked to end (Ctrl-C again leaves them behind)"


def interrupt_when_told(process: subprocess.Popen[str], *texts: str) -> Iterator[str]:
    """Send Ctrl-C each time that the next of ``texts`` is in what it writes to standard error; yield those lines."""
    lines = lines_of(process, errors=True)
    for text in texts:
        for line in lines:
            if text in line:
                process.send_signal(signal.SIGINT)
                yield line
                break
        else:
            raise AssertionError(f"it never said {text!r}")
    lines.close()


@pytest.mark.parametrize(
    "end", ["", "pool.shutdown(wait=False)", "pool.shutdown(False, cancel_futures=True)", "del pool"]
)
def test_an_exit_that_waits_for_a_stuck_task_says_so_and_ctrl_c_twice_leaves(end: str) -> None:
    """It is the standard library's meaning to wait; in silence, one would look for the reason elsewhere."""
    process = start_program(f"""
import queue, treadle
def wait_for_nothing():
    queue.Queue().get()
pool = treadle.PoolExecutor(2, "stuck")
task = pool.submit(wait_for_nothing)
while not task.running():
    pass
del task
{end}
""")

    told = list(interrupt_when_told(process, HOLDS, ASKED))
    code, _, err = finish(process)

    assert told[0].startswith("executor 'stuck' holds the interpreter's exit")
    assert "executor 'stuck' leaves a thread behind: the call for item 0 (wait_for_nothing())" in err
    assert (code, "Traceback" in err) == (0, False)


def test_ctrl_c_twice_leaves_an_exit_that_waits_for_several() -> None:
    """Not twice for each of them: whoever presses it wants to leave."""
    process = start_program("""
import queue, treadle
pools = [treadle.PoolExecutor(1, f"pool{number}") for number in range(3)]
tasks = [pool.submit(queue.Queue().get) for pool in pools]
while not all(task.running() for task in tasks):
    pass
""")

    list(interrupt_when_told(process, HOLDS, ASKED))
    code, _, err = finish(process)

    assert [f"executor 'pool{number}' leaves a thread behind" in err for number in range(3)] == [True] * 3
    assert (code, "Traceback" in err) == (0, False)


def test_the_first_ctrl_c_at_exit_asks_the_calls_of_all_executors() -> None:
    process = start_program("""
import treadle
pools = [treadle.PoolExecutor(1, f"pool{number}") for number in range(3)]
tasks = [pool.submit(treadle.sleep, 10_000) for pool in pools]
while not all(task.running() for task in tasks):
    pass
""")

    list(interrupt_when_told(process, HOLDS))
    code, _, err = finish(process)

    assert (code, err.count("leaves a thread behind"), "Traceback" in err) == (0, 0, False)


def test_with_a_grace_the_exit_asks_the_calls_and_leaves_them_behind() -> None:
    process = start_program("""
import queue, treadle
pool = treadle.PoolExecutor(1, "polite", grace=0.1)
task = pool.submit(queue.Queue().get)
while not task.running():
    pass
waiting = pool.submit(print, "never called")
""")

    code, out, err = finish(process)

    assert "executor 'polite' cancels 1 call at exit that has not begun" in err
    assert "executor 'polite' leaves a thread behind" in err
    assert (code, out) == (0, "")


def test_with_a_grace_shutdown_that_cancels_asks_what_runs_and_leaves_it_behind(gate: Gate) -> None:
    with ManualClock() as clock:
        pool = treadle.PoolExecutor(1, grace=7)
        held, waiting = pool.submit(gate.hold), pool.submit(abs, -1)
        gate.wait_for_arrivals()

        leaving = Aside(lambda: pool.shutdown(cancel_futures=True))
        leaving.wait_until_asleep(clock)
        clock.advance(7)
        leaving.value()

        assert held.cancelled()
        assert waiting.cancelled()
        assert pool.stats.abandoned == 1


def test_with_a_grace_shutdown_waits_for_what_was_submitted(gate: Gate) -> None:
    """The grace is for calls that were asked to end; here nobody has asked."""
    with ManualClock() as clock:
        pool = treadle.PoolExecutor(1, grace=1)
        held = pool.submit(gate.hold, "done")
        leaving = Aside(pool.shutdown)
        leaving.wait_until_asleep(clock)
        clock.advance(3)
        assert not leaving.is_over()
        gate.open()
        leaving.value()

        assert held.result() == "done"


@pytest.mark.parametrize("end", ["with pool: pass", "pool.shutdown()"])
def test_ctrl_c_twice_leaves_a_shutdown_in_the_main_thread(end: str) -> None:
    """The second one may come upon the request to end as well; nothing holds the exit after that."""
    process = start_program(f"""
import queue, threading, treadle
pool = treadle.PoolExecutor(1, "stuck")
task = pool.submit(queue.Queue().get)
while not task.running():
    pass
def say():
    while not pool._book._waiters:
        pass
    print("waiting", file=sys.stderr, flush=True)
    while pool._book.stopped_at is None:
        pass
    print("asked", file=sys.stderr, flush=True)
import sys
threading.Thread(target=say).start()
try:
    {end}
except KeyboardInterrupt:
    print("interrupted")
""")

    list(interrupt_when_told(process, "waiting", "asked"))
    code, out, err = finish(process)

    assert (code, out) == (0, "interrupted\n")
    assert "executor 'stuck' leaves a thread behind" in err


def test_a_report_names_three_calls_and_counts_the_others(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """Thirty stacks would hide what they have to say."""
    with ManualClock() as clock:
        group = treadle.TaskGroup(5, name="many")

        def wait_for_them() -> None:
            with group:
                for number in range(7):
                    group.submit(gate.hold, number)
                gate.wait_for_arrivals(5)

        waiting = Aside(wait_for_them)
        waiting.wait_until_asleep(clock)
        clock.advance(5)
        wait_until(lambda: bool(caplog.records))
        gate.open()
        waiting.value()

    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("group 'many' waits for 5 calls, and for 2 calls not begun (")
    assert message.count("has been at task") == 3
    assert message.endswith("\n  and 2 more")


def test_a_report_names_a_worker_that_does_not_get_ready(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """A stuck initializer is no call, and would otherwise be waited for in silence."""
    with ManualClock() as clock:
        pool = treadle.PoolExecutor(1, "slow-start", initializer=gate.hold)
        task = pool.submit(abs, -1)
        gate.wait_for_arrivals()
        waiting = Aside(pool.shutdown)
        waiting.wait_until_asleep(clock)
        clock.advance(5)
        wait_until(lambda: bool(caplog.records))
        gate.open()
        waiting.value()

    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("executor 'slow-start' waits for 0 calls, and for 1 call not begun (")
    assert "slow-start_0 gets ready" in message
    assert task.result() == 1


def test_a_report_names_a_task_between_two_attempts(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        failed.set()
        raise ValueError("not yet")

    failed = threading.Event()
    with ManualClock() as clock:
        pool = treadle.PoolExecutor(1, "again", retry=treadle.Retry(2, backoff=30, jitter=0))
        task = pool.submit(fail)
        failed.wait()
        wait_until(lambda: pool.stats.retried == 1)
        waiting = Aside(pool.shutdown)
        waiting.wait_until_asleep(clock)
        clock.advance(5)
        wait_until(lambda: bool(caplog.records))
        clock.advance(30)
        waiting.value()

    message = caplog.records[0].getMessage()
    assert "executor 'again' waits for 0 calls, and for 1 task between two attempts" in message
    assert isinstance(task.exception(), ValueError)


def test_a_handler_of_the_users_that_fails_does_not_end_the_wait(gate: Gate) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            called.set()
            raise OSError("no space left")

    called, handler = threading.Event(), Broken()
    logger = logging.getLogger("treadle")
    logger.addHandler(handler)
    try:
        with ManualClock() as clock:
            pool = treadle.PoolExecutor(1)
            task = pool.submit(gate.hold, "done")
            gate.wait_for_arrivals()
            waiting = Aside(pool.shutdown)
            waiting.wait_until_asleep(clock)
            clock.advance(5)
            assert called.wait(10)
            gate.open()
            waiting.value()
    finally:
        logger.removeHandler(handler)

    assert task.result() == "done"


def test_dump_and_repr_tell_how_many_calls_wait_for_a_worker(gate: Gate) -> None:
    """Two calls that are stuck look harmless, unless one sees that a hundred wait behind them."""
    with treadle.PoolExecutor(1, "full") as pool:
        pool.submit(gate.hold)
        gate.wait_for_arrivals()
        for _ in range(3):
            pool.submit(abs, -1)

        text = io.StringIO()
        treadle.dump(text)
        shown = repr(pool)
        gate.open()

    assert text.getvalue().startswith("executor 'full': 1 worker, and 3 calls waiting for one\n")
    assert shown == "<treadle.PoolExecutor 'full', is open: 4 unfinished, 3 of them not begun>"
    assert repr(pool) == "<treadle.PoolExecutor 'full', was shut down: 0 unfinished>"
