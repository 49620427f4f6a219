"""Calls in processes: what goes there and comes back, and what they find there."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import treadle
from tests.calls import FileGate
from tests.programs import finish, start, start_program
from treadle._core.cores import usable_cores
from treadle._engines.process_pickling import wrap


def in_processes(fn: Any, *iterables: Any, **options: Any) -> treadle.Run[Any, Any]:
    run: treadle.Run[Any, Any] = treadle.map(fn, *iterables, engine="processes", **options)
    return run


def run_program(source: str, **options: Any) -> str:
    """Run ``source`` as a program that is to end well, and return what it prints."""
    status, out, err = finish(start_program(source, **options))
    assert status == 0, err
    return out


# The option


@pytest.mark.parametrize("engine", ["process", 3])
def test_an_engine_is_one_that_exists(engine: Any) -> None:
    with pytest.raises(treadle.InvalidArgument, match="engine must be one of 'threads', 'processes'"):
        treadle.map(abs, [1], engine=engine)
    with pytest.raises(treadle.InvalidArgument, match="engine must be one of 'threads', 'processes'"):
        treadle.PoolExecutor(engine=engine)


def test_max_tasks_per_child_needs_processes() -> None:
    with pytest.raises(treadle.InvalidArgument, match="max_tasks_per_child"):
        treadle.map(abs, [1], max_tasks_per_child=1)
    with pytest.raises(treadle.InvalidArgument, match="max_tasks_per_child"):
        in_processes(abs, [1], max_tasks_per_child=0)


def test_there_are_as_many_workers_as_cores() -> None:
    run = in_processes(abs, [1])

    assert list(run) == [1]
    assert run.stats.decision == f"processes, at most {usable_cores()} workers"


def test_a_group_and_an_executor_have_them_too() -> None:
    with treadle.TaskGroup(engine="processes") as group:
        task = group.submit(divmod, 7, 2)
    with treadle.PoolExecutor(engine="processes", initializer=os.putenv, initargs=("A", "b")) as pool:
        assert pool.submit(int, "11", base=3).result() == 4
        assert list(pool.map(pow, [2, 3], [5, 2])) == [32, 9]
        assert pool.submit(os.getpid).result() != os.getpid()
    assert task.result() == (3, 1)


def test_a_process_is_replaced_after_as_many_calls_as_allowed() -> None:
    pids = list(in_processes(lambda _: os.getpid(), range(7), max_workers=1, max_tasks_per_child=2))

    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 2, 1]


def test_context_variables_stay_at_home() -> None:
    with treadle.PoolExecutor(engine="processes") as pool:
        assert pool.submit(_request).result() == "nobody"


def _request() -> str:
    from contextvars import ContextVar

    return ContextVar("request", default="nobody").get()


# What goes there, and comes back


def test_a_function_that_cannot_be_sent_is_an_error_at_once_that_names_the_culprit() -> None:
    lock = threading.Lock()

    def work(item: int) -> None:
        with lock:
            print(item)

    with pytest.raises(treadle.NotPicklable, match=r"the function work, its variable 'lock' \(<unlocked") as caught:
        in_processes(work, [1])

    assert "cannot pickle '_thread.lock' object" in str(caught.value)


def test_an_initializer_and_a_resource_that_cannot_be_sent_are_errors_too() -> None:
    with pytest.raises(treadle.NotPicklable, match="the resource locked"):
        in_processes(print, [1], resource=threading.Lock().locked)
    with pytest.raises(treadle.NotPicklable, match=r"initargs\[0\]"):
        in_processes(print, [1], initializer=print, initargs=(threading.Lock(),))


def test_an_argument_that_cannot_be_sent_is_that_items_failure() -> None:
    items: list[Any] = [{"a": 1}, {"a": [1, {"b": threading.Lock()}]}, {"a": 3}]

    outcomes = list(in_processes(len, items, max_workers=1, chunksize=3).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", "succeeded"]
    assert isinstance(outcomes[1].error, treadle.NotPicklable)
    assert str(outcomes[1].error).startswith("the argument['a'][1]['b'] (<unlocked _thread.lock")


def test_the_argument_of_a_task_is_named_too() -> None:
    with treadle.PoolExecutor(engine="processes") as pool:
        with pytest.raises(treadle.NotPicklable, match=r"the call\.args\[1\]"):
            pool.submit(print, 1, threading.Lock()).result()
        with pytest.raises(treadle.NotPicklable, match=r"the call\.kwargs\['key'\]"):
            pool.submit(dict, key=threading.Lock()).result()


def test_a_result_that_cannot_be_sent_is_that_items_failure() -> None:
    def call(item: int) -> object:
        return threading.Lock() if item == 1 else [item]

    outcomes = list(in_processes(call, range(3), max_workers=1, chunksize=3).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", "succeeded"]
    assert isinstance(outcomes[1].error, treadle.NotPicklable)
    assert str(outcomes[1].error).startswith("the result cannot be sent")


class Sour:
    """Pickles, but cannot be made of it."""

    def __reduce__(self) -> Any:
        return _turn_sour, ()


def _turn_sour() -> None:
    raise RuntimeError("sour")


@pytest.mark.parametrize("where", ["argument", "result"])
def test_what_cannot_be_unpickled_is_that_items_failure(where: str) -> None:
    def call(item: object) -> object:
        return Sour() if item == "make it" else "fine"

    items: list[Any] = [[1], Sour() if where == "argument" else "make it", [3], [4]]
    outcomes = list(in_processes(call, items, max_workers=1, chunksize=4).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", "succeeded", "succeeded"]
    error = outcomes[1].error
    assert isinstance(error, RuntimeError)
    assert any("received" in note for note in error.__notes__)


class Chatty(Exception):
    """Cannot be made again of its ``args``, as many cannot."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


def test_an_exception_comes_back_with_args_notes_and_the_traceback_as_text() -> None:
    def fail(item: int) -> None:
        error = KeyError("missing", item)
        error.add_note("look elsewhere")
        raise error

    (outcome,) = in_processes(fail, [5]).outcomes()

    error = outcome.error
    assert isinstance(error, KeyError)
    assert error.args == ("missing", 5)
    assert error.__notes__ == ["look elsewhere", "treadle: item 0 of run 'fail': 5"]
    assert "in fail\n    raise error" in str(error.__cause__)
    assert "_engines" not in str(error.__cause__), "our own frames say nothing to the user"


def test_the_cause_of_an_exception_is_in_the_text() -> None:
    def fail(_: int) -> None:
        try:
            [].pop()
        except IndexError as error:
            raise ValueError from error

    (outcome,) = in_processes(fail, [5]).outcomes()

    assert outcome.error is not None
    assert "IndexError: pop from empty list" in str(outcome.error.__cause__)


@pytest.mark.parametrize("make", [lambda: Chatty(404, "gone"), lambda: ValueError(threading.Lock())])
def test_an_exception_that_cannot_be_pickled_is_stood_for(make: Any) -> None:
    def fail(_: int) -> None:
        raise make()

    (outcome,) = in_processes(fail, [5]).outcomes()

    assert isinstance(outcome.error, treadle.RemoteError)
    assert str(outcome.error).startswith(("Chatty('404: gone'", "ValueError(<unlocked"))
    assert "in fail" in str(outcome.error.__cause__)


def test_huge_arguments_and_results_at_once() -> None:
    """More than any pipe holds, in both directions, several in one chunk."""
    items = [bytes([number]) * 3_000_000 for number in range(6)]

    results = list(in_processes(lambda item: item + b"!", items, chunksize=3, max_workers=2))

    assert results == [item + b"!" for item in items]


class Array:
    """Offers its memory to pickle as it is, as the arrays of numpy do."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Array, (pickle.PickleBuffer(self.memory),)


def test_memory_that_pickle_can_hand_over_is_not_pickled() -> None:
    def call(array: Array) -> Array:
        array.memory[0] = 1  # it can be written to, as before
        return array

    item = Array(bytearray(2_000_000))
    data, *buffers = wrap(item, "the argument")
    (result,) = in_processes(call, [item])

    assert len(data) < 1000
    assert [buffer.raw().nbytes for buffer in buffers] == [2_000_000]
    assert isinstance(result, Array)
    assert isinstance(result.memory, bytearray)
    assert (len(result.memory), result.memory[0], item.memory[0]) == (2_000_000, 1, 0)


def test_memory_that_is_read_only_stays_so() -> None:
    (is_readonly,) = in_processes(lambda array: memoryview(array.memory).readonly, [Array(b"abc")])

    assert is_readonly


# What is in __main__


MAIN = """
    import treadle
    print("begins")

    class Point:
        def __init__(self, x):
            self.x = x
        def __eq__(self, other):
            return type(other) is Point and other.x == self.x

    def move(point):
        return Point(point.x + 1)

    points = list(treadle.map(move, [Point(1), Point(2)], engine="processes"))
    print(points == [Point(2), Point(3)], all(isinstance(point, Point) for point in points))
    with treadle.PoolExecutor(engine="processes") as pool:
        print(isinstance(pool.submit(move, Point(1)).result(), Point))
"""
MAIN_PRINTS = "begins\nTrue True\nTrue\n"


def test_classes_and_functions_of_main_in_python_c() -> None:
    assert run_program(MAIN) == MAIN_PRINTS


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    """It is not imported in the processes: "begins" is printed once."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(MAIN))

    status, out, err = finish(start([sys.executable, str(script)]))

    assert (status, out) == (0, MAIN_PRINTS), err


def test_classes_and_functions_of_a_notebook() -> None:
    """Where there is a ``__main__``, but no file, and cells redefine what earlier ones have defined."""
    cells = [
        "import treadle\ndef f(x): return x + 1",
        "print(list(treadle.map(f, [1, 2], engine='processes')))",
        "def f(x): return x + 10",
        "print(list(treadle.map(f, [1, 2], engine='processes')))",
    ]
    source = f"""
        import code, sys, types
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        interpreter = code.InteractiveInterpreter(main.__dict__)
        for cell in {cells!r}:
            interpreter.runsource(cell, "<cell>", "exec")
    """

    assert run_program(source) == "[2, 3]\n[11, 12]\n"


def test_without_cloudpickle_importable_things_will_do_and_others_name_the_extra() -> None:
    out = run_program("""
        import sys
        sys.modules["cloudpickle"] = None
        import operator, treadle

        def work(item):
            return item

        class Item:
            pass

        def attempt(fn, item):
            try:
                print(list(treadle.map(fn, [item], engine="processes")))
            except treadle.NotPicklable as error:
                print("treadle[processes]" in str(error), str(error).partition(" cannot")[0].partition(" (")[0])

        attempt(operator.neg, 1)
        attempt(str, "__main__")
        attempt(str, ["__main__"])
        attempt(work, 1)
        attempt(lambda item: item, 1)
        attempt(str, Item())
    """)

    assert out.splitlines() == [
        "[-1]",
        "['__main__']",
        """["['__main__']"]""",
        "True the function work",
        "True the function <lambda>",
        "True the argument.__class__",
    ]


# What is found there


def test_a_process_has_the_path_folder_and_environment_as_they_are_when_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though what starts it may have been started long before."""
    assert list(in_processes(abs, [1])) == [1]
    (tmp_path / "late_module.py").write_text("def answer(item): return 42")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TREADLE_TEST", "now")
    import late_module  # type: ignore[import-not-found]

    assert list(in_processes(late_module.answer, [1])) == [42]
    (found,) = in_processes(lambda _: (os.getcwd(), os.environ["TREADLE_TEST"]), [1])
    assert found == (str(tmp_path), "now")


def test_a_call_may_change_its_folder_and_environment() -> None:
    def call(_: int) -> str:
        os.chdir("/")
        os.environ["TREADLE_TEST"] = "theirs"
        return os.getcwd()

    before = os.getcwd()

    assert list(in_processes(call, [1, 2], max_workers=1)) == ["/", "/"]
    assert os.getcwd() == before
    assert "TREADLE_TEST" not in os.environ


def test_what_calls_print_goes_to_standard_error() -> None:
    """So that it cannot come between what a program writes for another."""
    status, out, err = finish(
        start_program("""
            import os, sys, treadle
            def call(item):
                print("printed", item)
                os.write(1, b"written\\n")
                print("complained", file=sys.stderr)
                return item
            print(list(treadle.map(call, [1], engine="processes")))
        """)
    )

    assert (status, out) == (0, "[1]\n")
    assert sorted(err.splitlines()) == ["complained", "printed 1", "written"]


def test_standard_error_is_the_one_of_the_moment(tmp_path: Path) -> None:
    """Not that of the time when the first process was started."""
    source = f"""
        import os, treadle
        list(treadle.map(print, ["before"], engine="processes"))
        os.dup2(os.open({str(tmp_path / "log")!r}, os.O_CREAT | os.O_WRONLY), 2)
        list(treadle.map(print, ["after"], engine="processes"))
    """

    assert run_program(source) == ""
    assert (tmp_path / "log").read_text() == "after\n"


def test_standard_input_is_left_alone() -> None:
    source = """
        import sys, treadle
        print(list(treadle.map(lambda _: sys.stdin.read(), [1], engine='processes')))
        print(sys.stdin.read())
    """
    process = start([sys.executable, "-c", textwrap.dedent(source)], stdin=subprocess.PIPE)

    status, out, err = finish(process, "mine")

    assert (status, out) == (0, "['']\nmine\n"), err


def test_standard_error_may_be_closed() -> None:
    source = """
        import os, treadle
        os.close(2)
        print(list(treadle.map(lambda item: print("gone") or item, [1], engine="processes")))
    """

    assert run_program(source) == "[1]\n"


def test_calls_sent_along_with_one_that_lasts_are_made_elsewhere_though_nobody_waits(tmp_path: Path) -> None:
    """Tiny chunks were joined; the engine sends for help, as the consumer is busy with something else."""
    file_gate = FileGate(tmp_path)

    def call(item: int) -> object:
        return file_gate.hold(item) if item >= 3000 else item

    with in_processes(call, range(3004), max_workers=2, chunksize=1, ordered=False) as run:
        assert len([next(run) for _ in range(3000)]) == 3000
        file_gate.wait_for_arrivals(2)
        file_gate.open()
        assert sorted(run) == [3000, 3001, 3002, 3003]


def test_random_numbers_differ_from_process_to_process() -> None:
    def roll(_: int) -> float:
        import random

        return random.random()

    assert len(set(in_processes(roll, range(4), max_workers=1, max_tasks_per_child=1))) == 4


# What calls may start there


def test_a_call_may_start_threads_that_outlive_it(tmp_path: Path) -> None:
    """The process waits for them before it ends, as any does."""

    def call(path: Path) -> str:
        threading.Timer(0.05, path.touch).start()
        return "done"

    assert list(in_processes(call, [tmp_path / "later"])) == ["done"]
    _wait_for(tmp_path / "later")


def test_the_exit_handlers_of_a_process_run(tmp_path: Path) -> None:
    def call(path: Path) -> None:
        import atexit

        atexit.register(path.touch)

    list(in_processes(call, [tmp_path / "goodbye"]))

    _wait_for(tmp_path / "goodbye")


def test_a_call_may_start_processes() -> None:
    def run_command(text: str) -> str:
        return subprocess.run(["echo", text], stdout=subprocess.PIPE, text=True, check=True).stdout

    def fork(item: int) -> int:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return sum(pool.map(abs, [item, -item]))

    assert list(in_processes(run_command, ["hello"])) == ["hello\n"]
    assert list(in_processes(fork, [1, 2])) == [2, 4]


def test_a_call_may_have_signals_of_its_own() -> None:
    """It is made in the main thread of its process."""

    def call(_: int) -> int:
        hits: list[int] = []
        signal.signal(signal.SIGALRM, lambda number, _: hits.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while not hits:
            time.sleep(0.01)  # not signal.pause(), which a signal that comes a moment before does not end
        return len(hits)

    assert list(in_processes(call, [1])) == [1]


def _wait_for(path: Path) -> None:
    from tests.places import wait_until

    wait_until(path.exists)
