"""An engine that may move keeps the engines' contract, before and after."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path

import pytest

from tests.calls import FileGate
from tests.conftest import PATIENCE_SECONDS
from tests.contract.engine_contract import EngineContract, make_chunk
from treadle._core.chunk import Chunk
from treadle._core.trial import Trial
from treadle._engines import movable
from treadle._engines.engine import CallPlan, Engine
from treadle._engines.inline import InlineEngine
from treadle._engines.movable import Gauge, MovableEngine
from treadle._engines.process import ProcessEngine, wrap_plan


class Guide:
    """Says where to go, and takes no note of anything."""

    destination: Callable[[], Engine] | None = None

    def note_begun(self, gauge: Gauge) -> None: ...
    def note_ended(self, chunk: Chunk) -> None: ...

    def call_off(self, error: BaseException) -> None:
        raise error


def test_one_that_is_killed_while_it_moves_stays_and_may_go_later(tmp_path: Path) -> None:
    """It is killed since a call is to end, not as there is anything wrong with the place it moves to."""
    gate, here = FileGate(tmp_path), os.getpid()

    def open_slowly() -> None:
        if os.getpid() != here:
            gate.hold()

    plan = CallPlan(lambda _: os.getpid(), copy_context(), initializer=open_slowly)
    guide, parcel = Guide(), wrap_plan(plan)
    engine = MovableEngine(InlineEngine(plan), guide)
    engine.open()
    guide.destination = lambda: ProcessEngine(plan, parcel)
    chunks = [make_chunk([1]), make_chunk([2])]
    mover = threading.Thread(target=engine.make_calls, args=(chunks[0],))
    mover.start()
    gate.wait_for_arrivals()

    engine.kill()
    mover.join(PATIENCE_SECONDS)

    assert not mover.is_alive()
    assert chunks[0].results == [here]
    gate.open()
    engine.make_calls(chunks[1])
    assert chunks[1].results != [here]
    assert chunks[1].failures is None
    engine.close()


def test_no_call_waits_for_a_process_in_its_own_time() -> None:
    """Whoever holds it to a time has asked before it began to run; it may have waited at a limiter since."""
    plan = CallPlan(lambda _: os.getpid(), copy_context())
    guide, parcel = Guide(), wrap_plan(plan)
    engine = MovableEngine(InlineEngine(plan), guide)
    engine.open()
    chunk = make_chunk([1])
    chunk.trial = Trial()
    engine.get_ready()
    guide.destination = lambda: ProcessEngine(plan, parcel)

    engine.make_calls(chunk)

    assert chunk.results == [os.getpid()]
    engine.close()


def test_how_long_a_thread_stood_in_line_is_known_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise calls of those that stay would seem to wait for as long."""
    seconds = iter([1.0, 3.5, 0.0])
    monkeypatch.setattr(movable, "seconds_in_line", lambda _: next(seconds))
    gauge = Gauge()

    assert [gauge.seconds_in_line(), gauge.seconds_in_line()] == [2.5, 2.5]


class TestEngineThatStays(EngineContract):
    """Calls on the thread itself, measured."""

    def make_engine(self, plan: CallPlan) -> Engine:
        return MovableEngine(InlineEngine(plan), Guide())


class TestEngineThatHasMoved(EngineContract):
    """Calls in a process, where others of the crew are already."""

    carries_context = False

    def make_engine(self, plan: CallPlan) -> Engine:
        guide, parcel = Guide(), wrap_plan(plan)
        guide.destination = lambda: ProcessEngine(plan, parcel)
        return MovableEngine(InlineEngine(plan), guide)
