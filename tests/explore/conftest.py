"""How long to search: some seconds in all, and minutes among the slow tests."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from treadle._sync import timekeeper, wait_graph
from treadle.testing import explore

# Every step of them is switched at. Not the register's: its lock is older than a scenario.
INSIDE = (
    "tests",
    *("treadle" + part for part in ("._core.cancellation", "._core.chunk", "._sync", "._engines", "._crew", "._run")),
)
# A build without a GIL takes three times as long.
SCHEDULES = 100 if getattr(sys, "_is_gil_enabled", lambda: True)() else 40
MANY = 10
ENOUGH = 45
# One that is drawn anew each time finds, once in hundreds of runs, nothing within so many schedules.
SEED = 1

Search = Callable[..., Any]


def at_once(*actions: Callable[[], object]) -> None:
    """Do each on a thread, and wait for all of them."""
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(params=[SCHEDULES, pytest.param(MANY * SCHEDULES, marks=pytest.mark.slow)], ids=["some", "many"])
def search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Search:
    """Return ``explore``, told how long and where to search."""

    def search(scenario: Callable[[], object], **options: Any) -> None:
        options = {"schedules": request.param, "modules": INSIDE, "seed": SEED, **options}
        explore(_with_own_state(scenario, monkeypatch), **options)

    return search


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Search:
    """Return a search that must find something wrong, as a mechanism was taken out; what was found comes back."""

    def find(scenario: Callable[[], object], **options: Any) -> Exception:
        options = {"schedules": ENOUGH * SCHEDULES, "modules": INSIDE, "seed": SEED, **options}
        with pytest.raises(Exception) as raised:
            explore(_with_own_state(scenario, monkeypatch), **options)
        assert any("explore(..., replay=" in note for note in raised.value.__notes__)
        return raised.value

    return find


def _with_own_state(scenario: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """What the process has once has locks and a thread that no exploration knows."""
    for module, name in ((timekeeper, "_keeper"), (wait_graph, "_lock"), (wait_graph, "_waits")):
        monkeypatch.setattr(module, name, getattr(module, name))

    def anew() -> None:
        timekeeper._keeper = timekeeper.Timekeeper()
        wait_graph._lock, wait_graph._waits = _thread.RLock(), {}
        scenario()

    return anew
