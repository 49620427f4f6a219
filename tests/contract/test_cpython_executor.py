"""CPython's own tests of ThreadPoolExecutor, with treadle.PoolExecutor in its place.

They are taken from the interpreter that runs these tests, so each version brings its own. Skipped where it ships none.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
import importlib.util
import sys
import threading
import unittest
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import PATIENCE_SECONDS
from treadle._run.executor import PoolExecutor

PACKAGE = "test.test_concurrent_futures"
MODULES = ("test_thread_pool", "test_wait", "test_as_completed", "test_shutdown", "test_init")

LEFT_OUT = {
    "test_default_workers": "the default is 32 threads on every machine: they wait more than they work",
    "test_max_workers_negative": "it is a ValueError with a text of our own; see tests/unit/test_executor.py",
    "test_submit_after_interpreter_shutdown": "a RuntimeError under a name of our own; see tests/unit/test_executor.py",
    "test_thread_names_default": "threads are named after our class; see tests/unit/test_executor.py",
}
if "coverage" in sys.modules:
    LEFT_OUT["test_hang_global_shutdown_lock"] = (
        "it forks while other threads run, and coverage's own lock then hangs the child; runs without coverage"
    )
SLOW = ("test_map_timeout", "test_first_exception")

# A child program of theirs has no other way to get at the executor.
PRELUDE = "import concurrent.futures, treadle; concurrent.futures.ThreadPoolExecutor = treadle.PoolExecutor\n"


class ThreadPoolExecutor(PoolExecutor):
    """A PoolExecutor whose threads are counted when all are there: those tests believe that each starts at once."""

    @property
    def _threads(self) -> set[threading.Thread]:  # type: ignore[override]
        """The threads, once nobody is on the way to work that waits: one sends for the next."""
        crew = self._book.crew
        settled = threading.Event()
        for _ in range(int(PATIENCE_SECONDS * 1000)):
            if crew._on_its_way is None and not crew._opening and not (crew._queue and crew.has_room()):
                break
            settled.wait(0.001)
        return super()._threads


def find_modules() -> list[ModuleType]:
    """Return CPython's modules of tests: one until 3.11, then a package of several."""
    try:
        found = importlib.util.find_spec(PACKAGE)
        if found is None:
            return []
        if found.submodule_search_locations is None:
            return [importlib.import_module(PACKAGE)]
        return [importlib.import_module(f"{PACKAGE}.{name}") for name in MODULES]
    except (ImportError, unittest.SkipTest):
        return []


class Substitute:
    """Mixed into each of their classes: what it is to use instead of the real executor."""

    executor_type = ThreadPoolExecutor

    @contextlib.contextmanager
    def _assert_logged(self: Any, text: str) -> Iterator[None]:
        with self.assertLogs("treadle", "CRITICAL") as caught:
            yield
        assert any(text in line for line in caught.output)


def without_some(case: type[unittest.TestCase]) -> dict[str, Any]:
    """Return what to put in place of those methods of ``case`` that are left out or slow."""
    methods = {name: getattr(case, name) for name in unittest.defaultTestLoader.getTestCaseNames(case)}
    left_out = {name: unittest.skip(LEFT_OUT[name])(test) for name, test in methods.items() if name in LEFT_OUT}
    return left_out | {name: pytest.mark.slow(copy_of(test)) for name, test in methods.items() if name in SLOW}


def copy_of(test: Callable[..., object]) -> Callable[..., object]:
    """Return a function of our own that does the same, so that theirs is not marked."""

    @functools.wraps(test)
    def run(self: unittest.TestCase) -> None:
        test(self)

    return run


def adopt() -> Iterator[type[unittest.TestCase]]:
    """Yield their classes for threads, each with the substitute in front."""
    for module in find_modules():
        for name, case in list(vars(module).items()):
            is_case = isinstance(case, type) and issubclass(case, unittest.TestCase)
            if is_case and getattr(case, "executor_type", None) is concurrent.futures.ThreadPoolExecutor:
                yield type(name, (Substitute, case), {"__module__": __name__, **without_some(case)})


ADOPTED = list(adopt())
if not ADOPTED:
    pytest.skip(f"this interpreter ships no {PACKAGE}", allow_module_level=True)
globals().update((case.__name__, case) for case in ADOPTED)


@pytest.fixture(autouse=True)
def _in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of their tests name the real one, and some run programs that do."""
    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", ThreadPoolExecutor)
    for module in find_modules():
        if hasattr(module, "assert_python_ok"):
            run_program = module.assert_python_ok
            monkeypatch.setattr(
                module, "assert_python_ok", lambda option, source, run=run_program: run(option, PRELUDE + source)
            )


def test_what_is_left_out_is_there_and_little() -> None:
    """An entry that matches nothing would hide whatever comes under that name."""
    names = {name for case in ADOPTED for name in unittest.defaultTestLoader.getTestCaseNames(case)}

    assert LEFT_OUT.keys() <= names
    assert len(names) >= 8 * len(LEFT_OUT)
