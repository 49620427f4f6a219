"""How a pipeline ends early: a failure, a break, a close, a timeout, Ctrl-C; and that nothing of it stays behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

import treadle
from tests.calls import Nap
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until
from tests.programs import finish, start_program
from treadle.testing import ManualClock, assert_no_leaked_threads


class PlannedError(Exception):
    pass


def same(item: Any) -> Any:
    return item


def fail_at(number: int) -> Any:
    def fail(item: int) -> int:
        if item == number:
            raise PlannedError(item)
        return item

    return fail


def counts(stage: treadle.StageStats) -> dict[str, int]:
    """Return what became of the items a stage took."""
    named = {name: getattr(stage, name) for name in ("succeeded", "failed", "timed_out", "cancelled", "not_started")}
    return {name: number for name, number in named.items() if number}


# A failure


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_results_before_a_failure_still_pass_through_what_follows(failing: int) -> None:
    """The pipeline is drained downstream, in order; then the exception surfaces as it was raised."""
    stages = [fail_at(50) if number == failing else same for number in (1, 2, 3)]
    pipeline = treadle.pipeline(count(), name="numbers")
    for stage in stages:
        pipeline = pipeline.map(stage, max_workers=3)
    flow = pipeline.start()
    results: list[int] = []

    with pytest.raises(PlannedError) as caught:
        results.extend(iter_into(flow, results))

    assert results == list(range(50))
    assert caught.value.args == (50,)
    assert caught.value.__notes__ == [f"treadle: item 50 of run 'stage {failing} (fail) of numbers': 50"]


def iter_into(flow: Iterator[Any], results: list[Any]) -> Iterator[Any]:
    """Move what comes into ``results`` one by one, so that it is there when an exception comes."""
    for result in flow:
        results.append(result)
    yield from ()


def test_a_failure_cancels_the_stages_before_it_at_once() -> None:
    """Their calls are asked to end, and the source is advanced no further."""
    nap = Nap()
    taken: list[int] = []

    def source() -> Iterator[int]:
        for item in count():
            taken.append(item)
            yield item

    def nap_after_the_first(item: int) -> int:
        if item > 0:
            nap()
        return item

    def fail_once_they_nap(item: int) -> None:
        nap.wait_until_begun(2)
        raise PlannedError

    pipeline = treadle.pipeline(source()).map(nap_after_the_first, max_workers=2, ordered=False, buffersize=0)
    with pytest.raises(PlannedError):
        pipeline.for_each(fail_once_they_nap, max_workers=1)

    stats = pipeline.stats
    assert nap.cancelled == 2
    assert [counts(stage) for stage in stats.stages] == [{"succeeded": 1, "cancelled": 2}, {"failed": 1}]
    assert len(taken) == stats.stages[0].taken == 3


def test_they_are_cancelled_also_while_their_failures_are_being_dealt_with(gate: Gate) -> None:
    """Whatever the thread between the two stages is at, and long before the exception reaches anybody."""
    nap = Nap()

    def work(item: int) -> int:
        if item == 1:
            raise PlannedError("up")
        if item == 2:
            nap()
        return item

    def fail(item: int) -> int:
        nap.wait_until_begun()
        gate.wait_for_arrivals()
        raise PlannedError("down")

    pipeline = treadle.pipeline(range(3)).map(work, max_workers=3, on_error=gate.hold).map(fail).map(same)
    with pipeline.start() as flow:
        wait_until(lambda: nap.cancelled == 1)

        gate.open()
        with pytest.raises(PlannedError, match="down"):
            next(flow)


def test_the_account_is_closed_when_the_exception_comes(gate: Gate) -> None:
    """Also that of a stage whose calls are stuck."""

    def hold_from_one(item: int) -> int:
        if item > 0:
            gate.hold()
        return item

    def fail(item: int) -> None:
        gate.wait_for_arrivals(2)
        raise PlannedError

    pipeline = treadle.pipeline(count()).map(hold_from_one, max_workers=2, buffersize=0, ordered=False)
    with pytest.raises(PlannedError):
        pipeline.for_each(fail, max_workers=1)

    first = pipeline.stats.stages[0]
    assert counts(first) == {"succeeded": 1, "cancelled": 2}
    assert (first.running, first.abandoned) == (0, 2)


def test_a_failure_is_raised_when_all_stages_have_come_to_their_end(gate: Gate) -> None:
    """A call that is stuck in a stage before it is waited for as long as ``grace`` says, and in the account."""

    def hold_after_the_first(item: int) -> int:
        if item > 0:
            gate.hold()
        return item

    def fail_once_it_is_stuck(item: int) -> None:
        gate.wait_for_arrivals()
        raise PlannedError

    pipeline = treadle.pipeline(range(2)).map(hold_after_the_first, max_workers=1).map(fail_once_it_is_stuck)
    with pytest.raises(PlannedError):
        list(pipeline)

    stuck, _ = pipeline.stats.stages
    assert counts(stuck) == {"succeeded": 1, "cancelled": 1}
    assert stuck.abandoned == 1


def test_an_item_that_the_source_is_about_to_give_is_in_the_account(gate: Gate) -> None:
    """The run of the first stage is sealed when the next one lets go of it; its feeder comes a moment later."""
    taken: list[int] = []

    def source() -> Iterator[int]:
        for item in count():
            taken.append(item)
            if item > 0:
                gate.hold()
            yield item

    def fail_once_it_is_asked_for_more(item: int) -> None:
        gate.wait_for_arrivals()
        raise PlannedError

    options: Any = {"max_workers": 1, "grace": 60}
    pipeline = treadle.pipeline(source()).map(same, buffersize=1, **options)
    # Without room for more: its feeder waits for that, and not for the stage before it.
    flow = pipeline.map(fail_once_it_is_asked_for_more, buffersize=0, **options).start()
    errors: list[BaseException] = []

    def consume() -> None:
        try:
            next(flow)
        except BaseException as error:
            errors.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    crew = flow._account.legs[0].course.crew
    wait_until(lambda: crew.is_stopping and not crew.workers)
    consumer.join(0.1)
    was_waiting = consumer.is_alive()
    gate.open()
    consumer.join(PATIENCE_SECONDS)

    assert [type(error) for error in errors] == [PlannedError]
    assert was_waiting
    assert counts(flow.stats.stages[0]) == {"succeeded": 1, "not_started": 1}
    assert len(taken) == flow.stats.stages[0].taken == 2


def test_a_sink_that_fails_late_leaves_an_exact_account() -> None:
    taken: list[int] = []
    sunk: list[int] = []

    def source() -> Iterator[int]:
        for item in count():
            taken.append(item)
            yield item

    def sink(item: int) -> None:
        if item == 5_000:
            raise PlannedError
        sunk.append(item)

    pipeline = treadle.pipeline(source()).map(same, max_workers=4).filter(lambda item: True, max_workers=4)
    with pytest.raises(PlannedError) as caught:
        pipeline.for_each(sink, max_workers=1)

    stats = pipeline.stats
    assert sunk[:5_000] == list(range(5_000))
    assert 5_000 not in sunk
    assert caught.value.__notes__ == ["treadle: item 5000 of run 'stage 3 (sink) of pipeline': 5000"]
    assert len(taken) == stats.stages[0].taken
    assert [sum(counts(stage).values()) for stage in stats.stages] == [stage.taken for stage in stats.stages]
    assert (stats.stages[2].succeeded, stats.stages[2].failed) == (len(sunk), 1)
    for before, after in zip(stats.stages, stats.stages[1:], strict=False):
        assert after.taken <= before.passed_on <= before.succeeded


def test_of_two_stages_that_fail_the_first_in_the_order_of_results_is_raised(gate: Gate) -> None:
    """A failure further down comes first: it is among the results before the other one. Nobody is told otherwise."""

    def fail_here(item: int) -> int:
        gate.hold()
        raise PlannedError("down")

    def fail_at_one(item: int) -> int:
        if item == 1:
            raise PlannedError("up")
        return item

    flow = treadle.pipeline([0, 1]).map(fail_at_one, max_workers=1).map(fail_here, max_workers=1).start()
    wait_until(lambda: flow.stats.stages[0].failed == 1)
    gate.wait_for_arrivals()
    gate.open()

    with pytest.raises(PlannedError, match="down") as caught:
        next(flow)

    assert caught.value.__notes__ == [
        "treadle: item 0 of run 'stage 2 (fail_here) of pipeline': 0",
        "treadle: stage 1 (fail_at_one) had ended with PlannedError('up')",
    ]


def test_an_exception_of_the_source_surfaces_after_the_results_before_it() -> None:
    def source() -> Iterator[int]:
        yield from range(100)
        raise PlannedError

    results: list[int] = []
    flow = treadle.pipeline(source()).map(same).filter(lambda item: item % 2).map(same).start()
    with pytest.raises(PlannedError):
        list(iter_into(flow, results))

    assert results == list(range(1, 100, 2))


def test_what_was_collected_before_an_exception_is_passed_on() -> None:
    batches: list[Any] = []

    with pytest.raises(PlannedError):
        list(iter_into(treadle.pipeline(count()).map(fail_at(5)).batched(3).start(), batches))

    assert batches == [[0, 1, 2], [3, 4]]


def test_the_traceback_begins_in_the_code_that_raised() -> None:
    with pytest.raises(PlannedError) as caught:
        list(treadle.pipeline([1]).map(fail_at(1)).map(same).map(same))

    names = [entry.name for entry in caught.traceback]
    assert names[-1] == "fail"
    assert len(names) == 5, "the test, the flow, its gauge, the run's delivery, the function"


def test_a_failed_flow_says_so_when_it_is_asked_again() -> None:
    flow = treadle.pipeline([1]).map(fail_at(1)).start()
    with pytest.raises(PlannedError):
        next(flow)

    with pytest.raises(treadle.PipelineClosed, match="has ended with PlannedError"):
        next(flow)


# on_error


def test_on_error_is_given_the_failures_and_the_pipeline_goes_on() -> None:
    bad: list[treadle.Outcome[int, Any]] = []

    def fail_at_threes(item: int) -> int:
        if item % 3 == 0:
            raise PlannedError(item)
        return item

    pipeline = treadle.pipeline(range(10)).map(fail_at_threes, on_error=bad.append).map(same)

    assert list(pipeline) == [1, 2, 4, 5, 7, 8]
    assert [(outcome.item, outcome.status, str(outcome.error)) for outcome in bad] == [
        (item, "failed", str(item)) for item in (0, 3, 6, 9)
    ]
    assert counts(pipeline.stats.stages[0]) == {"succeeded": 6, "failed": 4}


@pytest.mark.parametrize("method", ["filter", "flat_map"])
def test_every_kind_of_stage_has_on_error(method: str) -> None:
    bad: list[Any] = []

    def fail(item: int) -> list[int]:
        if item == 1:
            raise PlannedError
        return [item + 1]

    pipeline = getattr(treadle.pipeline(range(3)), method)(fail, on_error=bad.append)

    assert list(pipeline) == ([0, 2] if method == "filter" else [1, 3])
    assert [outcome.item for outcome in bad] == [1]


def test_a_sink_has_on_error() -> None:
    bad: list[Any] = []

    stats = treadle.pipeline(range(3)).for_each(fail_at(1), on_error=bad.append)

    assert [outcome.item for outcome in bad] == [1]
    assert counts(stats.stages[0]) == {"succeeded": 2, "failed": 1}


def test_a_call_that_times_out_goes_to_on_error() -> None:
    nap = Nap()
    bad: list[treadle.Outcome[int, int]] = []

    def nap_at_one(item: int) -> int:
        if item == 1:
            nap()
        return item

    with ManualClock() as clock:
        flow = treadle.pipeline(range(3)).map(nap_at_one, call_timeout=60, max_workers=2, on_error=bad.append).start()
        consumer = threading.Thread(target=lambda: results.extend(flow))
        results: list[int] = []
        consumer.start()
        nap.wait_until_begun()
        clock.wait_for_sleepers()
        clock.advance(60)
        consumer.join(PATIENCE_SECONDS)

    assert results == [0, 2]
    assert [(outcome.item, outcome.status) for outcome in bad] == [(1, "timed_out")]


def test_what_on_error_raises_ends_the_pipeline() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for item in count():
            taken.append(item)
            yield item

    def give_up(outcome: treadle.Outcome[int, int]) -> None:
        raise ValueError("enough")

    pipeline = treadle.pipeline(source()).map(fail_at(3), on_error=give_up, max_workers=1).map(same)
    results: list[int] = []
    with pytest.raises(ValueError, match="enough") as caught:
        list(iter_into(pipeline.start(), results))

    assert results == [0, 1, 2]
    assert isinstance(caught.value.__context__, PlannedError) or caught.value.__context__ is None
    assert caught.value.__notes__ == ["treadle: on_error, for item 3 of run 'stage 1 (fail) of pipeline': 3"]
    assert len(taken) == pipeline.stats.stages[0].taken


# Ends from outside


def test_breaking_out_of_the_loop_ends_all_stages() -> None:
    """Nothing of it is left: no thread, and no object that only the pipeline held."""

    class Item:
        pass

    items = [Item() for _ in range(3)]
    alive = [weakref.ref(item) for item in items]
    source = iter(items)
    del items

    pipeline = treadle.pipeline(iter([])).map(same).map(same).batched(1)
    pipeline._source = source
    with assert_no_leaked_threads():
        for result in pipeline:
            assert result
            break

    pipeline._source = ()
    del result, source
    assert pipeline.stats.stages[0].taken > 0, "what is known of it is no part of it"
    wait_until(lambda: gc.collect() is not None and not any(item() is not None for item in alive))


def test_breaking_out_ends_calls_of_every_stage() -> None:
    naps = [Nap(), Nap()]

    def nap_in(number: int) -> Any:
        def call(item: int) -> int:
            if item > number:
                naps[number]()
            return item

        return call

    options: Any = {"max_workers": 4, "ordered": False}
    for _ in treadle.pipeline(count()).map(nap_in(1), **options).map(nap_in(0), **options):
        for nap in naps:
            nap.wait_until_begun()
        break

    wait_until(lambda: all(nap.cancelled for nap in naps))


def test_a_closed_flow_has_an_exact_account() -> None:
    nap = Nap()
    flow = treadle.pipeline(count()).map(same, max_workers=2).map(nap, max_workers=2, buffersize=1).start()
    nap.wait_until_begun(2)
    wait_until(lambda: flow.stats.stages[1].taken == 3)

    flow.close()

    assert counts(flow.stats.stages[1]) == {"cancelled": 2, "not_started": 1}
    assert sum(counts(flow.stats.stages[0]).values()) == flow.stats.stages[0].taken
    with pytest.raises(treadle.PipelineClosed, match="was closed"):
        next(flow)
    flow.close()


def test_leaving_the_block_closes() -> None:
    with treadle.pipeline(count()).map(same).start() as flow:
        assert next(flow) == 0

    with pytest.raises(treadle.PipelineClosed):
        next(flow)


def test_closing_after_the_end_does_nothing() -> None:
    flow = treadle.pipeline([1]).map(same).start()
    assert list(flow) == [1]

    flow.close()

    assert list(flow) == []
    assert counts(flow.stats.stages[0]) == {"succeeded": 1}


def test_another_thread_may_close_while_the_consumer_waits() -> None:
    nap = Nap()
    flow = treadle.pipeline([1]).map(same).map(nap).start()
    errors: list[BaseException] = []

    def consume() -> None:
        try:
            next(flow)
        except BaseException as error:
            errors.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    nap.wait_until_begun()
    flow.close()
    consumer.join(PATIENCE_SECONDS)

    assert [type(error) for error in errors] == [treadle.PipelineClosed]


@pytest.mark.parametrize("stages", [1, 3])
def test_a_source_that_blocks_for_ever_does_not_hold_a_close(gate: Gate, stages: int) -> None:
    def source() -> Iterator[int]:
        yield 1
        gate.hold()

    pipeline = treadle.pipeline(source())
    for _ in range(stages):
        pipeline = pipeline.map(same)
    flow = pipeline.start()
    assert next(flow) == 1
    gate.wait_for_arrivals()

    flow.close()

    assert gate.holding() == 1
    assert [stage.taken for stage in flow.stats.stages] == [1] * stages


def test_a_source_that_waits_through_treadle_is_woken() -> None:
    """Its thread leaves: there is nothing else that could end its wait."""
    events: list[str] = []

    def source() -> Iterator[int]:
        try:
            yield 1
            events.append("waits")
            treadle.sleep(100_000)
        except treadle.Cancelled:
            events.append("cancelled")
            raise
        finally:
            events.append("closed")

    with assert_no_leaked_threads(), treadle.pipeline(source()).map(same).map(same).start() as flow:
        assert next(flow) == 1
        wait_until(lambda: events == ["waits"])

    assert events == ["waits", "cancelled", "closed"]


def test_a_channel_that_is_never_closed_does_not_keep_a_thread() -> None:
    channel: treadle.Channel[int] = treadle.Channel(1)
    channel.put(1)

    with assert_no_leaked_threads(), treadle.pipeline(channel).map(same).map(same).start() as flow:
        assert next(flow) == 1

    channel.put(2)
    assert channel.get() == 2


def test_a_generator_that_only_the_pipeline_holds_is_closed_with_it() -> None:
    events: list[str] = []

    def source() -> Iterator[int]:
        try:
            yield from count()
        finally:
            events.append("closed")

    with treadle.pipeline(source()).map(same, max_workers=1).start() as flow:
        next(flow)

    del flow
    wait_until(lambda: gc.collect() is not None and events == ["closed"])


def test_a_call_that_is_stuck_in_any_stage_is_left_behind(gate: Gate) -> None:
    """All stages together have the one grace, not each its own after the other."""
    options: Any = {"grace": 0.25, "max_workers": 1}
    flow = (
        treadle.pipeline(count())
        .map(hold_from(gate, 3), **options)
        .map(hold_from(gate, 2), **options)
        .map(hold_from(gate, 1), **options)
        .start()
    )
    assert next(flow) == 0
    gate.wait_for_arrivals(3)

    flow.close()

    assert [stage.abandoned for stage in flow.stats.stages] == [1, 1, 1]
    assert [stage.cancelled for stage in flow.stats.stages] == [1, 1, 1]


def hold_from(gate: Gate, first: int) -> Any:
    def hold(item: int) -> int:
        if item >= first:
            gate.hold()
        return item

    return hold


def test_too_many_stuck_calls_are_an_error_of_the_close(gate: Gate) -> None:
    flow = treadle.pipeline([1]).map(gate.hold, max_abandoned=0, grace=0).map(same).start()
    gate.wait_for_arrivals()

    with pytest.raises(treadle.TooManyAbandoned):
        flow.close()


# Deadlines and what is around it


def test_a_timeout_ends_all_of_it() -> None:
    nap = Nap()
    with ManualClock() as clock:
        errors: list[BaseException] = []
        pipeline = treadle.pipeline(count()).map(nap, max_workers=2)

        def run() -> None:
            try:
                pipeline.for_each(same, timeout=60)
            except BaseException as error:
                errors.append(error)

        runner = threading.Thread(target=run)
        runner.start()
        nap.wait_until_begun(2)
        clock.wait_for_sleepers(3)  # also whoever waits for all of it: the last stage, with the deadline, has begun
        clock.advance(60)
        runner.join(PATIENCE_SECONDS)

    assert [type(error) for error in errors] == [TimeoutError]
    assert "timeout=60" in str(errors[0])
    assert nap.cancelled == 2


def test_a_timeout_is_told_although_everything_taken_has_come_through(gate: Gate) -> None:
    """The source was cut short: that is no end of it."""

    def source() -> Iterator[int]:
        yield 1
        treadle.sleep(100_000)

    with ManualClock() as clock:
        flow = treadle.pipeline(source()).map(same).start(timeout=60)
        assert next(flow) == 1
        errors: list[BaseException] = []

        def consume() -> None:
            try:
                next(flow)
            except BaseException as error:
                errors.append(error)

        consumer = threading.Thread(target=consume)
        consumer.start()
        clock.wait_for_sleepers(2)
        clock.advance(60)
        consumer.join(PATIENCE_SECONDS)

    assert [type(error) for error in errors] == [TimeoutError]


def test_a_cancelled_group_ends_a_pipeline_inside_it() -> None:
    """In every stage, not only the one that the group's block consumes."""
    naps = [Nap(), Nap()]

    def nap_in(number: int) -> Any:
        def call(item: int) -> int:
            if item > number:
                naps[number]()
            return item

        return call

    def run() -> None:
        options: Any = {"max_workers": 4, "ordered": False}
        treadle.pipeline(count()).map(nap_in(1), **options).for_each(nap_in(0), **options)

    with treadle.TaskGroup() as group:
        task = group.submit(run)
        for nap in naps:
            nap.wait_until_begun()
        group.cancel()

    assert task.cancelled()
    assert all(nap.cancelled for nap in naps)


def test_a_pipeline_that_fails_to_start_leaves_nothing() -> None:
    with assert_no_leaked_threads(), treadle.TaskGroup() as group:
        group.cancel()
        with pytest.raises(treadle.Cancelled):
            treadle.pipeline(count()).map(same).map(same).start()


def test_ctrl_c_ends_all_stages_and_the_program() -> None:
    process = start_program(
        """
        import itertools, threading, time, treadle

        def slow(item):
            if item == 5:
                print("ready", flush=True)
            treadle.sleep(0.001 if item < 5 else 100)
            return item

        pipeline = treadle.pipeline(itertools.count()).map(slow, max_workers=4).map(slow, max_workers=2)
        try:
            pipeline.for_each(slow, max_workers=2)
        except KeyboardInterrupt:
            stages = pipeline.stats.stages
            exact = all(
                s.taken == s.succeeded + s.cancelled + s.not_started and s.abandoned == 0 for s in stages
            )
            print("interrupted", exact, flush=True)
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(2)

    status, out, err = finish(process)

    assert (status, out, err) == (0, "interrupted True\n", "")


def test_a_program_may_end_while_a_pipeline_runs() -> None:
    process = start_program(
        """
        import itertools, threading, treadle

        def source():
            yield from range(10)
            threading.Event().wait()

        flow = treadle.pipeline(source()).map(str).map(lambda text: treadle.sleep(100)).start()
        print("leaves", flush=True)
        """
    )

    status, out, _ = finish(process)

    assert (status, out) == (0, "leaves\n")
