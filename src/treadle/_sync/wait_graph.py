"""Who waits for whom: the graph in which whoever begins to wait looks for a circle, before it blocks.

A thread waits for one thing at a time. What it waits for says which threads can bring it (see ``Awaited``); those
wait for something in turn, or go on. If all of it comes back to the thread that asks, nobody of them would
ever go on: a deadlock. The last to arrive finds it, and is told by ``Deadlock``; the others go on.

Why none goes unseen: a circle is closed by a wait that begins, as a thread that takes a lock, or begins a call,
goes on. Waits are published under ``_lock``, one after the other; whoever publishes the last one of a circle looks
under the same lock, and finds all the others, and what they hold, as they took it before they waited.

Why none is made up: what is held changes without ``_lock``, so facts are read one after the other. But a thread
whose wait is published neither takes nor gives anything, until it takes that wait back, before it does anything
else; and none can publish another meanwhile. Read backwards from the thread that asks: what it holds, it holds
all the time. So the one that waits for that was blocked all the time, and what it holds it held all the time,
and so on around. One that was given what it waits for, and has not taken its wait back yet, holds what it waits for
itself: that is no circle through whoever asks. Crews and groups change in more ways, so a circle is looked
at twice, and must be the same.

Waits with a timeout end by themselves: they are not in the graph. A wait that is cancelled a moment after it was
found in a circle was in it: there, and only there, the report comes in vain.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from treadle._sync.parker import Parker

# ``any``: one of these threads that is stuck is enough to be stuck. ``all``: any of them that goes on is a help.
Needs: TypeAlias = tuple[Callable[[Iterable[bool]], bool], Sequence[int]]
GOES_ON: Needs = (any, ())


class Awaited(Protocol):
    """Something to wait for."""

    def holders(self) -> Needs:
        """Return the threads that can bring it, by identifier; none: it comes by itself. Takes no lock."""

    def describe(self) -> str:
        """Return what a person calls it."""


# Reentrant: a signal handler, or a finalizer that a garbage collection runs, may come upon us in the middle of
# it, and wait for a lock in its turn. It then lends ``_lock`` out (see ``Wait``), and we look again.
_lock = _thread.RLock()  # protects the publication of waits; they are taken back without it
_waits: dict[int, Wait] = {}  # by thread
_lendings = 0  # changes under ``_lock``
_is_hooked = False


class Wait:
    """That this thread waits for something, while its block runs; to be looked into before each time it blocks.

    Args:
        awaited: What it waits for.
        parker: Where it waits.
    """

    __slots__ = ("_lent", "_outer", "awaited", "ident", "parker")

    def __init__(self, awaited: Awaited, parker: Parker) -> None:
        self.awaited = awaited
        self.parker = parker
        self.ident = _thread.get_ident()
        self._outer: Wait | None = None
        self._lent: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        global _lendings
        if not _is_hooked:
            _hook()
        if _lock._is_owned():  # type: ignore[attr-defined]  # as threading.Condition asks it
            _lendings += 1
            self._lent = _lock._release_save()  # type: ignore[attr-defined]
        self._outer = _waits.get(
            self.ident
        )  # of what a signal handler or a finalizer, that waits here, has interrupted
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._take_back()
        if self._lent is not None:
            _lock._acquire_restore(self._lent)  # type: ignore[attr-defined]

    def find_circle(self) -> list[Wait]:
        """Publish the wait, and return those of a deadlock that it closes, this one first; none: go on and wait.

        Where there is a circle, it is taken back: whoever looks next finds it broken.
        """
        with _lock:
            while True:
                before = _lendings
                _waits[self.ident] = self
                circle = _Search(self).circle
                if circle and _Search(self).circle != circle:
                    continue
                if before == _lendings:
                    break
            if circle:
                self._take_back()
            return circle

    def _take_back(self) -> None:
        outer = self._outer
        if outer is None:
            _waits.pop(self.ident, None)
        else:
            _waits[self.ident] = outer
            outer.parker.wake()  # meanwhile nobody saw what it waits for: it looks again


class _Search:
    """A search for a circle through ``wait``. Under the lock."""

    __slots__ = ("_verdicts", "circle")

    def __init__(self, wait: Wait) -> None:
        self.circle = [wait]
        self._verdicts = {wait.ident: True}  # by thread: is it stuck?
        quantifier, idents = wait.awaited.holders()
        if not (idents and quantifier(map(self._is_stuck, idents))):
            self.circle.clear()

    def _is_stuck(self, ident: int) -> bool:
        path: list[Wait] = []
        while (verdict := self._verdicts.get(ident)) is None:
            self._verdicts[ident] = False  # if we come by again: a circle, but not through whoever asks
            wait = _waits.get(ident)
            if wait is None:
                return False
            path.append(wait)
            quantifier, idents = wait.awaited.holders()
            if len(idents) != 1:  # a loop for the rest: chains of locks may be long
                verdict = bool(idents) and quantifier(map(self._is_stuck, idents))
                break
            ident = idents[0]
        if verdict:
            self.circle += path
            self._verdicts.update((wait.ident, True) for wait in path)
        return bool(verdict)


def is_gone(ident: int) -> bool:
    """Tell whether there is no such thread any more."""
    # Threads of C code are not on the list, but show up here while they run Python code.
    return ident not in threading._active and ident not in sys._current_frames()  # type: ignore[attr-defined]


def _hook() -> None:
    global _is_hooked
    with _lock:
        if not _is_hooked:
            _is_hooked = True
            os.register_at_fork(after_in_child=_forget_others)


def _forget_others() -> None:
    """Forget, in a forked child, the threads that it does not have."""
    global _lock
    _lock = _thread.RLock()
    me = _thread.get_ident()
    for ident in list(_waits):
        if ident != me:
            del _waits[ident]
