"""What a person is told about a deadlock: who waits for what, who holds it, and where they are."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from traceback import format_list
from typing import TYPE_CHECKING

from treadle._core.gil import is_gil_enabled
from treadle._core.stacks import NOT_SHOWN, read_stacks, user_part
from treadle.errors import Deadlock

if TYPE_CHECKING:
    from treadle._sync.wait_graph import Wait

MAX_FRAMES = 10


def told(circle: Sequence[Wait]) -> Deadlock:
    """Return the error for the first thread of ``circle``. The others are in their waits, and can be looked at."""
    if len(circle) == 1:
        reason = f"deadlock: thread {name_of(circle[0].ident)!r} waits for what it has to bring itself"
    else:
        reason = f"deadlock: {len(circle)} threads wait for each other"
    stacks = read_stacks()
    threads: list[str] = []
    for wait in circle:
        lines = [f"thread {name_of(wait.ident)!r}"]
        lines += [f"  {what}" for what in _held(wait.ident, circle)]
        lines.append(f"  waits for {wait.awaited.describe()}")
        if wait.ident in stacks:
            frames = format_list(user_part(stacks[wait.ident])[-MAX_FRAMES:])
            lines += ("  " + line for frame in frames for line in frame.rstrip().splitlines())
        elif not is_gil_enabled():
            lines.append(f"    {NOT_SHOWN}")
        threads.append("\n".join(lines))
    return Deadlock(reason, tuple(threads))


def taken_twice(lock: str) -> Deadlock:
    """Return the error for a thread that holds ``lock`` already, and cannot take it again."""
    thread = name_of(threading.get_ident())
    return Deadlock(f"deadlock: thread {thread!r} holds the {lock} already; an RLock can be taken again")


def gone(lock: str, holder: int) -> Deadlock:
    """Return the error for whoever waits for ``lock``, whose holder has ended."""
    return Deadlock(f"deadlock: thread {holder} has ended while it held the {lock}; hold locks by `with` only")


def name_of(ident: int) -> str:
    """Return the name of a thread, or its number if it has none."""
    thread = threading._active.get(ident)  # type: ignore[attr-defined]  # enumerate() would take a lock
    return str(ident) if thread is None else str(thread.name)


def _held(ident: int, circle: Sequence[Wait]) -> list[str]:
    """Return what of the things waited for in ``circle`` a thread has to bring."""
    held: dict[str, None] = {}
    for wait in circle:
        if ident in wait.awaited.holders()[1]:
            held[f"{wait.awaited.verb} {wait.awaited.describe()}"] = None
    return list(held)
