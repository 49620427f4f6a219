"""The machine's clocks, which no tool that replaces ``time`` in tests can take away. All others import these.

freezegun and its like put stand-ins into ``time``, and in place of each attribute of a loaded module that is one of its
functions. Threads would then go by two clocks, as code that ``threading`` calls is left the real one; and by a clock
that stands still, a deadline never comes. So these functions are those of a copy of ``time``: the same, but other
objects, and real ones also where Treadle is imported while ``time`` has stand-ins.
"""

from __future__ import annotations

import sys
import time as _time
from collections.abc import Callable
from types import ModuleType


def _copy_time() -> ModuleType:
    spec = _time.__spec__
    if spec is None or spec.loader is None:
        return _time
    copy = spec.loader.create_module(spec)
    if copy is None or copy is _time:  # an interpreter that makes no second one
        return _time
    spec.loader.exec_module(copy)
    return copy


_real = _copy_time()

monotonic: Callable[[], float] = _real.monotonic
perf_counter: Callable[[], float] = _real.perf_counter
process_time: Callable[[], float] = _real.process_time
thread_time: Callable[[], float] = _real.thread_time
time: Callable[[], float] = _real.time
if sys.platform != "win32":
    clock_gettime: Callable[[int], float] = _real.clock_gettime
# Not of the copy: gevent and eventlet have put theirs in its place, which lets other greenlets go on.
sleep: Callable[[float], None] = _time.sleep
