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
from tests.programs import finish, start, start_program
from treadle._engines.process_surroundings import enter, environment, surroundings

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


# Descriptors


def test_what_a_call_starts_has_no_descriptor_of_ours(tmp_path: Path) -> None:
    """With the line, it could write into the pickles that the program reads."""

    def inheritable(_: int) -> list[str]:
        found = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
        return [fd for fd in found if int(fd) > 2 and os.get_inheritable(int(fd))]

    def seen(_: int) -> list[str]:
        os.system(f"ls /proc/self/fd > {tmp_path}/seen")
        return (tmp_path / "seen").read_text().split()

    if not Path("/proc/self/fd").exists():
        pytest.skip("there is nothing to count them by")
    assert list(treadle.map(inheritable, [1], engine="processes")) == [[]]
    (found,) = treadle.map(seen, [1], engine="processes")

    assert set(found) <= {"0", "1", "2", "3"}, "3 is the folder that it lists"


# Folders, paths and environments that change, or that nobody can go to


def test_an_environment_that_changes_meanwhile_is_taken_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread takes a variable away between the list of names and the look at that one."""

    class Changing(type(os.environ)):  # type: ignore[misc]
        def __getitem__(self, name: str) -> str:
            if name == "LEAVES":
                raise KeyError(name)
            return str(super().__getitem__(name))

    monkeypatch.setenv("LEAVES", "1")
    monkeypatch.setenv("STAYS", "1")
    environ: Any = os.environ
    methods = [getattr(environ, name) for name in ("encodekey", "decodekey", "encodevalue", "decodevalue")]
    monkeypatch.setattr(os, "environ", Changing(environ._data, *methods))

    found = environment()

    assert "LEAVES" not in found
    assert found["STAYS"] == "1"


def test_a_variable_without_a_name_is_no_reason_not_to_start(tmp_path: Path) -> None:
    """A program may come with one, and can give none to others."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import ctypes, os, sys
        if len(sys.argv) == 1:
            texts = ctypes.c_char_p * 4
            again = texts(sys.executable.encode(), __file__.encode(), b"again", None)
            path = "PYTHONPATH=" + os.pathsep.join({sys.path!r})
            ctypes.CDLL(None).execve(again[0], again, texts(b"=odd", path.encode(), None))
        import treadle
        print("" in os.environ, list(treadle.map(abs, [-1], engine="processes")))
        """)
    )

    status, out, err = finish(start([sys.executable, str(program)]))

    assert (status, out) == (0, "True [1]\n"), err


LEFT_FOLDER = """
    import os, sys
    os.chdir(sys.argv[1])
    sys.path.insert(0, {entry!r})
    import left_behind, treadle
    os.chdir(sys.argv[2])
    print(*treadle.map(left_behind.call, [1], engine="processes", max_workers=1))
"""


@pytest.mark.parametrize("entry", ["modules", "./modules", ""])
def test_a_module_of_a_relative_path_is_found_from_another_folder(entry: str, tmp_path: Path) -> None:
    """As it is in the program, where it has been imported."""
    home = tmp_path / "modules" if not entry else tmp_path
    (tmp_path / "modules").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "modules" / "left_behind.py").write_text("import os\ndef call(_): return os.getcwd()\n")
    source = textwrap.dedent(LEFT_FOLDER.format(entry=entry))

    done = subprocess.run(
        [sys.executable, "-c", source, home, tmp_path / "elsewhere"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == (f"{tmp_path / 'elsewhere'}\n", "")


def test_treadle_itself_may_come_from_a_relative_path(tmp_path: Path) -> None:
    package = Path(treadle.__file__).parent
    source = f"""
        import os, sys
        os.chdir({str(package.parent)!r})
        sys.path[:] = [place for place in sys.path if not os.path.exists(place + "/treadle")]
        sys.path.insert(0, ".")
        import treadle
        assert treadle.__file__.startswith({str(package.parent)!r})
        os.chdir("/")
        print(*treadle.map(abs, [-1], engine="processes", max_workers=1))
    """

    done = subprocess.run(
        [sys.executable, "-S", "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )

    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_folder_that_was_removed_is_no_reason_not_to_make_calls(tmp_path: Path) -> None:
    """Where a process stays instead is told."""
    (tmp_path / "gone").mkdir()
    source = f"""
        import os, treadle
        os.chdir({str(tmp_path)!r})
        first = list(treadle.map(abs, [-1], engine="processes", max_workers=1))
        os.chdir("gone")
        os.rmdir({str(tmp_path / "gone")!r})
        print(first, *treadle.map(abs, [-2], engine="processes", max_workers=1))
    """

    status, out, err = finish(start_program(source))

    assert (status, out) == (0, "[1] 2\n"), err
    assert err == f"calls in processes are made in the folder {tmp_path}: that of the program was removed\n"


def test_a_folder_that_a_process_may_not_enter_is_no_reason_not_to_make_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is there already has nothing to say."""

    def refuse(_: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(tmp_path)
    around = {**surroundings(), "path": sys.path[:]}
    monkeypatch.setattr(os, "chdir", refuse)

    enter(around)
    assert not caplog.messages
    enter({**around, "folder": "/closed"})

    assert caplog.messages == [
        f"calls in processes are made in the folder {tmp_path}: [Errno 13] Permission denied",
    ]
    monkeypatch.undo()


# Files that are called as modules of the standard library are


@pytest.mark.parametrize("function", ["math:sqrt", "mine.py:half", "mine:fail"])
def test_no_file_of_the_folder_is_run_in_the_place_of_the_standard_librarys(function: str, tmp_path: Path) -> None:
    """The folder comes first on the path; neither the program nor its processes look there for what Treadle needs."""
    for name in sys.stdlib_module_names:
        (tmp_path / f"{name}.py").write_text("import sys; sys.stderr.write(f'RUN {__name__}\\n'); raise ImportError")
    (tmp_path / "numbers.jsonl").write_text("4\n9\n-1\n")
    (tmp_path / "mine.py").write_text("def half(n): return n / 2\ndef fail(n): raise ValueError(n)\n")
    command = ["map", function, "--json", "numbers.jsonl", "--engine", "processes"]

    # Without -P, Python itself puts the folder first, before it starts Treadle.
    status, out, err = finish(start([sys.executable, "-P", "-m", "treadle", *command], cwd=tmp_path))

    assert status == (0 if "half" in function else 1)
    assert out.count('"index"') == 3
    assert "RUN" not in err


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
                list(treadle.map(abs, range(20), engine="processes", max_workers=20, chunksize=1))
            except treadle.ProcessDied as error:
                print(error)
            else:
                print("went on with fewer")
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

    assert "it could not be started" in out or "went on with fewer" in out
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
