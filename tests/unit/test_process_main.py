"""What the program itself defines, in processes: without cloudpickle they import it, as ``multiprocessing`` does."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

from tests.programs import finish, start

NONE = "raise ImportError('it is not installed')"


@pytest.fixture
def _without_cloudpickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For whatever is started from here: the program, and its processes."""
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "cloudpickle.py").write_text(NONE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def run_it(path: Path, source: str, *command: str) -> tuple[int, str, str]:
    """Return the status, output and standard error of a program that is ``source``, kept at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    cwd = path.parent if command else None
    return finish(start([sys.executable, *(command or (str(path),))], cwd))


GUARDED = """
    import sys
    import treadle
    from functools import partial

    class Item:
        def __init__(self, number):
            self.number = number
        def __eq__(self, other):
            return type(other) is Item and self.number == other.number
        def plus(self, number):
            return Item(self.number + number)
        @classmethod
        def double(cls, item):
            return cls(2 * item.number)

    class Wrong(Exception):
        pass

    class Connection:
        def __init__(self):
            self.opened = opened

    opened = None

    def open_all(what):
        global opened
        opened = what

    def ask(number, connection):
        return connection.opened, number

    def add(one, other):
        return Item(one + other.number)

    def refuse(item):
        raise Wrong(item)

    def nested(number):
        return list(treadle.map(add, [number], [Item(1)], engine="processes", max_workers=1))

    if __name__ == "__main__":
        def attempt(fn, *inputs, **options):
            return list(treadle.map(fn, *inputs, engine="processes", max_workers=1, **options))

        assert attempt(add, [1, 2], [Item(1), Item(2)]) == [Item(2), Item(4)]
        assert attempt(partial(add, other=Item(5)), [1]) == [Item(6)]
        assert attempt(Item(1).plus, [1]) == [Item(2)]
        assert attempt(Item.plus, [Item(1)], [2]) == [Item(3)]
        assert attempt(Item.double, [Item(2)]) == [Item(4)]
        assert attempt(Item, [1]) == [Item(1)]
        assert attempt(len, [[Item(1)], "__main__"]) == [1, 8]
        assert attempt(ask, [1], resource=Connection, initializer=open_all, initargs=("it",)) == [("it", 1)]
        assert attempt(nested, [1]) == [[Item(2)]]
        with treadle.TaskGroup(engine="processes", on_error="collect") as group:
            first, second = group.submit(add, 1, Item(1)), group.submit(refuse, Item(3))
            error = second.exception()
        assert first.result() == Item(2)
        assert type(error) is Wrong and error.args == (Item(3),)
        with treadle.PoolExecutor(1, engine="processes") as pool:
            assert pool.submit(add, 1, Item(1)).result() == Item(2)
        print("all is well")
"""


@pytest.mark.usefixtures("_without_cloudpickle")
@pytest.mark.parametrize("name", ["script.py", "elsewhere/script.py", "script", "with-dash.py"])
def test_a_script_needs_nothing_but_its_guard(tmp_path: Path, name: str) -> None:
    assert run_it(tmp_path / name, GUARDED) == (0, "all is well\n", "")


@pytest.mark.usefixtures("_without_cloudpickle")
def test_a_module_that_is_run(tmp_path: Path) -> None:
    """``python -m package.module``, which may import its neighbours in the package."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "neighbour.py").write_text("number = 1")
    source = "from .neighbour import number\n" + textwrap.dedent(GUARDED)

    path = tmp_path / "package" / "module.py"
    path.write_text(source)
    status, out, err = finish(start([sys.executable, "-m", "package.module"], tmp_path))

    assert (status, out, err) == (0, "all is well\n", "")


@pytest.mark.usefixtures("_without_cloudpickle")
def test_a_program_that_was_compiled(tmp_path: Path) -> None:
    import py_compile

    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(GUARDED))
    py_compile.compile(str(path), str(tmp_path / "script.pyc"))
    path.unlink()

    assert finish(start([sys.executable, str(tmp_path / "script.pyc")])) == (0, "all is well\n", "")


@pytest.mark.parametrize("extra", ["without", "with"])
def test_in_a_process_of_multiprocessing(tmp_path: Path, extra: str, request: pytest.FixtureRequest) -> None:
    """It has imported the program itself, so that functions and classes are of ``__mp_main__`` there."""
    if extra == "without":
        request.getfixturevalue("_without_cloudpickle")
    source = """
        import multiprocessing
        import treadle
        class Item:
            pass
        def work(item):
            return Item() if type(item) is Item else None
        def start():
            (item,) = treadle.map(work, [Item()], engine="processes", max_workers=1)
            print(type(item) is Item, __name__)
        if __name__ == "__main__":
            process = multiprocessing.get_context("spawn").Process(target=start)
            process.start()
            process.join()
    """

    assert run_it(tmp_path / "script.py", source) == (0, "True __mp_main__\n", "")


def test_with_cloudpickle_everything_is_the_same(tmp_path: Path) -> None:
    assert run_it(tmp_path / "script.py", GUARDED) == (0, "all is well\n", "")


@pytest.mark.usefixtures("_without_cloudpickle")
def test_a_program_without_a_guard_is_refused_by_an_error_that_names_the_guard(tmp_path: Path) -> None:
    """Each process would import the program and start processes in turn."""
    source = """
        import treadle
        def work(item):
            return item
        print("begins", flush=True)
        print(list(treadle.map(work, [1], engine="processes", max_workers=1)))
    """

    status, out, err = run_it(tmp_path / "script.py", source)

    assert (status, out) == (1, "begins\n")
    last = next(line for line in reversed(err.splitlines()) if line.startswith("treadle."))
    assert "the program starts processes while it is imported in one" in last
    assert "below `if __name__ == '__main__':`" in last


@pytest.mark.usefixtures("_without_cloudpickle")
def test_a_thread_of_an_import_of_the_program_starts_no_process_either(tmp_path: Path) -> None:
    """The thread that imports the program is not the one that would go on without an end."""
    source = """
        import threading, treadle
        def work(item):
            return item
        found = []
        def start():
            try:
                found.extend(treadle.map(work, [1], engine="processes", max_workers=1))
            except treadle.ProcessRefused as error:
                found.append(str(error))
        def tell(item):
            return found
        thread = threading.Thread(target=start)
        if __name__ != "__main__":
            thread.start()
            thread.join()
        else:
            print(list(treadle.map(tell, [1], engine="processes", max_workers=1)))
    """

    status, out, err = run_it(tmp_path / "script.py", source)

    assert (status, err) == (0, "")
    assert out.startswith('[["the program starts processes while it is imported in one; ')


@pytest.mark.usefixtures("_without_cloudpickle")
@pytest.mark.parametrize(
    ("does", "error"), [("raise SystemExit(0)", "ProcessRefused"), ("raise OSError('no such thing')", "OSError")]
)
def test_a_program_whose_import_fails_fails_the_run_and_not_the_program(tmp_path: Path, does: str, error: str) -> None:
    """``SystemExit`` least of all: the program would end with status 0, having done nothing."""
    source = f"""
        import treadle
        def work(item):
            return item
        class Item:
            pass
        if __name__ == "__main__":
            for fn, item in [(work, 1), (str, Item())]:
                try:
                    print(list(treadle.map(fn, [item], engine="processes", max_workers=1)))
                except BaseException as error:
                    print(type(error).__name__, "the program (" + __file__ in str(error) + str(error.__notes__))
        else:
            {does}
    """

    status, out, err = run_it(tmp_path / "script.py", source)

    assert (status, out, err) == (0, f"{error} True\n{error} True\n", "")


@pytest.mark.usefixtures("_without_cloudpickle")
def test_an_import_that_failed_is_not_tried_again_and_its_notes_do_not_pile_up(tmp_path: Path) -> None:
    source = """
        import treadle
        class Item:
            pass
        if __name__ == "__main__":
            outcomes = treadle.map(str, [Item(), Item(), Item()], engine="processes", max_workers=1).outcomes()
            print({(len(outcome.error.__notes__), str(outcome.error)) for outcome in outcomes})
        else:
            print("imported")
            raise OSError("no such thing")
    """

    assert run_it(tmp_path / "script.py", source) == (0, "{(3, 'no such thing')}\n", "imported\n")


@pytest.mark.usefixtures("_without_cloudpickle")
def test_what_stands_below_the_guard_is_not_found_and_the_error_says_so(tmp_path: Path) -> None:
    source = """
        import treadle
        if __name__ == "__main__":
            def work(item):
                return item
            try:
                print(list(treadle.map(work, [1], engine="processes", max_workers=1)))
            except AttributeError as error:
                print(error)
    """

    status, out, err = run_it(tmp_path / "script.py", source)

    assert (status, err) == (0, "")
    assert "has no 'work' when it is imported: what stands below `if __name__ == '__main__':` is not there" in out


NEEDS_EXTRA = """
    import treadle

    def work(item):
        return item

    def inner():
        def work(item):
            return item
        return work

    class Item:
        pass

    def attempt(fn, item):
        try:
            print(list(treadle.map(fn, [item], engine="processes", max_workers=1)))
        except treadle.NotPicklable as error:
            print(str(error).partition(" cannot")[0], "|", error.reason.partition(" need ")[0])

    if __name__ == "__main__":
        attempt(lambda item: item, 1)
        attempt(inner(), 1)
        attempt(work, 1)
        attempt(str, [Item()])
"""
OF_A_PROGRAM = "of a program that cannot be imported (a prompt, a notebook, python -c, a __main__.py)"


@pytest.mark.usefixtures("_without_cloudpickle")
@pytest.mark.parametrize("kind", ["-c", "package", "folder", "archive"])
def test_where_the_extra_is_needed_the_error_says_what_for(tmp_path: Path, kind: str) -> None:
    """A program that cannot be imported, or must not be, since a ``__main__.py`` is all for running."""
    path = tmp_path / "package" / "__main__.py"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(NEEDS_EXTRA))
    commands = {
        "-c": ["-c", textwrap.dedent(NEEDS_EXTRA)],
        "package": ["-m", "package"],
        "folder": ["package"],
        "archive": ["package.pyz"],
    }
    if kind == "archive":
        import zipapp

        zipapp.create_archive(path.parent, tmp_path / "package.pyz")

    status, out, err = finish(start([sys.executable, *commands[kind]], tmp_path))

    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("the function <lambda>")
    assert [line.partition(" | ")[2] for line in lines] == [
        "lambdas",
        "functions that are defined in functions",
        f"functions {OF_A_PROGRAM}",
        f"classes {OF_A_PROGRAM}",
    ]


def test_what_cloudpickle_cannot_send_by_value_is_looked_up_in_the_program(tmp_path: Path) -> None:
    """What works without the extra works with it: here a function that uses a lock of the program's."""
    source = """
        import threading, treadle
        lock = threading.Lock()
        def work(item):
            with lock:
                return item
        if __name__ == "__main__":
            print(list(treadle.map(work, [1, 2], engine="processes", max_workers=1)))
    """

    assert run_it(tmp_path / "script.py", source) == (0, "[1, 2]\n", "")


def test_with_cloudpickle_the_program_is_not_imported(tmp_path: Path) -> None:
    """So a program without a guard goes on working, and functions find globals that were set below a guard."""
    source = """
        import treadle
        print("begins", flush=True)
        def work(item):
            return item + more
        if __name__ == "__main__":
            more = 1
        print(list(treadle.map(work, [1, 2], engine="processes", max_workers=1)))
    """

    assert run_it(tmp_path / "script.py", source) == (0, "begins\n[2, 3]\n", "")


AUTO = """
    import treadle

    def count(limit):
        return sum(all(number % divisor for divisor in range(2, number)) for number in range(2, limit))

    {guard}
        with treadle.map(count, [700] * 200, engine="auto", max_workers=2) as run:
            total = sum(run)
        print(total, run.stats.decision)
"""


@pytest.mark.usefixtures("_without_cloudpickle")
def test_auto_imports_no_program_without_a_guard(tmp_path: Path) -> None:
    """Nobody has asked for it, and what the program does would be done again."""
    status, out, err = run_it(tmp_path / "script.py", AUTO.format(guard="if True:"))

    assert (status, err, out.split()[0]) == (0, "", "25000")
    assert out.split()[1].startswith("threads")


@pytest.mark.usefixtures("_without_cloudpickle")
def test_auto_is_right_whether_it_imports_the_program_or_not(tmp_path: Path) -> None:
    status, out, err = run_it(tmp_path / "script.py", AUTO.format(guard="if __name__ == '__main__':"))

    assert (status, err, out.split()[0]) == (0, "", "25000")
