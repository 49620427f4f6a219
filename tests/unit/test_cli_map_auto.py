"""``treadle map --engine auto`` and ``-w auto``: what was decided is told, and all else is as it always is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.places import wait_until
from tests.programs import finish, run_treadle, start

FUNCTIONS = """
import os, pathlib, threading, time

def call(text):
    if text == "stuck":
        pathlib.Path("stuck").write_text(str(os.getpid()))
        print("hanging")
        time.sleep(60)
    if text == "crash":
        os._exit(7)
    if text == "fail once" and not pathlib.Path("tried").exists():
        pathlib.Path("tried").touch()
        raise OSError("not yet")
    return os.getpid()

async def awaited(text):
    return text

def locked(lock):
    return lambda text: lock and text

locked = locked(threading.Lock())
"""

# Whatever this machine is, calls are found to hold the GIL, and processes to be worth their start.
TREADLE = """
import sys
from treadle.__main__ import main
from treadle._crew import decider
from treadle._crew.deciding import Measures
from treadle._run import choosing

choosing.usable_cores = lambda: 2
decider.is_gil_enabled = lambda: True
decider.Decider._sample = lambda *_, **__: Measures(3, 3.0, 1.0)
decider.probe = lambda *_: 1.0
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(FUNCTIONS)
    return tmp_path


class Command:
    """``treadle map --engine auto`` whose calls are to move, and which is told one input after the other."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        command = [sys.executable, "-c", TREADLE, "map", "work:call", "-", "--engine", "auto", *options]
        self.process = start(command, folder, subprocess.PIPE)
        self.rows: list[dict[str, Any]] = []

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def ask(self, text: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        self.tell(text)
        self.rows.append(json.loads(self.process.stdout.readline()))
        return self.rows[-1]

    def move(self) -> None:
        """Return when calls are made in processes."""
        wait_until(lambda: self._where() != self.process.pid)

    def _where(self) -> int:
        row = self.ask("where")
        assert row["status"] == "succeeded", row
        pid: int = row["value"]
        return pid

    def hang(self) -> None:
        """Return when a call hangs."""
        assert self.process.stderr is not None
        self.tell("stuck")
        while "hanging" not in (line := self.process.stderr.readline()):
            assert line, "it has ended"

    def is_stuck_gone(self) -> bool:
        """Tell whether the process in which a call hung has ended."""
        pid = int((self._folder / "stuck").read_text())
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return pid == self.process.pid

    def finish(self) -> tuple[int, list[str]]:
        """Return the exit status and the lines of standard error; ``rows`` are then all there are."""
        code, out, err = finish(self.process, "")
        self.rows += map(json.loads, out.splitlines())
        assert sorted(row["index"] for row in self.rows) == list(range(len(self.rows))), "each has one outcome"
        return code, err.splitlines()


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    """Ends what is put into it, whatever became of it."""
    commands: list[Command] = []
    yield commands
    for command in commands:
        if command.process.poll() is None:
            command.process.kill()
            finish(command.process)


@pytest.fixture
def command(folder: Path, commands: list[Command], request: pytest.FixtureRequest) -> Command:
    """Return a command with the options that the test names."""
    commands.append(Command(folder, *getattr(request, "param", ())))
    return commands[0]


def with_options(*options: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("command", [options], indirect=True)


def test_calls_move_and_what_was_decided_is_told(command: Command) -> None:
    command.move()
    code, err = command.finish()

    assert code == 0
    assert command.rows[0]["value"] == command.process.pid
    assert err[-2].startswith("call: ended after ")
    assert err[-1] == (
        "treadle: decided for processes, at most 2 workers: calls hold the GIL (they compute 100% of their time, and"
        " it was held 100% of it); about 2.0x faster"
    )


@with_options("--call-timeout", "1", "--grace", "0")
def test_a_call_that_takes_too_long_is_killed_where_it_moved_to(command: Command) -> None:
    command.move()
    late = command.ask("stuck")
    code, _ = command.finish()

    assert (code, late["status"]) == (1, "timed_out")
    wait_until(command.is_stuck_gone)


@with_options("--max-attempts", "2")
def test_a_failed_call_is_made_again_where_it_moved_to(command: Command) -> None:
    command.move()
    again = command.ask("fail once")
    code, _ = command.finish()

    assert (code, again["status"], again["attempts"]) == (0, "succeeded", 2)


def test_a_process_that_dies_is_one_failed_input(command: Command) -> None:
    command.move()
    died = command.ask("crash")
    next_one = command.ask("where")
    code, _ = command.finish()

    assert (code, died["status"], died["error"]["type"]) == (1, "failed", "ProcessDied")
    assert next_one["status"] == "succeeded"


@pytest.mark.parametrize("has_moved", [True, False])
def test_ctrl_c_ends_it_in_good_order_before_and_after_it_has_moved(command: Command, has_moved: bool) -> None:
    if has_moved:
        command.move()
    command.hang()
    command.process.send_signal(signal.SIGINT)
    code, err = command.finish()

    assert code == 130
    assert command.rows[-1]["status"] == "cancelled"
    where = "processes, at most 2 workers" if has_moved else "threads, at most 32 workers"
    assert err[-1].startswith(f"treadle: decided for {where}: ")
    assert not any("Traceback" in line for line in err)
    wait_until(command.is_stuck_gone)


@with_options("--quiet")
def test_quiet_tells_nothing_of_it(command: Command) -> None:
    command.move()

    assert command.finish() == (0, [])


def test_the_number_that_was_found_is_told(folder: Path) -> None:
    _, _, err = run_treadle("map", "work:call", "a", "-w", "auto", cwd=folder)

    assert err.splitlines()[-1].startswith("treadle: decided for threads")


def test_an_async_function_is_awaited_also_where_it_is_to_be_found_out(folder: Path) -> None:
    code, out, _ = run_treadle("map", "work:awaited", "a", "--engine", "auto", cwd=folder)

    assert (code, json.loads(out)["value"]) == (0, "a")


@pytest.mark.parametrize(
    ("function", "message"),
    [("awaited", "work:awaited is async: it is awaited, without --engine"), ("locked", "its variable 'lock'")],
)
def test_what_cannot_be_called_in_processes_is_the_users_mistake(folder: Path, function: str, message: str) -> None:
    code, out, err = run_treadle("map", f"work:{function}", "a", "--engine", "processes", cwd=folder)

    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
