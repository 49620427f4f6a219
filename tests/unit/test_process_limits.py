"""The system has no room: for a process, a thread, what goes to a process or comes from it. What can go on goes on."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
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
from tests.places import wait_until
from tests.programs import finish, start_program
from treadle._core.gil import is_gil_enabled
from treadle._engines import process
from treadle._engines.engine import CallPlan, EngineBroken, NoRoom
from treadle._engines.process import ProcessEngine, wrap_plan
from treadle._engines.process_start import ChildProcess
from treadle._engines.process_wire import GIVE_BACK


def open_engine(fn: Any, **options: Any) -> ProcessEngine:
    plan = CallPlan(fn, copy_context(), **options)
    engine = ProcessEngine(plan, wrap_plan(plan))
    engine.open()
    return engine


class Room:
    """Lets so many processes be started."""

    def __init__(self, count: int, error: BaseException) -> None:
        self.count = count
        self._error = error
        self._lock = threading.Lock()

    def start(self) -> ChildProcess:
        with self._lock:
            self.count -= 1
            if self.count < 0:
                raise self._error
        return ChildProcess()


# Processes


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "many"), OSError(errno.EAGAIN, "again"), MemoryError()])
def test_a_run_goes_on_with_the_processes_that_there_are(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    gate = FileGate(tmp_path)
    monkeypatch.setattr(process, "ChildProcess", Room(2, error).start)

    with treadle.map(gate.hold, range(12), engine="processes", max_workers=6, buffersize=12) as run:
        gate.wait_for_arrivals(2)
        wait_until(lambda: any("with 2 workers" in message for message in caplog.messages))
        gate.open()
        assert list(run) == list(range(12))

    told = f"run 'hold' goes on with 2 workers for now: no further process starts ({str(error) or 'MemoryError'})"
    assert ("treadle", logging.WARNING, told) in caplog.record_tuples  # not always the last: each is told by its thread


def test_another_error_of_the_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ChildProcess", Room(0, OSError(errno.ENOENT, "no Python")).start)

    with pytest.raises(FileNotFoundError):
        list(treadle.map(abs, range(3), engine="processes"))


def test_the_run_ends_where_there_is_no_process_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's error, and nothing has failed that was not begun."""
    monkeypatch.setattr(process, "ChildProcess", Room(0, OSError(errno.EMFILE, "many")).start)
    run = treadle.map(abs, range(3), engine="processes", max_workers=2)

    with pytest.raises(OSError, match="many"):
        list(run)

    assert {outcome.status for outcome in run.rest()} == {"not_started"}


@pytest.mark.parametrize("options", [{}, {"call_timeout": 60}])
def test_an_item_whose_process_cannot_be_replaced_is_called_by_another_worker(
    options: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One call kills its process; the worker, which gets no other, leaves what it takes next to its peer."""
    gate = FileGate(tmp_path)
    monkeypatch.setattr(process, "ChildProcess", Room(2, OSError(errno.EMFILE, "many")).start)

    def call(item: int) -> object:
        if item == 0:
            gate.hold()
            os._exit(1)
        return gate.hold(item) if item == 1 else item

    run = treadle.map(call, range(8), engine="processes", max_workers=2, chunksize=1, buffersize=8, **options)
    outcomes = run.outcomes()
    gate.wait_for_arrivals(2)
    gate.open()

    assert [outcome.status for outcome in outcomes] == ["failed"] + 7 * ["succeeded"]


def test_what_is_done_of_a_chunk_stays_done_where_its_process_cannot_be_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_engine(lambda item: os._exit(1) if item == 2 else item)
    engine._fitting = 2
    chunk = make_chunk(list(range(6)))
    monkeypatch.setattr(process, "ChildProcess", Room(0, OSError(errno.EMFILE, "many")).start)

    with pytest.raises(NoRoom):
        engine.make_calls(chunk)

    assert chunk.results == [0, 1, None]
    assert list(chunk.failures or {}) == [2]
    assert chunk.todo == [5, 4, 3]


def test_the_keeper_may_have_no_room_either(tmp_path: Path) -> None:
    """It has the limits of the time when it was started: here room for three processes."""
    source = """
        import os, resource, treadle
        own = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (22, own[1]))
        print(*treadle.map(abs, [-1], engine="processes", max_workers=1), flush=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, own)
        run = treadle.map(abs, range(40), engine="processes", max_workers=20, chunksize=1, buffersize=40)
        print(list(run) == list(range(40)))
    """

    status, out, err = finish(start_program(source))

    assert (status, out) == (0, "1\nTrue\n"), err


# Processes that are killed before they have begun anything


def test_a_process_that_is_killed_as_it_starts_anew_costs_no_item(tmp_path: Path) -> None:
    """Twice, here; a call has ended the first one."""

    def initialize() -> None:
        with open(tmp_path / "starts", "a") as file:
            file.write(".")
        if len((tmp_path / "starts").read_text()) in (2, 3):
            os.kill(os.getpid(), signal.SIGKILL)

    def call(item: int) -> int:
        with open(tmp_path / "calls", "a") as file:
            file.write(f"{item}\n")
        if item == 1:
            os._exit(1)
        return item

    run = treadle.map(call, range(5), engine="processes", max_workers=1, initializer=initialize)
    statuses = [outcome.status for outcome in run.outcomes()]

    assert statuses == ["succeeded", "failed", "succeeded", "succeeded", "succeeded"]
    assert Counter((tmp_path / "calls").read_text().split()) == Counter("01234")


@pytest.mark.parametrize("deaths", [1, 2, 5])
def test_a_process_that_is_killed_before_it_takes_a_call_costs_no_item(
    deaths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often, within reason: it was nothing that it was sent."""
    engine = open_engine(abs)
    send, left = engine._exchange, [deaths]

    def exchange(*arguments: Any) -> None:
        if left[0]:
            left[0] -= 1
            assert engine._child is not None
            engine._child.kill()
            wait_until(lambda: _is_closed(engine))
        send(*arguments)

    monkeypatch.setattr(engine, "_exchange", exchange)
    chunk = make_chunk([-1, -2, -3])
    engine.make_calls(chunk)

    assert chunk.results == [1, 2, 3]
    assert chunk.failures is None
    engine.close()


def test_processes_that_are_killed_again_and_again_end_the_run_without_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_engine(abs)
    send = engine._exchange

    def exchange(*arguments: Any) -> None:
        assert engine._child is not None
        engine._child.kill()
        wait_until(lambda: _is_closed(engine))
        send(*arguments)

    monkeypatch.setattr(engine, "_exchange", exchange)
    chunk = make_chunk([-1, -2, -3])

    with pytest.raises(EngineBroken) as caught:
        engine.make_calls(chunk)

    assert isinstance(caught.value.error, treadle.ProcessDied)
    assert chunk.results == []
    assert sorted(chunk.todo) == [-3, -2, -1]


def test_an_initializer_that_fails_in_a_later_process_costs_no_item(tmp_path: Path) -> None:
    """The run ends with its error, as it does where the first one's fails."""

    def initialize() -> None:
        (tmp_path / "started").touch(exist_ok=False)

    run = treadle.map(abs, range(6), engine="processes", max_workers=1, initializer=initialize, max_tasks_per_child=2)

    with pytest.raises(FileExistsError) as caught:
        list(run)

    assert any("could not get ready" in note for note in caught.value.__notes__)
    assert run.stats.failed == 0


def test_a_resource_that_cannot_be_closed_as_its_process_is_replaced_costs_no_item(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def close(self) -> None:
            raise ValueError("cannot close")

    run = treadle.map(
        lambda item, _: item, range(5), engine="processes", max_workers=1, resource=Broken, max_tasks_per_child=2
    )
    outcomes = run.outcomes()
    values = [next(outcomes).value for _ in range(5)]

    with pytest.raises(ValueError, match="cannot close"):
        next(outcomes)
    assert values == [0, 1, 2, 3, 4]
    assert "closing the resource" in caplog.text


def test_a_run_that_is_closed_as_its_process_starts_anew_has_no_failure_of_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The process is killed in its initializer, by us."""
    gate = FileGate(tmp_path)

    def initialize() -> None:
        with open(tmp_path / "starts", "a") as file:
            file.write(".")
        if len((tmp_path / "starts").read_text()) == 2:
            gate.hold()

    run: treadle.Run[int, object] = treadle.map(
        os._exit, [1, 2, 3], engine="processes", max_workers=1, initializer=initialize, grace=0.01
    )
    outcomes = run.outcomes()
    assert next(outcomes).status == "failed"
    pids = gate.wait_for_arrivals()
    run.close()

    assert [outcome.status for outcome in run.rest()] == ["not_started"] * (run.stats.taken - 1)
    wait_until(lambda: not is_alive(pids[0]))
    assert not caplog.messages


def _is_closed(engine: ProcessEngine) -> bool:
    assert engine._child is not None
    try:
        return engine._child.line.recv(1, 0x40 | 0x02) == b""  # MSG_DONTWAIT | MSG_PEEK
    except BlockingIOError:
        return False
    except OSError:
        return True


# Memory


MEMORY = """
    import resource, sys, treadle

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (800_000_000, resource.RLIM_INFINITY))

    def call(what):
        if what == "takes much":
            return len(bytearray(900_000_000))
        if what == "takes much in little":
            found = []
            while True:
                found.append(bytearray(1_000_000))
        if what in ("returns much", "returns much of text"):
            return 380_000_000 * ("a" if what == "returns much of text" else b"a")
        return len(what)

    if {who!r} != "a process":
        limit()
    what = {what!r} if {what!r} != "much" else bytes(500_000_000 if {who!r} == "a process" else 380_000_000)
    run = treadle.map(call, ["1", what, "333"], engine="processes", max_workers=1, initializer=limit)
    print([(outcome.status, type(outcome.error).__name__) for outcome in run.outcomes()])
"""


@pytest.mark.parametrize("what", ["takes much", "takes much in little", "returns much", "returns much of text", "much"])
@pytest.mark.parametrize("who", ["a process", "the program and its processes"])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
@pytest.mark.skipif(not is_gil_enabled(), reason="this build reserves address space, which is what is limited")
def test_a_call_for_which_there_is_no_memory_is_one_failed_call(who: str, what: str) -> None:
    """Wherever it runs out: in the call, or as what it gets or returns is packed, sent, received or unpacked."""
    status, out, err = finish(start_program(MEMORY.format(who=who, what=what)))

    expected = [("succeeded", "NoneType"), ("failed", "MemoryError"), ("succeeded", "NoneType")]
    assert (status, out) == (0, f"{expected}\n"), err


# Threads


def _refuse(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def _start_no_thread(item: int = 0) -> int:
    import _thread

    _thread.start_new_thread = _refuse  # type: ignore[assignment]
    return item


def test_a_process_without_another_thread_gives_back_what_it_has_not_begun_later(tmp_path: Path) -> None:
    """Somebody asks for it while a call lasts: that is none of the call's business."""
    gate = FileGate(tmp_path)

    def call(item: int) -> object:
        if item == 0:
            return _start_no_thread()
        return gate.hold(item) if item == 3 else item

    engine = open_engine(call)
    engine._fitting = 8
    chunk = make_chunk(list(range(8)))
    owner = threading.Thread(target=engine.make_calls, args=(chunk,))
    owner.start()
    gate.wait_for_arrivals()
    wait_until(lambda: engine._child is not None and engine._child.page[GIVE_BACK] == engine._number)
    gate.open()
    owner.join(PATIENCE_SECONDS)

    assert chunk.results == list(range(8))
    assert chunk.failures is None
    engine.close()


def test_a_process_without_another_thread_hears_that_its_call_is_cancelled(tmp_path: Path) -> None:
    def call(_: int) -> None:
        _start_no_thread()
        (tmp_path / "begun").touch()
        treadle.sleep(1000)

    engine = open_engine(call)
    chunk = make_chunk([1])
    owner = threading.Thread(target=engine.make_calls, args=(chunk,))
    owner.start()
    wait_until((tmp_path / "begun").exists)
    chunk.mark_cancelled()
    engine.interrupt()
    owner.join(PATIENCE_SECONDS)

    assert [type(error) for error in (chunk.failures or {}).values()] == [treadle.Cancelled]
    engine.close()
