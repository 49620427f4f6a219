"""How much of a processor a thread got, as seen from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

_NANO = 1e-9


def processor_clock() -> Callable[[], float]:
    """Return a clock of this thread's processor time that others may read too; ``OSError`` once it has ended.

    Where there is none, it is that of the whole process: calls are then taken for busy rather than idle.
    """
    if hasattr(time, "pthread_getcpuclockid"):
        return partial(time.clock_gettime, time.pthread_getcpuclockid(threading.get_ident()))
    return time.process_time


def seconds_in_line(thread: int) -> float:
    """Return how long the thread with that native number was ready to run and got no processor.

    On a busy machine, a thread that is late has perhaps waited for that, and for nothing else. 0 where the system does
    not tell, as only Linux does.
    """
    try:
        with open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
            return int(file.read().split()[1]) * _NANO
    except (OSError, ValueError, IndexError):
        return 0.0
