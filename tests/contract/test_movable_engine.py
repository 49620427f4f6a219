"""An engine that may move keeps the engines' contract, before and after."""

from __future__ import annotations

from collections.abc import Callable

from tests.contract.engine_contract import EngineContract
from treadle._core.chunk import Chunk
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
