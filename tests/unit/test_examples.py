"""The examples that need somebody: who types, who connects, a server, a screen. The others run in test_documents."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.postgres import postgres
from tests.programs import finish, start

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def program(name: str, *arguments: str, stdin: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start an example, and end it whatever happens."""
    process = start([sys.executable, "-W", "error", str(EXAMPLES / name), *arguments], stdin=stdin)
    try:
        yield process
    finally:
        process.kill()
        with process:
            pass


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def test_commands_are_answered_while_work_goes_on() -> None:
    """There is work for hours, so whatever is answered is answered meanwhile."""
    with program("commands.py", "1000000", stdin=subprocess.PIPE) as process:
        assert hear(process) == 'type "status" or "stop"'
        say(process, "status")
        assert re.fullmatch(r"\d+ of 1000000 done, \d running", hear(process))
        say(process, "what?")
        assert hear(process) == "'what?'? There are status and stop."
        say(process, "stop")

        status, out, err = finish(process)

    assert (status, err) == (0, "")
    assert re.fullmatch(r"stopped\nthe sum of the first \d+ is \d+\n", out)


def test_work_ends_while_somebody_could_still_type() -> None:
    """Standard input stays open, and holds nobody up."""
    with program("commands.py", "4", stdin=subprocess.PIPE) as process:
        hear(process)

        assert hear(process) == "the sum of the first 4 is 6"
        assert process.wait(10) == 0


def test_an_end_of_the_input_does_not_end_the_work() -> None:
    with program("commands.py", "4") as process:
        assert finish(process) == (0, 'type "status" or "stop"\nthe sum of the first 4 is 6\n', "")


@pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="psycopg is not installed")
def test_queries_on_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server; both databases come to the same."""
    with postgres() as folder:
        for name, value in {"PGHOST": str(folder), "PGUSER": "postgres", "PGDATABASE": "postgres"}.items():
            monkeypatch.setenv(name, value)
        with program("database.py") as process:
            status, out, err = finish(process)

    assert (status, err) == (0, "")
    lite, lite_account, big, big_account = out.splitlines()
    assert lite.removeprefix("SQLite") == big.removeprefix("PostgreSQL")
    assert lite_account.startswith("SQLite: 50 queries over ")
    assert big_account.startswith("PostgreSQL: 50 queries over ")
