"""A run of which nothing was ever read says so, as a coroutine that was never awaited does (contract 14)."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import treadle
from tests.calls import Nap
from tests.programs import finish, start

Start = Callable[[], object]


def children(number: int) -> list[int]:
    return [number + 1]


UNREAD: dict[str, tuple[str, Start]] = {
    "map": ("run 'abs'", lambda: treadle.map(abs, itertools.count())),
    "map over nothing": ("run 'abs'", lambda: treadle.map(abs, [])),
    "outcomes": ("run 'abs'", lambda: treadle.map(abs, itertools.count()).outcomes()),
    "rest": ("run 'abs'", lambda: treadle.map(abs, itertools.count()).rest()),
    "stats": ("run 'abs'", lambda: treadle.map(abs, itertools.count()).stats),
    "with a feeder": ("run 'abs'", lambda: treadle.map(abs, itertools.count(), intake="thread")),
    "traverse": ("traversal 'children'", lambda: treadle.traverse(children, [0])),
    "a pipeline": ("pipeline 'numbers'", lambda: numbers().start()),
    "a batch at the end": ("pipeline 'numbers'", lambda: numbers().batched(2).start()),
    "on_error at the end": ("pipeline 'numbers'", lambda: numbers().map(abs, on_error=print).start()),
    "flat_map at the end": ("pipeline 'numbers'", lambda: numbers().flat_map(children).start()),
    "no stages": ("pipeline 'numbers'", lambda: treadle.pipeline(itertools.count(), name="numbers").start()),
}


def numbers() -> treadle.Pipeline[int]:
    return treadle.pipeline(itertools.count(), name="numbers").map(abs).filter(bool)


@pytest.mark.parametrize("case", UNREAD)
def test_a_run_that_nobody_reads_warns_where_it_was_started(case: str) -> None:
    what, start_it = UNREAD[case]
    with pytest.warns(RuntimeWarning, match=f"^{what} was never read, so it ended after taking .* items?,") as caught:
        start_it()

    (warning,) = caught
    assert (warning.filename, warning.lineno) == (__file__, start_it.__code__.co_firstlineno)


def take_one(run: Any) -> None:
    for _ in run:
        break


def enter(run: Any) -> None:
    with run:
        pass


async def take_one_by_awaiting(run: Any) -> None:
    async for _ in run:
        break


READ: dict[str, Callable[[treadle.Run[int, int]], object]] = {
    "break": take_one,
    "next": next,
    "iter": iter,
    "list": lambda run: list(itertools.islice(run, 3)),
    "outcomes": lambda run: take_one(run.outcomes()),
    "rest": lambda run: list(run.rest()),
    "close": lambda run: run.close(),
    "with": enter,
    "async for": lambda run: asyncio.run(take_one_by_awaiting(run)),
    "map of map": lambda run: take_one(treadle.map(abs, run, max_workers=2)),
}


@pytest.mark.parametrize("case", READ)
def test_whoever_asked_for_anything_is_told_nothing(case: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        READ[case](treadle.map(abs, itertools.count(), max_workers=2))
        gc.collect()

    assert [str(warning.message) for warning in caught] == []


def test_a_pipeline_that_was_read_or_closed_is_silent() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        take_one(numbers())
        numbers().start().close()
        enter(numbers().start())
        treadle.pipeline([1]).map(abs).start().wait()

    assert [str(warning.message) for warning in caught] == []


def test_a_run_that_could_not_be_started_is_silent() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(treadle.InvalidArgument):
            treadle.map(abs, [1], max_workers=0)

    assert [str(warning.message) for warning in caught] == []


def test_a_run_that_was_cancelled_with_its_task_is_silent() -> None:
    """Whoever started it had no time to ask."""

    def start_and_wait() -> None:
        run = treadle.map(nap, itertools.count(), max_workers=2)  # noqa: F841  # kept until the end
        nap.wait_until_begun(2)
        has_begun.set()
        treadle.sleep(100_000)

    nap, has_begun = Nap(), threading.Event()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with treadle.TaskGroup() as group:
            group.submit(start_and_wait)
            assert has_begun.wait(10)
            group.cancel()
        gc.collect()

    assert [str(warning.message) for warning in caught] == []


def test_the_warning_comes_once_and_from_any_thread() -> None:
    """A run in a cycle is collected wherever the collector happens to run."""

    def drop_in_a_cycle() -> None:
        circle: list[object] = [treadle.map(abs, itertools.count())]
        circle.append(circle)

    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drop_in_a_cycle()
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
        gc.collect()

    assert [warning.category for warning in caught] == [RuntimeWarning]


def test_a_run_keeps_no_variable_of_whoever_started_it() -> None:
    class Large:
        pass

    def start_it() -> treadle.Run[int, int]:
        large = Large()
        freed.append(weakref.finalize(large, lambda: None))
        return treadle.map(abs, [1])

    import weakref

    freed: list[Any] = []
    with start_it():
        assert not freed[0].alive


def test_a_warning_filter_that_raises_takes_nothing_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in a finalizer is reported and goes no further; the run has ended by then."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: told.append(args.exc_value))
    nap = Nap()

    run = treadle.map(nap, itertools.count(), max_workers=2)
    nap.wait_until_begun(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del run

    while nap.cancelled < 2:
        pass
    assert [type(error) for error in told] == [RuntimeWarning]


PROGRAM = """
import os, sys, time
import treadle

def save(item):
    time.sleep(0.001)

run = treadle.map(save, range(1000), max_workers=2)
"""


@pytest.mark.parametrize("options", [[], ["-W", "error"], ["-W", "ignore"]], ids=["default", "error", "ignore"])
def test_a_global_run_that_nobody_reads_warns_at_exit(tmp_path: Path, options: list[str]) -> None:
    program = tmp_path / "saving.py"
    program.write_text(PROGRAM)

    status, out, err = finish(start([sys.executable, *options, str(program)]))

    assert (status, out) == (0, "")
    assert err.count("RuntimeWarning: run 'save' was never read") == (0 if "ignore" in options else 1)
    if not options:
        assert err.startswith(f"{program}:8: RuntimeWarning: ")
        assert "use treadle.for_each(save, ...)\n  run = treadle.map(save, range(1000)" in err


def test_a_forked_child_says_nothing_of_the_run_of_its_parent(tmp_path: Path) -> None:
    program = tmp_path / "forking.py"
    program.write_text(
        PROGRAM
        + textwrap.dedent(
            """
            if (child := os.fork()) == 0:
                del run
                sys.exit()
            os.waitpid(child, 0)
            run.close()
            """
        )
    )

    status, out, err = finish(start([sys.executable, "-W", "ignore::DeprecationWarning", str(program)]))

    assert (status, out, err) == (0, "", "")
