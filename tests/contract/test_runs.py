"""The promises of a run, on each engine."""

from __future__ import annotations

from tests.contract.run_contract import RunContract


class TestRunsOnThreads(RunContract):
    engine = "threads"


class TestRunsInProcesses(RunContract):
    engine = "processes"
    leaves_stuck_calls_behind = False


class TestRunsThatDecide(RunContract):
    engine = "auto"
    engine_within = "threads"
