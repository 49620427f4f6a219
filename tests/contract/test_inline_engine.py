"""The inline engine keeps the engines' contract."""

from __future__ import annotations

from tests.contract.engine_contract import EngineContract
from treadle._engines.engine import CallPlan, Engine
from treadle._engines.inline import InlineEngine


class TestInlineEngine(EngineContract):
    """Calls on the thread itself."""

    def make_engine(self, plan: CallPlan) -> Engine:
        return InlineEngine(plan)
