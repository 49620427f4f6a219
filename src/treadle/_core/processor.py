"""How much of a processor a thread got, as seen from any thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from contextlib import suppress

from treadle._core import real_time

_IS_LINUX = sys.platform.startswith("linux")


def processor_seconds(thread: int) -> float:
    """Return the processor time that the thread with that native number has had.

    Does not let go of the GIL, so it costs nothing beside threads that fight for it. Where the system does not tell it
    (only Linux does), it is that of the whole process: calls are then taken for busy rather than idle.

    Raises:
        OSError: The thread has ended.
    """
    if _IS_LINUX:
        return real_time.clock_gettime(
            (~thread << 3) | 6
        )  # the kernel's number for that clock; see clock_getcpuclockid(3)
    return real_time.process_time()


def processor_seconds_of(threads: Iterable[threading.Thread]) -> float:
    """Return the processor time of those of ``threads`` that run, together."""
    if not _IS_LINUX:
        return real_time.process_time()
    seconds = 0.0
    for thread in threads:
        with suppress(OSError):
            seconds += processor_seconds(thread.native_id or 0)
    return seconds


def seconds_in_line(thread: int) -> float:
    """Return how long the thread with that native number was ready to run and got no processor.

    On a busy machine, a thread that is late has perhaps waited for that, and for nothing else. 0 where the system does
    not tell, as only Linux does. Reads a file, and so lets go of the GIL some times.
    """
    try:
        with open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
            return int(file.read().split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return 0.0
