"""Modules that use Treadle as they are imported: no wait is for ever, and no process starts others without an end."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import treadle
from tests.programs import finish, start_program

# Processes that import what starts processes

# Should it fail, it ends by itself: each import leaves a dot, and none goes on after so many.
BOMB = """
    import os, treadle

    with open(os.environ["DIARY"], "a") as diary:
        diary.write(".")
    assert os.path.getsize(os.environ["DIARY"]) < 20, "it would never end"

    def square(number):
        return number * number

    {top_level}
"""
TOP_LEVELS = {
    "map": "squares = list(treadle.map(square, [1, 2, 3], engine='processes', max_workers=2))",
    "for_each": "treadle.for_each(square, [1, 2, 3], engine='processes', max_workers=2)",
    "map, not read": "squares = treadle.map(square, [1, 2, 3], engine='processes', max_workers=2)",
    "pipeline": "squares = list(treadle.pipeline([1, 2]).map(square, engine='processes'))",
    "traverse": "list(treadle.traverse(lambda number: [], [1], engine='processes'))",
    "executor": "pool = treadle.PoolExecutor(1, engine='processes')",
    "group": "group = treadle.TaskGroup(engine='processes').__enter__()",
}


@pytest.mark.parametrize("kind", TOP_LEVELS)
def test_a_module_that_starts_processes_cannot_be_imported_in_one(kind: str, tmp_path: Path) -> None:
    """That would never end: each process would import it, to find the function."""
    (tmp_path / "bomb.py").write_text(textwrap.dedent(BOMB.format(top_level=TOP_LEVELS[kind])))
    source = f"""
        import os, sys
        os.environ["DIARY"] = {str(tmp_path / "diary")!r}
        sys.path.insert(0, {str(tmp_path)!r})
        import treadle
        from importlib.util import find_spec, module_from_spec
        # Here it is taken for imported, as if it had been before its top level was written.
        spec = find_spec("bomb")
        bomb = sys.modules["bomb"] = module_from_spec(spec)
        exec("def square(number): return number * number", bomb.__dict__)
        list(treadle.map(bomb.square, [1, 2], engine="processes", max_workers=1))
    """

    status, _, err = finish(start_program(source))

    assert status == 1
    told = "treadle.errors.ProcessRefused: module 'bomb' starts processes while it is imported in one; move that into"
    assert told in err
    assert (tmp_path / "diary").read_text() == "."


def test_a_program_whose_module_starts_processes_is_told(tmp_path: Path) -> None:
    (tmp_path / "bomb.py").write_text(textwrap.dedent(BOMB.format(top_level=TOP_LEVELS["map"])))
    source = f"""
        import os, sys
        os.environ["DIARY"] = {str(tmp_path / "diary")!r}
        sys.path.insert(0, {str(tmp_path)!r})
        import bomb
    """

    status, _, err = finish(start_program(source))

    assert status == 1
    assert "ProcessRefused: module 'bomb' starts processes while it is imported in one" in err
    assert set((tmp_path / "diary").read_text()) == {"."}
    assert (tmp_path / "diary").stat().st_size <= 4, "here, and in each of the first processes"


def levels_down(count: int) -> int:
    """Return how many levels of processes there are below this one, of ``count``."""
    if count == 0:
        return 0
    return 1 + next(treadle.map(levels_down, [count - 1], engine="processes", max_workers=1))


def test_calls_may_start_processes_some_levels_deep() -> None:
    """They import nothing at that time."""
    assert levels_down(3) == 3


def test_calls_may_not_start_processes_any_number_of_levels_deep() -> None:
    """As those of a module would do that starts them from a thread, whose import has ended by then."""
    with pytest.raises(treadle.ProcessRefused, match="processes start processes, 6 levels deep"):
        levels_down(7)


def test_a_call_may_import_a_module_that_starts_processes(tmp_path: Path) -> None:
    """It is not what the process was sent, and its processes do not import it."""
    (tmp_path / "late.py").write_text(
        "import math, treadle\nroots = list(treadle.map(math.sqrt, [1, 4], engine='processes', max_workers=1))\n"
    )

    def call(folder: str) -> object:
        import sys

        sys.path.insert(0, folder)
        return __import__("late").roots

    assert list(treadle.map(call, [str(tmp_path)], engine="processes")) == [[1.0, 2.0]]


# Waits, while something is imported, for what needs it

HANGS = {
    "a run over processes, for an argument": """
        class Item:
            pass
        list(treadle.map(id, [Item(), Item()], engine="processes", max_workers=1))
    """,
    "a run over processes, unordered": """
        class Item:
            pass
        list(treadle.map(id, [Item(), Item()], ordered=False, engine="processes", max_workers=2).outcomes())
    """,
    "an executor of processes": """
        def square(number):
            return number * number
        with treadle.PoolExecutor(1, engine="processes", grace=0.1) as pool:
            pool.submit(square, 3).result()
    """,
    "a group of processes": """
        def square(number):
            return number * number
        with treadle.TaskGroup(engine="processes", grace=0.1) as group:
            group.submit(square, 3)
    """,
    "a call that imports": """
        def square(number):
            import under_way
            return number * number
        list(treadle.map(square, [1, 2]))
    """,
    "a task that imports": """
        def square(number):
            from under_way import nothing
        pool = treadle.PoolExecutor(1)
        pool.submit(square, 3).exception()
    """,
    "an initializer that imports": """
        def initialize():
            import under_way
        list(treadle.map(abs, [1, 2], initializer=initialize, max_workers=1))
    """,
    "a lock whose holder imports": """
        import threading
        lock, is_held = treadle.Lock(), threading.Event()
        def hold():
            with lock:
                is_held.set()
                import under_way
        threading.Thread(target=hold, daemon=True).start()
        is_held.wait()
        with lock:
            pass
    """,
}


@pytest.mark.parametrize("kind", HANGS)
def test_a_module_that_waits_for_what_needs_it_is_told_of_a_deadlock(kind: str, tmp_path: Path) -> None:
    """Whoever needs it waits for the end of its import, which waits for them."""
    (tmp_path / "under_way.py").write_text("import treadle\n" + textwrap.dedent(HANGS[kind]))
    source = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import under_way
    """

    status, _, err = finish(start_program(source))

    assert status == 1
    assert "threads wait for each other; what module 'under_way' waits for as it is imported needs" in err
    assert "has to end the import of module 'under_way'" in err
    assert "waits for the import of module 'under_way'" in err


def test_a_run_over_threads_of_a_module_that_is_imported_goes_on(tmp_path: Path) -> None:
    """Nothing of it has to be imported."""
    (tmp_path / "under_way.py").write_text(
        "import treadle\ndef square(number): return number * number\nsquares = list(treadle.map(square, [1, 2]))\n"
    )
    source = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import under_way; print(under_way.squares)"

    assert finish(start_program(source))[:2] == (0, "[1, 4]\n")


def test_auto_stays_on_threads_while_something_is_imported(tmp_path: Path) -> None:
    (tmp_path / "under_way.py").write_text(
        textwrap.dedent("""
        import treadle

        def primes(limit):
            return sum(all(k % d for d in range(2, int(k**0.5) + 1)) for k in range(2, limit))

        with treadle.map(primes, [3000] * 60, engine="auto", max_workers=2) as run:
            total = sum(run)
        decision = run.stats.decision
    """)
    )
    source = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from treadle._run import choosing
        choosing.usable_cores = lambda: 2
        import under_way
        print(under_way.decision)
    """

    status, out, err = finish(start_program(source))

    told = "threads, at most 2 workers: module 'under_way' is still being imported, and processes would need it\n"
    assert (status, out) == (0, told), err
