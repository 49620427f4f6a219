"""The wait for the end of a group or an executor, which one thread has."""

from __future__ import annotations

import pytest

import treadle
from tests.asides import Aside
from tests.conftest import Gate
from tests.places import wait_until


def test_calls_are_asked_to_end_once_and_then_waited_for(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask wakes whoever waits for the end: asked again at each wake-up, that thread never slept again."""
    pool = treadle.PoolExecutor(1)
    task = pool.submit(gate.hold)
    gate.wait_for_arrivals()
    asked: list[None] = []
    cancel_all = pool._book.cancel_all

    def counted() -> None:
        asked.append(None)
        cancel_all()

    monkeypatch.setattr(pool._book, "cancel_all", counted)
    waiting = Aside(pool._book.join, 1)  # as after one Ctrl-C
    for _ in range(3):
        wait_until(lambda: bool(asked) and bool(pool._book._waiters))
        pool._book._wake()

    gate.open()
    waiting.value()

    assert len(asked) == 1
    assert task.done()
