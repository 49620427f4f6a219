"""What the interpreter's own RLock knows about itself."""

from __future__ import annotations

import _thread
import re

_STATE = re.compile(r"owner=(\d+) count=(\d+)")


def owner_and_count(lock: _thread.RLock) -> tuple[int, int]:
    """Return the thread that holds a ``_thread.RLock`` (0: none), and how often it has taken it.

    Its repr() is the only way to ask it for another thread than our own.
    """
    found = _STATE.search(_thread.RLock.__repr__(lock))
    assert found is not None
    return int(found[1]), int(found[2])
