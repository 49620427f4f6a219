"""The register of what lives: who must say goodbye at exit, close after a fork, and show up in a dump.

Nothing is hooked into the interpreter before something lives.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from treadle._core import clock
from treadle._core.importing import let_imports_end


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What one worker is doing right now.

    Attributes:
        thread: Name of its thread.
        ident: The thread's identifier, as ``sys._current_frames()`` has it.
        index: The item whose call it makes; None while it waits for work.
        item: That item, described.
        seconds: For how long it has been at it, with the tiny calls taken in the same go.
        is_abandoned: It was left behind.
        stage: What it does where it makes no call, and does not wait for work either.
    """

    thread: str
    ident: int | None
    index: int | None = None
    item: str = ""
    seconds: float = 0.0
    is_abandoned: bool = False
    stage: str = ""

    @property
    def is_busy(self) -> bool:
        """Whether it does anything but wait for work."""
        return self.index is not None or bool(self.stage)

    def describe(self, noun: str = "item") -> str:
        """Return it in words; ``noun`` is what the call is made for."""
        if self.index is None:
            return f"{self.thread} {self.stage or 'waits for work'}"
        left = ", left behind" if self.is_abandoned else ""
        return f"{self.thread} has been at {noun} {self.index} ({self.item}) for {self.seconds:.1f} s{left}"


class Shown(Protocol):
    """Something that a dump shows."""

    name: str
    kind: str  # what a person calls it: run, group, executor

    def worker_states(self) -> Sequence[WorkerState]:
        """Return what each worker is doing. Called from signal handlers: it takes no lock, as what follows."""

    def count_waiting(self) -> int:
        """Return how many calls wait for a worker."""


class Kept(Shown, Protocol):
    """Something that is shown for a while after its owner is gone."""

    def is_over(self) -> bool:
        """Tell whether there is nothing to show any more. Calls nothing of the user's."""


class Inherited(Protocol):
    """Something whose copy in a forked child is of no use as it is."""

    def close_after_fork(self) -> None:
        """Close in a forked child, where only the forking thread exists."""


class Living(Shown, Inherited, Protocol):
    """Something with workers. None of these methods may wait for a lock: see ``register``."""

    def begin_goodbye(self) -> None:
        """Start nothing new; called when the interpreter exits."""

    def finish_goodbye(self, deadline: float) -> None:
        """Wait for what runs until ``deadline`` (``clock.now()``), then log what is left behind."""

    def grace_seconds(self) -> float:
        """Return how long a goodbye may take."""


# How long threads that were left behind may be at an import when the interpreter exits.
IMPORT_SECONDS = 0.3
# A plain dict: copying its values is atomic, so that a signal handler or a forked child can look at it.
_living: dict[int, weakref.ref[Living]] = {}
_inherited: dict[int, weakref.ref[Inherited]] = {}  # has nothing that lives, only a lock to inherit
_kept: dict[int, Kept] = {}  # what must be shown also when nobody else holds it any more
_hooked: dict[str, object] = {}  # has the one that has hooked us into the interpreter


def enroll(thing: Living) -> None:
    """Put ``thing`` on the register. It leaves by ``dismiss``, or when it is collected."""
    key = id(thing)
    _living[key] = weakref.ref(thing, partial(_living.pop, key))
    _hook()


def enroll_for_fork(thing: Inherited) -> None:
    """Have ``thing`` closed in a forked child. It leaves when it is collected."""
    key = id(thing)
    _inherited[key] = weakref.ref(thing, partial(_inherited.pop, key))  # not in Python: Ctrl-C would be lost there
    _hook()


def _hook() -> None:
    if not _hooked:
        mine = object()
        if _hooked.setdefault("by", mine) is mine:
            atexit.register(_say_goodbye)
            os.register_at_fork(after_in_child=_close_after_fork)


def dismiss(thing: Living) -> None:
    """Take ``thing`` off the register. At a fork, one of its locks may still be held."""
    _living.pop(id(thing), None)
    enroll_for_fork(thing)


def living() -> list[Living]:
    """Return what is on the register, oldest first."""
    return [thing for ref in list(_living.values()) if (thing := ref()) is not None]


def keep(thing: Kept) -> None:
    """Have a dump show ``thing`` for as long as it has anything to show."""
    for key, other in list(_kept.items()):
        if other.is_over():
            _kept.pop(key, None)
    _kept[id(thing)] = thing


def shown() -> list[Shown]:
    """Return what a dump shows, oldest first."""
    return [*living(), *list(_kept.values())]


def _say_goodbye() -> None:
    """Give what still runs its grace, all of it at once, and let the interpreter go."""
    things = living()
    for thing in things:
        _although_interrupted(thing.begin_goodbye)
    now = clock.now()
    for thing in things:
        _although_interrupted(partial(thing.finish_goodbye, now + thing.grace_seconds()))
    if _kept:
        _although_interrupted(partial(let_imports_end, IMPORT_SECONDS))


def _although_interrupted(step: Callable[[], object]) -> None:
    """Do ``step``, and once more if Ctrl-C came upon it: what it has done of it may be done twice."""
    try:
        step()
    except KeyboardInterrupt:
        step()


def _close_after_fork() -> None:
    for living_thing in living():
        dismiss(living_thing)
    _kept.clear()
    for ref in list(_inherited.values()):
        if (thing := ref()) is not None:
            thing.close_after_fork()  # and where it goes on living, it enters itself again
