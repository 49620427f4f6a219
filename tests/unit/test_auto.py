"""``engine="auto"``: calls begin on threads, and go on where they do best."""

from __future__ import annotations

import decimal
import hashlib
import itertools
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest

import treadle
from tests.calls import FileGate
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.contract.engine_contract import Resource
from tests.places import wait_until
from treadle._core.gil import is_gil_enabled
from treadle._crew import decider, pickling_trial
from treadle._crew.chunking import ON_THREADS
from treadle._crew.deciding import Measures
from treadle._crew.pickling_trial import try_pickling
from treadle._engines.engine import CallPlan
from treadle._run import choosing
from treadle.testing import ManualClock

_colour: ContextVar[str] = ContextVar("_colour")

COMPUTES = Measures(20, 0.020, 1.0)


@pytest.fixture(autouse=True)
def _two_cores_and_a_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "usable_cores", lambda: 2)
    monkeypatch.setattr(decider, "is_gil_enabled", lambda: True)


def find(monkeypatch: pytest.MonkeyPatch, sample: Measures, held: float = 0.0, gain: float = math.inf) -> None:
    """Let the decider find that, whatever calls really do."""
    monkeypatch.setattr(decider.Decider, "_sample", lambda *_, **__: sample)
    monkeypatch.setattr(decider, "probe", lambda *_: held)
    monkeypatch.setattr(decider.Decider, "_try_two", lambda *_: gain)


@pytest.fixture
def holds_the_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, COMPUTES, held=1.0)


def where(item: int) -> tuple[int, int]:
    """Return the item, and the process."""
    return item, os.getpid()


def until(is_enough: Callable[[Any], bool], run: Iterator[Any]) -> list[Any]:
    """Return results of an endless run until one of them is enough."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    results = []
    for result in run:
        results.append(result)
        if is_enough(result):
            return results
        assert time.monotonic() < deadline, "it never came"
    raise AssertionError("the run has ended")


def is_elsewhere(result: tuple[Any, int]) -> bool:
    return result[1] != os.getpid()


def decided(fn: Callable[..., Any], items: Any = None, **options: Any) -> str:
    """Return what is decided for calls of ``fn``, which goes on until then."""
    with treadle.map(fn, itertools.count() if items is None else items, engine="auto", **options) as run:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "nothing was decided" in (run.stats.decision or ""):
            assert time.monotonic() < deadline, "nothing was ever decided"
            next(run)
        return run.stats.decision or ""


# Moving


@pytest.mark.usefixtures("holds_the_gil")
def test_calls_that_hold_the_gil_go_on_in_processes() -> None:
    """Each item is called once, in order, and what the first ones came to counts."""
    with treadle.map(where, itertools.count(), engine="auto") as run:
        results = until(is_elsewhere, run)
        results += itertools.islice(run, 100)

    assert [item for item, _ in results] == list(range(len(results)))
    assert results[0][1] == os.getpid()
    assert results[-1][1] != os.getpid()
    assert re.fullmatch(  # how much faster depends on how long pickling took
        r"processes, at most 2 workers: calls hold the GIL \(they compute 100% of their time, and it was held 100% of"
        r" it\); about \d\.\dx faster",
        run.stats.decision or "",
    )


@pytest.mark.usefixtures("holds_the_gil")
def test_there_are_no_more_workers_than_cores_once_they_are_processes() -> None:
    with treadle.map(where, itertools.count(), engine="auto", max_workers=8) as run:
        until(is_elsewhere, run)
        list(itertools.islice(run, 1000))
        assert run.stats.workers <= 2


@pytest.mark.usefixtures("holds_the_gil")
def test_each_core_gets_a_process(tmp_path: Path) -> None:
    gate, here = FileGate(tmp_path), os.getpid()

    def call(_: int) -> None:
        if os.getpid() == here:
            time.sleep(0.01)  # so that some are left when it is decided
        else:
            gate.hold()

    with treadle.map(call, iter(range(50)), engine="auto"):
        assert len(set(gate.wait_for_arrivals(2))) == 2
        gate.open()


@pytest.mark.usefixtures("holds_the_gil")
def test_the_resource_is_closed_here_and_opened_there(tmp_path: Path) -> None:
    diary = tmp_path / "diary"

    def call(item: int, resource: Resource) -> tuple[int, int]:
        return item, os.getpid()

    with treadle.map(call, itertools.count(), engine="auto", resource=lambda: Resource(diary), max_workers=2) as run:
        until(is_elsewhere, run)

    notes = diary.read_text().split()
    assert notes[0] == "made"
    assert notes.count("made") == notes.count("closed") >= 2


@pytest.mark.usefixtures("holds_the_gil")
def test_a_call_that_moved_can_be_killed(tmp_path: Path) -> None:
    gate = FileGate(tmp_path)
    here = os.getpid()

    def call(item: int) -> tuple[int, int]:
        if os.getpid() != here:
            gate.hold()
        return item, os.getpid()

    run = treadle.map(call, itertools.count(), engine="auto", call_timeout=0.3, grace=0.05).outcomes()
    outcome = next(outcome for outcome in run if outcome.status != "succeeded")

    assert (outcome.status, outcome.abandoned) == ("timed_out", False)
    gate.open()


@pytest.mark.usefixtures("holds_the_gil")
def test_where_no_process_gets_ready_calls_stay(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """And nobody tries it again."""
    here = os.getpid()

    def refuse() -> None:
        if os.getpid() != here:
            (tmp_path / str(os.getpid())).touch()
            raise ConnectionError("not from there")

    decisions = set()
    with treadle.map(where, itertools.count(), engine="auto", initializer=refuse, chunksize=1) as run:
        results = until(lambda _: "could not get ready" in (run.stats.decision or ""), run)
        results += itertools.islice(run, 3000)
        decisions.add(run.stats.decision)

    assert results == [(at, here) for at in range(len(results))]
    assert decisions == {
        "threads, at most 32 workers: they were to go on in processes, but one could not get ready: not from there"
    }
    assert "could not get ready" in caplog.text
    assert run._course.crew.sizer.pace is ON_THREADS
    assert len(list(tmp_path.iterdir())) <= 2  # both may have begun before either had failed


@pytest.mark.usefixtures("holds_the_gil")
def test_the_bound_goes_by_the_number_of_processes_where_that_is_what_was_found() -> None:
    with treadle.map(where, itertools.count(), engine="auto", max_workers="auto", buffersize=1) as run:
        results = until(is_elsewhere, run)
        results += itertools.islice(run, 100)

        assert run.stats.taken <= len(results) + 2 + 1


def test_pickling_costs_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else keeps the processors, or the GIL, while it is tried: its time is its thread's."""
    computed = 1.0

    class Computes:
        def __reduce__(self) -> Any:
            nonlocal computed
            computed += 0.25
            return int, ()

    monkeypatch.setattr(pickling_trial, "thread_time", lambda: computed)
    trial = try_pickling(CallPlan(abs, copy_context()), Computes(), None)

    assert trial.make_engine is not None
    assert trial.seconds == 0.25


@pytest.mark.usefixtures("holds_the_gil")
def test_what_is_tried_after_a_call_is_not_its_time(gate: Gate) -> None:
    """Pickling its argument and its result may take long, and it had ended in time."""

    class Slow:
        def __reduce__(self) -> Any:
            gate.hold()
            return int, ()

    with (
        ManualClock() as clock,
        treadle.map(lambda _: None, (Slow() for _ in itertools.count()), engine="auto", call_timeout=1.0) as run,
    ):
        outcomes, goes_on = run.outcomes(), threading.Event()
        statuses: set[str] = set()

        def consume() -> None:
            until(lambda _: goes_on.is_set(), outcomes)
            statuses.update(outcome.status for outcome in itertools.islice(outcomes, 50))

        consumer = threading.Thread(target=consume)
        consumer.start()
        gate.wait_for_arrivals(1)
        clock.advance(2.0)
        watch = run._course.crew._watch
        assert watch is not None
        watch._look()
        goes_on.set()
        gate.open()
        consumer.join()
        assert statuses == {"succeeded"}
        assert run.stats.timed_out == 0


@pytest.mark.usefixtures("holds_the_gil")
def test_a_stage_moves() -> None:
    flow = iter(treadle.pipeline(itertools.count()).map(where, engine="auto").filter(is_elsewhere, max_workers=1))

    assert is_elsewhere(next(flow))


def next_numbers(number: int) -> list[int]:
    """Return the one after it."""
    return [number + 1]


@pytest.mark.usefixtures("holds_the_gil")
def test_a_traversal_moves() -> None:
    with treadle.traverse(next_numbers, [0], engine="auto") as run:
        deadline = time.monotonic() + PATIENCE_SECONDS
        numbers = [next(run)]
        while not (run.stats.decision or "").startswith("processes"):
            numbers.append(next(run))
            assert time.monotonic() < deadline, "it never moved"
        numbers += itertools.islice(run, 20)

    assert numbers == list(range(len(numbers)))


# Staying


@pytest.mark.parametrize(
    ("sample", "held", "gain", "reason"),
    [
        (Measures(20_000, 0.020, 1.0), 1.0, 1.0, "a call takes 1 us, so they are made many at a time by one worker"),
        (Measures(4, 0.020, 0.03), 0.0, 2.0, "calls wait: they compute 3% of their time"),
        (
            COMPUTES,
            0.0,
            1.9,
            (
                "calls compute, and let others do so too: they compute 100% of their time, and it was held 0% of it;"
                " two threads got 1.9x as far as one"
            ),
        ),
    ],
)
def test_other_calls_stay_on_threads(
    monkeypatch: pytest.MonkeyPatch, sample: Measures, held: float, gain: float, reason: str
) -> None:
    find(monkeypatch, sample, held, gain)

    assert decided(where) == f"threads, at most 32 workers: {reason}"


@pytest.mark.usefixtures("holds_the_gil")
def test_what_cannot_be_pickled_stays_on_threads() -> None:
    lock = threading.Lock()

    def call(_: int) -> None:
        with lock:
            return

    holds = (
        "threads, at most 32 workers: calls hold the GIL (they compute 100% of their time, and it was held 100% of it),"
        " but cannot move to processes: "
    )
    assert decided(call).startswith(holds + "the function call, its variable 'lock'")
    assert decided(len, itertools.repeat(Unsendable())).startswith(holds + "the argument, the global 'lock'"[:12])
    assert decided(lambda _: Unsendable()).startswith(holds + "the result")


class Unsendable:
    """Does not pickle."""

    def __len__(self) -> int:
        return 0

    def __reduce__(self) -> Any:
        raise TypeError("it stays here")


@pytest.mark.usefixtures("holds_the_gil")
def test_few_calls_do_not_pay_for_the_start(tmp_path: Path) -> None:
    gate = FileGate(tmp_path)  # so that it is not over before

    def call(item: int) -> None:
        time.sleep(0.002)  # as long as the trial takes to be wanted, and longer
        if item == 29:
            gate.hold()

    with treadle.map(call, range(30), engine="auto") as run:
        wait_until(lambda: "nothing was decided" not in (run.stats.decision or ""))
        gate.open()

    assert "but processes would not pay for the calls that are left: " in (run.stats.decision or "")


# Company for who waits


def test_others_begin_while_the_first_call_waits(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before it ends, and before anything is decided."""
    monkeypatch.setattr(decider, "PATIENCE_SECONDS", 1000.0)
    with treadle.map(gate.hold, range(8), engine="auto", max_workers=8) as run:
        gate.wait_for_arrivals(8)
        assert "nothing was decided" in (run.stats.decision or "")
        gate.open()
        assert list(run) == list(range(8))


def test_where_the_others_compute_one_alone_is_measured(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = threading.Event()
    gather = decider.Decider._gather

    def note(self: decider.Decider) -> None:
        gather(self)
        gathered.set()

    def call(item: int) -> int:
        if item == 0:
            gate.hold()
        while not gathered.is_set():
            sum(range(1000))
        return item

    monkeypatch.setattr(decider.Decider, "_gather", note)
    monkeypatch.setattr(decider, "BUSY_CORES", 0.01)  # on a busy machine they get less
    with treadle.map(call, range(100), engine="auto", max_workers=4) as run:
        assert gathered.wait(PATIENCE_SECONDS), "they were taken for calls that wait"
        gate.open()
        assert list(run) == list(range(100))


def test_who_is_measured_has_no_company_that_comes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others were let in, and their number is found while they work; then it is two that count."""
    try_two, seen = decider.Decider._try_two, []

    def sample(self: decider.Decider, **_: bool) -> Measures:
        self._spread_out()
        return COMPUTES

    def try_and_see(self: decider.Decider, one: Measures) -> float:
        gain = try_two(self, one)
        seen.append((self._ours().max_workers, self._ours().tuner))
        return gain

    find(monkeypatch, COMPUTES)
    monkeypatch.setattr(decider.Decider, "_sample", sample)
    monkeypatch.setattr(decider.Decider, "_try_two", try_and_see)
    decided(where, max_workers="auto")

    assert seen == [(2, None)]


# A second look

WAITS = Measures(3, 0.3, 0.01)


@pytest.fixture
def looks_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decider, "LOOK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(decider, "LOOK_AGAIN_LATER", 1)
    monkeypatch.setattr(decider, "COMPUTING_SHARE", 0.0)  # on a busy machine they may get less


def burn(item: int) -> tuple[int, int]:
    """Compute for a while, and return the item and the process."""
    sum(range(20_000))
    return where(item)


def finds_it_held(*_: object) -> float:
    """Stand in for the probe, which takes some time as well."""
    time.sleep(0.02)
    return 1.0


@pytest.mark.usefixtures("looks_soon")
def test_calls_that_come_to_hold_the_gil_move_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """They waited at first."""
    samples = iter([WAITS])
    monkeypatch.setattr(decider.Decider, "_sample", lambda *_, **__: next(samples, COMPUTES))
    monkeypatch.setattr(decider, "probe", finds_it_held)
    with treadle.map(burn, itertools.count(), engine="auto", max_workers="auto") as run:
        results = until(is_elsewhere, run)

    assert [item for item, _ in results] == list(range(len(results)))
    assert (run.stats.decision or "").startswith(
        "processes, at most 2 workers: calls hold the GIL: together 100% of the time; about "
    )


@pytest.mark.usefixtures("looks_soon")
def test_calls_that_last_on_threads_do_not_keep_processes_from_working(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are to be processes: each has a place in the crew."""
    gate, samples = FileGate(tmp_path), iter([WAITS])

    def call(item: int) -> tuple[int, int]:
        if item < 2:
            gate.hold()
        return burn(item)

    monkeypatch.setattr(decider.Decider, "_sample", lambda *_, **__: next(samples, COMPUTES))
    monkeypatch.setattr(decider, "probe", finds_it_held)
    with treadle.map(call, itertools.count(), engine="auto", max_workers=8, ordered=False) as run:
        until(is_elsewhere, run)
        list(itertools.islice(run, 500))
        gate.open()


@pytest.mark.usefixtures("looks_soon")
def test_calls_that_wait_when_they_are_alone_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps the GIL busy is that there are so many of them, and processes have as much to do with each."""
    samples = iter([WAITS] * 3)
    looked = threading.Event()

    def sample(*_: object, **__: object) -> Measures:
        found = next(samples, None)
        if found is None:
            looked.set()
        return found or WAITS

    monkeypatch.setattr(decider.Decider, "_sample", sample)
    monkeypatch.setattr(decider, "probe", finds_it_held)
    with treadle.map(burn, itertools.count(), engine="auto", max_workers="auto") as run:
        until(lambda _: looked.is_set(), run)
        assert all(not is_elsewhere(result) for result in itertools.islice(run, 100))
        assert "would not pay" in (run.stats.decision or "")


@pytest.mark.usefixtures("holds_the_gil")
def test_who_holds_the_gil_and_cannot_leave_has_one_worker_to_begin_with() -> None:
    """More of them would only take it from each other."""
    lock = threading.Lock()

    def call(item: int) -> int:
        with lock:
            return item

    with treadle.map(call, itertools.count(), engine="auto", max_workers="auto") as run:
        wait_until(lambda: bool(next(run) or "cannot move" in (run.stats.decision or "")))
        assert run._course.crew.max_workers <= 2


# Not moving


@pytest.mark.usefixtures("holds_the_gil")
def test_what_cannot_change_anything_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> Measures:
        raise AssertionError("measured")

    monkeypatch.setattr(decider.Decider, "_sample", fail)
    assert decided(where, range(100), max_workers=1) == "threads, at most 1 workers: one worker is all there may be"
    assert decided(where, [1]) == "threads, at most 32 workers: there is one call to make"
    monkeypatch.setattr(choosing, "usable_cores", lambda: 1)
    assert decided(where, range(100)) == "threads, at most 32 workers: there is one core to use"
    monkeypatch.setattr(choosing, "_has_processes", lambda: False)
    assert decided(where, range(100)) == "threads, at most 32 workers: there are no processes on this system"


@pytest.mark.usefixtures("holds_the_gil")
def test_calls_that_may_look_at_context_variables_stay() -> None:
    """Half of the results would be made with them, and the other half without."""
    colour: ContextVar[str] = ContextVar("colour")
    stays = (
        "threads, at most 32 workers: calls may look at the context variable {!r}, and such do not travel to processes"
    )

    def look(_: int) -> str:
        return colour.get("none")

    def run_all(context: Context) -> str:
        return context.run(decided, look, range(100))

    context = Context()
    context.run(colour.set, "red")
    assert run_all(context) == stays.format("colour")
    context = Context()
    context.run(_colour.set, "red")  # it is in the module
    assert run_all(context) == stays.format("_colour")


@pytest.mark.usefixtures("holds_the_gil")
def test_decimals_are_computed_in_one_way() -> None:
    def compute_precisely() -> str:
        decimal.getcontext().prec = 50
        return decided(where, range(100))

    assert "'decimal_context'" in Context().run(compute_precisely)


@pytest.mark.usefixtures("holds_the_gil")
def test_variables_of_others_do_not_matter() -> None:
    """There nearly always are some."""
    elsewhere: list[ContextVar[int]] = [ContextVar("elsewhere")]

    def call_there() -> bool:
        decimal.getcontext()
        elsewhere[0].set(1)
        with treadle.map(where, itertools.count(), engine="auto") as run:
            return bool(until(is_elsewhere, run))

    assert Context().run(call_there)


# Without a GIL


def test_without_a_gil_calls_stay_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, COMPUTES, held=1.0)
    monkeypatch.setattr(decider, "is_gil_enabled", lambda: False)

    with treadle.map(where, range(3000), engine="auto") as run:
        assert {pid for _, pid in run} == {os.getpid()}

    assert run.stats.decision == "threads, at most 32 workers: without a GIL, threads compute side by side"


def test_without_a_gil_nobody_is_sent_away_to_measure_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits first and then computes may have company for good."""
    let_others_in, sample = decider.Decider._let_others_in, decider.Decider._sample
    computes, sampled = threading.Event(), threading.Event()

    def note_company(self: decider.Decider) -> Measures | None:
        computes.set()
        return let_others_in(self)

    def note_sample(self: decider.Decider, **options: bool) -> Measures:
        try:
            return sample(self, **options)
        finally:
            computes.set()
            sampled.set()

    def call(item: int) -> int:
        computes.wait(PATIENCE_SECONDS)
        while not sampled.is_set():
            sum(range(1000))
        return item

    monkeypatch.setattr(decider, "is_gil_enabled", lambda: False)
    monkeypatch.setattr(decider.Decider, "_let_others_in", note_company)
    monkeypatch.setattr(decider.Decider, "_sample", note_sample)
    with treadle.map(call, range(20), engine="auto", max_workers=4) as run:
        assert list(run) == list(range(20))
        assert run._course.crew.max_workers == 4


def test_a_gil_that_the_first_calls_turn_on_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import can do that."""
    find(monkeypatch, COMPUTES, held=1.0)
    asked = itertools.count()
    monkeypatch.setattr(decider, "is_gil_enabled", lambda: next(asked) > 0)

    with treadle.map(where, itertools.count(), engine="auto") as run:
        until(is_elsewhere, run)


# Nobody waits for ever


@pytest.mark.parametrize("together", [4, 32])
def test_calls_that_wait_for_one_another_get_their_workers(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    """As long as nobody knows whether results can be pickled, there is one worker; but not for ever."""
    find(monkeypatch, COMPUTES, held=1.0)
    monkeypatch.setattr(decider, "PATIENCE_SECONDS", 0.01)
    barrier = threading.Barrier(together)

    def meet(_: int) -> None:
        barrier.wait(PATIENCE_SECONDS)

    assert len(list(treadle.map(meet, range(together), engine="auto"))) == together


def test_a_run_that_ends_before_anything_is_decided_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decider, "MAX_SAMPLE_SECONDS", math.inf)
    monkeypatch.setattr(decider, "SAMPLE_CALLS", math.inf)

    with treadle.map(where, itertools.count(), engine="auto") as run:
        next(run)

    assert run.stats.decision == "threads, at most 32 workers: it was over before more was known"


def test_a_mistake_in_deciding_costs_no_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find(monkeypatch, COMPUTES)

    def fail(*_: object) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(decider, "probe", fail)
    with caplog.at_level(logging.ERROR):
        assert "deciding failed" in decided(where)

    assert "deciding failed" in caplog.text


# Where it may be said


def test_only_runs_find_their_engine() -> None:
    with pytest.raises(treadle.InvalidArgument, match="one of 'threads'"):
        treadle.TaskGroup(engine="auto")  # type: ignore[arg-type]
    with pytest.raises(treadle.InvalidArgument, match="one of 'threads'"):
        treadle.PoolExecutor(engine="auto")  # type: ignore[arg-type]


def test_coroutine_functions_are_awaited() -> None:
    async def call(item: int) -> int:
        return item

    run = treadle.map(call, range(3), engine="auto")

    assert list(run) == [0, 1, 2]
    assert (run.stats.decision or "").startswith("coroutines")


# What is really measured, on whatever else this machine does meanwhile


def wait_a_moment(item: int) -> int:
    time.sleep(0.002)
    return item


def compute(item: int) -> int:
    return item + 0 * sum(number * number for number in range(5000))


def digest(item: int) -> int:
    return item + 0 * len(hashlib.sha256(bytes(1 << 20)).digest())


@pytest.mark.parametrize(
    ("fn", "decisions"),
    [
        (wait_a_moment, ["threads"]),
        (abs, ["threads"]),
        (compute, ["processes", "threads"]),
        (digest, ["processes", "threads"]),
    ],
)
def test_whatever_is_found_the_results_are_right(fn: Callable[[int], int], decisions: list[str]) -> None:
    """Whether a loop is seen to hold the GIL on a busy machine is left to the benchmarks."""
    run = treadle.map(fn, range(400), engine="auto")

    assert list(run) == list(range(400))
    if is_gil_enabled():
        assert any((run.stats.decision or "").startswith(decision) for decision in decisions)
