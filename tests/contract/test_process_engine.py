"""The process engine keeps the engines' contract."""

from __future__ import annotations

from tests.contract.engine_contract import EngineContract
from treadle._engines.engine import CallPlan, Engine
from treadle._engines.process import ProcessEngine, wrap_plan


class TestProcessEngine(EngineContract):
    """Calls in a process that the engine owns."""

    carries_context = False

    def make_engine(self, plan: CallPlan) -> Engine:
        return ProcessEngine(plan, wrap_plan(plan))
