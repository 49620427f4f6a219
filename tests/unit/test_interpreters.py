"""Calls in interpreters of their own: what goes there, what does not, and that the error says why."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from types import ModuleType
from typing import Any

import pytest

import treadle
from tests.interpreters import interpreter_pool, needs_interpreters
from tests.places import PLACES, Calls
from tests.programs import finish, start_program

pytestmark = needs_interpreters

# As NumPy, this module does not load there; and it is part of every Python. Whatever is of this file does, so it is not
# imported on top.
REFUSES = "module faulthandler does not support loading in subinterpreters"


@pytest.fixture
def pool() -> Iterator[Executor]:
    with interpreter_pool(2) as pool:
        yield pool


def error_of(fn: Callable[..., Any], item: Any, pool: Executor) -> BaseException:
    """Return the error of the one call, which is a failure like any other: the next one succeeds."""
    (outcome,) = treadle.map(fn, [item], engine=pool).outcomes()
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert list(treadle.map(abs, [-1], engine=pool)) == [1]
    return outcome.error


def notes_of(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def use_it(_: object) -> bool:
    import faulthandler

    return faulthandler.is_enabled()


class Sevens(Exception):
    """Raised there, and met here."""


def fail_on_seven(number: int) -> int:
    if number == 7:
        raise Sevens("a seven", number)
    return number


# What goes there


@pytest.mark.parametrize("place", PLACES)
def test_functions_lambdas_and_closures_go_there(place: str, pool: Executor) -> None:
    base = 10

    with Calls(place, lambda number: base + fail_on_seven(number), range(5), engine=pool) as calls:
        assert [end.value for end in calls.ends()] == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("place", PLACES)
def test_what_is_raised_there_comes_back_as_it_is(place: str, pool: Executor) -> None:
    with Calls(place, fail_on_seven, [6, 7, 8], engine=pool) as calls:
        ends = calls.ends()

    assert [end.status for end in ends] == ["succeeded", "failed", "succeeded"]
    assert isinstance(ends[1].error, Sevens)
    assert ends[1].error.args == ("a seven", 7)
    assert "in fail_on_seven" in str(ends[1].error.__cause__)


def test_a_call_is_made_in_another_interpreter_of_this_process(pool: Executor) -> None:
    def where(_: object) -> tuple[int, bool]:
        import os
        import sys

        return os.getpid(), "pytest" in sys.modules

    assert list(treadle.map(where, [1], engine=pool)) == [(os.getpid(), False)]


# What does not


@pytest.mark.parametrize("what", ["the call imports it", "the function", "the argument", "a variable of the function"])
def test_a_module_that_does_not_load_there_is_a_failed_call_that_says_so(what: str, pool: Executor) -> None:
    import faulthandler

    cases: dict[str, tuple[Any, Any]] = {
        "the call imports it": (use_it, 1),
        "the function": (faulthandler.is_enabled, 1),
        "the argument": (callable, faulthandler.is_enabled),
        "a variable of the function": (lambda _: faulthandler, 1),
    }
    fn, item = cases[what]

    error = error_of(fn, item, pool)

    assert type(error) is ImportError
    assert REFUSES in str(error)
    received = "" if what == "the call imports it" else f"as it received {what.removeprefix('a variable of ')}"
    assert received in notes_of(error)


def test_a_module_that_is_here_alone_is_named(pool: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("here_alone")
    exec("def call(item): return item", module.__dict__)
    monkeypatch.setitem(sys.modules, "here_alone", module)

    error = error_of(module.call, 1, pool)

    assert type(error) is ModuleNotFoundError
    assert "No module named 'here_alone'" in str(error)
    assert "as it received the function" in notes_of(error)


def test_what_a_closure_has_that_cannot_be_pickled_is_named(pool: Executor) -> None:
    lock = threading.Lock()

    error = error_of(lambda _: lock, 1, pool)

    assert isinstance(error, treadle.NotPicklable)
    assert ", its variable 'lock' (<unlocked _thread.lock object at " in str(error)
    assert "cannot be sent to another process or interpreter: TypeError: cannot pickle '_thread.lock'" in str(error)


def test_an_argument_and_a_result_that_cannot_be_pickled_are_named(pool: Executor) -> None:
    sent = error_of(callable, {"a": [threading.Lock()]}, pool)
    received = error_of(lambda _: __import__("threading").Lock(), 1, pool)

    assert isinstance(sent, treadle.NotPicklable)
    assert sent.what.startswith("the argument['a'][0] (<unlocked _thread.lock object")
    assert isinstance(received, treadle.NotPicklable)
    assert received.what.startswith("the result (<unlocked _thread.lock object")


@pytest.mark.parametrize("kind", [treadle.TaskGroup, treadle.PoolExecutor])
def test_a_task_that_cannot_go_there_fails_alone(kind: Any, pool: Executor) -> None:
    import faulthandler

    lock = threading.Lock()
    options = {"on_error": "collect"} if kind is treadle.TaskGroup else {}

    with kind(engine=pool, **options) as owner:
        tasks = [owner.submit(fn) for fn in (lambda: 1, lambda: lock, faulthandler.is_enabled, lambda: 2)]
        errors = [task.exception() for task in tasks]

    assert [task.result() for task in (tasks[0], tasks[3])] == [1, 2]
    assert isinstance(errors[1], treadle.NotPicklable)
    assert "its variable 'lock'" in str(errors[1])
    assert isinstance(errors[2], ImportError)
    assert REFUSES in str(errors[2])


PROGRAM = """
    import sys
    if {without}:
        sys.modules["cloudpickle"] = None
    import treadle
    from concurrent.futures import InterpreterPoolExecutor

    class Item:
        def __init__(self, number):
            self.number = number

    def double(item):
        return 2 * item.number

    def attempt(fn, item):
        (outcome,) = treadle.map(fn, [item], engine=pool).outcomes()
        error = outcome.error
        print(outcome.value if error is None else (type(error).__name__, str(error), error.__notes__))

    if __name__ == "__main__":
        with InterpreterPoolExecutor(1) as pool:
            for fn, item in [(double, Item(1)), (callable, Item(1)), (lambda item: item.number, Item(1)), (abs, -1)]:
                attempt(fn, item)
"""


def test_what_the_program_defines_goes_there_with_cloudpickle() -> None:
    status, out, err = finish(start_program(PROGRAM.format(without=False)))

    assert (status, out, err) == (0, "2\nFalse\n1\n1\n", "")


def test_what_the_program_defines_is_refused_without_cloudpickle_by_an_error_that_names_it() -> None:
    status, out, err = finish(start_program(PROGRAM.format(without=True)))

    function, argument, inner, plain = out.splitlines()
    for line, name, what in [(function, "double", "the function"), (argument, "Item", "the argument")]:
        assert line.startswith("('AttributeError', \"module '__main__' has no attribute '" + name)
        assert f"as it received {what}: __main__ is another one there" in line
        assert "needs the extra: treadle[processes]" in line
    assert inner.startswith("('NotPicklable', \"the function <lambda> ")
    assert "need the extra: pip install 'treadle[processes]'" in inner
    assert (status, plain, err) == (0, "1", "")


# The end


def test_interpreters_that_cannot_start_end_the_run_with_what_is_wrong() -> None:
    futures: Any = concurrent.futures
    with (
        futures.InterpreterPoolExecutor(1, initializer=exec, initargs=("import faulthandler",)) as pool,
        pytest.raises(BrokenExecutor) as caught,
    ):
        list(treadle.map(abs, [-1], engine=pool))

    assert "the executor makes no calls any more: <concurrent.futures.interpreter.Interp" in notes_of(caught.value)
