"""Pipelines: what passes from stage to stage, in which order, how far ahead, and with which options."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until
from treadle.testing import ManualClock

colour: ContextVar[str] = ContextVar("colour", default="none")


def same(item: Any) -> Any:
    return item


class Counted:
    """A source that knows how many items were taken from it."""

    def __init__(self, items: Iterator[int]) -> None:
        self._items = items
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for item in self._items:
            self.taken += 1
            yield item


# What the stages pass on


def test_items_pass_through_all_stages_in_order() -> None:
    pipeline = treadle.pipeline(range(1000)).map(str).filter(lambda text: "7" not in text).map(len)

    assert list(pipeline) == [len(str(number)) for number in range(1000) if "7" not in str(number)]


def test_flat_map_passes_on_what_is_in_the_iterables_one_by_one() -> None:
    pipeline = treadle.pipeline([3, 0, 2]).flat_map(range).map(str)

    assert list(pipeline) == ["0", "1", "2", "0", "1"]


def test_the_iterable_of_flat_map_is_consumed_where_the_function_was_called() -> None:
    """So that a generator's work is done by the stage's workers."""
    threads: list[str] = []

    def pages(item: int) -> Iterator[int]:
        threads.append(threading.current_thread().name)
        yield item

    assert list(treadle.pipeline([1]).flat_map(pages, name="pages")) == [1]
    assert threads == ["treadle-stage 1 (pages) of pipeline-0"]


def test_batches_are_full_but_for_the_last() -> None:
    pipeline = treadle.pipeline(range(10)).map(same).batched(4)

    assert list(pipeline) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_batch_that_comes_out_even_is_followed_by_no_empty_one() -> None:
    assert list(treadle.pipeline(range(4)).batched(2)) == [[0, 1], [2, 3]]
    assert list(treadle.pipeline([]).batched(2)) == []


def test_a_pipeline_without_stages_passes_its_items_on() -> None:
    assert list(treadle.pipeline(range(3))) == [0, 1, 2]


def test_none_is_an_item_like_any_other() -> None:
    pipeline = treadle.pipeline([None, 0]).map(same).filter(lambda item: item is None).flat_map(lambda item: [item])

    assert list(pipeline.batched(1)) == [[None]]


def test_stages_deliver_as_calls_complete_if_they_are_not_ordered(gate: Gate) -> None:
    def hold_the_first(item: int) -> int:
        if item == 0:
            gate.hold()
        return item

    flow = treadle.pipeline(range(3)).map(hold_the_first, ordered=False, max_workers=4).map(same).start()

    assert [next(flow), next(flow)] == [1, 2]
    gate.open()
    assert list(flow) == [0]


def test_for_each_returns_when_every_item_has_come_through() -> None:
    seen: list[int] = []

    stats = treadle.pipeline(range(100)).map(same).for_each(seen.append, max_workers=1)

    assert seen == list(range(100))
    assert [(stage.name, stage.taken, stage.succeeded) for stage in stats.stages] == [
        ("same", 100, 100),
        ("append", 100, 100),
    ]


def test_a_pipeline_is_a_plan_that_can_be_iterated_again() -> None:
    plan = treadle.pipeline([1, 2])
    doubled = plan.map(lambda number: 2 * number)

    assert [list(doubled), list(doubled), list(plan)] == [[2, 4], [2, 4], [1, 2]]


def test_nothing_is_taken_before_the_pipeline_is_started() -> None:
    source = Counted(iter(range(3)))
    pipeline = treadle.pipeline(source).map(same)

    assert source.taken == 0
    assert pipeline.stats.stages == ()
    assert list(pipeline) == [0, 1, 2]


def test_a_pipeline_can_feed_a_pipeline_and_map() -> None:
    inner = treadle.pipeline(range(4)).map(str)

    assert list(treadle.pipeline(inner).map(int)) == [0, 1, 2, 3]
    assert list(treadle.pipeline(treadle.map(str, range(3))).map(int)) == [0, 1, 2]
    assert list(treadle.map(int, inner)) == [0, 1, 2, 3]


def test_a_pipeline_runs_inside_the_stage_of_another() -> None:
    def total(size: int) -> int:
        return sum(treadle.pipeline(range(size)).map(same, max_workers=2).map(same, max_workers=2))

    assert list(treadle.pipeline(range(20)).map(total, max_workers=2).map(same, max_workers=2)) == [
        sum(range(size)) for size in range(20)
    ]


def test_stages_nested_to_some_depth_do_not_deadlock_on_one_worker_each() -> None:
    def descend(depth: int) -> int:
        if depth == 0:
            return 0
        pipeline = treadle.pipeline([depth - 1]).map(descend, max_workers=1)
        return 1 + sum(pipeline)

    assert descend(8) == 8


def test_several_producers_feed_a_pipeline_through_a_channel() -> None:
    channel: treadle.Channel[int] = treadle.Channel(4)
    results: list[int] = []

    def produce(first: int) -> None:
        with channel.producer() as end:
            for item in range(first, first + 50):
                end.put(item)

    with treadle.TaskGroup() as group:
        pipeline = treadle.pipeline(channel).map(same, max_workers=2)
        consumer = group.submit(pipeline.for_each, results.append, max_workers=1)
        with channel.producer():
            for first in (0, 50):
                group.submit(produce, first)
            wait_until(lambda: pipeline.stats.stages != () and pipeline.stats.stages[0].taken > 0)
        consumer.result()

    assert sorted(results) == list(range(100))


def test_a_source_shares_the_place_in_a_limiter_of_the_call_that_it_belongs_to() -> None:
    """Or a call that runs a pipeline would wait for the place that it holds itself."""
    limiter = treadle.Limiter(max_concurrent=1)

    def source() -> Iterator[int]:
        yield from treadle.map(same, range(3), limiter=limiter)

    def run(_: int) -> list[int]:
        return list(treadle.pipeline(source()).map(same, limiter=limiter))

    assert list(treadle.map(run, [0], limiter=limiter, timeout=PATIENCE_SECONDS)) == [[0, 1, 2]]


# The bound


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stage_slower_than_all_holds_back_the_source(gate: Gate, ordered: bool) -> None:
    """Memory stays bounded: no stage takes more than its bound allows, and the source is no stage's to hoard."""
    done: list[int] = []
    ahead: list[int] = []

    def source() -> Iterator[int]:
        for item in range(300):
            ahead.append(item + 1 - len(done))
            yield item

    def slowest(item: int) -> int:
        gate.hold()
        done.append(item)
        return item

    options: Any = {"max_workers": 2, "buffersize": 3, "ordered": ordered}
    flow = treadle.pipeline(source()).map(same, **options).map(slowest, **options).map(same, **options).start()
    wait_until(lambda: flow.stats.stages[1].taken == 2 + 3)
    gate.open()

    assert sorted(flow) == list(range(300))

    assert 2 + 3 < max(ahead) <= 2 * (2 + 3)


def test_a_stalled_consumer_holds_back_the_source() -> None:
    source = Counted(count())
    with treadle.pipeline(source).map(same, max_workers=2, buffersize=0).start() as flow:
        next(flow)

        wait_until(lambda: source.taken == 1 + 2)

        wait_until(lambda: flow.stats.stages[0].running == 0)
        assert source.taken == 3


def test_by_default_a_stage_may_take_four_items_more_for_each_worker(gate: Gate) -> None:
    """Hand-overs between stages come in bursts."""
    source = Counted(count())
    with treadle.pipeline(source).map(gate.hold, max_workers=2).start() as flow:
        gate.wait_for_arrivals(2)

        wait_until(lambda: flow.stats.stages[0].taken == 2 + 2 * 4)

        assert source.taken == 2 + 2 * 4
        gate.open()


def test_what_is_there_is_passed_on_together(gate: Gate) -> None:
    """No more than there is: the next stage has what came, although the one before it holds the next call."""
    seen: list[int] = []

    def hold_at_eight(item: int) -> int:
        if item == 8:
            gate.hold()
        return item

    flow = treadle.pipeline(range(9)).map(hold_at_eight, max_workers=1, chunksize=8).map(seen.append).start()
    gate.wait_for_arrivals()

    wait_until(lambda: sorted(seen) == list(range(8)))

    gate.open()
    assert len(list(flow)) == 9


def test_results_that_come_to_nothing_are_not_waited_for_with_others_in_hand(gate: Gate) -> None:
    """How many results a run has at hand says nothing of what its stage passes on."""
    held = Gate()
    seen: list[str] = []

    def source() -> Iterator[int]:
        yield from range(6)
        gate.hold()

    def spread(item: int) -> list[str]:
        if item > 0:
            return []
        held.hold()
        return ["of the first"]

    flow = treadle.pipeline(source()).flat_map(spread, max_workers=2).map(seen.append).start()
    try:
        gate.wait_for_arrivals()
        wait_until(lambda: flow.stats.stages[0].succeeded == 5)
        held.open()  # now all six results are handed on together, the first of them alone with something in it

        wait_until(lambda: seen == ["of the first"])
    finally:
        held.open()
        gate.open()
        flow.close()


def test_batches_are_bounded_as_well() -> None:
    """As much as one list and one item waits. It may be less: nobody is told of each result in a list."""
    source = Counted(count())
    with treadle.pipeline(source).batched(10).start() as flow:
        for lists in range(1, 20):
            next(flow)
            assert source.taken <= 10 * lists + 10 + 1

        assert flow.stats.stages[0].taken <= 10 * lists + 10 + 1


# The options


def test_a_stage_has_the_options_of_map() -> None:
    tries: list[int] = []

    def fails_once(item: int, opened: str) -> str:
        tries.append(item)
        if tries.count(item) == 1:
            raise OSError(item)
        return f"{item} {opened} {colour.get()}"

    @contextmanager
    def resource() -> Iterator[str]:
        yield "open"

    pipeline = treadle.pipeline([1, 2]).map(
        fails_once,
        resource=resource,
        initializer=colour.set,
        initargs=("red",),
        retry=treadle.Retry(retry_on=OSError, backoff=0),
        limiter=treadle.Limiter(max_concurrent=1),
        max_workers=1,
        name="ask",
    )

    assert list(pipeline) == ["1 open red", "2 open red"]
    assert (pipeline.stats.stages[0].name, pipeline.stats.stages[0].retried) == ("ask", 2)


def test_every_kind_of_stage_may_have_a_resource() -> None:
    def with_resource(item: int, opened: list[str]) -> list[int]:
        return [item] if opened == ["open"] and item else []

    def opened() -> list[str]:
        return ["open"]

    source: Any = treadle.pipeline(range(3))
    sunk: list[int] = []
    assert list(source.filter(with_resource, resource=opened)) == [1, 2]
    assert list(source.flat_map(with_resource, resource=opened)) == [1, 2]
    source.for_each(lambda item, opened: sunk.append(item), resource=opened, max_workers=1)
    assert sunk == [0, 1, 2]


@pytest.mark.parametrize("name", ["timeout", "progress", "intake", "strict", "max_worker"])
@pytest.mark.parametrize("method", ["map", "filter", "flat_map"])
def test_an_option_that_a_stage_does_not_have_is_refused(method: str, name: str) -> None:
    with pytest.raises(TypeError, match=f"{method}.*{name}"):
        getattr(treadle.pipeline([]), method)(same, **{name: 1})


def test_a_refusal_says_what_to_do_instead() -> None:
    with pytest.raises(TypeError, match="for_each\\(timeout=\\).*call_timeout="):
        treadle.pipeline([]).map(same, timeout=3)  # type: ignore[call-overload]


def test_options_are_checked_when_the_stage_is_added() -> None:
    pipeline: Any = treadle.pipeline([])
    wrongs: list[Callable[[], object]] = [
        lambda: pipeline.map(3),
        lambda: pipeline.map(same, max_workers=0),
        lambda: pipeline.map(same, on_error=3),
        lambda: pipeline.filter(same, call_timeout=0),
        lambda: pipeline.flat_map(same, name=3),
        lambda: pipeline.batched(0),
        lambda: pipeline.batched("2"),
        lambda: pipeline.batched(2, timeout=0),
        lambda: pipeline.batched(2, timeout=-1),
        lambda: pipeline.for_each(None),
        lambda: pipeline.start(timeout=-1),
        lambda: treadle.pipeline(3),  # type: ignore[arg-type]
        lambda: treadle.pipeline([], name=3),  # type: ignore[arg-type]
    ]
    for wrong in wrongs:
        with pytest.raises(treadle.InvalidArgument):
            wrong()


def test_calls_see_the_context_of_whoever_starts_the_pipeline() -> None:
    """In every stage, although only the last is consumed by the thread that started it; and in the source."""
    token = colour.set("blue")
    seen: list[str] = []

    def source() -> Iterator[str]:
        seen.append(colour.get())
        yield colour.get()

    def look(item: str) -> str:
        seen.append(colour.get())
        colour.set("spoiled")
        return item

    pipeline = treadle.pipeline(source()).map(look).filter(look).flat_map(lambda item: [look(item)])
    colour.reset(token)
    token = colour.set("green")
    try:
        assert list(pipeline) == ["green"]
        assert seen == ["green"] * 4
        assert colour.get() == "green"
    finally:
        colour.reset(token)


def test_threads_and_dump_name_the_stage(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    flow = treadle.pipeline([1], name="pages").map(same).map(gate.hold, name="parse").start()
    gate.wait_for_arrivals()

    treadle.dump()

    gate.open()
    assert list(flow) == [1]
    assert "run 'stage 2 (parse) of pages': 1 worker" in capsys.readouterr().err


# Batches in time


def test_a_batch_is_passed_on_when_its_time_is_up(gate: Gate) -> None:
    """The time counts from its first item; the next one's from its own."""

    def source() -> Iterator[int]:
        yield from (1, 2)
        gate.hold()
        yield 3

    with ManualClock() as clock:
        flow = treadle.pipeline(source()).batched(3, timeout=60).start()
        batches: list[list[int]] = []
        consumer = threading.Thread(target=lambda: batches.extend(flow))
        consumer.start()
        gate.wait_for_arrivals()
        wait_until(lambda: flow.stats.stages[0].succeeded == 2)
        clock.wait_for_sleepers()

        clock.advance(59)
        assert batches == []
        clock.advance(1)
        wait_until(lambda: batches == [[1, 2]])

        gate.open()
        consumer.join(PATIENCE_SECONDS)
        assert batches == [[1, 2], [3]]


def test_a_batch_that_is_full_in_time_does_not_wait() -> None:
    with ManualClock():
        assert list(treadle.pipeline(range(4)).batched(2, timeout=60)) == [[0, 1], [2, 3]]


def test_what_is_wrong_is_called_by_its_name() -> None:
    pipe = treadle.pipeline([1])

    with pytest.raises(treadle.WrongType, match="predicate must be callable"):
        pipe.filter(None)  # type: ignore[arg-type]
    with pytest.raises(treadle.WrongType, match="sink must be callable"):
        pipe.for_each(None)  # type: ignore[call-overload]
    with pytest.raises(treadle.WrongType, match=r"what abs\(\) returns must be iterable, not 1 \(int\)"):
        list(pipe.flat_map(abs))  # type: ignore[arg-type]
