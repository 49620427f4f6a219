"""``treadle map`` as a user runs it: a process, its streams, its exit status."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.clusters import DaskCluster
from tests.programs import TIMEOUT_SECONDS, finish, run_treadle, start_treadle

FUNCTIONS = """
import os, subprocess, sys, time

def shout(text):
    return text.upper()

def chatty(text):
    print("working on", text)
    subprocess.run(["echo", "from a child"])
    return 1

def picky(text):
    if text == "bad":
        raise ValueError("I do not like it")
    return text

def odd(text):
    return {1, 2}

def not_a_number(text):
    return float("nan")

def stuck(text):
    if text == "stuck":
        print("hanging")
        time.sleep(60)
    return text

def double(thing):
    return thing["n"] * 2

TRIED = []

def flaky(text):
    TRIED.append(text)
    if len(TRIED) == 1:
        raise OSError("not yet")
    return text

NUMBER = 5

class Tool:
    @staticmethod
    def use(text):
        return "used " + text
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(FUNCTIONS)
    return tmp_path


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_arguments_in_json_lines_out(folder: Path) -> None:
    code, out, err = run_treadle("map", "work:shout", "a", "b", "--ordered", cwd=folder)

    assert code == 0
    assert out.splitlines()[0] == '{"index": 0, "key": "a", "status": "succeeded", "value": "A"}'
    assert [(row["index"], row["key"], row["value"]) for row in rows(out)] == [(0, "a", "A"), (1, "b", "B")]
    assert ": 2 of 2 done\n" in err


def test_a_function_in_a_file(folder: Path) -> None:
    assert run_treadle("map", str(folder / "work.py") + ":shout", "a")[0] == 0
    assert rows(run_treadle("map", "work.py:Tool.use", "a", cwd=folder)[1])[0]["value"] == "used a"


def test_lines_of_files_and_of_standard_input(folder: Path) -> None:
    (folder / "lines.txt").write_bytes(b"one\r\n\n  \ntwo\nthree")

    _, out, err = run_treadle("map", "work:shout", "--lines", "lines.txt", "--ordered", cwd=folder)
    assert [row["value"] for row in rows(out)] == ["ONE", "TWO", "THREE"]
    assert ": 3 of 3 done\n" in err, "the lines of a file are counted, for the time left"
    for arguments in (["-"], ["--lines", "-"]):
        _, out, _ = run_treadle("map", "work:shout", *arguments, "--ordered", cwd=folder, text="x\ny\n")
        assert [row["value"] for row in rows(out)] == ["X", "Y"]


def test_json_lines_and_their_keys(folder: Path) -> None:
    (folder / "in.jsonl").write_text('{"n": 1, "id": "first"}\n\n{"id": 2, "n": 3}\n')

    _, out, _ = run_treadle("map", "work:double", "--json", "in.jsonl", "--ordered", cwd=folder)
    assert [(row["key"], row["value"]) for row in rows(out)] == [('{"id":"first","n":1}', 2), ('{"id":2,"n":3}', 6)]
    _, out, _ = run_treadle("map", "work:double", "--json", "in.jsonl", "--key", "id", "--ordered", cwd=folder)
    assert [row["key"] for row in rows(out)] == ["first", "2"]


def test_a_long_input_has_a_hash_for_a_key(folder: Path) -> None:
    _, out, _ = run_treadle("map", "work:shout", "x" * 121, cwd=folder)

    assert len(rows(out)[0]["key"]) == 32


def test_results_go_to_a_file(folder: Path) -> None:
    code, out, _ = run_treadle("map", "work:shout", "a", "--output", "out.jsonl", cwd=folder)

    assert (code, out) == (0, "")
    assert rows((folder / "out.jsonl").read_text())[0]["value"] == "A"


def test_failed_items_are_rows_and_exit_status_1(folder: Path) -> None:
    code, out, err = run_treadle("map", "work:picky", "good", "bad", "bad", "--ordered", cwd=folder)

    assert code == 1
    assert [row["status"] for row in rows(out)] == ["succeeded", "failed", "failed"]
    assert rows(out)[1]["error"] == {"type": "ValueError", "message": "I do not like it"}
    assert err.count("Traceback") == 1, "the same error is shown once"
    assert 'raise ValueError("I do not like it")' in err
    assert "treadle/_" not in err, "the traceback is the user's own"
    assert "1 more failed" in err


@pytest.mark.parametrize(("function", "kind"), [("odd", "set"), ("not_a_number", "float")])
def test_a_result_that_is_not_json_fails_that_item(folder: Path, function: str, kind: str) -> None:
    code, out, err = run_treadle("map", f"work:{function}", "a", cwd=folder)

    assert code == 1
    assert rows(out)[0]["status"] == "failed"
    assert f"the function returned {kind}, which is not JSON" in rows(out)[0]["error"]["message"]
    assert "Traceback" not in err


def test_what_the_function_prints_goes_to_standard_error_with_its_key(folder: Path) -> None:
    _, out, err = run_treadle("map", "work:chatty", "a", cwd=folder)

    assert len(rows(out)) == 1
    assert "[a] working on a" in err
    assert "from a child" in err


def test_an_async_function_is_awaited_and_what_it_prints_has_its_key(folder: Path) -> None:
    """Two take turns on one thread, in the middle of a line."""
    lines = [
        "import asyncio",
        "async def work(text):",
        "    print('working', end=' ')",
        "    await asyncio.sleep(0)",
        "    print('on', text)",
        "    return text.upper()",
    ]
    (folder / "awaited.py").write_text("\n".join(lines))

    code, out, err = run_treadle("map", "awaited:work", "a", "b", cwd=folder)

    assert (code, [row["value"] for row in rows(out)]) == (0, ["A", "B"])
    assert "[a] working on a\n" in err
    assert "[b] working on b\n" in err


def test_quiet_says_nothing(folder: Path) -> None:
    assert run_treadle("map", "work:shout", "a", "-q", cwd=folder)[2] == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["work:shuot", "a"], "work has no 'shuot'; did you mean 'shout'?"),
        (["work:xyzzy", "a"], "work has no 'xyzzy'; it has "),
        (["wrok:shout", "a"], "there is no module 'wrok'"),
        (["work.missing:shout", "a"], "there is no module 'work.missing'"),
        (["missing.py:shout", "a"], "there is no file 'missing.py'"),
        (["shout", "a"], "FUNC must be module:function or path/to/file.py:function, not 'shout'"),
        (["work:NUMBER", "a"], "work:NUMBER is int, which cannot be called"),
        (["work:shout"], "give inputs one way"),
        (["work:shout", "a", "--lines", "x"], "give inputs one way"),
        (["work:shout", "--lines", "nowhere.txt"], "there is no file 'nowhere.txt'"),
        (["work:shout", "a", "--key", "id"], "it goes with --json"),
        (["work:shout", "a", "--max-workers", "0"], "0 is not in the range x>=1"),
        (["work:shout", "a", "--output", "no/such/folder"], "cannot be written: No such file or directory"),
        (["broken:f", "a"], "ZeroDivisionError"),
        (["incomplete:f", "a"], "No module named 'nothing_like_it'"),
        (["unfinished:f", "a"], "SyntaxError"),
        (["quits:f", "a"], "SystemExit"),
    ],
)
def test_a_users_mistake_is_explained_without_our_traceback(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "broken.py").write_text("def f(x): ...\n1 / 0\n")
    (folder / "incomplete.py").write_text("import nothing_like_it\n")
    (folder / "unfinished.py").write_text("def f(:\n")
    (folder / "quits.py").write_text("import sys\nsys.exit(5)\n")

    code, out, err = run_treadle("map", *arguments, cwd=folder)

    assert (code, out) == (2, "")
    assert message in err
    assert "treadle/_cli" not in err


@pytest.mark.parametrize("engine", ["threads", "processes"])
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["work:double", "--json"], "2: this is not JSON: Expecting value (column 7)"),
        (["work:double", "--json", "--key", "n"], "3: there is no field 'n', which --key names"),
        (["work:shout", "--lines"], "4: this is not UTF-8: invalid continuation byte"),
        (["work:double", "--json"], "4: this is not UTF-8: invalid continuation byte"),
    ],
)
def test_a_line_that_cannot_be_read_is_one_items_failure(
    folder: Path, options: list[str], problem: str, engine: str
) -> None:
    """One of a million must not end the run of all others."""
    (folder / "in.txt").write_bytes(b'{"n": 1}\n{"n": \n{"m": 3}\nb\xe4d\n{"n": 5}\n')
    options = [*options[:2], "in.txt", *options[2:], "--ordered", "--engine", engine]

    code, out, err = run_treadle("map", *options, cwd=folder)

    assert code == 1
    assert [row["index"] for row in rows(out)] == [0, 1, 2, 3, 4]
    assert (rows(out)[0]["status"], rows(out)[4]["status"]) == ("succeeded", "succeeded")
    bad = rows(out)[int(problem[0]) - 1]
    assert bad["error"] == {"type": "ValueError", "message": f"in.txt:{problem}"}
    assert "treadle/_cli" not in err


def test_each_line_of_a_pipe_is_answered_as_it_comes(folder: Path) -> None:
    """``tail -f file | treadle map f -``: the next line is written only after the answer to the last."""
    process = start_treadle("map", "work:shout", "-", "-q", cwd=folder, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for word in ("one", "two", "three"):
        process.stdin.write(word + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["value"] == word.upper()
    assert finish(process, "")[0] == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_in_good_order(folder: Path, number: int, status: int) -> None:
    process = start_treadle("map", "work:stuck", "quick", "stuck", "-w", "1", "--ordered", cwd=folder)
    assert process.stdout is not None
    assert process.stderr is not None
    first = json.loads(process.stdout.readline())
    while "hanging" not in process.stderr.readline():
        pass
    process.send_signal(number)
    code, out, err = finish(process)

    assert code == status
    assert [first["status"], *(row["status"] for row in rows(out))] == ["succeeded", "cancelled"]
    assert "1 done, 1 cancelled, 1 abandoned" in err.replace("1 of 2 done", "1 done")
    assert "Traceback" not in err


def test_a_signal_while_the_input_blocks(folder: Path) -> None:
    process = start_treadle("map", "work:shout", "-", cwd=folder, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("a\n")
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)

    assert process.wait(TIMEOUT_SECONDS) == 130
    _, _, err = finish(process)
    assert "Fatal" not in err
    assert "Traceback" not in err


def test_a_reader_that_leaves_ends_the_run_quietly(folder: Path) -> None:
    (folder / "lines.txt").write_text("x\n" * 100_000)
    process = start_treadle("map", "work:shout", "--lines", "lines.txt", "-q", cwd=folder)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()

    assert process.wait(TIMEOUT_SECONDS) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_stops_the_run(folder: Path) -> None:
    code, _, err = run_treadle("map", "work:shout", "a", "b", "-o", "/dev/full", cwd=folder)

    assert code == 3
    assert "the results cannot be written: No space left on device" in err
    assert "Traceback" not in err


def test_closed_standard_output_is_explained(folder: Path) -> None:
    command = f"{sys.executable} -m treadle map work:shout a >&-"
    result = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)

    assert result.returncode == 2
    assert "standard output is closed" in result.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no SIGUSR1")
def test_sigusr1_shows_what_each_worker_does(folder: Path) -> None:
    process = start_treadle("map", "work:stuck", "quick", "stuck", "-w", "1", "--ordered", cwd=folder)
    assert process.stdout is not None
    assert process.stderr is not None
    while "hanging" not in process.stderr.readline():
        pass
    lines: list[str] = []
    process.send_signal(signal.SIGUSR1)
    while not lines or "at item 1" not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    process.send_signal(signal.SIGTERM)
    finish(process)

    assert any("at item 1 ('stuck')" in line for line in lines)


def test_help_is_worth_reading() -> None:
    code, out, _ = run_treadle("map", "--help")

    assert code == 0
    for word in ("Examples:", "tail -f", "--max-workers", "--ordered", "Exit status:", "SIGUSR1"):
        assert word in out
    assert run_treadle("--version")[1].startswith("treadle, version ")


def test_without_its_extras_the_command_says_what_to_install() -> None:
    source = "import sys; sys.modules['click'] = None; import treadle.__main__ as m; m.main()"
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)

    assert result.returncode == 1
    assert "pip install 'treadle[cli]'" in result.stderr


def test_environment_is_not_needed(folder: Path) -> None:
    """Also without HOME and in another locale."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    command = [sys.executable, "-m", "treadle", "map", "work:shout", "ä"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60)

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["value"] == "Ä"


def test_a_call_that_takes_too_long_is_timed_out(folder: Path) -> None:
    arguments = ["--call-timeout", "0.2", "--grace", "0", "--ordered"]
    code, out, err = run_treadle("map", "work:stuck", "a", "stuck", *arguments, cwd=folder)

    assert code == 1
    assert [row["status"] for row in rows(out)] == ["succeeded", "timed_out"]
    assert rows(out)[1]["error"]["type"] == "CallTimedOut"
    assert "1 timed out" in err or "1 timed_out" in err


def test_a_failed_call_is_made_again(folder: Path) -> None:
    code, out, _ = run_treadle("map", "work:flaky", "a", "--max-attempts", "3", "--max-per-second", "100", cwd=folder)

    assert code == 0
    assert out == '{"index": 0, "key": "a", "status": "succeeded", "attempts": 2, "value": "a"}\n'


@pytest.mark.parametrize(
    "option", [("--grace", "nan"), ("--call-timeout", "0"), ("--max-per-second", "inf"), ("--max-attempts", "0")]
)
def test_a_number_out_of_bounds_is_the_users_mistake(option: tuple[str, str], folder: Path) -> None:
    code, _, err = run_treadle("map", "work:shout", "a", *option, cwd=folder)

    assert code == 2
    assert option[0] in err
    assert "Traceback" not in err


# Engines


def test_processes_make_the_calls_where_they_are_asked_for(folder: Path) -> None:
    (folder / "cores.py").write_text("import os\ndef where(text):\n    print('here')\n    return [text, os.getpid()]\n")
    code, out, err = run_treadle("map", "cores.py:where", "a", "b", "--engine", "processes", "--ordered", cwd=folder)

    assert (code, [row["key"] for row in rows(out)]) == (0, ["a", "b"])
    assert [row["value"][0] for row in rows(out)] == ["a", "b"]
    assert "here" in err


def test_what_is_not_json_fails_in_processes_too(folder: Path) -> None:
    code, out, _ = run_treadle("map", "work:odd", "a", "--engine", "processes", cwd=folder)

    assert code == 1
    assert rows(out)[0]["error"]["message"].startswith("the function returned set, which is not JSON")


def test_an_engine_that_is_none_is_a_usage_error(folder: Path) -> None:
    code, _, err = run_treadle("map", "work:shout", "a", "--engine", "steam", cwd=folder)

    assert code == 2
    assert "'steam' is none of threads, processes" in err


def test_a_cluster_that_is_not_there_is_a_usage_error(folder: Path) -> None:
    pytest.importorskip("distributed", exc_type=ImportError)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    code, _, err = run_treadle("map", "work:shout", "a", "--engine", f"dask://127.0.0.1:{port}", cwd=folder)

    assert code == 2
    assert f"no Dask scheduler answers at '127.0.0.1:{port}'" in " ".join(err.replace("│", " ").split())


def test_a_cluster_makes_the_calls_without_the_file_and_without_treadle(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", exc_type=ImportError)
    (folder / "cluster_work.py").write_text("BASE = 'from '\ndef call(text):\n    return BASE + text\n")
    preload = tmp_path / "no_treadle.py"
    preload.write_text("import sys\nsys.modules['treadle'] = None\n")

    with DaskCluster(tmp_path, preload=preload) as cluster:
        engine = f"dask://{cluster.address.removeprefix('tcp://')}"
        code, out, err = run_treadle(
            "map", "cluster_work.py:call", "a", "b", "--ordered", "--engine", engine, cwd=folder
        )

    assert (code, [row["value"] for row in rows(out)]) == (0, ["from a", "from b"]), err
