"""``treadle.diagnose``: what it makes of measures, and what becomes of functions of every kind."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import math
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import treadle
from tests.conftest import Gate
from treadle._core.gil import is_gil_enabled
from treadle._crew import deciding
from treadle._crew.deciding import Measures
from treadle._diagnose import blas, examination
from treadle._diagnose.diagnosis import Pickling, Speed
from treadle._diagnose.examination import _trouble_of
from treadle._diagnose.prospects import Findings, expect, give_verdict, kind_of, numbers_of, speeds_of
from treadle._diagnose.rehearsal import Trial, rate_of
from treadle._diagnose.report import Facts
from treadle._diagnose.supply import KEPT_ITEMS, Supply


@pytest.fixture(autouse=True)
def _is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found in so short a time is not exact, and nothing here depends on it."""
    monkeypatch.setattr(examination, "TRIAL_SECONDS", 0.01)


# What follows from measures


def findings(
    computing: float = 0.0,
    held: float | None = None,
    gain: float | None = None,
    mean: float = 0.010,
    calls: int = 100,
    rates: dict[tuple[str, int], float] | None = None,
    used: float | None = None,
    **more: Any,
) -> Findings:
    """Return what was found: on one thread, and at which rates."""
    measured = tuple(
        Speed(engine, workers, rate, 1.0, 1000 * workers, None, True)  # type: ignore[arg-type]
        for (engine, workers), rate in (rates or {}).items()
    )
    sizes = Pickling(10e-6, 5, 5)
    options: Any = {"pickling": sizes, "cores": 4, "most_workers": 64, "left": None, "start": 0.08, **more}
    return Findings(Measures(calls, calls * mean, computing, held, gain, used), measured, **options)


WAITS: dict[str, Any] = {"computing": 0.01, "held": 0.02, "gain": 2.0}
HOLDS: dict[str, Any] = {"computing": 1.0, "held": 1.0, "gain": 1.0}
COMPUTES: dict[str, Any] = {"computing": 1.0, "held": 0.01, "gain": 1.95}
CANNOT = Pickling(problems=("the argument['lock']: TypeError",))


@pytest.mark.parametrize(
    ("measures", "engine", "workers"),
    [
        pytest.param(WAITS, "threads", 64, id="sleep"),
        pytest.param({**WAITS, "left": 3}, "threads", 3, id="sleep, three items"),
        pytest.param({**WAITS, "left": 1}, "loop", 1, id="sleep, one item"),
        pytest.param({**WAITS, "most_workers": 8}, "threads", 8, id="sleep, eight at most"),
        pytest.param({"computing": 0.12, "held": 0.1, "gain": 2.0}, "threads", 16, id="a sleep and some Python"),
        pytest.param(HOLDS, "processes", 4, id="a pure loop"),
        pytest.param({**HOLDS, "left": 2, "mean": 1.0}, "processes", 2, id="a pure loop, twice"),
        pytest.param({**HOLDS, "left": 3}, "loop", 1, id="a pure loop, for 30 ms in all"),
        pytest.param({**HOLDS, "cores": 1}, "loop", 1, id="a pure loop, one core"),
        pytest.param({**HOLDS, "has_processes": False}, "loop", 1, id="a pure loop, no processes"),
        pytest.param({**HOLDS, "pickling": CANNOT}, "loop", 1, id="a pure loop, with a lock"),
        pytest.param({**HOLDS, "pickling": Pickling(0.02)}, "loop", 1, id="a pure loop over what takes long to pickle"),
        pytest.param({**HOLDS, "has_gil": False}, "threads", 4, id="a pure loop without a GIL"),
        pytest.param({**HOLDS, "mean": 1e-6}, "loop", 1, id="tiny"),
        pytest.param(COMPUTES, "threads", 4, id="sha256 of 1 MB"),
        pytest.param({**COMPUTES, "used": 2.0}, "threads", 2, id="a matrix product on two of four cores"),
        pytest.param({**COMPUTES, "used": 3.9}, "loop", 1, id="a matrix product on all four"),
        pytest.param({"computing": 1.0, "held": 0.07, "gain": 0.8}, "processes", 4, id="sqlite fetchall"),
        pytest.param({"computing": 0.5, "held": 0.4, "gain": 1.9}, "threads", 4, id="half a wait, half Python"),
        pytest.param({"computing": 0.01, "is_async": True}, "coroutines", 64, id="asyncio.sleep"),
        pytest.param({"computing": 0.95, "is_async": True}, "coroutines", 1, id="a coroutine that computes"),
        pytest.param({"computing": 0.5, "calls": 3}, "threads", 8, id="too few calls to tell"),
        pytest.param({"computing": 0.0, "calls": 0}, "threads", 1, id="no call ended"),
    ],
)
def test_what_to_use(measures: dict[str, Any], engine: str, workers: int) -> None:
    """The engine as engine="auto" decides; the number of workers by the speeds."""
    found = findings(**measures)

    verdict = give_verdict(found, speeds_of(found))

    assert (verdict.engine, verdict.workers) == (engine, workers)
    assert verdict.why


@pytest.mark.parametrize(
    ("measures", "kind"),
    [
        (WAITS, "waits"),
        (HOLDS, "holds the GIL"),
        (COMPUTES, "computes without the GIL"),
        ({**HOLDS, "has_gil": False}, "computes without the GIL"),
        ({**HOLDS, "mean": 1e-6}, "tiny"),
        ({"computing": 1.0}, "unknown"),
        ({**COMPUTES, "used": 3.0}, "computes on several cores"),
        ({"computing": 0.02, "is_async": True}, "waits"),
        ({"computing": 0.02, "is_async": True, "mean": 1e-6}, "waits"),
        ({"computing": 0.9, "is_async": True}, "holds the GIL"),
    ],
)
def test_what_it_does(measures: dict[str, Any], kind: str) -> None:
    assert kind_of(findings(**measures)) == kind


@pytest.mark.parametrize(
    ("measures", "engine", "gains"),
    [
        (WAITS, "threads", {1: 1, 2: 2, 64: 64}),
        (HOLDS, "threads", {1: 1, 2: 1, 64: 1}),
        (COMPUTES, "threads", {1: 1, 2: 2, 4: 4, 64: 4}),
        ({**HOLDS, "has_gil": False}, "threads", {2: 2, 4: 4, 8: 4}),
        ({"computing": 0.25, "held": 0.2, "gain": 2.0}, "threads", {2: 2, 4: 4, 8: 5, 64: 5}),
        ({"computing": 0.1, "is_async": True}, "coroutines", {1: 1, 8: 8, 64: 10}),
        (HOLDS, "processes", {1: 1, 2: 2, 4: 4, 8: 4}),
        ({**HOLDS, "pickling": Pickling(0.005)}, "processes", {1: 0.5, 4: 1}),
    ],
)
def test_what_is_to_be_expected_of_one_worker_more(
    measures: dict[str, Any], engine: Any, gains: dict[int, float]
) -> None:
    found = findings(**measures)

    expected = {workers: expect(found, engine, workers) * found.found.mean for workers in gains}

    assert expected == pytest.approx(gains, rel=0.02)


@pytest.mark.parametrize(
    ("measures", "rates", "says"),
    [
        (COMPUTES, {}, "4 threads are about 4.0 times as fast as one"),
        (COMPUTES, {("threads", 1): 100.0, ("threads", 4): 360.0}, "4 threads are about 4.0 times as fast as one"),
        (
            COMPUTES,
            {("threads", 1): 100.0, ("threads", 4): 160.0},
            "4 threads came 1.6 times as far in these few calls, and should be about 4.0 times as fast as one",
        ),
        (HOLDS, {("threads", 1): 100.0, ("processes", 4): 380.0}, "each are about 4.0 times as fast"),
        (
            HOLDS,
            {("threads", 1): 100.0, ("processes", 4): 120.0},
            "each came 1.2 times as far in these few calls, and should be about 4.0 times as fast",
        ),
        (WAITS, {("threads", 1): 100.0, ("threads", 64): 3200.0}, "32 threads are about 32.0 times as fast as one"),
    ],
)
def test_why_agrees_with_the_table(measures: dict[str, Any], rates: dict[tuple[str, int], float], says: str) -> None:
    """What follows from cores and GIL is the advice, and what was measured is not passed over in silence."""
    found = findings(**measures, rates=rates)

    assert give_verdict(found, speeds_of(found)).why.endswith(says)


@pytest.mark.parametrize(
    ("held", "computing", "kind", "misses"),
    [
        (0.03, 0.98, "holds the GIL", True),
        (0.97, 0.98, "holds the GIL", False),
        (0.03, 0.98, "computes without the GIL", False),
        (None, 0.98, "holds the GIL", False),
    ],
)
def test_a_gil_that_is_said_to_be_held_was_seen_held_or_it_is_said_why_not(
    held: float | None, computing: float, kind: Any, misses: bool
) -> None:
    """Calls of sqlite let go of it at each row: who knocks finds it free, and two at once come no further."""
    found = replace(treadle.diagnose(abs, [1], seconds=0.1), held=held, computing=computing, kind=kind)

    assert ("which misses how often calls let go" in found.shares()) is misses


def test_what_is_expected_goes_on_from_what_was_measured() -> None:
    """Half as fast as it should be with two threads is half as fast as it should be with eight."""
    found = findings(**WAITS, rates={("threads", 1): 100.0, ("threads", 2): 190.0, ("threads", 4): 190.0 * 1.5})

    speeds = {speed.workers: speed for speed in speeds_of(found) if speed.engine == "threads"}

    assert [(speed.is_measured, speed.gain) for speed in speeds.values()][:4] == [
        (True, 1.0),
        (True, 1.9),
        (True, pytest.approx(2.85)),
        (False, pytest.approx(5.7)),
    ]


def test_beyond_a_knee_that_was_measured_nothing_is_expected() -> None:
    found = findings(**WAITS, rates={("threads", 1): 100.0, ("threads", 2): 200.0, ("threads", 4): 205.0})

    rates = [speed.per_second for speed in speeds_of(found) if speed.engine == "threads"]

    assert rates == [100.0, 200.0, *[205.0] * 5]
    assert give_verdict(found, speeds_of(found)).workers == 2


def test_memory_is_expected_by_what_one_worker_took() -> None:
    found = findings(**HOLDS, rates={("threads", 1): 100.0, ("processes", 2): 150.0})

    memory = {speed.workers: speed.memory for speed in speeds_of(found) if speed.engine == "processes"}

    assert memory == {1: 1000, 2: 2000, 4: 4000}


@pytest.mark.parametrize(("most", "numbers"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_numbers_of_workers_double(most: int, numbers: list[int]) -> None:
    assert numbers_of(most) == numbers


@pytest.mark.parametrize(
    ("ends", "workers", "start", "rate"),
    [
        ([], 1, 0.0, None),
        ([0.5], 1, 0.0, 2.0),
        ([1.0, 1.1, 1.2], 1, 0.0, pytest.approx(10.0)),  # the first had to import something
        ([1.0, 1.0, 2.0, 2.0, 2.5], 2, 0.0, 2.0),  # the last had nobody beside it
        ([1.5, 1.5], 2, 1.0, 4.0),  # after a second in which processes started
        ([0.0, 0.0], 1, 0.0, pytest.approx(2e9)),
    ],
)
def test_the_rate_is_that_of_whole_rounds(ends: list[float], workers: int, start: float, rate: float | None) -> None:
    assert rate_of(ends, workers, start) == rate


def report(found: Findings, fn: Callable[..., Any] = print, *trials: Trial, load: float = 0.0) -> treadle.Diagnosis:
    return Facts(fn, found, trials, items=3, seconds=1.0, has_resource=False, load=load).report()


@pytest.mark.parametrize(
    ("measures", "trials", "note"),
    [
        ({**HOLDS, "left": 3}, [], "4 processes would be about 4.0 times as fast, for many more calls than these"),
        (
            {**HOLDS, "pickling": CANNOT},
            [],
            "4 processes would be about 4.0 times as fast, if its calls could be made there",
        ),
        ({**WAITS, "left": 1000}, [], 'More workers may bring more: max_workers="auto" finds how many'),
        ({"computing": 1.0, "held": 0.07, "gain": 0.8}, [], "Two threads came 0.8 times as far as one"),
        (WAITS, [Trial("threads", 1, calls=4)], "4 calls were made of 3 items: again and again of the same"),
        (WAITS, [Trial("threads", 1, calls=1, unfinished=2)], "2 calls had not ended when time was up"),
        (
            {**WAITS, "rates": {("threads", 1): 1.0, ("threads", 2): 0.5, ("processes", 2): 2.0}},
            [],
            "In these few calls 2 processes came 2.0 times as far as what is proposed here",
        ),
    ],
)
def test_what_is_said_beside(measures: dict[str, Any], trials: list[Trial], note: str) -> None:
    found = report(findings(**measures), print, *trials)

    assert any(said.startswith(note) for said in found.notes), found.notes


def test_a_busy_machine_is_told() -> None:
    assert any("load 9.5, 4 cores" in note for note in report(findings(**WAITS), load=9.5).notes)
    assert not any("load" in note for note in report(findings(**WAITS), load=2.0).notes)


@pytest.mark.parametrize(
    ("measures", "line"),
    [
        (WAITS, "treadle.map(print, items, max_workers=64)"),
        (HOLDS, 'treadle.map(print, items, engine="processes", max_workers=4)'),
        ({**HOLDS, "cores": 1}, "[print(item) for item in items]"),
        ({"computing": 0.0, "is_async": True, "left": 5}, "treadle.map(print, items, max_workers=5)"),
    ],
)
def test_the_line_to_use(measures: dict[str, Any], line: str) -> None:
    assert report(findings(**measures)).line == line


# Linear algebra


@pytest.fixture
def numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something of that name is imported, and nobody has set its threads."""
    monkeypatch.setitem(sys.modules, "numpy", ModuleType("numpy"))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OpenBLAS is loaded, and threadpoolctl is not installed."""
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    file = tmp_path / "maps"
    file.write_text("7f00 r-xp 00 08:01 5 /usr/lib/numpy.libs/libopenblasp-r0-abc.so\n7f01 rw-p 0 0 0 [heap]\n")
    monkeypatch.setattr(blas, "_MAPS", file)


@pytest.mark.usefixtures("maps")
def test_without_numpy_there_is_no_blas() -> None:
    assert "numpy" in sys.modules or blas.find_blas(4) == ()


@pytest.mark.usefixtures("numpy", "maps")
def test_blas_takes_all_cores_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert blas.find_blas(4) == (blas.Blas("openblas", 4, "OPENBLAS_NUM_THREADS", "the cores"),)

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert blas.find_blas(4) == (blas.Blas("openblas", 3, "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),)

    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2,1")
    assert blas.find_blas(4) == (blas.Blas("openblas", 2, "OPENBLAS_NUM_THREADS", "OPENBLAS_NUM_THREADS"),)


@pytest.mark.usefixtures("numpy", "maps")
def test_threadpoolctl_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("threadpoolctl")
    pools = [
        {"user_api": "blas", "internal_api": "mkl", "num_threads": 6},
        {"user_api": "openmp", "internal_api": "openmp", "num_threads": 8},
    ]
    library.threadpool_info = lambda: pools  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "threadpoolctl", library)

    assert blas.find_blas(4) == (blas.Blas("mkl", 6, "MKL_NUM_THREADS", "threadpoolctl"),)


@pytest.mark.usefixtures("numpy", "maps")
def test_too_many_threads_of_blas_are_told() -> None:
    found = report(findings(**COMPUTES))

    assert "BLAS: openblas has 4 threads (by the cores)" in str(found)
    assert any("OPENBLAS_NUM_THREADS=1" in note for note in found.notes)


@pytest.mark.usefixtures("numpy", "maps")
@pytest.mark.parametrize("measures", [{**HOLDS, "cores": 1}, WAITS])
def test_threads_of_blas_that_are_not_too_many_are_not_blamed(measures: dict[str, Any]) -> None:
    """One worker may have all of them; and calls that wait do not use them much."""
    assert not any("NUM_THREADS" in note for note in report(findings(**measures)).notes)


# Items


def taken(supply: Supply, count: int) -> list[Any]:
    return list(supply.items(lambda yielded: yielded == count))


def test_each_item_is_called_once_as_long_as_there_are_some() -> None:
    supply = Supply(iter(range(5)), 100, may_repeat=True)

    assert taken(supply, 2) == [0, 1]
    assert not supply.lacks()
    assert taken(supply, 5) == [2, 3, 4, 0, 1]
    assert supply.taken == 5
    assert supply.total == 5


def test_without_repetition_the_end_is_the_end() -> None:
    supply = Supply(iter(range(3)), 100, may_repeat=False)

    assert taken(supply, 5) == [0, 1, 2]
    assert supply.lacks()


def test_no_more_items_are_taken_than_may_be() -> None:
    endless = itertools.count()
    supply = Supply(endless, 2, may_repeat=True)

    assert taken(supply, 4) == [0, 1, 0, 1]
    assert next(endless) == 2


def test_few_items_are_kept() -> None:
    """They may be large."""
    supply = Supply(iter(range(1000)), 10_000, may_repeat=True)

    assert taken(supply, 1001) == [*range(1000), 1000 - KEPT_ITEMS]


def test_an_item_that_was_not_called_comes_back_and_one_that_hung_does_not() -> None:
    supply = Supply(iter([[1], [2]]), 100, may_repeat=True)
    first, second = taken(supply, 2)

    supply.give_back(second)
    supply.give_back(first)  # the same was to be called twice at a time
    supply.leave_out(first)
    supply.give_back(first)

    assert taken(supply, 3) == [[2], [2], [2]]


# Functions of every kind


def compute(_: object) -> int:
    return sum(range(20_000))


def wait(seconds: float) -> float:
    treadle.sleep(seconds)
    return seconds


def test_a_diagnosis_explains_itself_and_travels() -> None:
    found = treadle.diagnose(wait, [0.002] * 1000, seconds=3, max_workers=4)

    assert found.function == "wait"
    assert (found.failed, found.unfinished) == (0, 0)
    assert found.items >= 1
    assert [speed.workers for speed in found.speeds if speed.engine == "threads" and speed.is_measured][:2] == [1, 2]
    assert found.waiting + found.computing == pytest.approx(1.0)
    text = str(found)
    assert text.startswith("wait: ")
    assert "threads          1" in text
    assert f"Use:  {found.line}\nWhy:  {found.why}" in text
    assert pickle.loads(pickle.dumps(found)) == found
    assert json.loads(found.to_json()) == json.loads(json.dumps(found.as_dict()))
    assert {"kind", "speeds", "pickling", "line", "why"} <= found.as_dict().keys()


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_every_row_with_real_calls_says_so(engine: str) -> None:
    found = treadle.diagnose(compute, range(10_000), seconds=60)

    rows = [speed for speed in found.speeds if speed.engine == engine]
    assert rows[0].is_measured
    assert all(row.per_second > 0 for row in rows)
    assert (rows[0].start is None) == (engine == "threads")


def test_an_endless_input_is_taken_as_far_as_it_is_needed() -> None:
    numbers = itertools.count()

    found = treadle.diagnose(wait, (0.001 for _ in numbers), seconds=2, max_workers=2, max_items=7)

    assert found.items == 7
    assert next(numbers) == 7


def test_a_call_is_not_repeated_where_that_is_not_wanted() -> None:
    called: list[int] = []

    found = treadle.diagnose(called.append, range(3), repeat=False)

    assert called == [0, 1, 2]
    assert (found.calls, found.items) == (3, 3)


def test_no_item_is_called_twice_while_there_are_others() -> None:
    called: list[int] = []

    def note(item: int) -> None:
        called.append(item)
        treadle.sleep(0.001)

    found = treadle.diagnose(note, itertools.count(), seconds=5, max_workers=4)

    assert len(called) == len(set(called))
    assert found.items <= found.calls


def test_ctrl_c_ends_it_and_leaves_nothing_behind() -> None:
    """The fixture that looks for threads and processes is what looks."""

    def items() -> Iterator[float]:
        yield 0.001
        yield 0.001
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        treadle.diagnose(wait, items())


def test_a_cancelled_call_ends_its_diagnosis(gate: Gate) -> None:
    with pytest.raises(TimeoutError), treadle.TaskGroup(timeout=0.2) as group:
        task = group.submit(treadle.diagnose, treadle.sleep, [60.0], seconds=60)

    assert task.cancelled()


def test_no_item_is_an_error() -> None:
    with pytest.raises(treadle.InvalidArgument, match="at least one item"):
        treadle.diagnose(wait, [])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_items_get_few_workers(count: int) -> None:
    found = treadle.diagnose(wait, iter([0.001] * count), seconds=3, repeat=False)

    assert found.items == count
    assert max(speed.workers for speed in found.speeds) <= count


@pytest.mark.parametrize("items", [[0.02] * 3, iter([0.02] * 3)], ids=["a list", "an iterator"])
def test_few_items_that_are_called_again_are_a_sample_of_many(items: Iterable[float]) -> None:
    found = treadle.diagnose(wait, items, seconds=30, max_workers=8)

    assert found.items == 3
    assert max(speed.workers for speed in found.speeds if speed.engine == "threads") == 8


def test_a_function_that_always_fails_raises_its_own_error() -> None:
    def fail(item: int) -> None:
        raise LookupError(item)

    with pytest.raises(LookupError) as caught:
        treadle.diagnose(fail, range(10))

    assert caught.value.args == (0,) or caught.value.args[0] in range(10)
    assert any("diagnose" in note for note in caught.value.__notes__)


def test_a_function_that_sometimes_fails_is_diagnosed_and_told() -> None:
    def fail_at_odd(item: int) -> None:
        treadle.sleep(0.001)
        if item % 2:
            raise LookupError(item)

    found = treadle.diagnose(fail_at_odd, itertools.count(), seconds=3, max_workers=2)

    assert 0 < found.failed < found.calls
    assert any("LookupError(1)" in note for note in found.notes)


def test_a_call_that_does_not_end_holds_nobody(gate: Gate) -> None:
    found = treadle.diagnose(gate.hold, range(10), seconds=0.2)

    assert (found.calls, found.unfinished, found.call_seconds, found.speeds) == (0, 1, None, ())
    assert found.line == "treadle.map(fn, items, max_workers=1, call_timeout=60)"
    assert "no call has ended" in found.why
    assert "1 call had not ended" in str(found)


def test_one_that_hangs_among_others_is_left_out(gate: Gate) -> None:
    """It is not called again in another trial, and the others are measured."""
    held: list[int] = []

    def hold_one(item: int) -> None:
        treadle.sleep(0.001)
        if item == 3:
            held.append(item)
            gate.hold()

    found = treadle.diagnose(hold_one, range(6), seconds=4, max_workers=2)

    assert set(held) == {3}
    assert found.unfinished == len(held) <= 2
    assert found.calls >= 3


def test_tiny_calls_are_best_made_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "TRIAL_SECONDS", 0.2)  # the first of them are not tiny
    for module in (examination, deciding):  # on a busy machine they take longer, and are none the less tiny
        monkeypatch.setattr(module, "TINY_SECONDS", 0.001)

    found = treadle.diagnose(abs, range(1000), seconds=20)

    assert (found.kind, found.engine, found.line) == ("tiny", "loop", "[abs(item) for item in items]")
    assert found.speeds[0].engine == "loop"


def test_a_tiny_call_that_fails_late_is_told() -> None:
    """After the first trial, whose failures are looked for one by one."""
    count = itertools.count()

    def fail_late(_: int) -> None:
        if next(count) > 50_000:
            raise LookupError

    found = treadle.diagnose(fail_late, range(10), seconds=3)

    assert found.calls > 0


async def nap(_: int) -> None:
    await asyncio.sleep(0.05)


def test_a_coroutine_function_is_awaited() -> None:
    found = treadle.diagnose(nap, range(100), seconds=3, max_workers=4)

    assert {speed.engine for speed in found.speeds} == {"coroutines"}
    assert (found.kind, found.engine) == ("waits", "coroutines")
    assert found.held is None


class Computer:
    def __init__(self, lock: object = None) -> None:
        self.lock = lock

    def __call__(self, item: object) -> int:
        return compute(item)

    def compute(self, item: object) -> int:
        return compute(item)

    @staticmethod
    def compute_alone(item: object) -> int:
        return compute(item)


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (lambda item: compute(item), "fn"),
        (Computer(), "fn"),
        (Computer().compute, "fn"),
        (functools.partial(compute), "fn"),
        (Computer.compute_alone, "Computer.compute_alone"),
        (compute, "compute"),
    ],
    ids=["lambda", "object", "bound method", "partial", "static method", "function"],
)
def test_the_line_names_what_can_be_named(fn: Callable[[object], int], name: str) -> None:
    found = treadle.diagnose(fn, range(1000), seconds=3, max_workers=1)

    assert name in found.line
    assert compile(found.line, "line", "eval")


@pytest.mark.parametrize(
    ("fn", "item", "culprit"),
    [
        (Computer(threading.Lock()), 1, "the function Computer.lock"),
        (compute, {"name": "a", "lock": threading.Lock()}, "the argument['lock']"),
        (lambda _: threading.Lock(), 1, "the result"),
    ],
    ids=["function", "argument", "result"],
)
def test_what_cannot_be_sent_to_a_process_is_named(fn: Callable[[Any], Any], item: object, culprit: str) -> None:
    found = treadle.diagnose(fn, [item] * 100, seconds=3, max_workers=2)

    assert any(problem.startswith(culprit) for problem in found.pickling.problems)
    assert f"Not for processes: {culprit}" in str(found)
    assert found.engine != "processes"
    assert not any(speed.is_measured for speed in found.speeds if speed.engine == "processes")


def compute_here_only(here: int, _: int) -> int:
    if os.getpid() != here:
        raise RuntimeError("not there")
    return sum(range(20_000))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no processes")
def test_processes_where_every_call_fails_are_not_what_to_use() -> None:
    """Who fails at once is fast."""
    found = treadle.diagnose(functools.partial(compute_here_only, os.getpid()), range(1000), seconds=3, max_workers=2)

    if found.kind == "holds the GIL":
        assert "there, every call failed, the first with RuntimeError('not there')" in found.pickling.problems
    assert found.engine != "processes"
    assert not any(speed.is_measured for speed in found.speeds if speed.engine == "processes")


def test_where_no_call_ends_in_processes_is_no_place_for_them() -> None:
    assert _trouble_of(Trial("processes", 2, unfinished=1)) == "there, 1 call had not ended when time was up"
    assert _trouble_of(Trial("processes", 2, calls=3, unfinished=1)) is None
    assert _trouble_of(Trial("processes", 2)) is None


def test_a_resource_is_opened_for_each_worker_and_named_in_the_line() -> None:
    opened: list[int] = []

    def open_one() -> int:
        opened.append(1)
        return 7

    found = treadle.diagnose(
        lambda item, resource: wait(0.001), range(100), resource=open_one, seconds=2, max_workers=2
    )

    assert opened
    assert "resource=resource" in found.line


def test_an_error_of_the_input_is_raised() -> None:
    def items() -> Iterator[float]:
        yield 0.001
        raise TimeoutError("the input's own")

    with pytest.raises(TimeoutError, match="the input's own"):
        treadle.diagnose(wait, items())


def test_an_error_of_the_input_is_not_taken_for_one_of_tiny_calls() -> None:
    def items() -> Iterator[int]:
        yield from range(50)
        raise LookupError("the input's own")

    with pytest.raises(LookupError, match="the input's own"):
        treadle.diagnose(abs, items())


def test_a_coroutine_that_computes_is_said_to_hold_up_the_loop() -> None:
    found = report(findings(computing=0.9, is_async=True))

    assert found.headline() == "print: it computes, and holds up the event loop"
    assert "stand still" in found.why


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"seconds": 0}, treadle.InvalidArgument),
        ({"seconds": math.inf}, treadle.InvalidArgument),
        ({"seconds": "long"}, treadle.WrongType),
        ({"max_workers": 0}, treadle.InvalidArgument),
        ({"max_workers": "auto"}, treadle.WrongType),
        ({"max_items": 0}, treadle.InvalidArgument),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        treadle.diagnose(wait, [0.0], **options)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(treadle.WrongType):
        treadle.diagnose(5, [1])  # type: ignore[arg-type]
    with pytest.raises(treadle.WrongType):
        treadle.diagnose(wait, 5)  # type: ignore[arg-type]


def test_without_a_gil_nobody_holds_it() -> None:
    found = treadle.diagnose(compute, range(1000), seconds=3, max_workers=2)

    assert found.has_gil == is_gil_enabled()
    assert found.has_gil or (found.held is None and found.kind != "holds the GIL")
