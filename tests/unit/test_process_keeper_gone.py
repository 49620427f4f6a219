"""The process that starts and ends all others is killed, or stopped: what runs ends all the same, none is left."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import treadle
from tests.calls import FileGate
from tests.contract.run_contract import is_alive
from tests.places import wait_until
from tests.programs import finish, start_program
from treadle._engines import process_lifeline, process_start
from treadle._engines.process_lifeline import Lifeline

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere, what holds the GIL lives on")

STUCK = """
    import os, re, signal, subprocess, sys, time, treadle
    from treadle._engines import process_start

    def tell(kind):
        with open(f"{folder}/{{kind}}.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(f"{folder}/{{kind}}.new", f"{folder}/{{kind}}")

    def call(kind):
        tell(kind)
        if kind == "computes":
            re.match("(a+)+$", "a" * 60 + "b")
        while kind == "waits":
            time.sleep(1000)
        if kind == "starts":
            with open(f"{folder}/started.new", "w") as file:
                file.write(str(subprocess.Popen(["sleep", "1000"]).pid))
            os.rename(f"{folder}/started.new", f"{folder}/started")
            time.sleep(1000)

    def end_keeper(fate):
        pid = process_start._keeper[0]
        os.kill(pid, fate)
        while fate == signal.SIGSTOP and "(stopped)" not in open(f"/proc/{{pid}}/status").read():
            time.sleep(0.001)

    pool = treadle.PoolExecutor(4, engine="processes")
    for kind in {kinds!r}:
        pool.submit(call, kind)
        while not os.path.exists(f"{folder}/{{kind}}"):
            time.sleep(0.001)
"""


def pid_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def wait_until_gone(*pids: int) -> None:
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.fixture
def keeper() -> int:
    """Return the number of the present keeper."""
    assert list(treadle.map(abs, [-1], engine="processes")) == [1]
    assert process_start._keeper is not None
    return process_start._keeper[0]


@on_linux
def test_a_stuck_call_ends_with_the_keeper(keeper: int, tmp_path: Path) -> None:
    """There is nobody left who could kill it; the others are made in processes of another keeper."""
    gate = FileGate(tmp_path)

    def call(item: int) -> object:
        return gate.hold(item) if item == 1 else item

    run = treadle.map(call, range(5), engine="processes", max_workers=2)
    pids = gate.wait_for_arrivals()
    wait_until(lambda: run.stats.succeeded == 3)  # the fifth is taken only as results are
    os.kill(keeper, signal.SIGKILL)
    outcomes = list(run.outcomes())

    assert [outcome.status for outcome in outcomes] == [
        *("succeeded", "failed", "succeeded", "succeeded", "succeeded"),
    ]
    assert isinstance(outcomes[1].error, treadle.ProcessDied)
    assert "watches" not in str(outcomes[1].error)
    wait_until_gone(*pids)


@pytest.mark.parametrize("end", ["close", "timeout", "call_timeout"])
def test_a_stopped_keeper_holds_no_end(keeper: int, end: str, tmp_path: Path) -> None:
    """It is made to go on, and kills what it is told to."""
    gate = FileGate(tmp_path)
    options: dict[str, Any] = {end: 0.2} if end != "close" else {}
    run = treadle.map(gate.hold, [1], engine="processes", max_workers=1, grace=0.05, **options)
    pids = gate.wait_for_arrivals()
    os.kill(keeper, signal.SIGSTOP)

    try:
        if end == "close":
            run.close()
        else:
            with pytest.raises(TimeoutError):
                list(run)
        wait_until_gone(*pids)
    finally:
        os.kill(keeper, signal.SIGCONT)


def test_a_stopped_keeper_holds_no_start(keeper: int) -> None:
    os.kill(keeper, signal.SIGSTOP)
    try:
        assert list(treadle.map(abs, [-1], engine="processes")) == [1]
    finally:
        os.kill(keeper, signal.SIGCONT)


@pytest.mark.parametrize("fate", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("end", ["exits", "is killed"])
@on_linux
def test_no_process_outlives_the_program_whatever_became_of_the_keeper(fate: str, end: str, tmp_path: Path) -> None:
    kinds = ["computes", "waits", "idles"]
    source = (
        STUCK.format(folder=tmp_path, kinds=kinds)
        + f"""
    end_keeper(signal.{fate})
    if {end == "is killed"}:
        os.kill(os.getpid(), signal.SIGKILL)
    pool.shutdown(wait=False, cancel_futures=True)
    os._exit(0)  # as at any exit: nothing of ours is called
    """
    )

    status, _, err = finish(start_program(source))

    assert status == (-signal.SIGKILL if end == "is killed" else 0), err
    wait_until_gone(*[pid_in(tmp_path / kind) for kind in kinds])


@on_linux
def test_what_calls_have_started_is_killed_by_a_keeper_that_was_stopped_when_the_program_ended(tmp_path: Path) -> None:
    source = (
        STUCK.format(folder=tmp_path, kinds=["starts"])
        + """
    while not os.path.exists(f"{folder}/started"):
        time.sleep(0.001)
    end_keeper(signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL)
    """.replace("{folder}", str(tmp_path))
    )

    finish(start_program(source))

    wait_until_gone(pid_in(tmp_path / "starts"), pid_in(tmp_path / "started"))


@on_linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_process_that_has_become_another_user_ends_with_the_keeper(keeper: int) -> None:
    """The system forgets what it was asked for."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        gate, nobody = FileGate(Path(folder)), (65534, 65534, 65534)
        run = treadle.map(gate.hold, [1], engine="processes", initializer=os.setresuid, initargs=nobody)
        pids = gate.wait_for_arrivals()

        os.kill(keeper, signal.SIGKILL)

        assert [outcome.status for outcome in run.outcomes()] == ["failed"]
        wait_until_gone(*pids)


@pytest.mark.parametrize("has_prctl", [True, False])
def test_a_child_ends_with_its_parent(has_prctl: bool) -> None:
    """Where the system does not see to it, a thread of the child waits for the end of a pipe."""
    if has_prctl and process_lifeline.find_prctl() is None:
        pytest.skip("there is no such function here")
    source = f"""
        import os, sys, time
        from treadle._engines import process_lifeline
        if not {has_prctl}:
            process_lifeline.find_prctl = lambda: None
        lifeline = process_lifeline.Lifeline()
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            lifeline.hold()
            os.write(writing, b".")
            time.sleep(1000)
        os.read(reading, 1)
        print(pid, flush=True)
        sys.stdin.read()
    """

    process = start_program(source)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert is_alive(child)
    finish(process)

    wait_until_gone(child)


def test_a_child_that_was_slower_than_the_end_of_its_parent_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *call: killed.append(call))
    lifeline = Lifeline()
    if lifeline._prctl is None:
        pytest.skip("there is no such function here")
    calls: list[tuple[Any, ...]] = []
    lifeline._prctl = lambda *call: calls.append(call)

    lifeline.renew()

    assert calls == [(1, signal.SIGKILL, 0, 0, 0)]
    assert killed == [(os.getpid(), signal.SIGKILL)], "this process is not a child of itself"
