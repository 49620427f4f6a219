"""Contract 2: every item taken gets exactly one outcome. Contract 4: errors are yours."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import treadle
from tests.calls import Nap
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until
from treadle._core.chunk import Chunk
from treadle._core.gil import is_gil_enabled
from treadle._crew.crew import Crew
from treadle._crew.muster import Muster
from treadle._crew.worker import Worker


def assert_exact(run: treadle.Run[Any, Any], delivered: int, rest: list[treadle.Outcome[Any, Any]]) -> None:
    """Assert that what was delivered and the rest are all that was taken, each item once."""
    stats = run.stats
    assert delivered + len(rest) == stats.taken
    assert len({outcome.index for outcome in rest}) == len(rest)
    counts = Counter(outcome.status for outcome in rest)
    assert counts["succeeded"] + delivered == stats.succeeded
    assert counts["failed"] == stats.failed
    assert counts["cancelled"] == stats.cancelled
    assert counts["not_started"] == stats.not_started
    total = stats.succeeded + stats.failed + stats.timed_out + stats.cancelled + stats.not_started
    assert total == stats.taken


def fail_at(bad: int) -> Any:
    def call(item: int) -> int:
        if item == bad:
            raise ValueError(f"item {item} is bad")
        return item

    return call


def test_the_first_failure_is_raised_after_the_results_before_it() -> None:
    run = treadle.map(fail_at(2), range(100), max_workers=1)

    assert [next(run), next(run)] == [0, 1]
    with pytest.raises(ValueError, match="item 2 is bad"):
        next(run)
    assert_exact(run, 2, list(run.rest()))


@settings(max_examples=80, deadline=None)
@given(
    bad=st.integers(0, 60),
    max_workers=st.integers(1, 5),
    chunksize=st.none() | st.integers(1, 20),
    ordered=st.booleans(),
    intake=st.sampled_from(["caller", "thread"]),
)
def test_delivered_and_rest_are_all_there_is_after_a_failure(
    bad: int, max_workers: int, chunksize: int | None, ordered: bool, intake: Any
) -> None:
    run = treadle.map(
        fail_at(bad), range(50), max_workers=max_workers, chunksize=chunksize, ordered=ordered, intake=intake
    )
    delivered: list[int] = []
    with contextlib.suppress(ValueError):
        delivered.extend(run)

    rest = list(run.rest())

    assert (bad in [outcome.index for outcome in rest if outcome.status == "failed"]) == (bad < 50)
    assert not set(delivered) & {outcome.index for outcome in rest}
    assert_exact(run, len(delivered), rest)


@settings(max_examples=40, deadline=None)
@given(consumed=st.integers(0, 200), chunksize=st.none() | st.integers(1, 64))
def test_a_close_in_the_middle_of_a_chunk_loses_nothing(consumed: int, chunksize: int | None) -> None:
    run = treadle.map(abs, range(200), chunksize=chunksize, max_workers=2)
    delivered = [next(run) for _ in range(consumed)]

    run.close()

    rest = list(run.rest())
    assert delivered == list(range(consumed))
    assert [outcome.index for outcome in rest] == list(range(consumed, run.stats.taken))
    assert_exact(run, consumed, rest)


def test_rest_comes_once() -> None:
    run = treadle.map(abs, range(10))
    run.close()

    assert len(list(run.rest())) == 10
    assert list(run.rest()) == []


def test_a_failure_stops_the_intake_and_the_calls_not_begun(gate: Gate) -> None:
    """The failure comes while another call is held: nobody begins a fourth."""
    begun: list[int] = []

    def call(item: int) -> int:
        begun.append(item)
        if item == 1:
            gate.hold()
        if item == 2:
            gate.wait_for_arrivals()
            raise ValueError("two")
        return item

    run = treadle.map(call, range(1000), max_workers=2, buffersize=0, grace=10)
    assert next(run) == 0
    opener = threading.Timer(0.05, gate.open)
    opener.start()
    delivered: list[int] = []
    with pytest.raises(ValueError, match="two"):
        delivered.extend(run)

    assert delivered == [1], "the held call ended within the grace: its result comes before the failure"
    assert sorted(begun) == [0, 1, 2]
    assert_exact(run, 2, list(run.rest()))


def test_results_before_the_failure_come_first_however_quick_it_was() -> None:
    """A later item must not overtake an earlier one and then keep it from being called."""
    for _ in range(300):
        delivered: list[int] = []
        with pytest.raises(ValueError):
            delivered.extend(treadle.map(int, ["1", "2", "x", "4"], grace=10))
        assert delivered == [1, 2]


def test_a_failure_before_the_first_result_was_asked_for_is_not_forgotten() -> None:
    """The run does not know yet whether results or outcomes will be wanted."""
    failed = threading.Event()

    def call(item: int) -> int:
        if item == 1:
            failed.set()
            raise ValueError("early")
        return item

    run = treadle.map(call, range(2), max_workers=1)
    assert failed.wait(10)

    with pytest.raises(ValueError, match="early"):
        list(run)


def test_the_exception_is_the_callers_own_with_traceback_and_note() -> None:
    error = ValueError("mine")

    def call(item: str) -> None:
        raise error

    with pytest.raises(ValueError) as caught:
        list(treadle.map(call, ["x"], name="work"))

    assert caught.value is error
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1] == "call"
    assert error.__notes__ == ["treadle: item 0 of run 'work': 'x'"]


def test_the_traceback_of_an_outcome_starts_in_the_users_code() -> None:
    (outcome,) = treadle.map(fail_at(0), [0]).outcomes()

    assert outcome.error is not None
    assert [frame.name for frame in traceback.extract_tb(outcome.error.__traceback__)] == ["call"]


def test_an_exception_raised_for_every_item_does_not_collect_notes() -> None:
    error = ValueError("always the same")

    def call(_: int) -> None:
        raise error

    outcomes = list(treadle.map(call, range(500)).outcomes())

    assert len(outcomes) == 500
    assert len(error.__notes__) == 1


def test_a_failing_repr_does_not_hide_the_failure() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    def call(_: Odd) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        list(treadle.map(call, [Odd()]))
    assert "Odd" in caught.value.__notes__[0]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_base_exception_of_a_call_reaches_the_caller_as_it_is(kind: type[BaseException]) -> None:
    def call(_: int) -> None:
        raise kind("from the call")

    run = treadle.map(call, [1])

    with pytest.raises(kind, match="from the call"):
        next(run)
    assert [outcome.status for outcome in run.rest()] == ["failed"]


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_a_stop_iteration_of_a_call_does_not_end_the_loop_silently(kind: type[Exception]) -> None:
    """As it is, it would look like the end of the results."""

    def call(item: int) -> int:
        if item == 1:
            raise kind("not the end")
        return item

    run = treadle.map(call, range(3), max_workers=1)

    assert next(run) == 0
    with pytest.raises(RuntimeError) as caught:
        list(run)
    assert isinstance(caught.value.__cause__, kind)
    assert [type(o.error) for o in treadle.map(call, range(3)).outcomes()] == [type(None), kind, type(None)]


def test_outcomes_go_on_after_failures() -> None:
    statuses = [outcome.status for outcome in treadle.map(fail_at(1), range(2000)).outcomes()]

    assert Counter(statuses) == {"succeeded": 1999, "failed": 1}


def test_every_failure_among_many_has_its_own_item() -> None:
    def call(item: int) -> int:
        if item % 3 == 0:
            raise ValueError(item)
        return item

    for outcome in treadle.map(call, range(5000)).outcomes():
        assert outcome.item == outcome.index
        if outcome.index % 3:
            assert outcome.value == outcome.index
        else:
            assert outcome.error is not None
            assert outcome.error.args == (outcome.index,)


def test_the_lowest_of_two_failures_is_raised_whichever_came_first(gate: Gate) -> None:
    """What is raised should not depend on chance where both are known."""

    def call(item: int) -> None:
        if item == 0:
            gate.hold()
        else:
            gate.wait_for_arrivals()
            gate.open()
        raise ValueError(item)

    with pytest.raises(ValueError) as caught:
        list(treadle.map(call, [0, 1], max_workers=2, grace=10))

    assert caught.value.args == (0,)


def test_a_worker_that_dies_loses_one_item_and_says_so() -> None:
    """An exception thrown into the thread from outside kills it between calls; the others go on."""
    blocked = threading.Event()
    thread_id: list[int] = []

    class Victim:
        """Its deletion is where the exception strikes: outside of the call."""

    def call(item: int) -> int:
        if item == 0:
            thread_id.append(threading.get_ident())
            blocked.wait(10)
        return item

    run = treadle.map(call, range(6), chunksize=6, max_workers=1)
    while not thread_id:
        pass
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id[0]), ctypes.py_object(MemoryError))
    blocked.set()

    outcomes = list(run.outcomes())

    assert [outcome.index for outcome in outcomes] == list(range(6))
    assert sum(outcome.status == "failed" for outcome in outcomes) <= 1
    assert all(outcome.status in ("succeeded", "failed") for outcome in outcomes)


def test_an_engine_that_breaks_loses_one_item_and_the_others_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    from treadle._engines.inline import InlineEngine

    make_calls = InlineEngine.make_calls

    def break_once(self: InlineEngine, chunk: Chunk) -> None:
        if chunk.start == 0 and len(chunk.items) > 3:
            item = chunk.todo.pop()
            chunk.results.append(item)
            chunk.todo.pop()
            raise RuntimeError("the engine broke")
        make_calls(self, chunk)

    monkeypatch.setattr(InlineEngine, "make_calls", break_once)

    outcomes = list(treadle.map(abs, range(6), chunksize=6, max_workers=1).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded", "failed", *["succeeded"] * 4]
    assert isinstance(outcomes[1].error, treadle.WorkerLost)
    assert "the engine broke" in str(outcomes[1].error)


@pytest.mark.skipif(not is_gil_enabled(), reason="without a GIL some references are only counted by the collector")
def test_failures_leave_no_reference_circles() -> None:
    """What an item holds must be free as soon as its outcome is dropped, without waiting for the collector."""

    class Item:
        pass

    def call(item: Item) -> None:
        raise ValueError("bad")

    gc.collect()
    gc.disable()
    try:
        item = Item()
        watch = weakref.ref(item)
        run = treadle.map(call, [item])
        with pytest.raises(ValueError):
            next(run)
        del item, run
        for _ in range(1000):
            if watch() is None:
                break
            threading.Event().wait(0.01)
        assert watch() is None
    finally:
        gc.enable()


def test_stats_can_be_read_while_it_runs(gate: Gate) -> None:
    with treadle.map(gate.hold, range(100), max_workers=2, buffersize=3) as run:
        gate.wait_for_arrivals(2)
        stats = run.stats
        assert (stats.taken, stats.running, stats.workers) == (5, 2, 2)
        gate.open()


def test_a_call_that_was_only_just_taken_is_not_made_once_the_account_is_closed(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker has it, but does not show it yet: then the run waits for nobody, and says that it never began."""
    take = Muster._take_queued

    def take_and_hold(crew: Muster) -> Chunk | None:
        chunk = take(crew)
        if chunk is not None and chunk.start == 0:
            gate.hold()
        return chunk

    monkeypatch.setattr(Muster, "_take_queued", take_and_hold)
    calls: list[int] = []

    def fail(number: int) -> None:
        calls.append(number)
        raise ValueError(number)

    run = treadle.map(fail, range(2), max_workers=2, chunksize=1)
    with pytest.raises(ValueError, match="1"):
        list(run)
    rest = list(run.rest())
    gate.open()
    wait_until(lambda: not run.stats.workers)

    assert [outcome.status for outcome in rest] == ["not_started", "failed"]
    assert calls == [1]


def test_a_cancelled_call_whose_end_is_being_settled_is_not_told_as_a_failure_before(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it raised stands in its chunk for a moment; a consumer whose wait lasts looks into those in hand."""
    hand_in = Crew.hand_in

    def hold(crew: Crew, worker: Worker, chunk: Chunk) -> None:
        gate.hold()
        hand_in(crew, worker, chunk)

    monkeypatch.setattr(Crew, "hand_in", hold)
    nap = Nap()
    with treadle.map(nap, [1], ordered=False, grace=PATIENCE_SECONDS) as run:
        outcomes = run.outcomes()
        nap.wait_until_begun()
        with run._course.crew.lock:
            run._course.stop(None)
        gate.wait_for_arrivals()

        assert outcomes._delivery.step(stalled=True) is None

        gate.open()
        assert [outcome.status for outcome in outcomes] == ["cancelled"]


def test_the_account_may_be_asked_while_calls_end() -> None:
    """Without a GIL, what is done cannot be iterated while it grows."""
    failures: list[BaseException] = []
    is_over = threading.Event()

    def ask() -> None:
        try:
            while not is_over.is_set():
                assert run.stats.succeeded <= 50_000
        except BaseException as error:
            failures.append(error)

    run = treadle.map(abs, range(50_000), chunksize=4, max_workers=8)
    asker = threading.Thread(target=ask)
    asker.start()
    assert len(list(run)) == 50_000
    is_over.set()
    asker.join(PATIENCE_SECONDS)

    assert failures == []


def test_ctrl_c_while_the_first_items_are_taken_ends_the_run() -> None:
    """Nobody has it yet to close it, and the traceback keeps it alive."""

    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        treadle.map(abs, items(), name="interrupted")

    wait_until(lambda: not any("interrupted" in thread.name for thread in threading.enumerate()))
    assert caught.tb is not None
