"""What ``treadle map`` writes where, and what becomes of it when it is interrupted, not read, or there already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.programs import TIMEOUT_SECONDS, TREADLE, environment, finish, run_treadle, start_treadle

FUNCTIONS = """
import sys, threading

def echo(text):
    return text

def stuck(text):
    print("hanging")
    threading.Event().wait()

def long(text):
    print("made")
    return text * 20_000

def fail(text):
    raise ValueError("bad " + text)

def say(text):
    print("saying", text)
    return text
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(FUNCTIONS)
    (tmp_path / "lines.txt").write_text("".join(f"{number}\n" for number in range(1000)))
    return tmp_path


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def wait_for(process: subprocess.Popen[str], text: str, times: int = 1) -> None:
    """Read standard error until so many of its lines have ``text``."""
    assert process.stderr is not None
    while times:
        line = process.stderr.readline()
        assert line, f"it ended before it said {text!r}"
        times -= text in line


# Interrupted


def test_a_second_signal_waits_no_longer_and_loses_nothing(folder: Path) -> None:
    process = start_treadle("map", "work:stuck", "--lines", "lines.txt", "-w", "8", "--grace", "600", cwd=folder)
    wait_for(process, "hanging", times=8)

    process.send_signal(signal.SIGINT)
    wait_for(process, "treadle: stopping; calls that still run: 8; a second Ctrl-C waits no longer")
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)

    statuses = [row["status"] for row in rows(out)]
    assert code == 130
    assert statuses.count("cancelled") == 8
    assert len(rows(out)) == len({row["index"] for row in rows(out)})
    waited = f"{len(statuses) - 8} not started, " if len(statuses) > 8 else ""  # how many were taken meanwhile varies
    assert f"0 of 1,000 done, 8 cancelled, {waited}8 abandoned" in err
    assert err.splitlines()[-1].endswith(f", {1000 - len(statuses)} not read")
    assert err.count("behind") == 1, "many that are stuck are one line"
    assert "leaves 8 threads behind: the calls for items 0 ('0'), 1 ('1'), 2 ('2') and 5 more still run" in err
    assert "Traceback" not in err


def test_a_second_signal_where_nobody_reads_leaves(folder: Path) -> None:
    process = start_treadle("map", "work:long", "--lines", "lines.txt", "-w", "1", cwd=folder)
    wait_for(process, "made", times=5)  # the pipe has room for three

    process.send_signal(signal.SIGINT)
    wait_for(process, "treadle: stopping; a second Ctrl-C waits no longer")
    process.send_signal(signal.SIGINT)
    wait_for(process, "treadle: nobody reads the results; ")

    assert process.wait(TIMEOUT_SECONDS) == 130
    finish(process)


@pytest.mark.parametrize("command", ["map", "diagnose"])
def test_a_signal_while_the_module_is_imported(folder: Path, command: str) -> None:
    lines = ["import sys, time", "print('importing', file=sys.stderr)", "for _ in range(9999): time.sleep(0.1)"]
    (folder / "slow.py").write_text("\n".join(lines))
    process = start_treadle(command, "slow:f", "a", cwd=folder)
    wait_for(process, "importing")

    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)

    assert (code, err) == (130, "treadle: interrupted\n")


def test_ctrl_c_at_a_terminal_ends_the_demo_cleanly() -> None:
    """There it goes to the whole process group: its server must not answer it with a traceback."""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    with subprocess.Popen([*TREADLE, "demo"], start_new_session=True, **pipes) as process:
        assert process.stdout is not None
        while "one after another" not in process.stdout.readline():
            pass
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)

    assert (process.returncode, err) == (130, "treadle: interrupted\n")


def test_too_many_that_are_stuck_end_the_run_without_a_traceback(folder: Path) -> None:
    options = ["-w", "1", "--call-timeout", "0.05", "--grace", "0"]
    code, out, err = run_treadle("map", "work:stuck", "--lines", "lines.txt", *options, cwd=folder)

    assert code == 1
    assert "treadle: the run ended early: TooManyAbandoned: run 'stuck' left 2 stuck calls behind" in err
    assert "Traceback" not in err
    assert rows(out)


# Results in a file


def test_a_file_with_something_in_it_is_not_emptied_without_being_told(folder: Path) -> None:
    """A run that was interrupted, and is started again, has its results in there."""
    (folder / "out.jsonl").write_text("precious\n")

    code, _, err = run_treadle("map", "work:echo", "a", "-o", "out.jsonl", cwd=folder)

    assert code == 2
    assert "out.jsonl is not empty; --append adds to it, --fresh empties it first" in err
    assert (folder / "out.jsonl").read_text() == "precious\n"


@pytest.mark.parametrize(
    ("before", "option", "kept"),
    [
        ("", None, ""),
        ("one\n", "--append", "one\n"),
        ("one\nhalf of ano", "--append", "one\nhalf of ano\n"),
        ("", "--append", ""),
        ("one\n", "--fresh", ""),
    ],
)
def test_what_was_in_the_file_before(folder: Path, before: str, option: str | None, kept: str) -> None:
    (folder / "out.jsonl").write_text(before)

    code, _, err = run_treadle("map", "work:echo", "a", "-o", "out.jsonl", *([option] if option else []), cwd=folder)

    assert code == 0, err
    after = (folder / "out.jsonl").read_text()
    assert after.startswith(kept)
    assert [row["value"] for row in rows(after.removeprefix(kept))] == ["a"]


@pytest.mark.parametrize(
    "arguments", [["work:nothing", "a"], ["work:echo", "--lines", "nowhere"], ["work:echo", "a", "-w0"]]
)
def test_a_mistake_empties_no_file(folder: Path, arguments: list[str]) -> None:
    (folder / "out.jsonl").write_text("precious\n")

    assert run_treadle("map", *arguments, "-o", "out.jsonl", "--fresh", cwd=folder)[0] == 2
    assert (folder / "out.jsonl").read_text() == "precious\n"


def test_a_file_that_is_none_needs_no_word(folder: Path) -> None:
    assert run_treadle("map", "work:echo", "a", "-o", os.devnull, cwd=folder)[0] == 0


@pytest.mark.parametrize("options", [["--append"], ["--fresh"], ["-o", "out", "--append", "--fresh"]])
def test_options_that_make_no_sense_are_explained(folder: Path, options: list[str]) -> None:
    code, _, err = run_treadle("map", "work:echo", "a", *options, cwd=folder)

    assert code == 2
    assert "--append" in err


# Standard error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    ("function", "status", "code"), [("echo", "succeeded", 0), ("say", "succeeded", 0), ("fail", "failed", 1)]
)
def test_standard_error_that_cannot_be_written_costs_no_result(
    folder: Path, function: str, status: str, code: int, where: str
) -> None:
    command = f"{sys.executable} -m treadle map work:{function} a b --engine auto {where}"
    result = subprocess.run(
        ["sh", "-c", command], cwd=folder, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_SECONDS
    )

    assert result.returncode == code
    assert [row["status"] for row in rows(result.stdout)] == [status, status]


def test_keys_and_messages_do_not_act_upon_the_terminal_nor_look_like_lines_of_ours(folder: Path) -> None:
    inputs = ["a\x1b]0;owned\x07\x1b[2J", "x\nother failed:\nTraceback"]

    _, out, err = run_treadle("map", "work:fail", inputs[0], "--ordered", cwd=folder)
    _, _, more = run_treadle("map", "work:fail", inputs[1], cwd=folder)

    assert "\x1b" not in err + out
    assert "\x07" not in err
    assert "a\\x1b]0;owned\\x07\\x1b[2J failed:\n" in err
    assert rows(out)[0]["key"] == inputs[0]
    assert "x\\nother failed:\\nTraceback failed:\n" in more
    assert "ValueError: bad x\n    other failed:\n    Traceback\n" in more


def test_the_key_before_what_a_function_prints_is_shown_as_any_item(folder: Path) -> None:
    _, _, err = run_treadle("map", "work:say", "https://ada:hunter2@host/\x1b[2J", cwd=folder)

    assert "[https://ada:***@host/\\x1b[2J] saying" in err


def test_results_that_would_act_upon_a_terminal_are_escaped_and_say_the_same(folder: Path) -> None:
    text = "a\x9b2J\u202eb\u2028\N{LANGUAGE TAG}é"

    _, out, _ = run_treadle("map", "work:echo", text, cwd=folder)

    assert out.rstrip("\n").isprintable()
    assert "é" in out
    assert rows(out)[0]["value"] == text


def test_a_folder_does_not_stand_before_the_standard_library(folder: Path) -> None:
    """We, libraries and processes to come import parts of it only when they need them."""
    (folder / "wave.py").write_text("raise ImportError('not this one')")
    (folder / "late.py").write_text("def f(text):\n    import wave\n    return wave.__name__")

    source = "import treadle.__main__ as m; m.main()"  # python -m would put the folder first itself
    for function in ("late:f", "late.py:f"):
        command = [sys.executable, "-P", "-c", source, "map", function, "a"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        assert result.returncode == 0, result.stdout
        assert rows(result.stdout)[0]["value"] == "wave"
