"""``for_each`` and ``wait()``: calls for what they do; all are made, nothing is kept, no failure is lost."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import treadle
from tests.calls import Nap
from tests.conftest import Gate
from tests.places import wait_until
from treadle._core.gil import is_gil_enabled
from treadle._run import failures


def wait_until_let_go(is_so: Callable[[], bool]) -> None:
    """Where reference counts are exact, at once; without a GIL another thread may have to settle them first."""
    if is_gil_enabled():
        assert is_so()
    else:
        wait_until(lambda: gc.collect() >= 0 and is_so())


def fail_on_odd(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number


def test_every_item_is_called_and_the_account_is_returned() -> None:
    called: list[int] = []

    stats = treadle.for_each(called.append, range(1000))

    assert sorted(called) == list(range(1000))
    assert (stats.taken, stats.succeeded, stats.running) == (1000, 1000, 0)


def test_several_iterables_and_a_resource_are_those_of_map() -> None:
    seen: list[tuple[int, str, list[object]]] = []

    stats = treadle.for_each(lambda *call: seen.append(call), [1, 2], ["a", "b"], resource=list, max_workers=1)

    assert seen == [(1, "a", []), (2, "b", [])]
    assert stats.succeeded == 2


def test_a_coroutine_function_is_awaited() -> None:
    seen: list[int] = []

    async def note(number: int) -> None:
        await asyncio.sleep(0)
        seen.append(number)

    assert treadle.for_each(note, range(10)).succeeded == 10
    assert sorted(seen) == list(range(10))


def test_a_slow_call_does_not_hold_up_the_others(gate: Gate) -> None:
    """Nothing is delivered, so no order has to be kept: many times the bound goes by the one that hangs."""
    called: list[int] = []

    def call(number: int) -> None:
        if number == 0:
            gate.hold()
        called.append(number)
        if len(called) == 999:
            gate.open()

    treadle.for_each(call, range(1000), max_workers=2, chunksize=1)

    assert called[-1] == 0


def test_results_are_not_kept() -> None:
    class Result:
        pass

    alive = weakref.WeakSet[Result]()
    most = 0

    def call(_: int) -> Result:
        nonlocal most
        most = max(most, len(alive))
        alive.add(result := Result())
        return result

    treadle.for_each(call, range(2000), max_workers=1, chunksize=1, buffersize=1)

    assert most < 100


def test_the_first_failure_is_raised_as_it_is_and_ends_all() -> None:
    called: list[int] = []

    def call(number: int) -> None:
        called.append(number)
        if number == 3:
            raise ValueError("of the user's")

    with pytest.raises(ValueError, match="of the user's") as caught:
        treadle.for_each(call, itertools.count(), max_workers=1, name="save")

    assert caught.value.__notes__ == ["treadle: item 3 of run 'save': 3"]
    assert len(called) < 5000


def test_ordered_raises_the_failure_that_comes_first_in_the_input() -> None:
    second_failed = threading.Event()

    def call(number: int) -> None:
        if number == 0:
            assert second_failed.wait(10)
        else:
            second_failed.set()
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        treadle.for_each(call, range(2), max_workers=2, chunksize=1, ordered=True, grace=60)


def test_collect_makes_all_calls_and_raises_all_failures() -> None:
    with pytest.raises(ExceptionGroup, match="5 calls of run 'fail_on_odd' failed") as caught:
        treadle.for_each(fail_on_odd, range(10), on_error="collect")

    assert sorted(error.args[0] for error in caught.value.exceptions) == [1, 3, 5, 7, 9]
    assert all(error.__notes__[0].startswith("treadle: item ") for error in caught.value.exceptions)


def test_collect_without_a_failure_returns_the_account() -> None:
    assert treadle.for_each(abs, range(10), on_error="collect").succeeded == 10


def test_collect_counts_a_call_past_its_time_as_a_failure() -> None:
    nap = Nap()
    with pytest.raises(ExceptionGroup) as caught:
        treadle.for_each(nap, [1], call_timeout=0.01, on_error="collect")

    assert [type(error) for error in caught.value.exceptions] == [treadle.CallTimedOut]


def test_what_ends_the_run_joins_what_was_collected() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("of the input")

    with pytest.raises(ExceptionGroup, match="1 call of run") as caught:
        treadle.for_each(fail_on_odd, items(), on_error="collect")

    assert [type(error) for error in caught.value.exceptions] == [KeyError, ValueError]


def test_what_ends_the_run_is_raised_alone_where_nothing_had_failed() -> None:
    with pytest.raises(TimeoutError, match="within timeout=0.01"):
        treadle.for_each(Nap(), [1], timeout=0.01, on_error="collect")


def test_ctrl_c_goes_through_with_a_note_of_what_was_collected() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield from range(0, 1000, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        treadle.for_each(fail_on_odd, items(), on_error="collect", max_workers=1, buffersize=0, chunksize=1)

    assert caught.value.__notes__ == ["treadle: before, 1 call of run 'fail_on_odd' failed"]


def test_a_function_is_told_each_failure() -> None:
    told: list[treadle.Outcome[Any, Any]] = []

    stats = treadle.for_each(fail_on_odd, range(10), on_error=told.append)

    assert sorted(outcome.item for outcome in told) == [1, 3, 5, 7, 9]
    assert (stats.succeeded, stats.failed) == (5, 5)


def test_a_function_that_raises_ends_all() -> None:
    with pytest.raises(KeyError) as caught:
        treadle.for_each(fail_on_odd, itertools.count(), on_error=refuse)

    assert caught.value.__notes__[-1].startswith("treadle: on_error, for item ")


def test_of_many_failures_the_later_ones_come_without_variables() -> None:
    """Each frame may hold megabytes; the text of the traceback stays."""

    class Large:
        pass

    alive = weakref.WeakSet[Large]()

    def call(number: int) -> None:
        large = Large()
        alive.add(large)
        raise ValueError(number)

    with pytest.raises(ExceptionGroup) as caught:
        treadle.for_each(call, range(500), on_error="collect")

    assert len(caught.value.exceptions) == 500
    wait_until_let_go(lambda: len(alive) <= failures.MAX_WITH_VARIABLES)
    assert len(alive) >= failures.MAX_WITH_VARIABLES - 1
    last = caught.value.exceptions[-1].__traceback__
    assert last is not None
    assert last.tb_frame.f_code is call.__code__


def test_of_very_many_failures_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MAX_COLLECTED", 3)

    with pytest.raises(ExceptionGroup, match="5 calls of run") as caught:
        treadle.for_each(fail_on_odd, range(10), on_error="collect")

    assert len(caught.value.exceptions) == 3
    assert caught.value.__notes__ == ["treadle: the first 3 are here; not kept: 2 of type ValueError"]


def test_an_exception_object_that_is_raised_many_times_is_in_the_group_once() -> None:
    error = ValueError("the one and only")

    def call(_: int) -> None:
        raise error

    with pytest.raises(ExceptionGroup, match="10 calls of run") as caught:
        treadle.for_each(call, range(10), on_error="collect")

    assert caught.value.exceptions == (error,)


def refuse(outcome: treadle.Outcome[Any, Any]) -> None:
    raise KeyError(outcome.item)


@pytest.mark.parametrize("on_error", ["cancel", "collect", refuse])
def test_nothing_is_kept_when_the_caller_lets_go_of_the_error(on_error: Any) -> None:
    class Large:
        pass

    alive = weakref.WeakSet[Large]()

    def call(number: int) -> None:
        large = Large()
        alive.add(large)
        raise ValueError(number)

    gc.collect()
    gc.disable()
    try:
        with pytest.raises((ExceptionGroup, ValueError, KeyError)):
            treadle.for_each(call, range(10), on_error=on_error)
        wait_until_let_go(lambda: len(alive) == 0)
    finally:
        gc.enable()


@pytest.mark.parametrize("given", ["ignore", None, 5])
def test_on_error_is_checked_before_any_call(given: Any) -> None:
    called: list[int] = []
    with pytest.raises(treadle.InvalidArgument, match="on_error must be 'cancel', 'collect' or a function"):
        treadle.for_each(called.append, [1], on_error=given)
    with pytest.raises(treadle.InvalidArgument, match="on_error must be 'cancel', 'collect' or a function"):
        treadle.pipeline([1]).for_each(called.append, on_error=given)

    assert called == []


def test_a_pipeline_collects_the_failures_of_its_sink() -> None:
    with pytest.raises(ExceptionGroup, match="2 calls of the last stage of pipeline 'numbers' failed") as caught:
        treadle.pipeline(range(4), name="numbers").map(abs).for_each(fail_on_odd, on_error="collect")

    assert sorted(error.args[0] for error in caught.value.exceptions) == [1, 3]


def test_wait_reads_the_rest_of_a_run() -> None:
    called: list[int] = []
    run = treadle.map(called.append, range(100))
    next(run)

    stats = run.wait()

    assert sorted(called) == list(range(100))
    assert stats.succeeded == 100
    assert run.wait().succeeded == 100  # again: there is nothing left


def test_wait_raises_the_first_failure_and_then_that_the_run_has_ended() -> None:
    run = treadle.map(fail_on_odd, range(10))

    with pytest.raises(ValueError, match="1"):
        run.wait()
    with pytest.raises(treadle.RunClosed):
        run.wait()
    assert next(run.rest()).item == 1


def test_wait_of_a_traversal_and_of_a_flow() -> None:
    assert treadle.traverse(lambda n: [n + 1] if n < 5 else [], [0]).wait().succeeded == 6
    assert treadle.pipeline([1, 2]).map(abs).start().wait().stages[0].succeeded == 2
