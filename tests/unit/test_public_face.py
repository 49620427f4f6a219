"""The public names, their errors, and what importing does not do (contract 12 and 13)."""

from __future__ import annotations

import builtins
import copy
import importlib
import inspect
import json
import pickle
import subprocess
import sys

import pytest

import treadle
from treadle import errors


def all_errors() -> list[BaseException]:
    """One of each."""
    examples: list[BaseException] = [
        errors.TreadleError("text"),
        errors.InvalidArgument("size", "0", "at least 1"),
        errors.WrongType("fn", "5", "callable"),
        errors.RunClosed("fetch", "was closed"),
        errors.PipelineClosed("pages", "was closed"),
        errors.GroupClosed("group", "has ended"),
        errors.PoolClosed("pool", "was shut down"),
        errors.PeriodicStopped("check", "was stopped"),
        errors.CallTimedOut("fetch", 3, 1.5),
        errors.CallTimedOut("check", 3, 1.5, "timeout"),
        errors.Cancelled("it was cancelled"),
        errors.ChannelClosed("orders", "was closed"),
        errors.NotHeld("Lock made at here", "after its block"),
        errors.CallCancelled("fetch", 3),
        errors.CallNotStarted("fetch", 3),
        errors.PatchedTooLate("gevent"),
        errors.BlocksEventLoop("treadle.sleep()", "`await asyncio.sleep()`"),
        errors.Deadlock("two threads wait for each other", ("one", "two")),
        errors.NotPicklable("the argument[0]", "TypeError: cannot pickle '_thread.lock' object"),
        errors.ProcessDied("it was killed by SIGSEGV (Segmentation fault)", True),
        errors.ProcessRefused(
            "module 'work' starts processes while it is imported in one", "move that into a function"
        ),
        errors.MissingExtra("treadle.dask()", "dask", "No module named 'distributed'"),
        errors.RemoteError("ValueError(<lock>)"),
        errors.WorkerLost("fetch", 3, "MemoryError()"),
        errors.TooManyAbandoned("fetch", 5, 4),
    ]
    assert {type(error).__name__ for error in examples} == set(errors.__all__), "an error is missing here"
    return examples


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: type(error).__name__)
def test_every_error_pickles_and_comes_back_the_same(error: BaseException) -> None:
    error.add_note("a note")
    for clone in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(clone) is type(error)
        assert clone.args == error.args
        assert str(clone) == str(error)
        assert vars(clone) == vars(error)


@pytest.mark.parametrize("module", ["treadle", "treadle.errors", "treadle.testing"])
def test_all_names_what_a_module_offers(module: str) -> None:
    loaded = importlib.import_module(module)
    own = {
        name
        for name, thing in vars(loaded).items()
        if not name.startswith("_") and (getattr(thing, "__module__", None) or "").startswith("treadle")
    }

    assert set(loaded.__all__) - {"Status"} == own - {"annotations"} - set(vars(builtins))
    assert loaded.__all__ == sorted(loaded.__all__)


@pytest.mark.parametrize("module", ["treadle", "treadle.errors", "treadle.testing"])
def test_importing_all_names_leaves_the_built_in_ones_alone(module: str) -> None:
    """Whoever writes ``map`` below it means the built-in one more often than not, and gets what is called otherwise."""
    namespace: dict[str, object] = {}
    exec(f"from {module} import *", namespace)  # only here

    assert set(namespace) & set(vars(builtins)) == set()
    assert namespace.keys() - {"__builtins__"} == set(importlib.import_module(module).__all__)


@pytest.mark.parametrize("name", sorted({"map", *treadle.__all__} - {"Status"}))
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(treadle, name)
    assert inspect.getdoc(thing)
    for attribute, member in vars(thing).items() if inspect.isclass(thing) else ():
        if not attribute.startswith("_") and inspect.isfunction(member):
            assert inspect.getdoc(member), f"{name}.{attribute}"


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert treadle.__version__ == version("treadle")


def test_importing_changes_nothing() -> None:
    """No thread, handler, hook, signal or setting; and no module beyond the standard library."""
    source = """
import atexit, json, logging, signal, sys, threading
hooks = atexit._ncallbacks()
signals = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
interval = sys.getswitchinterval()
before = set(sys.modules)
import treadle, treadle.testing
assert atexit._ncallbacks() == hooks or "concurrent.futures.thread" in sys.modules, "an exit hook"
assert signals == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
assert interval == sys.getswitchinterval()
assert threading.stack_size() == 0 and threading.active_count() == 1
assert not logging.getLogger("treadle").handlers and not logging.getLogger().handlers
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(tops - sys.stdlib_module_names - {"treadle"})))
heavy = {"asyncio", "rich", "click", "sqlite3", "multiprocessing"}
print(json.dumps(sorted(heavy & (set(sys.modules) - before))))
"""
    result = subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, text=True, timeout=60)

    assert result.returncode == 0, result.stderr
    beyond, heavy = map(json.loads, result.stdout.splitlines())
    assert [name for name in beyond if name != "coverage"] == []
    assert heavy == []


def test_running_changes_no_setting() -> None:
    before = sys.getswitchinterval()

    assert list(treadle.map(abs, range(100))) == list(range(100))

    assert sys.getswitchinterval() == before
