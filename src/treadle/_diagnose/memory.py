"""How much memory a process has, where the system tells: on Linux."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def resident_bytes() -> int | None:
    """Return the memory of this process; None: the system does not tell."""
    try:
        pages = int((_PROC / "self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def private_bytes(pid: int) -> int:
    """Return the memory that a process has for itself, and would be free without it; 0 if it is gone, or not known."""
    with suppress(OSError, ValueError, IndexError):
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return 0


def descendants_of(pid: int) -> set[int]:
    """Return the processes that this one has started, and those in turn; none where the system does not tell."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = _children_of(waiting.pop()) - found
        found |= children
        waiting += children
    return found


def _children_of(pid: int) -> set[int]:
    with suppress(OSError, ValueError):  # the process or one of its threads is gone
        threads = (_PROC / str(pid) / "task").iterdir()
        return {int(child) for thread in threads for child in (thread / "children").read_text().split()}
    return set()
