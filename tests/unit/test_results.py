"""What a run delivers, and in which order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until
from treadle.testing import Turnstile


def double(number: int) -> int:
    return 2 * number


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.integers(), max_size=200),
    max_workers=st.integers(1, 8),
    buffersize=st.none() | st.integers(0, 20),
    chunksize=st.none() | st.integers(1, 50),
    intake=st.sampled_from(["caller", "thread"]),
)
def test_results_come_in_input_order_whatever_the_options(
    items: list[int],
    max_workers: int,
    buffersize: int | None,
    chunksize: int | None,
    intake: Literal["caller", "thread"],
) -> None:
    """No combination of bounds and chunks may lose, repeat or reorder a result."""
    run = treadle.map(
        double,
        items,
        max_workers=max_workers,
        buffersize=buffersize,
        chunksize=chunksize,
        intake=intake,
    )

    assert list(run) == [2 * item for item in items]
    assert run.stats.taken == run.stats.succeeded == len(items)


def test_many_tiny_calls_come_in_order() -> None:
    """Long enough for chunks to grow, be split and overtake each other."""
    items = range(100_000)

    assert list(treadle.map(double, items)) == [2 * item for item in items]


def test_unordered_results_come_as_they_are_done(gate: Gate) -> None:
    """The first call is held; the second's result must not wait for it."""

    def call(item: int) -> int:
        if item == 0:
            gate.hold()
        return item

    run = treadle.map(call, [0, 1], ordered=False, max_workers=2)

    assert next(run) == 1
    gate.open()
    assert next(run) == 0
    assert list(run) == []


def test_unordered_delivers_everything_once() -> None:
    run = treadle.map(double, range(20_000), ordered=False)

    assert sorted(run) == [2 * item for item in range(20_000)]


def test_ordered_results_wait_for_the_one_before() -> None:
    """The calls end in the opposite order; the results do not come in it."""
    turnstile = Turnstile()

    def call(item: int) -> int:
        with turnstile(2 - item):
            return item

    assert list(treadle.map(call, [0, 1, 2], max_workers=3)) == [0, 1, 2]


def test_calls_run_at_the_same_time() -> None:
    """Four calls meet at a barrier, which none could pass alone."""
    barrier = threading.Barrier(4, timeout=10)

    assert sorted(treadle.map(lambda _: barrier.wait(), range(4), max_workers=4)) == [0, 1, 2, 3]


def test_a_slow_input_does_not_keep_workers_from_starting() -> None:
    """All calls meet at a barrier, so none returns before the last item was taken."""
    barrier = threading.Barrier(12, timeout=10)

    def items() -> Iterator[int]:
        for number in range(12):
            threading.Event().wait(0.004)
            yield number

    assert sorted(treadle.map(lambda _: barrier.wait(), items(), max_workers=12)) == list(range(12))


def test_a_result_is_not_held_back_by_the_slow_calls_of_its_chunk(gate: Gate) -> None:
    """Neither if all workers are busy and more work waits behind them."""

    def call(item: int) -> int:
        return item if item in (0, 1, 2) else gate.hold(item)  # type: ignore[return-value]

    run = treadle.map(call, range(40), chunksize=4, max_workers=1, buffersize=39)

    assert [next(run), next(run), next(run)] == [0, 1, 2]
    gate.open()
    assert list(run) == list(range(3, 40))


def test_several_iterables_are_taken_side_by_side_and_the_shortest_ends() -> None:
    assert list(treadle.map(pow, [2, 3, 4], [5, 2])) == [32, 9]


def test_strict_reports_different_lengths_after_the_results_before() -> None:
    run = treadle.map(pow, [2, 3, 4], [5, 2], strict=True)

    assert [next(run), next(run)] == [32, 9]
    with pytest.raises(ValueError, match="shorter"):
        next(run)


def test_an_empty_input_is_an_empty_run() -> None:
    nothing: list[int] = []
    run = treadle.map(double, nothing)

    assert list(run) == []
    assert run.stats.taken == 0
    assert run.stats.workers == 0


def test_outcomes_tell_of_every_item() -> None:
    def call(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        return item

    outcomes = list(treadle.map(call, [0, 1, 2]).outcomes())

    assert [(o.index, o.item, o.status, o.value) for o in outcomes] == [
        (0, 0, "succeeded", 0),
        (1, 1, "failed", None),
        (2, 2, "succeeded", 2),
    ]
    assert isinstance(outcomes[1].error, ValueError)
    assert all(o.attempts == 1 and o.seconds >= 0 and not o.abandoned for o in outcomes)


def test_an_outcomes_result_is_the_value_or_raises() -> None:
    good, bad = treadle.map(int, ["1", "x"]).outcomes()

    assert good.result() == 1
    with pytest.raises(ValueError, match="invalid literal"):
        bad.result()


def test_outcomes_unordered_come_as_they_are_done(gate: Gate) -> None:
    def call(item: int) -> int:
        if item == 0:
            gate.hold()
        return item

    outcomes = treadle.map(call, [0, 1], ordered=False, max_workers=2).outcomes()

    assert next(outcomes).index == 1
    gate.open()
    assert next(outcomes).index == 0


def test_results_then_outcomes_divide_the_items() -> None:
    """Changing one's mind midway loses nothing, even within a chunk that was handed over."""
    run = treadle.map(double, range(1000), chunksize=100)
    first = [next(run) for _ in range(150)]

    rest = [outcome.value for outcome in run.outcomes()]

    assert first + rest == [2 * item for item in range(1000)]


def test_a_run_iterated_twice_has_nothing_more_to_give() -> None:
    """As with any iterator."""
    run = treadle.map(double, [1, 2])

    assert list(run) == [2, 4]
    assert list(run) == []


def test_results_before_a_slow_call_in_the_same_chunk_are_not_held_back(gate: Gate) -> None:
    """One stuck call must not hide what its chunk has done already."""

    def call(item: int) -> int:
        if item == 2:
            gate.hold()
        return item

    run = treadle.map(call, range(4), chunksize=4, max_workers=1)

    assert [next(run), next(run)] == [0, 1]
    gate.open()
    assert list(run) == [2, 3]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("intake", ["caller", "thread"])
def test_nor_if_the_consumer_went_to_wait_before_a_worker_had_the_chunk(
    gate: Gate, ordered: bool, intake: Literal["caller", "thread"]
) -> None:
    """While it waits to be taken nothing can be held back yet; the consumer has to look up all the same."""
    runs: list[treadle.Run[int, int]] = []

    def wait_for_the_consumer() -> None:
        wait_until(lambda: bool(runs) and runs[0]._course.awaited is not False)

    def hold_the_second(item: int) -> int:
        if item == 1:
            gate.hold()
        return item

    run = treadle.map(
        hold_the_second,
        [0, 1],
        max_workers=1,
        chunksize=2,
        ordered=ordered,
        intake=intake,
        initializer=wait_for_the_consumer,
    )
    runs.append(run)
    results: list[int] = []
    consumer = threading.Thread(target=lambda: results.extend(run))
    consumer.start()
    try:
        wait_until(lambda: results == [0])
    finally:
        gate.open()
        consumer.join()
        runs.clear()

    assert results == [0, 1]


@pytest.mark.parametrize("ordered", [True, False])
def test_idle_workers_take_over_from_a_chunk_that_hangs(gate: Gate, ordered: bool) -> None:
    """The first call of a chunk is held; somebody else makes the calls behind it."""
    done = threading.Semaphore(0)

    def call(item: int) -> int:
        if item == 0:
            gate.hold()
        else:
            done.release()
        return item

    run = treadle.map(call, range(8), chunksize=8, max_workers=2, ordered=ordered)
    consumer = threading.Thread(target=lambda: results.extend(run))
    results: list[int] = []
    consumer.start()

    assert all(done.acquire(timeout=10) for _ in range(7)), "the calls behind the stuck one were not made"
    gate.open()
    consumer.join(10)
    assert sorted(results) == list(range(8))
    assert results == sorted(results) or not ordered


def test_a_result_of_none_or_an_exception_object_is_a_result() -> None:
    error = ValueError("a value, not a failure")

    assert list(treadle.map(lambda item: item, [None, error])) == [None, error]


def test_seconds_of_each_call_are_told_by_outcomes(gate: Gate) -> None:
    """A slow call in a chunk of quick ones is told apart from them."""
    ticks = iter(range(100))

    def call(item: int) -> int:
        if item == 2:
            threading.Event().wait(0.05)
        return next(ticks)

    outcomes = list(treadle.map(call, range(4), chunksize=4, max_workers=1).outcomes())

    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    assert slowest.index == 2


def test_a_second_thread_that_asks_meanwhile_is_refused(gate: Gate) -> None:
    """It would take the wake-ups of the first, which would wait for ever."""
    run = treadle.map(gate.hold, [1, 2], max_workers=1)
    first: list[object] = []
    thread = threading.Thread(target=lambda: first.extend(run), name="first")
    thread.start()
    wait_until(lambda: [turn.thread for turn in run._course.turns.values()] == [thread])

    with pytest.raises(RuntimeError, match="thread 'first' takes the results of run .* a treadle.Channel"):
        next(run)
    gate.open()
    thread.join(PATIENCE_SECONDS)

    assert first == [1, 2]
    assert list(run) == []
