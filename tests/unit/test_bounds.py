"""Contract 1: bounded. Contract 3: the input is advanced by one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import treadle
from tests.conftest import Gate
from tests.places import wait_until


class CountingInput:
    """An endless input that knows how many items were taken, and by which threads."""

    def __init__(self) -> None:
        self.taken = 0
        self.threads: set[int] = set()
        self._inside = threading.Lock()

    def has_taken(self, number: int) -> bool:
        return self.taken == number

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        assert self._inside.acquire(blocking=False), "two threads advance the input at once"
        try:
            self.threads.add(threading.get_ident())
            self.taken += 1
            return self.taken - 1
        finally:
            self._inside.release()


@settings(max_examples=80, deadline=None)
@given(
    max_workers=st.integers(1, 6),
    buffersize=st.integers(0, 30),
    chunksize=st.none() | st.integers(1, 40),
    consumed=st.integers(0, 60),
    ordered=st.booleans(),
)
def test_at_most_workers_plus_buffer_are_taken_beyond_the_last_result(
    max_workers: int, buffersize: int, chunksize: int | None, consumed: int, ordered: bool
) -> None:
    items = CountingInput()
    with treadle.map(
        abs, items, max_workers=max_workers, buffersize=buffersize, chunksize=chunksize, ordered=ordered
    ) as run:
        for number in range(consumed):
            assert items.taken <= number + max_workers + buffersize
            next(run)
            # The result just delivered counts as consumed when the next one is asked for.
            assert items.taken <= number + max_workers + buffersize
    assert items.taken <= consumed + max_workers + buffersize


def test_by_default_the_buffer_equals_the_workers_while_calls_are_slow(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle._run.intake.PATIENCE_SECONDS", 60)  # a busy machine would make it pause
    items = CountingInput()
    with treadle.map(gate.hold, items, max_workers=3):
        gate.wait_for_arrivals(3)
        assert items.taken == 6
        gate.open()


def test_the_buffer_grows_for_tiny_calls_and_shrinks_when_results_are_large() -> None:
    """Memory is the bound that matters: a megabyte a result must not be held a thousand times."""
    held: list[int] = []
    items = CountingInput()
    with treadle.map(lambda _: bytes(1_000_000), items, max_workers=2) as run:
        for number, _ in enumerate(run):
            held.append(items.taken - number)
            if number == 300:
                break
    assert max(held) <= 2 + 2 + 1


def test_a_stalled_consumer_stops_a_feeder_too(gate: Gate) -> None:
    items = CountingInput()
    with treadle.map(abs, items, max_workers=2, buffersize=3, intake="thread") as run:
        for number in range(50):
            next(run)
            assert items.taken <= number + 1 + 5


def test_a_feeder_has_room_for_what_the_consumer_is_just_taking() -> None:
    """Nothing happens when a result is taken out of a batch: a feeder that looked a moment before would stay behind."""
    items = CountingInput()
    with treadle.map(abs, items, max_workers=1, buffersize=0, intake="thread") as run:
        for number in range(20):
            batch = run._delivery.next_until(None)  # handed over, and not taken yet

            wait_until(partial(items.has_taken, number + 2))

            assert list(batch or ()) == [number]


def test_an_endless_input_is_fine() -> None:
    with treadle.map(lambda item: item, count()) as run:
        assert [next(run) for _ in range(5000)] == list(range(5000))


def test_the_consumers_thread_advances_the_input() -> None:
    """So that a cursor bound to its thread works."""
    items = CountingInput()
    with treadle.map(abs, items, max_workers=4) as run:
        for _ in range(3000):
            next(run)

    assert items.threads == {threading.get_ident()}


def test_a_feeder_is_one_other_thread() -> None:
    items = CountingInput()
    with treadle.map(abs, items, max_workers=4, intake="thread") as run:
        for _ in range(3000):
            next(run)

    assert len(items.threads) == 1
    assert items.threads != {threading.get_ident()}


def test_results_flow_while_the_input_of_a_feeder_blocks(gate: Gate) -> None:
    """What ``tail -f | treadle map`` needs: the answer to a line must not wait for the next line."""

    def lines() -> Iterator[str]:
        yield from (f"line {number}" for number in range(2000))  # quick enough for chunks to grow
        gate.hold()
        yield "last"

    run = treadle.map(str.upper, lines(), intake="thread", max_workers=2)

    assert [next(run) for _ in range(2000)][-1] == "LINE 1999"
    gate.open()
    assert list(run) == ["LAST"]


def test_an_error_of_the_input_comes_after_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    for intake in ("caller", "thread"):
        run = treadle.map(abs, items(), intake=intake)
        assert [next(run), next(run)] == [1, 2]
        with pytest.raises(OSError, match="the disk is gone"):
            next(run)
        assert run.stats.taken == run.stats.succeeded == 2
        with pytest.raises(treadle.RunClosed, match="the disk is gone"):
            next(run)


def test_an_error_of_the_input_comes_after_the_outcomes_too() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    outcomes = treadle.map(abs, items()).outcomes()

    assert next(outcomes).value == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(outcomes)


def test_an_error_midway_through_a_chunk_keeps_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError

    run = treadle.map(abs, items(), chunksize=10)

    assert [outcome.index for outcome in run.rest()] == [0, 1, 2, 3, 4]


def test_an_input_that_uses_treadle_itself() -> None:
    inner = treadle.map(abs, range(500))
    outer = treadle.map(abs, inner)

    assert list(outer) == list(range(500))
