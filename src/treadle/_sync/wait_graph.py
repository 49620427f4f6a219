"""Who waits for whom: the graph in which whoever begins to wait looks for a circle, before it blocks.

A thread waits for one thing at a time. What it waits for says which threads can bring it (see ``Awaited``); those
wait for something in turn, or go on. If all of it comes back to the thread that asks, nobody of them would
ever go on: a deadlock. The last to arrive finds it, and is told by ``Deadlock``; the others go on.

Why none goes unseen: a circle is closed by a wait that begins, as a thread that takes a lock, or begins a call,
goes on. Waits are published under ``_lock``, one after the other; whoever publishes the last one of a circle looks
under the same lock, and finds all the others, and what they hold, as they took it before they waited.

Why none is made up: what is held changes without ``_lock``, so facts are read one after the other. So they are read
twice, and those found must be the same waits both times. A thread whose wait is published neither takes nor gives
anything, but for what it waits for, until it takes that wait back. So whoever was seen to hold something, and to be
stuck, at the first reading, and is in the same wait at the second, has held it from the one to the other; hence
whoever waits for that was not given it. So in between, all of them waited at the same time, and each for what the
others held. (One that was given what it waits for, and has not taken its wait back yet, holds that itself.)

Waits for the end of an import are Python's own, and nobody looks as one begins. So a thread that waits for something
while it imports something looks again and again; the argument holds, as it gives nothing back meanwhile.

Waits with a timeout end by themselves: they are not in the graph. A wait that is cancelled a moment after it was
found in a circle was in it: there, and only there, the report comes in vain.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Protocol, Self, TypeAlias

from treadle._core.cancellation import current_scope
from treadle._core.greenlets import ARE_THREADS_GREENLETS
from treadle._core.importing import import_waited_for
from treadle._core.raw import is_mine, make_rlock
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._sync.circle import told
from treadle._sync.parker import Parker

# ``any``: one of these threads that is stuck is enough to be stuck. ``all``: any of them that goes on is a help.
Needs: TypeAlias = tuple[Callable[[Iterable[bool]], bool], Sequence[int]]
GOES_ON: Needs = (any, ())


class Awaited(Protocol):
    """Something to wait for.

    Attributes:
        verb: What those who can bring it do: ``holds``.
    """

    verb: ClassVar[str]

    def holders(self) -> Needs:
        """Return the threads that can bring it, by identifier; none: it comes by itself. Takes no lock."""

    def describe(self) -> str:
        """Return what a person calls it."""


# Reentrant: a signal handler, or a finalizer that a garbage collection runs, may come upon us in the middle of
# it, and wait for a lock in its turn. It then lends ``_lock`` out (see ``Wait``), and we look again.
_lock = make_rlock()  # protects the publication of waits; they are taken back without it
_waits: dict[int, Wait] = {}  # by thread
# Of threads that wait for another to import something, which Python knows of; as they were when last looked at.
_import_waits: dict[int, Wait] = {}
_lendings = 0  # changes under ``_lock``
_is_hooked = False


class Wait:
    """That this thread waits for something, while its block runs. To be checked before each time that it blocks.

    Args:
        awaited: What it waits for.
        parker: Where it waits; None: where nobody can wake it.
        timeout: Seconds; if there is one, the wait ends by itself, and is not in the graph.
        is_cancellable: A cancellation of what runs here ends it.
    """

    __slots__ = ("_is_endless", "_lent", "_outer", "_scope", "awaited", "ident", "is_told", "parker")

    def __init__(
        self, awaited: Awaited, parker: Parker | None, timeout: float | None = None, is_cancellable: bool = True
    ) -> None:
        self.awaited = awaited
        self.parker = parker
        self.ident = threading.get_ident()
        self.is_told = False  # of: a deadlock that it is in, and stays in
        self._is_endless = timeout is None
        self._scope = current_scope() if is_cancellable else None
        self._outer: Wait | None = None
        self._lent: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        global _lendings
        if not _is_hooked:
            _hook()
        if is_mine(_lock):
            _lendings += 1
            self._lent = _lock._release_save()
        self._outer = _waits.get(self.ident)  # what a signal handler or a finalizer, which now waits, has interrupted
        return self

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._take_back()
        except BaseException:  # Ctrl-C: each step may be done twice
            self._take_back()
            raise
        finally:
            if self._lent is not None:
                _lock._acquire_restore(self._lent)

    def ends(self) -> bool:
        """Tell whether it will end whatever others do: it was cancelled."""
        return self._scope is not None and self._scope.is_cancelled

    def check(self) -> None:
        """Publish the wait.

        Raises:
            Deadlock: It would close a circle.
        """
        if self._is_endless and (circle := self.find_circle()):
            raise told(circle)

    def find_circle(self) -> list[Wait]:
        """Publish the wait, and return those of a deadlock that it closes, this one first; none: go on and wait.

        Where there is a circle, it is taken back: whoever looks next finds it broken.
        """
        with _lock:
            while True:
                before = _lendings
                _waits[self.ident] = self
                circle = _stuck_with(self)
                is_sure = not circle or circle == _stuck_with(self)
                if is_sure and before == _lendings:
                    break
            if circle:
                self._take_back()
            return circle

    def publish(self) -> None:
        """Publish the wait, whatever comes of it."""
        with _lock:
            _waits[self.ident] = self

    def _take_back(self) -> None:
        outer = self._outer
        if outer is None:
            _waits.pop(self.ident, None)
        else:
            _waits[self.ident] = outer
            if outer.parker is not None:
                outer.parker.wake()  # meanwhile nobody saw what it waits for: it looks again


def _stuck_with(first: Wait) -> list[Wait]:
    """Return ``first``, and those that it is stuck with; nothing if it will go on. Under the lock.

    All are taken for stuck that it depends on; then those are taken out that go on, and those that they help, until
    no more do. What is left keeps itself from going on.
    """
    left: dict[int, tuple[Wait, Needs]] = {}
    ahead = [first.ident]
    while ahead:
        ident = ahead.pop()
        wait = _waits.get(ident) or _import_wait(ident)
        if wait is None or ident in left or wait.ends():
            continue
        needs = wait.awaited.holders()
        if ident not in needs[1] or wait is first:  # otherwise it has been given what it waits for
            left[ident] = wait, needs
            ahead += needs[1]
    is_left = left.__contains__
    count = 0
    while first.ident in left and count != len(left):
        count = len(left)
        for ident in reversed(list(left)):  # the farthest first: so a chain comes loose in one go
            quantifier, idents = left[ident][1]
            if not (idents and quantifier(map(is_left, idents))):
                del left[ident]
    return [wait for wait, _ in left.values()] if first.ident in left else []


@dataclass(frozen=True, slots=True)
class EndOfImport:
    """That a thread has imported a module, for another that needs it."""

    verb: ClassVar[str] = "has to end"

    module: str
    importer: int

    def holders(self) -> Needs:
        """Return the thread that imports it."""
        return any, (self.importer,)

    def describe(self) -> str:
        """Return which import it is."""
        return f"the import of module {self.module!r}"


def _import_wait(ident: int) -> Wait | None:
    """Return that a thread waits for an import: the same object as long as it is the same. Under the lock."""
    found = import_waited_for(ident)
    if found is None:
        _import_waits.pop(ident, None)
        return None
    awaited, wait = EndOfImport(*found), _import_waits.get(ident)
    if wait is None or wait.awaited != awaited:
        wait = _import_waits[ident] = Wait(awaited, None, is_cancellable=False)
        wait.ident = ident
    return wait


def hangs(ident: int) -> bool:
    """Tell whether a thread hangs in a deadlock that was told of."""
    wait = _waits.get(ident)
    return wait is not None and wait.is_told


def is_gone(ident: int) -> bool:
    """Tell whether there is no such thread any more."""
    if ARE_THREADS_GREENLETS:  # there is no list of those
        return False
    # Threads of C code are not on the list, but show up here while they run Python code.
    return ident not in threading._active and ident not in sys._current_frames()  # type: ignore[attr-defined]


def _hook() -> None:
    global _is_hooked
    os.register_at_fork(after_in_child=_forget_others)  # before ``_lock`` is taken; twice, maybe, which is as good
    _is_hooked = True


def _forget_others() -> None:
    """Forget, in a forked child, the threads that it does not have."""
    global _lock
    _lock = make_rlock()
    me = threading.get_ident()
    _import_waits.clear()
    for ident in list(_waits):
        if ident != me:
            del _waits[ident]
