"""``treadle diagnose`` as a user runs it: a process, its streams, its exit status."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.programs import finish, run_treadle, start_treadle

FUNCTIONS = """
import asyncio, time

def wait(text):
    time.sleep(0.002)
    return text

def compute(text):
    return sum(range(5000))

def chatty(text):
    time.sleep(0.002)
    print("working on", text)

def picky(text):
    raise ValueError(f"I do not like {text}")

def read(thing):
    time.sleep(0.001)
    return thing["n"]

def hang(text):
    print("hanging", flush=True)
    time.sleep(60)

async def nap(text):
    await asyncio.sleep(0.002)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(FUNCTIONS)
    return tmp_path


def diagnose(folder: Path, *arguments: str) -> tuple[int, str, str]:
    return run_treadle("diagnose", "--seconds", "4", "--max-workers", "2", *arguments, cwd=folder)


def found(folder: Path, *arguments: str) -> dict[str, Any]:
    status, out, err = diagnose(folder, "--json", *arguments)
    assert (status, err) == (0, "")
    result: dict[str, Any] = json.loads(out)
    return result


def test_a_table_and_what_to_use(folder: Path) -> None:
    status, out, err = diagnose(folder, "work.py:wait", *map(str, range(20)))

    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("wait: ")
    assert max(map(len, lines)) <= 80, "a pipe has no width, so it is that of a narrow terminal"
    assert any("threads" in line and "measured" in line for line in lines)
    assert any(line.startswith("In Python   ") for line in lines)
    assert any(line.startswith("In a shell  ") for line in lines)
    assert any(line.startswith("Why ") for line in lines)


def test_json_has_the_fields_of_a_diagnosis_and_the_command(folder: Path) -> None:
    facts = found(folder, "work:compute", "1", "2", "3")

    assert list(facts)[:2] == ["function", "kind"]
    assert list(facts)[-1] == "command"
    assert {"engine", "workers", "per_second", "gain", "memory", "is_measured"} <= facts["speeds"][0].keys()
    assert facts["command"].startswith("treadle map work:compute INPUT... --engine ")


def test_an_async_function_is_awaited(folder: Path) -> None:
    facts = found(folder, "work.py:nap", "1", "2")

    assert facts["engine"] == "coroutines"
    assert facts["command"] == f"treadle map work.py:nap INPUT... --max-workers {facts['workers']}"


def test_inputs_may_be_lines_json_lines_or_standard_input(folder: Path) -> None:
    (folder / "lines file.txt").write_text("a\nb\n\n")
    (folder / "rows.jsonl").write_text('{"n": 1}\n{"n": 2}\n')

    lines = found(folder, "work.py:wait", "--lines", "lines file.txt")
    rows = found(folder, "work.py:read", "--json-lines", "rows.jsonl", "--once")
    status, out, _ = run_treadle("diagnose", "work.py:wait", "-", "--json", "--once", cwd=folder, text="a\nb\nc\n")

    assert lines["items"] == 2
    assert "--lines 'lines file.txt'" in lines["command"]
    assert (rows["items"], rows["calls"], rows["failed"]) == (2, 2, 0)
    assert (status, json.loads(out)["calls"]) == (0, 3)


def test_what_the_function_prints_goes_to_standard_error(folder: Path) -> None:
    status, out, err = diagnose(folder, "--json", "work.py:chatty", "a")

    assert status == 0
    assert json.loads(out)["failed"] == 0
    assert "working on a" in err


def test_a_function_that_always_fails_shows_its_own_traceback(folder: Path) -> None:
    status, out, err = diagnose(folder, "work.py:picky", "a", "b")

    assert (status, out) == (1, "")
    assert "ValueError: I do not like" in err
    assert "in picky" in err
    assert "treadle/_" not in err, "our own lines say nothing to the user"


def test_a_call_that_hangs_holds_nobody(folder: Path) -> None:
    status, out, err = run_treadle("diagnose", "--seconds", "0.2", "--json", "work.py:hang", "a", cwd=folder)

    facts = json.loads(out)
    assert (status, facts["calls"], facts["unfinished"]) == (0, 0, 1)
    assert "hanging" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["work.py:wait"], "give inputs one way: as arguments, with --lines, with --json-lines, or -"),
        (["work.py:wait", "--lines", "missing.txt"], "there is no file 'missing.txt'"),
        (["work.py:wait", "--lines", "empty.txt"], "there is no input"),
        (["work.py:wiat", "a"], "did you mean 'wait'?"),
        (["wait", "a"], "FUNC must be module:function"),
        (["work.py:wait", "a", "--seconds", "0"], "0"),
        (["work.py:wait", "a", "--seconds", "nan"], "not a finite number"),
        (["work.py:wait", "--json-lines", "empty.jsonl"], "this is not JSON"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "empty.txt").touch()
    (folder / "empty.jsonl").write_text("{\n")

    status, out, err = run_treadle("diagnose", *arguments, cwd=folder)

    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_ctrl_c_ends_it_with_a_word(folder: Path) -> None:
    process = start_treadle("diagnose", "--seconds", "60", "work.py:hang", "a", cwd=folder, stdin=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline() == "hanging\n"

    process.send_signal(signal.SIGINT)

    status, out, err = finish(process)
    assert (status, out) == (130, "")
    assert "interrupted" in err
    assert "Traceback" not in err


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    command = start_treadle("diagnose", "--seconds", "2", "work.py:wait", "a", cwd=folder)
    assert command.stdout is not None
    command.stdout.close()

    assert command.wait(30) == 141
    assert command.stderr is not None
    assert command.stderr.read() == ""
    command.stderr.close()


def test_the_table_fits_a_narrow_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which row is which engine's says its first column, so that is not what may be cut."""
    monkeypatch.setenv("COLUMNS", "50")

    _, out, _ = diagnose(folder, "work:wait", "a", "b")

    assert "\nthreads         1 " in out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 50
