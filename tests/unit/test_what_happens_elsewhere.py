"""The answers of docs/what-happens-when.md that are an engine's own, as tests; the page names the test behind each."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import treadle
from tests.calls import FileGate
from tests.conftest import Gate
from tests.places import wait_until
from tests.programs import finish, start_program
from tests.unit.test_what_happens_when import PAGE, PLACES, QUESTIONS, fail

ANSWERS = {
    "processes": ("failure", "timeout", "close", "ctrl_c", "kill", "dead_worker", "nesting"),
    "coroutines": ("timeout", "dead_worker", "nesting"),
    "executors": ("timeout", "close", "dead_worker", "nesting"),
}


def test_each_answer_on_the_page_is_a_test_here() -> None:
    named = re.findall(r"<!-- (test_\w+) -->", PAGE.read_text(encoding="utf-8"))

    wanted = [f"test_{question}_in_{engine}" for engine, questions in ANSWERS.items() for question in questions]
    assert named[len(QUESTIONS) * len(PLACES) :] == wanted
    assert all(name in globals() for name in wanted)


@pytest.fixture
def file_gate(tmp_path: Path) -> Iterator[FileGate]:
    gate = FileGate(tmp_path)
    yield gate
    gate.open()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def spin(path: Path) -> None:
    """Hold the GIL for ever, where nobody hears anything."""
    path.write_text(str(os.getpid()))
    re.match(r"(a+)+$", "a" * 60 + "b")


def in_processes(fn: Any, items: Any, **options: Any) -> treadle.Run[Any, Any]:
    return treadle.map(fn, items, engine="processes", max_workers=1, **options)


def is_written(path: Path) -> bool:
    return path.exists() and path.read_text() != ""


# Processes


def test_failure_in_processes() -> None:
    with pytest.raises(ValueError, match="bad") as caught:
        list(in_processes(lambda _: fail(), [1], name="calls"))

    assert "in fail\n" in str(caught.value.__cause__)
    assert caught.value.__notes__ == ["treadle: item 0 of run 'calls': 1"]


def test_timeout_in_processes(tmp_path: Path) -> None:
    run = in_processes(
        lambda item: spin(item) if isinstance(item, Path) else item, [tmp_path / "pid", 2], call_timeout=1
    )
    outcomes = list(run.outcomes())

    assert [outcome.status for outcome in outcomes] == ["timed_out", "succeeded"]
    wait_until(lambda: is_gone(int((tmp_path / "pid").read_text())))


def test_close_in_processes(tmp_path: Path) -> None:
    run = in_processes(spin, [tmp_path / "pid"])
    wait_until(lambda: is_written(tmp_path / "pid"))
    run.close()

    assert [outcome.status for outcome in run.rest()] == ["cancelled"]
    wait_until(lambda: is_gone(int((tmp_path / "pid").read_text())))


PROGRAM = """
import os, sys, time, treadle

def call(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(1000)

if __name__ == "__main__":
    run = treadle.map(call, [{path!r}], engine="processes")
    try:
        open({path!r} + ".told", "w").close()
        next(run)
    except KeyboardInterrupt:
        print([outcome.status for outcome in run.rest()])
"""


def end_of_program(number: int, said: str, path: Path) -> None:
    """Send a program the signal when its process is busy, and see what it says, and that the process goes."""
    program = start_program(PROGRAM.format(path=str(path)))
    wait_until(lambda: is_written(path) and path.with_suffix(".told").exists())
    program.send_signal(number)
    _, out, err = finish(program)

    assert out == said
    assert "Traceback" not in err
    wait_until(lambda: is_gone(int(path.read_text())))


def test_ctrl_c_in_processes(tmp_path: Path) -> None:
    end_of_program(signal.SIGINT, "['cancelled']\n", tmp_path / "pid")


def test_kill_in_processes(tmp_path: Path) -> None:
    end_of_program(signal.SIGKILL, "", tmp_path / "pid")


def test_dead_worker_in_processes() -> None:
    run = in_processes(lambda item: os._exit(7) if item == 1 else item, [0, 1, 2], chunksize=1)
    outcomes = list(run.outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", "succeeded"]
    assert isinstance(outcomes[1].error, treadle.ProcessDied)
    assert "status 7" in str(outcomes[1].error)


def test_nesting_in_processes(file_gate: FileGate) -> None:
    def inner(item: int) -> object:
        return file_gate.hold(item)

    def outer(_: int) -> list[object]:
        return list(treadle.map(inner, [1, 2], engine="processes", max_workers=2))

    run = in_processes(outer, [1])
    pids = file_gate.wait_for_arrivals(2)
    run.close()
    wait_until(lambda: all(map(is_gone, pids)))

    with treadle.PoolExecutor(1, engine="processes") as pool:
        assert isinstance(pool.submit(pool.submit, abs, -1).exception(), treadle.NotPicklable)


# Coroutines


def test_timeout_in_coroutines(gate: Gate) -> None:
    heard: list[type[BaseException]] = []

    async def wait(_: int) -> None:
        try:
            await asyncio.sleep(3600)
        except BaseException as error:
            heard.append(type(error))
            raise

    async def block(_: int) -> object:
        return gate.hold()

    outcomes = list(treadle.map(wait, [1], call_timeout=0.05).outcomes())
    assert ([outcome.status for outcome in outcomes], heard) == (["timed_out"], [asyncio.CancelledError])

    with treadle.map(block, [1], grace=0) as run:
        gate.wait_for_arrivals()
    assert run.stats.abandoned == 1
    gate.open()


def test_dead_worker_in_coroutines() -> None:
    async def call(item: int) -> int:
        if item == 1:
            for task in asyncio.all_tasks():
                task.cancel()
            await asyncio.sleep(3600)
        return item

    outcomes = list(treadle.map(call, range(3), max_workers=1, chunksize=1).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", "succeeded"]
    assert isinstance(outcomes[1].error, asyncio.CancelledError)


def test_nesting_in_coroutines() -> None:
    async def ask(item: int) -> int:
        return sum([number async for number in treadle.map(abs, range(item))])

    async def block(item: int) -> int:
        return sum(treadle.map(abs, range(item)))

    assert list(treadle.map(ask, [3, 4])) == [3, 6]
    with pytest.raises(treadle.BlocksEventLoop, match="async for"):
        list(treadle.map(block, [3]))


# Executors of others


@pytest.fixture
def processes(multiprocessing_helpers: None) -> Iterator[Executor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        yield pool


def wait_for(gate: FileGate) -> None:
    """Hold the call, which hears nothing of its cancellation."""
    gate.hold()
    treadle.check_cancelled()


def test_timeout_in_executors(processes: Executor, file_gate: FileGate) -> None:
    processes.submit(abs, 1).result()
    (outcome,) = treadle.map(wait_for, [file_gate], engine=processes, call_timeout=1, grace=0).outcomes()

    assert (outcome.status, outcome.abandoned) == ("timed_out", True)
    (pid,) = file_gate.wait_for_arrivals()
    assert not is_gone(pid)
    file_gate.open()


def test_close_in_executors(processes: Executor, file_gate: FileGate) -> None:
    with treadle.map(file_gate.hold, range(10), engine=processes, max_workers=2, grace=0) as run:
        file_gate.wait_for_arrivals(2)

    statuses = [outcome.status for outcome in run.rest()]
    assert (statuses[:2], set(statuses[2:])) == (["cancelled", "cancelled"], {"not_started"})
    assert run.stats.abandoned == 2
    file_gate.open()


def test_dead_worker_in_executors(processes: Executor, file_gate: FileGate) -> None:
    run = treadle.map(file_gate.hold, range(10), engine=processes, max_workers=2)
    os.kill(file_gate.wait_for_arrivals(2)[0], signal.SIGKILL)

    with pytest.raises(BrokenProcessPool):
        list(run)
    file_gate.open()
    statuses = [outcome.status for outcome in run.rest()]
    assert (statuses[:2], set(statuses[2:])) == (["failed", "failed"], {"not_started"})


def test_nesting_in_executors() -> None:
    with ThreadPoolExecutor(2) as pool:

        def outer(item: int) -> int:
            return sum(treadle.map(abs, range(item), engine=pool, max_workers=1))

        assert list(treadle.map(outer, [3, 4], engine=pool, max_workers=1)) == [3, 6]

    with ThreadPoolExecutor(1) as narrow:
        run = treadle.map(lambda _: next(treadle.map(abs, [1], engine=narrow)), [1], engine=narrow, timeout=0.5)
        with pytest.raises(TimeoutError):
            list(run)
