"""What frames hold, to be seen to go without the collector."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Held:
    """What a frame has in its variables."""


held: list[weakref.ref[Held]] = []


def hold() -> Held:
    """Return something for a frame to hold, and remember it in ``held``."""
    here = Held()
    held.append(weakref.ref(here))
    return here


@contextmanager
def no_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have nothing in ``held``, and no collection while the block runs."""
    monkeypatch.setattr(logging.getLogger("treadle"), "disabled", True)  # pytest keeps all records, errors included
    held.clear()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
