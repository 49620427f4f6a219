"""Calls that were left behind: all are counted, and none is held longer than it has to be."""

from __future__ import annotations

import logging
import threading
import weakref

import pytest

from tests.conftest import PATIENCE_SECONDS
from treadle._crew.onlook import LeftBehind
from treadle._crew.stragglers import Stragglers


class Item:
    pass


def test_calls_that_have_ended_are_forgotten_and_stay_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A periodic, or an executor, may leave calls behind now and then for months."""
    caplog.set_level(logging.CRITICAL, "treadle")
    stragglers = Stragglers("executor", "test", most=1)
    items: list[weakref.ref[Item]] = []
    for number in range(3):
        over = threading.Event()
        thread = threading.Thread(target=over.wait, args=(PATIENCE_SECONDS,))
        thread.start()
        item = Item()
        items.append(weakref.ref(item))
        assert stragglers.add([LeftBehind(thread, number, item, 0.0)]) is None, "one at a time is not too many"
        stragglers.log()
        assert [state.index for state in stragglers.worker_states()] == [number]
        over.set()
        thread.join()
        del item

    assert [item() is not None for item in items] == [False, False, True]
    assert len(stragglers) == 3
    assert stragglers.is_over()
