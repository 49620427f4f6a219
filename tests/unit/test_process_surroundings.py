"""Programs with calls in processes that are themselves started, or behave, in ways that are not usual."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import treadle
from tests.programs import finish, start_program

# Standard places that are closed


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
@pytest.mark.parametrize("when", ["from the start", "meanwhile"])
def test_what_is_printed_goes_astray_nowhere_when_standard_places_are_closed(
    closed: str, when: str, tmp_path: Path
) -> None:
    """The next descriptors to be opened take these places: ours must not, or we would get what is printed."""
    source = f"""
        import os, sys, treadle
        if {when == "meanwhile"}:
            for fd in {closed!r}:
                os.close(int(fd))
        def call(item):
            os.write(1, b"k" * 100)
            os.write(2, b"k" * 100)
            return item
        pool = treadle.PoolExecutor(engine="processes", max_workers=2)
        results = list(pool.map(call, range(20)))
        for fd in map(int, {closed!r}):
            try:
                os.write(fd, b"k" * 100)
            except OSError:
                pass
        results += pool.map(call, range(20, 40))
        pool.shutdown()
        with open(sys.argv[1], "w") as out:
            print(results == list(range(40)), file=out)
    """
    closing = "".join(f"{fd}>&- " for fd in closed) if when == "from the start" else ""

    command = f'exec "$0" -c "$1" "$2" {closing}'
    subprocess.run(
        ["sh", "-c", command, sys.executable, textwrap.dedent(source), tmp_path / "out"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=30,
        check=True,
    )

    assert (tmp_path / "out").read_text() == "True\n"


# Limits of the system


def test_a_keeper_without_room_for_another_process_keeps_those_it_has(tmp_path: Path) -> None:
    """It has the limits of the time when it was started, which may be lower than the program's own by now."""
    source = """
        import os, resource, sys, time, treadle
        path = sys.argv[1]
        def wait(_):
            while not os.path.exists(path):
                time.sleep(0.01)
            return os.getpid()
        own = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, own[1]))
        with treadle.PoolExecutor(engine="processes", max_workers=1) as pool:
            before = pool.submit(os.getpid).result()
            task = pool.submit(wait, 0)
            resource.setrlimit(resource.RLIMIT_NOFILE, own)
            try:
                list(treadle.map(wait, range(20), engine="processes", max_workers=20, chunksize=1))
            except treadle.ProcessDied as error:
                print(error)
            open(path, "w").close()
            print(task.result() == before)
    """

    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), tmp_path / "go"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=True,
    ).stdout

    assert "it could not be started: Too many open files" in out or "has no room for it" in out
    assert out.endswith("True\n")


def test_the_keeper_closes_what_was_left_open_also_where_there_is_no_proc() -> None:
    """What it held would stay open as long as any process: the end of a pipe, say, that somebody reads."""
    source = """
        import os
        from treadle._engines.process_keeper import close_all_but
        def is_open(fd):
            try:
                return bool(os.fstat(fd))
            except OSError:
                return False
        listdir = os.listdir
        def refuse(_):
            raise FileNotFoundError
        for os.listdir in (listdir, refuse):
            low, kept, high = (os.dup2(0, fd) for fd in (20, 30, 40))
            close_all_but(kept)
            print([is_open(fd) for fd in (2, low, kept, high)])
    """

    status, out, err = finish(start_program(source))

    assert (status, out) == (0, "[True, False, True, False]\n" * 2), err


# Functions of modules that are not found there


def test_a_function_whose_module_is_not_found_is_an_error_that_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a test which pytest has imported in a way of its own."""
    module = ModuleType("only_here")
    exec("def call(item): return item", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)

    with pytest.raises(ModuleNotFoundError, match="only_here") as caught:
        list(treadle.map(module.call, [1], engine="processes"))

    assert any("as it received the function" in note for note in caught.value.__notes__)


# Calls that fork, and return twice


def test_a_copy_that_a_call_forks_and_that_returns_as_well_answers_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Two answers to one portion would be taken for those to two."""

    def call(item: int) -> int:
        if item == 1 and (pid := os.fork()):
            os.waitpid(pid, 0)
        return os.getpid()

    pids = list(treadle.map(call, range(5), engine="processes", max_workers=1))

    assert len(set(pids)) == 1
    assert "has returned in the copy too" in capfd.readouterr().err


# What pickles itself in an unusual way


class Leaving:
    """Asks the process to end where others only fail."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __reduce__(self) -> Any:
        if self.when == "pickled":
            sys.exit("pickled")
        return sys.exit, ("made of its pickle",)


class LeavingError(Leaving, Exception):
    def __repr__(self) -> str:
        sys.exit("described")

    __str__ = __repr__


@pytest.mark.parametrize("engine", ["processes", "executor"])
@pytest.mark.parametrize("when", ["pickled", "made of its pickle"])
@pytest.mark.parametrize("what", ["argument", "result", "exception"])
def test_what_would_end_the_process_that_pickles_it_is_that_items_failure(
    what: str, when: str, engine: str, multiprocessing_helpers: None
) -> None:
    """A pickle is made by methods of the user's, which may raise anything."""

    def call(item: Any) -> object:
        if item == "result":
            return Leaving(when)
        if item == "exception":
            raise LeavingError(when)
        return item if isinstance(item, int) else "came through"

    items = [0, Leaving(when) if what == "argument" else what, 2]
    with ExitStack() as stack:
        place: Any = engine
        if engine == "executor":
            place = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")))
        outcomes = list(treadle.map(call, items, engine=place, max_workers=1, chunksize=3).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", "succeeded"]
    expected = treadle.RemoteError if what == "exception" else treadle.NotPicklable if when == "pickled" else SystemExit
    assert type(outcomes[1].error) is expected


# Warnings


def test_nothing_is_left_open_where_warnings_are_errors() -> None:
    """Neither by the program nor by its keeper, which writes to the same standard error when it ends."""
    source = "import treadle; print(list(treadle.map(abs, [-1, 2], engine='processes')))"
    command = [sys.executable, "-W", "error", "-c", source]

    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)

    assert (done.stdout, done.stderr) == ("[1, 2]\n", "")
