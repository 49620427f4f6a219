"""What the stats of a pipeline say, above all which stage holds up the others."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until
from treadle._run import stage
from treadle._run.stage import Gauge


class Clockwork:
    """Stands for ``perf_counter`` where waits are measured: time passes only when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    clockwork = Clockwork()
    monkeypatch.setattr(stage, "perf_counter", clockwork)
    return clockwork


def stats_of(*shares: tuple[float, float]) -> treadle.PipelineStats:
    """Return the stats of stages whose input is full, and whose output is empty, for these shares of the time."""
    stages = tuple(
        treadle.StageStats(
            taken=10,
            succeeded=10,
            number=number,
            name=f"s{number}",
            max_workers=4,
            passed_on=10,
            full_before=full,
            empty_after=empty,
        )
        for number, (full, empty) in enumerate(shares, 1)
    )
    return treadle.PipelineStats("pages", stages, 1.5)


def test_a_gauge_tells_how_long_whoever_takes_waits(clockwork: Clockwork) -> None:
    def source() -> Iterator[int]:
        for item in range(2):
            clockwork.now += 3
            yield item

    gauge = Gauge()
    items = gauge.meter(source())
    for _ in range(2):
        next(items)
        clockwork.now += 1

    assert gauge.count == 2
    assert gauge.share() == 6 / 8

    assert list(items) == []
    clockwork.now += 100
    assert gauge.share() == 6 / 8, "what comes after the end does not count"


def test_a_wait_that_goes_on_counts(clockwork: Clockwork, gate: Gate) -> None:
    flow = treadle.pipeline([1]).map(gate.hold).start()
    gauge = flow._account.legs[0].outlet
    gauge.since = clockwork.now
    clockwork.now += 10

    assert gauge.share() == 1
    assert flow.stats.stages[0].empty_after == 1
    gate.open()
    gauge.since = None
    assert list(flow) == [1]


def test_a_stage_that_holds_up_the_others_is_named_with_what_to_do() -> None:
    stats = stats_of((1.0, 0.05), (0.95, 0.9), (0.1, 1.0))

    assert stats.bottleneck == (
        "stage 2 (s2) is the bottleneck: its input is full 95% of the time, and what follows waits for it 90%; "
        "give it more than max_workers=4, or make its calls faster"
    )


def test_a_stage_that_only_collects_items_is_not_to_have_more_workers() -> None:
    flow = treadle.pipeline([1, 2]).batched(2).map(len).start()

    assert list(flow) == [2]
    assert [stage.makes_calls for stage in flow.stats.stages] == [False, True]
    batched = replace(stats_of((1.0, 1.0)).stages[0], name="batched(2)", makes_calls=False)
    assert treadle.PipelineStats("pages", (batched,)).bottleneck == (
        "stage 1 (batched(2)) is the bottleneck: its input is full 100% of the time, and what follows waits for it "
        "100%; it only collects items, one after the other, so let it get fewer and larger ones"
    )


def test_the_source_is_named_if_the_first_stage_waits_for_it() -> None:
    assert stats_of((0.1, 0.9), (0.1, 0.95)).bottleneck.startswith("the source is the bottleneck: stage 1 (s1) waits")


def test_whoever_takes_the_results_is_named_if_they_are_always_there() -> None:
    assert stats_of((1.0, 0.1), (0.9, 0.05)).bottleneck.startswith("whoever takes the results is the bottleneck")


def test_before_anything_came_through_nothing_is_named() -> None:
    assert "nothing has come through" in treadle.PipelineStats("pages").bottleneck
    assert "nothing has come through" in str(treadle.pipeline([]).stats)


def test_as_text_they_are_a_table_and_the_bottleneck() -> None:
    lines = str(stats_of((1.0, 0.05), (0.95, 0.9))).splitlines()
    columns = ["full before", "empty after"]

    assert lines[0] == "pipeline 'pages', 1.5 s"
    assert re.split("  +", lines[1]) == ["stage", "taken", "succeeded", "failed", "passed on", "running", *columns]
    assert lines[2].split() == ["1", "s1", "10", "10", "0", "10", "0", "100%", "5%"]
    assert lines[4].startswith("stage 2 (s2) is the bottleneck")
    assert len({len(line) for line in lines[1:4]}) == 1


def test_a_stage_that_is_held_is_the_bottleneck(gate: Gate) -> None:
    """While it goes on already: so a program that is slow can be asked why."""

    def hold(item: int) -> int:
        if item >= 4:
            gate.hold()
        return item

    options: Any = {"max_workers": 2, "buffersize": 0}
    flow = treadle.pipeline(range(20)).map(int, **options).map(hold, **options, name="hold").map(int, **options).start()
    consumer = threading.Thread(target=lambda: list(flow))
    consumer.start()
    try:
        gate.wait_for_arrivals(2)

        wait_until(lambda: flow.stats.bottleneck.startswith("stage 2 (hold) is the bottleneck"))
    finally:
        gate.open()
        consumer.join(PATIENCE_SECONDS)


def test_passed_on_counts_what_comes_out_of_a_stage() -> None:
    pipeline = treadle.pipeline(range(6)).filter(lambda item: item % 2).flat_map(lambda item: [item] * 3).batched(4)

    batches = list(pipeline)

    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert [(stage.taken, stage.passed_on) for stage in pipeline.stats.stages] == [(6, 3), (3, 9), (9, 3)]


def test_stats_outlive_the_flow_and_hold_nothing_of_it() -> None:
    pipeline = treadle.pipeline(range(3)).map(str)
    for _ in pipeline:
        break

    wait_until(lambda: pipeline.stats.stages[0].workers == 0)
    stats = pipeline.stats

    stage = stats.stages[0]
    assert stage.taken == stage.succeeded + stage.not_started
    assert stage.succeeded >= stage.passed_on == 1
    assert stats.name == pipeline.name == "pipeline"


def test_seconds_stand_still_after_the_end() -> None:
    pipeline = treadle.pipeline(range(3)).map(str)
    list(pipeline)

    assert pipeline.stats.seconds == pipeline.stats.seconds > 0
