"""``pytest --treadle-watch-locks``: a deadlock fails its test, and the session comes to its end."""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

from tests.programs import finish, start

TESTS = """
    import threading
    from concurrent.futures import ThreadPoolExecutor

    import pytest


    def hang(daemon):
        a, b, both = threading.Lock(), threading.RLock(), threading.Barrier(2)

        def take(first, second):
            with first:
                both.wait()
                with second:
                    pass

        threads = [threading.Thread(target=take, args=pair, daemon=daemon) for pair in ((a, b), (b, a))]
        for thread in threads:
            thread.start()
        return threads


    def test_before():
        with threading.Lock():
            pass


    def test_that_does_not_wait():
        for thread in hang(daemon=True):
            thread.join(0.2)


    def test_that_waits_for_those_that_hang():
        for thread in hang(daemon=False):
            thread.join()


    def test_that_waits_again_on_its_way_out():
        with ThreadPoolExecutor(2) as pool:
            a, b, both = threading.Lock(), threading.Lock(), threading.Barrier(2)

            def take(first, second):
                with first:
                    both.wait()
                    with second:
                        return 1

            tasks = [pool.submit(take, a, b), pool.submit(take, b, a)]
            assert sum(task.result() for task in tasks) == 2


    def test_that_hangs_itself():
        lock = threading.Lock()
        with lock, lock:
            pass


    @pytest.fixture
    def broken():
        yield
        lock = threading.Lock()
        with lock, lock:
            pass


    def test_whose_teardown_hangs(broken):
        pass


    def test_that_fails_anyway():
        for thread in hang(daemon=True):
            thread.join(0.2)
        raise ZeroDivisionError


    def test_after():
        lock, event = threading.Lock(), threading.Event()
        thread = threading.Thread(target=event.set)
        thread.start()
        assert event.wait(10)
        thread.join()
"""


def run_pytest(folder: Path, *options: str, config: str = "") -> tuple[int, str]:
    """Run the tests above in a process of their own; return exit status and output."""
    (folder / "test_them.py").write_text(textwrap.dedent(TESTS))
    (folder / "pytest.ini").write_text("[pytest]\n" + config)
    is_installed = any(entry_points(group="pytest11", name="treadle"))
    plugin = [] if is_installed else ["-p", "treadle._pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *plugin, *options]
    status, out, err = finish(start(command, cwd=folder))
    return status, out + err


def test_a_deadlock_fails_the_test_it_is_in(tmp_path: Path) -> None:
    status, out = run_pytest(tmp_path, "--treadle-watch-locks")

    assert status == 1, out
    for name in ("before", "after", "whose_teardown_hangs"):
        assert f"PASSED test_them.py::test_{name}" in out, out
    failing = ("that_does_not_wait", "that_waits_for_those_that_hang", "that_waits_again_on_its_way_out")
    for name in (*failing, "that_hangs_itself", "that_fails_anyway"):
        assert f"FAILED test_them.py::test_{name}" in out, out
    assert "ERROR test_them.py::test_whose_teardown_hangs" in out, out
    assert "deadlock: 2 threads wait for each other" in out
    assert "threading.RLock made at " in out
    assert "thread 'MainThread' waits for what it holds itself" in out
    assert "ZeroDivisionError" in out
    assert "4 threads hang" in out, "the ones that are no daemons would hold the exit"


def test_it_is_an_option_of_the_configuration_too(tmp_path: Path) -> None:
    status, out = run_pytest(tmp_path, "-k", "test_that_hangs_itself or after", config="treadle_watch_locks = true")

    assert status == 1, out
    assert "1 failed, 1 passed" in out


def test_it_does_nothing_unless_asked(tmp_path: Path) -> None:
    status, out = run_pytest(tmp_path, "-k", "test_before or test_that_does_not_wait or after")

    assert status == 0, out
    assert "3 passed" in out
