"""Processes that die, whose parent dies, or that must be made to: what becomes of their calls; none is left."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

import treadle
from tests.calls import FileGate
from tests.conftest import PATIENCE_SECONDS
from tests.contract.engine_contract import make_chunk
from tests.contract.run_contract import is_alive
from tests.places import make_late, wait_until
from tests.programs import TIMEOUT_SECONDS
from treadle._engines import process_start
from treadle._engines.engine import CallPlan
from treadle._engines.process import ProcessEngine, wrap_plan
from treadle._engines.process_start import ChildProcess
from treadle._engines.process_surroundings import surroundings
from treadle._engines.process_wire import LineClosed
from treadle.testing import ManualClock


def in_processes(fn: Any, *iterables: Any, **options: Any) -> treadle.Run[Any, Any]:
    run: treadle.Run[Any, Any] = treadle.map(fn, *iterables, engine="processes", **options)
    return run


def open_engine(fn: Any) -> ProcessEngine:
    plan = CallPlan(fn, copy_context())
    engine = ProcessEngine(plan, wrap_plan(plan))
    engine.open()
    return engine


def wait_until_gone(*pids: int) -> None:
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.fixture
def file_gate(tmp_path: Path) -> FileGate:
    return FileGate(tmp_path)


# A process dies by itself


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (lambda: os._exit(3), "it exited with status 3"),
        (lambda: ctypes.string_at(0), "it was killed by SIGSEGV (Segmentation fault)"),
        (os.abort, "it was killed by SIGABRT (Aborted)"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "it was killed by SIGKILL (Killed, as the system does when"),
    ],
)
def test_a_process_that_dies_is_one_failed_call(death: Any, words: str) -> None:
    """The error says of what; the worker goes on with another process."""

    def call(item: int) -> int:
        if item == 2:
            death()
        return item

    run = in_processes(call, range(5), max_workers=1)
    outcomes = list(run.outcomes())

    assert [outcome.value for outcome in outcomes] == [0, 1, None, 3, 4]
    error = outcomes[2].error
    assert isinstance(error, treadle.ProcessDied)
    assert str(error).startswith(f"the process that made this call died: {words}")
    assert run.stats.failed == 1


def test_an_executor_goes_on_after_a_process_has_died() -> None:
    with treadle.PoolExecutor(max_workers=1, engine="processes") as pool:
        dead: treadle.Task[object] = pool.submit(os._exit, 1)
        after = pool.submit(abs, -1)

        assert isinstance(dead.exception(), treadle.ProcessDied)
        assert after.result() == 1


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_a_death_among_tiny_calls_loses_none_and_repeats_none(tmp_path: Path, chunksize: int | None) -> None:
    """Each call writes down that it was made. Those whose result was lost have failed, and say so.

    Results come back by the ``chunksize``, where one was given: those before were not lost.
    """
    diary = os.open(tmp_path / "diary", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.close(diary)

    def call(item: int) -> int:
        file = os.open(tmp_path / "diary", os.O_WRONLY | os.O_APPEND)
        os.write(file, b"%d\n" % item)
        os.close(file)
        if item % 500 == 321:
            os._exit(1)
        return item

    outcomes = list(in_processes(call, range(3000), max_workers=2, chunksize=chunksize).outcomes())

    made = Counter(int(line) for line in (tmp_path / "diary").read_text().split())
    assert made == Counter(range(3000)), "each call once"
    assert [outcome.index for outcome in outcomes] == list(range(3000))
    for outcome in outcomes:
        if outcome.status == "succeeded":
            assert outcome.value == outcome.item
            continue
        assert isinstance(outcome.error, treadle.ProcessDied)
        assert outcome.error.had_ended == (outcome.item % 500 != 321)
        if chunksize is not None:
            assert 321 - chunksize < outcome.item % 500 <= 321


class Fatal:
    """Kills whoever pickles it, or whoever makes it of its pickle."""

    def __init__(self, at: str) -> None:
        self.at = at

    def __reduce__(self) -> Any:
        if self.at == "pickling":
            os.kill(os.getpid(), signal.SIGKILL)
        return os._exit, (7,)


def test_a_process_that_dies_with_the_result_in_its_hands_is_not_asked_again() -> None:
    def call(item: int) -> object:
        return Fatal("pickling") if item == 1 else item

    outcomes = list(in_processes(call, range(3), max_workers=1).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", "succeeded"]
    assert isinstance(outcomes[1].error, treadle.ProcessDied)
    assert outcomes[1].error.had_ended
    assert "its result was lost" in str(outcomes[1].error)


def test_an_argument_that_kills_each_process_it_comes_to_is_given_up() -> None:
    outcomes = list(in_processes(repr, [1, Fatal("unpickling"), 3], max_workers=1).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", "succeeded"]
    assert isinstance(outcomes[1].error, treadle.ProcessDied)


def test_a_process_that_dies_while_it_gets_ready_ends_the_run() -> None:
    with pytest.raises(treadle.ProcessDied, match="status 5"):
        list(in_processes(abs, [1], initializer=os._exit, initargs=(5,)))


def test_a_process_that_dies_as_it_closes_its_resource_is_an_error() -> None:
    class Bomb:
        def close(self) -> None:
            os._exit(6)

    with pytest.raises(treadle.ProcessDied, match="status 6"):
        list(in_processes(lambda item, _: item, [1], resource=Bomb))


# Somebody kills it


def test_killed_while_idle() -> None:
    """Nothing had begun, so nothing has failed."""
    with treadle.PoolExecutor(max_workers=1, engine="processes") as pool:
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)

        assert pool.submit(abs, -1).result() == 1
        assert pool.submit(os.getpid).result() != pid


def test_killed_while_it_is_sent_an_argument() -> None:
    """It is stopped, so that the line is full; the call has not begun, and is made in another process."""
    engine = open_engine(len)
    engine.make_calls(make_chunk(["warm"]))
    pid = _pid_of_only_child()
    os.kill(pid, signal.SIGSTOP)
    chunk = make_chunk([bytes(20_000_000)])
    owner = threading.Thread(target=engine.make_calls, args=(chunk,))

    owner.start()
    wait_until(lambda: _unread(engine) > 0)
    os.kill(pid, signal.SIGKILL)
    owner.join(PATIENCE_SECONDS)

    assert chunk.results == [20_000_000]
    assert chunk.failures is None
    engine.close()


def test_what_is_lost_because_we_killed_it_was_cancelled() -> None:
    """Also if the call had ended by then: whose run has timed out hears of that, and of no death."""
    engine = open_engine(os.urandom)
    child = engine._child
    assert child is not None
    chunk, original = make_chunk([10]), child.wire.receive

    def receive(seconds: float | None = None) -> Any:
        wait_until(lambda: child.page[1] == 1)  # it has ended, and nobody takes the result off the line
        chunk.is_cancelled = True
        engine.kill()
        child.wire.receive = original  # type: ignore[method-assign]
        raise LineClosed

    child.wire.receive = receive  # type: ignore[method-assign]
    engine.make_calls(chunk)

    assert [type(error) for error in (chunk.failures or {}).values()] == [treadle.Cancelled]
    engine.close()


def test_killed_while_it_sends_a_result(file_gate: FileGate) -> None:
    """Half of the result has come: the call has ended, and is not made again."""
    engine = open_engine(lambda size: bytes(size))
    child = engine._child
    assert child is not None
    pid = _pid_of_only_child()
    original = child.wire.receive
    begun = threading.Event()

    def receive(seconds: float | None = None) -> Any:
        wait_until(lambda: child.page[1] == 1)  # it has begun to report, and nobody takes it off the line
        os.kill(pid, signal.SIGKILL)
        begun.set()
        return original(seconds)

    child.wire.receive = receive  # type: ignore[method-assign]
    engine.make_calls(chunk := make_chunk([20_000_000]))

    assert begun.is_set()
    assert chunk.failures is not None
    error = chunk.failures[0]
    assert isinstance(error, treadle.ProcessDied)
    assert error.had_ended
    engine.close()


def test_a_copy_of_the_line_in_a_grandchild_does_not_hide_a_death(tmp_path: Path) -> None:
    """The call forks, by a library, so that Python does not know; the copy lives on, with all that was open."""

    def call(path: Path) -> None:
        if (pid := ctypes.PyDLL(None).fork()) == 0:
            time.sleep(1000)
        path.write_text(str(pid))
        os._exit(4)

    (outcome,) = in_processes(call, [tmp_path / "copy"]).outcomes()

    assert isinstance(outcome.error, treadle.ProcessDied)
    copy = int((tmp_path / "copy").read_text())
    assert is_alive(copy), "it was not waited for"
    os.kill(copy, signal.SIGKILL)


def test_the_keeper_may_be_killed() -> None:
    """No call was in hand, so none has failed; the next process gets another keeper."""
    with treadle.PoolExecutor(max_workers=1, engine="processes") as pool:
        pool.submit(abs, 1).result()
        assert process_start._keeper is not None
        keeper = process_start._keeper[0]
        os.kill(keeper, signal.SIGKILL)

        assert pool.submit(abs, -2).result() == 2
        assert list(in_processes(abs, [-3])) == [3]

    assert process_start._keeper is not None
    assert process_start._keeper[0] != keeper


# It has to be made to end


def test_a_call_that_holds_the_gil_is_killed_at_its_timeout(file_gate: FileGate) -> None:
    """A thread could do nothing about this one; nor does the process notice anything."""

    def backtrack(item: str) -> object:
        if item == "next":
            return item
        file_gate.open()
        return re.match(r"(a+)+$", item)

    with ManualClock() as clock:
        run = in_processes(backtrack, ["a" * 60 + "b", "next"], max_workers=1, call_timeout=10, grace=2)
        file_gate.hold()
        make_late(run, clock, 10, 2)
        outcomes = list(run.outcomes())

    assert [outcome.status for outcome in outcomes] == ["timed_out", "succeeded"]
    assert run.stats.abandoned == 0


def test_a_call_that_ignores_every_signal_is_killed_when_the_run_is_closed(file_gate: FileGate) -> None:
    def call(_: int) -> object:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        return file_gate.hold()

    run = in_processes(call, [1, 2], max_workers=2)
    pids = file_gate.wait_for_arrivals(2)

    run.close()

    wait_until_gone(*pids)
    assert run.stats.abandoned == 0


def test_a_call_that_has_left_its_process_group_is_killed(file_gate: FileGate) -> None:
    def call(_: int) -> object:
        os.setpgid(0, os.getpgid(os.getppid()))
        return file_gate.hold()

    run = in_processes(call, [1])
    pids = file_gate.wait_for_arrivals()

    run.close()

    wait_until_gone(*pids)


def _sleep_and_tell(folder: Path) -> None:
    (folder / "begun").touch()
    treadle.sleep(1000)


def _nobody_waits_to_kill() -> bool:
    return all(thread.name != "treadle-timekeeper" for thread in threading.enumerate())


def test_no_timer_is_left_behind_by_calls_that_heeded_their_end(tmp_path: Path) -> None:
    """Nobody waits for the grace to pass with all of the run in its hands."""
    run = in_processes(_sleep_and_tell, [tmp_path], grace=1000)
    wait_until((tmp_path / "begun").exists)
    run.close()

    wait_until(_nobody_waits_to_kill)


def test_no_timer_is_left_behind_by_a_task_that_heeded_its_end(tmp_path: Path) -> None:
    """Its worker goes on."""
    with treadle.PoolExecutor(max_workers=1, engine="processes", grace=1000) as pool:
        task = pool.submit(_sleep_and_tell, tmp_path)
        wait_until((tmp_path / "begun").exists)
        task.cancel()
        assert pool.submit(abs, -1).result() == 1

        wait_until(_nobody_waits_to_kill)


def test_a_task_that_is_cancelled_and_does_not_heed_it_is_killed(file_gate: FileGate) -> None:
    """Its executor goes on."""
    with treadle.PoolExecutor(max_workers=1, engine="processes", grace=0.05) as pool:
        deaf = pool.submit(file_gate.hold)
        pids = file_gate.wait_for_arrivals()

        assert not deaf.cancel()
        wait_until(deaf.cancelled)

        assert pool.submit(abs, -1).result() == 1
    wait_until_gone(*pids)


def test_the_slower_of_two_attempts_is_killed(file_gate: FileGate, tmp_path: Path) -> None:
    """It is asked to end, as the loser of any hedge, and does not heed it."""

    def call(item: int) -> int:
        if item == 3:
            try:
                (tmp_path / "attempted").touch(exist_ok=False)
            except FileExistsError:
                return item
            file_gate.hold()
        return item

    run = in_processes(call, range(6), max_workers=3, hedge=treadle.Hedge(0.05, max_extra=1.0), grace=0.05)
    pids = file_gate.wait_for_arrivals()

    assert list(run) == list(range(6))
    wait_until_gone(*pids)


def test_what_a_killed_call_had_started_is_killed_with_it(tmp_path: Path) -> None:
    def call(path: Path) -> None:
        process = subprocess.Popen(["sleep", "1000"])
        path.write_text(f"{process.pid} {os.getpid()} ")
        process.wait()

    (outcome,) = in_processes(call, [tmp_path / "pid"], call_timeout=0.5, grace=0.01).outcomes()

    assert outcome.status == "timed_out"
    wait_until_gone(*map(int, (tmp_path / "pid").read_text().split()))


def test_nested_processes_are_killed_with_the_outer_call(file_gate: FileGate) -> None:
    def inner(_: int) -> object:
        return file_gate.hold()

    def outer(_: int) -> object:
        return list(treadle.map(inner, [1, 2], engine="processes", max_workers=2))

    run = in_processes(outer, [1])
    pids = file_gate.wait_for_arrivals(2)

    run.close()

    wait_until_gone(*pids)


def test_an_initializer_that_hangs_does_not_hold_the_end(file_gate: FileGate) -> None:
    run = in_processes(abs, [1], initializer=file_gate.hold, timeout=0.5)
    pids = file_gate.wait_for_arrivals()

    with pytest.raises(TimeoutError):
        list(run)

    wait_until_gone(*pids)


def test_results_do_not_wait_for_the_slow_call_behind_them(file_gate: FileGate) -> None:
    """They were handed over together; what is done by then comes back, and so does what has not begun."""

    def call(item: int) -> object:
        return file_gate.hold(item) if item == 40 else item

    engine = open_engine(call)
    engine._fitting = 64
    chunk = make_chunk(list(range(64)))
    owner = threading.Thread(target=engine.make_calls, args=(chunk,))
    owner.start()

    wait_until(lambda: len(chunk.results) == 40 and len(chunk.todo) == 23)
    tail = chunk.split(10)
    file_gate.open()
    owner.join()

    assert tail is not None
    assert tail.items == list(range(54, 64))
    assert chunk.results == list(range(54))
    engine.close()


# Its worker leaves it


@pytest.mark.parametrize("place", ["the initializer", "a call"])
def test_a_process_whose_worker_leaves_meanwhile_has_nothing_to_say(
    place: str, file_gate: FileGate, capfd: pytest.CaptureFixture[str]
) -> None:
    """It finds nobody to answer, and ends: a program that ends as its processes start shows no traceback of ours."""
    child = ChildProcess()
    if place == "the initializer":
        plan = CallPlan(abs, copy_context(), initializer=file_gate.hold)
        child.wire.send(("open", None, surroundings(), wrap_plan(plan)))
    else:
        child.wire.send(("open", None, surroundings(), wrap_plan(CallPlan(file_gate.hold, copy_context()))))
        assert child.wire.receive() is None
        child.wire.send(("calls", 1, False, False, [1, 2]))
    pids = file_gate.wait_for_arrivals()

    child.let_go()
    file_gate.open()

    wait_until_gone(*pids)
    assert capfd.readouterr().err == ""


# The parent


PARENT = """
import os, re, signal, sys, time, treadle

def spin(path):
    open(path, "w").write(str(os.getpid()))
    re.match(r"(a+)+$", "a" * 60 + "b")

def sleep(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(1000)

def idle(path):
    open(path, "w").write(str(os.getpid()))

folder = sys.argv[1]
pool = treadle.PoolExecutor(engine="processes", max_workers=3)
pool.submit(spin, folder + "/spin")
pool.submit(sleep, folder + "/sleep")
pool.submit(idle, folder + "/idle").result()
{then}
"""


def restore_ctrl_c() -> None:
    """Whatever started the tests may ignore it, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start_parent(tmp_path: Path, then: str, **options: Any) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a program that has a process for each kind of work, and return these processes' numbers too."""
    source = PARENT.format(then=textwrap.dedent(then))
    process = subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restore_ctrl_c,
        **options,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    paths = [tmp_path / name for name in ("spin", "sleep", "idle")]
    wait_until(lambda: all(path.exists() and path.read_text() for path in paths))
    return process, [int(path.read_text()) for path in paths]


def test_no_process_survives_a_parent_that_was_killed(tmp_path: Path) -> None:
    """Also not those that are busy, and never look up."""
    process, pids = start_parent(tmp_path, "print('ready', flush=True); time.sleep(1000)")

    with process:
        process.kill()
        process.wait(TIMEOUT_SECONDS)
        wait_until_gone(*pids)


@pytest.mark.parametrize("fork", ["os.fork()", "__import__('ctypes').PyDLL(None).fork()"])
def test_no_process_survives_a_parent_that_left_a_copy_of_itself(fork: str, tmp_path: Path) -> None:
    """The copy has all that was open, which must not look as if the parent were still there.

    Python tells us of a fork of its own; one that a library makes is found out by the keeper.
    """
    then = f"{fork} or time.sleep(1000)\nprint('ready', flush=True)\ntime.sleep(1000)"
    process, pids = start_parent(tmp_path, then, start_new_session=True)

    with process:
        process.kill()
        process.wait(TIMEOUT_SECONDS)
        try:
            wait_until_gone(*pids)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the copy


def test_no_process_survives_ctrl_c(tmp_path: Path) -> None:
    """At a terminal all in the foreground get the signal; what is killed is killed by us, after its grace."""
    then = """
        try:
            print("ready", flush=True)
            treadle.sleep(1000)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            os._exit(3)
    """
    process, pids = start_parent(tmp_path, then, start_new_session=True)

    with process:
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        assert (process.returncode, out) == (3, "interrupted\n"), err
        wait_until_gone(*pids)


def test_ctrl_c_ends_a_run_and_its_processes(tmp_path: Path) -> None:
    source = """
        import os, signal, sys, time, treadle
        def call(number):
            open(f"{sys.argv[1]}/{number}", "w").write(str(os.getpid()))
            time.sleep(1000)
        list(treadle.map(call, range(2), engine="processes", max_workers=2))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=restore_ctrl_c,
    )
    paths = [tmp_path / "0", tmp_path / "1"]
    wait_until(lambda: all(path.exists() and path.read_text() for path in paths))

    with process:
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)

    assert process.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1, "the processes have nothing to say about it"
    wait_until_gone(*[int(path.read_text()) for path in paths])


def test_an_interpreter_that_exits_finishes_what_was_submitted(tmp_path: Path) -> None:
    """As with threads; and then nothing is left."""
    source = """
        import os, sys, time, treadle
        def call(path):
            time.sleep(0.3)
            open(path, "w").write(str(os.getpid()))
        pool = treadle.PoolExecutor(engine="processes")
        pool.submit(call, sys.argv[1] + "/done")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(source), str(tmp_path)], check=True, timeout=TIMEOUT_SECONDS)

    wait_until_gone(int((tmp_path / "done").read_text()))


def test_a_forked_child_has_processes_of_its_own() -> None:
    """And a keeper of its own: that of the parent ends with the parent."""
    source = """
        import os, treadle
        def keeper(_):
            return os.getppid()
        print(*treadle.map(keeper, [1], engine="processes"), flush=True)
        if os.fork() == 0:
            print(*treadle.map(keeper, [2], engine="processes"), flush=True)
            os._exit(0)
        os.wait()
        print(*treadle.map(keeper, [3], engine="processes"), flush=True)
    """
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(source)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TIMEOUT_SECONDS,
    ).stdout

    before, of_the_child, after = out.split()
    assert before == after != of_the_child


# Nothing is left


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("end", ["is replaced", "dies"])
def test_restarts_leak_no_descriptor(count: int, end: str) -> None:
    def call(_: int) -> None:
        if end == "dies":
            os._exit(1)

    def descriptors() -> dict[int, int]:
        assert process_start._keeper is not None
        gc.collect()
        pids = (os.getpid(), process_start._keeper[0])
        return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids}

    if not Path("/proc/self/fd").exists():
        pytest.skip("there is nothing to count them by")
    list(in_processes(call, range(2), max_workers=2, max_tasks_per_child=1).outcomes())
    _wait_for_no_children()
    before = descriptors()

    run = in_processes(call, range(count), max_workers=2, max_tasks_per_child=1)
    assert sum(1 for _ in run.outcomes()) == count

    _wait_for_no_children()
    assert descriptors() == before


def test_a_process_has_nothing_of_the_others(file_gate: FileGate) -> None:
    """One that held another's line or leash would keep it from being noticed that it is closed."""

    def count(item: object) -> int:
        found = len(os.listdir("/proc/self/fd"))
        file_gate.hold(item)
        return found

    if not Path("/proc/self/fd").exists():
        pytest.skip("there is nothing to count them by")
    with treadle.PoolExecutor(max_workers=3, engine="processes") as pool:
        tasks = [pool.submit(count, item) for item in range(3)]
        file_gate.wait_for_arrivals(3)
        file_gate.open()

        assert len({task.result() for task in tasks}) == 1


def _children_of_keeper() -> list[int]:
    assert process_start._keeper is not None
    keeper = process_start._keeper[0]
    return [int(pid) for pid in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()]


def _wait_for_no_children() -> None:
    wait_until(lambda: not _children_of_keeper())


def _pid_of_only_child() -> int:
    wait_until(lambda: len(_children_of_keeper()) == 1)
    return _children_of_keeper()[0]


def _unread(engine: ProcessEngine) -> int:
    """Return how many bytes are on their way to the process."""
    import array
    import fcntl
    import termios

    child = engine._child
    if child is None or not isinstance(child.line, socket.socket):
        return 0
    found = array.array("i", [0])
    fcntl.ioctl(child.line, termios.TIOCOUTQ, found)
    return found[0]
