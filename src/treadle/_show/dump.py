"""What is each worker doing right now?"""

from __future__ import annotations

import os
import sys
import traceback
from collections import Counter
from traceback import FrameSummary
from typing import TextIO

from treadle._core.describe import count_of
from treadle._core.register import WorkerState, shown
from treadle._core.stacks import read_stacks

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_ENGINES = os.path.join(_PACKAGE, "_engines") + os.sep


def dump(file: TextIO | None = None) -> None:
    """Write what every live worker is doing: its run, item, for how long, and its stack; and how many calls wait.

    Takes no lock and may be called from anywhere, a signal handler included. Calls left behind by a run
    that has ended are shown for as long as they run. Without a GIL stacks are left out: to read that of a
    running thread could crash the interpreter there.

    Args:
        file: Where to write; standard error unless given.

    Example:
        >>> import sys, treadle
        >>> treadle.dump(sys.stdout)
        no live workers
    """
    lines: list[str] = []
    stacks = read_stacks()
    groups: dict[str, list[WorkerState]] = {}
    waiting: Counter[str] = Counter()
    for thing in shown():
        title = f"{thing.kind} {thing.name!r}"
        groups.setdefault(title, []).extend(thing.worker_states())
        waiting[title] += thing.count_waiting()
    for title, states in groups.items():
        if not (states or waiting[title]):
            continue
        for_one = f", and {count_of(waiting[title], 'call')} waiting for one" if waiting[title] else ""
        lines.append(f"{title}: {count_of(len(states), 'worker')}{for_one}")
        for state in sorted(states, key=lambda state: (state.index is None, state.index)):
            lines.append("  " + state.describe())
            stack = stacks.get(state.ident) if state.ident is not None and state.is_busy else None
            if stack is not None:
                lines += ("    " + line for entry in _user_stack(stack) for line in entry.rstrip().splitlines())
    print("\n".join(lines) or "no live workers", file=file or sys.stderr, flush=True)


def _user_stack(stack: list[FrameSummary]) -> list[str]:
    """Return the stack from where the user's code begins; all of it, if it cannot be told."""
    start = 0
    while start < len(stack) and not stack[start].filename.startswith(_ENGINES):
        start += 1
    while start < len(stack) and stack[start].filename.startswith(_PACKAGE):
        start += 1
    return traceback.format_list(stack[start:] or stack)
