"""Places in a limiter: who is inside, who waits for what, and how inner calls share the place of those around them."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from treadle._core.raw import make_rlock, owner_and_count
from treadle._sync.parker import Waker

if TYPE_CHECKING:
    from treadle._sync.limiter import Limiter
    from treadle._sync.schedule import Turn

Line: TypeAlias = "OrderedDict[Place, None]"  # whose first is found, and any of whom leaves, in constant time


class Place:
    """One entry into a limiter: from its arrival at the gate until the call has ended.

    Changed under the lock of its ``state`` only. A call that enters again, or whose inner calls do on other
    threads, lends its place to one of them at a time.
    """

    __slots__ = (
        *("began", "borrower", "has_passed", "has_waited", "inherited", "lender", "limiter", "parker", "state"),
        *("is_judged", "thread", "turn", "wakes_at", "wanted_by"),
    )

    def __init__(self, limiter: Limiter, state: State, inherited: tuple[Place, ...], parker: Waker) -> None:
        self.limiter = limiter
        self.state = state
        self.inherited = inherited  # of the calls around this one, the innermost last
        self.thread = threading.get_ident()
        self.parker = parker
        self.has_waited = False  # for its time, as that had not come
        self.wakes_at = math.inf  # when its wait is to end, if it is one for its time
        self.has_passed = False
        self.turn: Turn | None = None
        self.began = 0.0
        self.is_judged = False  # what its call comes to is told by ``judge``
        self.lender: Place | None = None
        self.borrower: Place | None = None
        self.wanted_by: Line = OrderedDict()

    def note_left_open(self) -> None:
        """Take note that the call has ended, and its block has not: whoever leaves it does so in some other call."""
        with self.state.lock:
            self.thread = 0
            self.state.left_open.append(self)

    def is_held(self) -> bool:
        """Tell whether it counts among those inside, in its own right or as a loan."""
        return self.lender is not None or self in self.state.holders

    def can_be_lent(self) -> bool:
        """Tell whether it is held and not lent already."""
        return self.borrower is None and self.is_held()


class State:
    """Who is inside and who waits, in one process. ``lock`` protects it, its places, and the limiter's schedule.

    Whoever waits looks for itself whether it may go on; others only wake it. So each changes its own place
    alone, and one that is interrupted halfway (Ctrl-C) can be taken out by itself, leaving nothing undone.

    No wake-up is lost: the first in ``turns`` is awake, or waits until one more call may pass than were called; and
    whoever makes another the first, or that time an earlier one, wakes it.
    """

    __slots__ = ("called", "holders", "left_open", "line", "lock", "turns")

    def __init__(self) -> None:
        # Reentrant, as a signal handler or a finalizer may come upon its holder: what it does there ends before that
        # step goes on, and each changes its own place alone. See ``refuse_to_wait``.
        self.lock = make_rlock()
        self.holders: set[Place] = set()  # in their own right: at most max_concurrent
        self.left_open: list[Place] = []  # by calls that have ended: no thread's, until somebody leaves them
        self.line: Line = OrderedDict()  # they wait for a place
        self.turns: Line = OrderedDict()  # they have one, if one is needed, and wait for their time
        self.called: Line = OrderedDict()  # their time has come, and they are on their way


def bequeath(place: Place, heir: Place) -> None:
    """Leave a place, held or borrowed, to the inner call that it was lent to, which goes on."""
    if place.lender is None:
        place.state.holders.add(heir)
    else:
        place.lender.borrower = heir
    heir.lender = place.lender
    place.borrower = None


def stand_in_line(place: Place) -> None:
    """Have ``place`` wait for a free place, and for those of the calls around it."""
    place.state.line[place] = None
    for outer in place.inherited:
        outer.wanted_by[place] = None


def leave_line(place: Place) -> None:
    """Have it wait no more."""
    place.state.line.pop(place, None)
    for outer in place.inherited:
        outer.wanted_by.pop(place, None)


def first_of(line: Line) -> Place | None:
    """Return the first, though a handler may change the line between any two steps of this."""
    while True:
        try:
            return next(iter(line), None)
        except RuntimeError:  # it has
            continue


def is_first(line: Line, place: Place) -> bool:
    """Tell whether nobody else is before ``place``; a step of its own thread that it has interrupted does not count."""
    first = first_of(line) or place
    return first is place or (first.thread == place.thread and owner_and_count(place.state.lock)[1] > 1)


def wake_first(line: Line) -> None:
    """Have the first look whether it may go on."""
    for place in line:
        place.parker.wake()
        return
