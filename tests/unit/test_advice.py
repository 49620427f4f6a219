"""Runs on threads whose calls hold the GIL are told how much faster processes would be."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

import treadle
from tests.conftest import Gate
from tests.places import wait_until
from treadle._crew import advisor


def measure(
    monkeypatch: pytest.MonkeyPatch, held: float, computing: float, cores: int = 2, is_gil_enabled: bool = True
) -> list[str]:
    """Let the advisor look at once and find that; return where it notes that it has looked."""
    looks: list[str] = []

    def probe(check: Callable[[], object], _: object) -> float:
        check()
        looks.append("looked")
        return held

    processor = iter([0.0, computing])
    ticks = itertools.count(1)

    def clock() -> float:
        """Stand still, but for the advisor's thread."""
        return float(next(ticks)) if threading.current_thread().name.endswith("advisor") else 0.0

    monkeypatch.setattr(advisor, "LASTING_SECONDS", 0.0)
    monkeypatch.setattr(advisor, "perf_counter", clock)
    monkeypatch.setattr(advisor, "probe", probe)
    monkeypatch.setattr(advisor, "usable_cores", lambda: cores)
    monkeypatch.setattr(advisor, "is_gil_enabled", lambda: is_gil_enabled)
    monkeypatch.setattr(advisor.Advisor, "_processor_seconds", lambda _: next(processor))
    return looks


def decided(gate: Gate, looks: list[str], **options: Any) -> str:
    """Return what a run decides that lasts until its advisor has looked."""
    with treadle.map(lambda item: item and gate.hold(item), range(2), **options) as run:
        assert next(run) == 0
        assert run._course.advisor is not None
        run._course.advisor.look_if_due(1)
        wait_until(lambda: bool(looks))
        gate.open()
        assert list(run) == [1]
    return run.stats.decision or ""


def test_calls_that_hold_the_gil_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gate: Gate
) -> None:
    looks = measure(monkeypatch, held=1.0, computing=0.95)

    decided(gate, looks, name="sums")

    advice = "GIL-bound: processes would be about 2.0x faster (engine='processes', or 'auto'); the GIL was held 100%"
    wait_until(lambda: bool(caplog.records))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("treadle", logging.WARNING)
    assert record.getMessage().startswith(f"run 'sums' is {advice}")


@pytest.mark.parametrize(
    ("held", "computing"),
    [(0.05, 0.95), (1.0, 0.1), (0.55, 0.35)],
    ids=["lets go of the GIL", "waits, and others hold it", "gains little"],
)
def test_others_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gate: Gate, held: float, computing: float
) -> None:
    looks = measure(monkeypatch, held, computing)

    assert decided(gate, looks) == "threads, at most 32 workers"
    assert caplog.records == []


@pytest.mark.parametrize("options", [{"cores": 1}, {"is_gil_enabled": False}])
def test_nobody_looks_where_processes_would_bring_nothing(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    looks = measure(monkeypatch, held=1.0, computing=1.0, **options)

    assert list(treadle.map(abs, range(100))) == list(range(100))
    assert looks == []


def test_short_runs_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = measure(monkeypatch, held=1.0, computing=1.0)
    monkeypatch.setattr(advisor, "LASTING_SECONDS", 1e9)

    assert list(treadle.map(abs, range(100))) == list(range(100))
    assert looks == []


def test_a_run_that_waits_for_its_first_result_is_looked_at(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    """Its consumer looks up when it is time, though there is nothing new."""
    monkeypatch.setattr(advisor, "LASTING_SECONDS", 0.05)
    looked: list[int] = []

    def look(_: object, calls: int) -> None:
        looked.append(calls)
        gate.open()

    monkeypatch.setattr(advisor.Advisor, "_look", look)
    monkeypatch.setattr(advisor, "usable_cores", lambda: 2)
    monkeypatch.setattr(advisor, "is_gil_enabled", lambda: True)

    assert list(treadle.map(gate.hold, range(3))) == [0, 1, 2]
    assert looked == [0]
