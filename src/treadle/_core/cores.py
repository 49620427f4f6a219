"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use: by its affinity, and by the quota of the container it is in."""
    return max(1, math.ceil(min(_allowed_cores(), _quota())))


def _allowed_cores() -> int:
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache  # reading it takes as long as a hundred calls, and containers keep theirs
def _quota() -> float:
    try:
        return read_quota(_OWN_CGROUPS.read_text(), _CGROUPS)
    except (OSError, ValueError):
        return math.inf


def read_quota(own: str, root: Path) -> float:
    """Return the least quota, in cores, of the cgroups named in ``own`` and those above them.

    Args:
        own: What ``/proc/self/cgroup`` says.
        root: Where cgroups are shown; within a container its own may be shown as the root.
    """
    quota = math.inf
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / controllers if controllers else root
        if controllers and "cpu" not in controllers.split(","):
            continue
        place = base / path.lstrip("/")
        for folder in (place, *place.parents):
            if folder != base and base not in folder.parents:
                break
            quota = min(quota, _quota_of(folder))
    return quota


def _quota_of(folder: Path) -> float:
    try:
        if (both := folder / "cpu.max").exists():  # version 2
            most, period = both.read_text().split()
        else:
            most = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(most) / int(period) if most not in ("max", "-1\n") else math.inf
    except (OSError, ValueError):
        return math.inf
