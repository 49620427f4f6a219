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
        reason = f"deadlock: thread {name_of(circle[0].ident)!r} waits for what it {circle[0].awaited.verb} itself"
    else:
        reason = f"deadlock: {len(circle)} threads wait for each other"
    if (
        module := next((getattr(wait.awaited, "module", None) for wait in circle if wait.parker is None), None)
    ) is not None:
        reason += f"; what module {module!r} waits for as it is imported needs that module: move that into a function"
    stacks, called = read_stacks(), _told_apart(circle)
    threads: list[str] = []
    for wait in circle:
        lines = [f"thread {name_of(wait.ident)!r}"]
        lines += [f"  {what}" for what in _held(wait.ident, circle, called)]
        lines.append(f"  waits for {called[id(wait.awaited)]}")
        if wait.ident in stacks:
            stack = stacks[wait.ident]
            frames = format_list((user_part(stack) or stack)[-MAX_FRAMES:])
            lines += ("  " + line for frame in frames for line in frame.rstrip().splitlines())
        elif not is_gil_enabled():
            lines.append(f"    {NOT_SHOWN}")
        threads.append("\n".join(lines))
    return Deadlock(reason, tuple(threads))


def taken_twice(lock: str, instead: str) -> Deadlock:
    """Return the error for a thread that holds ``lock`` already, and cannot take it again; what to do ``instead``."""
    thread = name_of(threading.get_ident())
    return Deadlock(f"deadlock: thread {thread!r} holds the {lock} already; {instead}")


def gone(lock: str, holder: int) -> Deadlock:
    """Return the error for whoever waits for ``lock``, whose holder has ended."""
    return Deadlock(f"deadlock: thread {holder} has ended while it held the {lock}; hold locks by `with` only")


def name_of(ident: int) -> str:
    """Return the name of a thread, or its number if it has none."""
    thread = threading._active.get(ident)  # type: ignore[attr-defined]  # enumerate() would take a lock
    return str(ident) if thread is None else str(thread.name)


def _told_apart(circle: Sequence[Wait]) -> dict[int, str]:
    """Return what a person calls each thing waited for, by its ``id()``: with a number where several are called alike.

    That is so for locks without a name that one line has made, as in a loop or for each object of a class.
    """
    things = {id(wait.awaited): wait.awaited.describe() for wait in circle}
    alike: dict[str, list[int]] = {}
    for thing, text in things.items():
        alike.setdefault(text, []).append(thing)
    return {
        thing: text if len(alike[text]) == 1 else f"{text} (no. {alike[text].index(thing) + 1})"
        for thing, text in things.items()
    }


def _held(ident: int, circle: Sequence[Wait], called: dict[int, str]) -> list[str]:
    """Return what of the things waited for in ``circle`` a thread has to bring."""
    held: dict[str, None] = {}
    for wait in circle:
        if ident in wait.awaited.holders()[1]:
            held[f"{wait.awaited.verb} {called[id(wait.awaited)]}"] = None
    return list(held)
