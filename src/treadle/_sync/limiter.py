"""The gate that calls pass one after another: so many a second, so many at once, and none during a pause."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from treadle._core import clock
from treadle._core.cancellation import check_cancelled, here
from treadle._core.clock import SystemClock
from treadle._core.describe import describe
from treadle._core.option_names import suggesting
from treadle._core.real_time import monotonic
from treadle._core.settings import check_count, check_seconds
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._core.user_code import is_a
from treadle._sync import cancelling, timekeeper
from treadle._sync.brake import Brake, Throttled
from treadle._sync.parker import Parker, Waker
from treadle.errors import InvalidArgument, WrongType

if TYPE_CHECKING:
    from treadle._sync.loop_parker import LoopParker

# Waits end up to so much late. Who is next sleeps so much less, and looks at the clock for the rest: for a tenth
# of the time between two calls at most, so that this never takes more than a tenth of a processor.
SPIN_SECONDS = 0.0002
SPIN_SHARE = 0.1
# Between the gate and the first step of a call, an interrupt may cost so much. Calls keep such a distance in
# addition, up to a hundredth of the time between two; with a burst they catch up on it.
MARGIN_SECONDS = 0.00003
MARGIN_SHARE = 0.01
UNTIL_WOKEN = math.inf

_Line: TypeAlias = "OrderedDict[Place, None]"  # whose first is found, and any of whom leaves, in constant time


class Place:
    """One entry into a limiter: from its arrival at the gate until the call has ended.

    Changed under the lock of its ``state`` only. A call that enters again, or whose inner calls do on other
    threads, lends its place to one of them at a time.
    """

    __slots__ = (
        "borrower",
        "has_passed",
        "inherited",
        "lender",
        "limiter",
        "parker",
        "passed_at",
        "state",
        "thread",
        "wanted_by",
    )

    def __init__(self, limiter: Limiter, state: _State, inherited: tuple[Place, ...], parker: Waker) -> None:
        self.limiter = limiter
        self.state = state
        self.inherited = inherited  # of the calls around this one, the innermost last
        self.thread = threading.get_ident()
        self.parker = parker
        self.has_passed = False
        self.passed_at = 0.0
        self.lender: Place | None = None
        self.borrower: Place | None = None
        self.wanted_by: _Line = OrderedDict()

    def is_held(self) -> bool:
        """Tell whether it counts among those inside, in its own right or as a loan."""
        return self.lender is not None or self in self.state.holders

    def can_be_lent(self) -> bool:
        """Tell whether it is held and not lent already."""
        return self.borrower is None and self.is_held()


class _State:
    """Who is inside and who waits, in one process. ``lock`` protects it, its places, and the limiter's schedule.

    Whoever waits looks for itself whether it may go on; others only wake it. So each changes its own place
    alone, and one that is interrupted halfway (Ctrl-C) can be taken out by itself, leaving nothing undone.
    """

    __slots__ = ("holders", "line", "lock", "turns")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders: set[Place] = set()  # in their own right: at most max_concurrent
        self.line: _Line = OrderedDict()  # they wait for a place
        self.turns: _Line = OrderedDict()  # they have one, if one is needed, and wait for their time


@suggesting
class Limiter:
    """Let calls through at no more than a rate, and no more than a number at once, whoever makes them.

    One limiter may be shared by runs, groups, executors and threads; each call of theirs passes it once. In code
    of your own, ``with limiter:`` waits until the block may run, and in a coroutine ``async with limiter:`` does, while
    its loop goes on. First come, first served, threads and coroutines alike.

    The rate is exact: in any ``t`` seconds at most ``burst + max_per_second * t`` calls begin, wherever those
    seconds start. Idle time saves up ``burst`` calls, not more. This is the generic cell rate algorithm
    (virtual scheduling, ITU-T Recommendation I.371): one number, the time of the next call.

    A block inside another's shares its place: entering again in the same call, or in calls that it submits and
    that inherit its places, needs no further one of ``max_concurrent``, so nesting cannot lock itself out. One
    at a time uses a shared place; the others wait for it or for a free one, whichever comes first. The rate
    counts each.

    With ``throttled`` it slows down when it is asked to: such an answer cuts the rate to 0.7 of what it has been
    lately, at most once in 0.1 seconds and in the time of two calls; a fifth of that comes back each second, and
    after 5 seconds without such an answer there is no limit but the others. A run with ``max_workers="auto"`` has
    fewer workers then, too. What a server says in ``Retry-After`` is for ``Retry``, which has the limiter pause.

    A forked child has its own places, all free, and goes on with a copy of the schedule; it does not count
    what its parent does.

    Args:
        max_per_second: Calls a second; ``0.5`` is one every two seconds. None: as many as come.
        burst: How many may begin at the same moment after a time without calls, at least 1. With 1, what a late
            wake-up of a thread costs is lost; with a few more, the calls after it catch up.
        max_concurrent: Blocks that may be inside at the same time, at least 1. None: any number. A call that
            was left behind stays inside until it really ends.
        throttled: Which answers mean "slow down": the types of exceptions, or a function that is given the answer of
            each call, which is what it returned or the exception it raised (``CallTimedOut``, where it took too long),
            and says so. Called on the worker, or by ``judge``; if it fails, that is logged once, and means no. What
            becomes of such a call otherwise, is as without: a failure may be made again with ``retry``.

    Raises:
        InvalidArgument: A number is out of its bounds, no limit was given, or ``burst`` without a rate.
        WrongType: An argument is not what it must be, such as a number.

    Example:
        >>> import treadle
        >>> limiter = treadle.Limiter(max_per_second=1000, max_concurrent=4)
        >>> with limiter:
        ...     print("one of at most four")
        one of at most four
    """

    def __init__(
        self,
        max_per_second: float | None = None,
        *,
        burst: int = 1,
        max_concurrent: int | None = None,
        throttled: Throttled | None = None,
    ) -> None:
        check_count("burst", burst, least=1)
        if max_per_second is not None:
            _check_rate(max_per_second)
        elif burst != 1:
            raise InvalidArgument("burst", str(burst), "1 where max_per_second is not given")
        if max_concurrent is not None:
            check_count("max_concurrent", max_concurrent, least=1)
        elif max_per_second is None and throttled is None:
            what = "one of max_per_second, max_concurrent and throttled"
            hint = "write treadle.Limiter(10) for 10 calls a second, treadle.Limiter(max_concurrent=10) for 10 at once"
            raise InvalidArgument("the limit", "none at all", what, hint)
        self._max_per_second = max_per_second
        self._burst = burst
        self._max_concurrent = max_concurrent
        self._brake = None if throttled is None else Brake(throttled)
        self._interval = 0.0 if max_per_second is None else 1 / max_per_second
        self._saved_at_most = (burst - 1) * self._interval
        self._spin_seconds = min(SPIN_SECONDS, SPIN_SHARE * self._interval)
        self._margin_seconds = min(MARGIN_SECONDS, MARGIN_SHARE * self._interval)
        self._next = -math.inf  # when the next call may pass; as far back as the burst reaches
        self._states: dict[int, _State] = {}  # by process: after a fork, a thread that is gone may hold the lock

    def __repr__(self) -> str:
        limits = [] if self._max_per_second is None else [f"{self._max_per_second!r}, burst={self._burst}"]
        limits += [] if self._max_concurrent is None else [f"max_concurrent={self._max_concurrent}"]
        limits += [] if self._brake is None else [f"throttled={describe(self._brake.throttled)}"]
        return f"Limiter({', '.join(limits)})"

    def __enter__(self) -> None:
        """Wait until the block may run.

        Raises:
            BlocksEventLoop: This is the call of a coroutine; ``async with`` is what it needs.
            Cancelled: What runs here was asked to end; nothing of the rate was used.
        """
        cancelling.refuse_on_loop("`with limiter:`", "`async with limiter:`")
        parker = Parker()
        place, around = self._arrive(parker)
        try:
            while (seconds := self._try_to_pass(place)) > 0:
                self._wait(parker, seconds)
            self._go_in(place, around)
        except BaseException:
            here.places = around
            self._drop(place)
            raise

    async def __aenter__(self) -> None:
        """Wait until the block may run, while the loop goes on.

        Raises:
            Cancelled: What runs here was asked to end; nothing of the rate was used.
        """
        from treadle._sync.loop_parker import LoopParker, keep_to_coroutine  # asyncio is slow to import

        keep_to_coroutine()
        parker = LoopParker()
        place, around = self._arrive(parker)
        try:
            while (seconds := self._try_to_pass(place)) > 0:
                await self._wait_on_loop(parker, seconds)
            self._go_in(place, around)
        except BaseException:
            here.places = around
            self._drop(place)
            raise

    @starts_uninterrupted
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the place back."""
        self.__exit__(kind, error, traceback)

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the place back.

        Raises:
            RuntimeError: This thread is not inside.
        """
        place: Place | None = None
        try:
            place = self._innermost()
            if is_a(error, Exception) and self._brake is not None:
                self.judge(error, clock.now() - place.passed_at)
            self._leave(place)
        except BaseException:  # Ctrl-C: each step may be done twice
            self._leave(self._innermost() if place is None else place)
            raise

    def _innermost(self) -> Place:
        """Return the place of the block that this thread leaves."""
        me = threading.get_ident()
        for place in reversed(here.places):
            if place.limiter is self and place.thread == me:
                return place  # type: ignore[no-any-return]  # core knows no places
        raise RuntimeError(f"{self!r} was left by a thread that had not entered it")

    def _leave(self, place: Place) -> None:
        here.places = tuple(other for other in here.places if other is not place)
        self._drop(place)

    def _arrive(self, parker: Waker) -> tuple[Place, tuple[Any, ...]]:
        """Return a place, which has not passed yet, and those around it."""
        check_cancelled()
        state, around = self._state(), here.places
        return Place(self, state, tuple(outer for outer in around if outer.state is state), parker), around

    def _go_in(self, place: Place, around: tuple[Any, ...]) -> None:
        here.places = (*around, place)
        self._count_from_now(place)

    def pause(self, seconds: float) -> None:
        """Let nobody pass for ``seconds`` from now, those who wait already included.

        The latest end of several pauses counts; 0 changes nothing. Nothing is saved up meanwhile: after the pause
        calls begin one by one at the rate, however many ``burst`` would allow. Calls that run are not touched.

        Args:
            seconds: 0 or more.

        Raises:
            InvalidArgument: ``seconds`` is negative or not a number.

        Example:
            >>> import treadle
            >>> limiter = treadle.Limiter(max_concurrent=4)
            >>> limiter.pause(0.01)
        """
        check_seconds("seconds", seconds)
        if seconds > 0:
            with self._state().lock:
                self._next = max(self._next, clock.now() + seconds)

    def judge(self, answer: object, seconds: float = 0.0) -> bool:
        """Tell whether ``answer`` means "slow down", and slow down if so. False without ``throttled``.

        For code of your own: calls of runs, groups and executors are judged, and so are exceptions that leave a
        ``with`` block; what is returned within one is not seen otherwise.

        Args:
            answer: What was returned, or the exception that was raised.
            seconds: How long that took; answers to calls that had begun by then ask for the same thing once more.

        Example:
            >>> import treadle
            >>> limiter = treadle.Limiter(throttled=lambda answer: answer == 429)
            >>> with limiter:
            ...     limiter.judge(429), limiter.judge(200)
            (True, False)
        """
        brake = self._brake
        if brake is None or not brake.is_asked_by(answer):
            return False
        with self._state().lock:
            brake.note_throttled(clock.now(), seconds)
        return True

    def _state(self) -> _State:
        pid = os.getpid()
        state = self._states.get(pid)
        return state if state is not None else self._states.setdefault(pid, _State())

    def _try_to_pass(self, place: Place) -> float:
        """Pass if it is this one's turn and time, and return 0; or return for how many seconds to wait."""
        state = place.state
        with state.lock:
            if not (self._max_concurrent is None or place.is_held() or self._take_place(place)):
                return UNTIL_WOKEN
            turns = state.turns
            turns[place] = None
            if not _is_first(turns, place):
                return UNTIL_WOKEN
            left = clock.left_until(self._next + (self._margin_seconds if _is_machine_time() else 0.0))
            if left > 0:
                return left
            place.has_passed = True
            del turns[place]
            _wake_first(turns)
            place.passed_at = max(self._next, clock.now() - self._saved_at_most)
            self._next = place.passed_at + self._interval_now()
        return 0.0

    def _interval_now(self) -> float:
        """Take note of a call that passes, and return the seconds until the next may. Under the state's lock."""
        if self._brake is None:
            return self._interval
        now = clock.now()
        self._brake.note_pass(now)
        return max(self._interval, self._brake.interval(now))

    def _count_from_now(self, place: Place) -> None:
        """Correct the schedule by what was lost since the pass: a late call must not draw nearer to the next."""
        with place.state.lock:
            self._next += max(0.0, clock.now() - self._saved_at_most - place.passed_at)

    def _take_place(self, place: Place) -> bool:
        """Borrow a place of the calls around, or take a free one, or stand in line; tell whether it has one."""
        state = place.state
        for outer in reversed(place.inherited):
            if outer.can_be_lent() and _is_first(outer.wanted_by, place):
                place.lender = outer
                outer.borrower = place
                break
        else:
            if self._is_full(state) or not _is_first(state.line, place):
                _stand_in_line(place)
                return False
            state.holders.add(place)
        _leave_line(place)
        self._wake_for_places(state, place.inherited)
        return True

    def _wait(self, parker: Parker, seconds: float) -> None:
        if seconds == UNTIL_WOKEN:
            cancelling.wait(parker)
        elif (rest := self._to_sleep(seconds)) > 0:
            cancelling.wait(parker, rest)
        else:
            _spin(seconds)

    async def _wait_on_loop(self, parker: LoopParker, seconds: float) -> None:
        """Wait by the clock in use, as threads do: the loop's own timers go by another, and come up to 1 ms late."""
        if seconds == UNTIL_WOKEN:
            await parker.wait_cancellably()
        elif (rest := self._to_sleep(seconds)) > 0:
            timer = timekeeper.call_at(clock.after(rest), parker.wake)
            try:
                await parker.wait_cancellably()
            finally:
                timer.cancel()
        else:
            _spin(seconds)

    def _to_sleep(self, seconds: float) -> float:
        """Return how much of the ``seconds`` until its time comes to sleep; the rest is for looking at the clock."""
        # Another clock may stand still, however long one looks at it.
        return seconds if not _is_machine_time() else seconds - self._spin_seconds

    def _drop(self, place: Place) -> None:
        """Take ``place`` out of everything; may be done twice."""
        state = place.state
        if state is not self._state():  # entered before a fork: not counted here
            return
        with state.lock:
            state.turns.pop(place, None)
            if not place.has_passed:
                _wake_first(state.turns)
            _leave_line(place)
            lender = place.lender
            if place.borrower is not None:
                _bequeath(place, place.borrower)
            elif lender is not None and lender.borrower is place:
                lender.borrower = None
            state.holders.discard(place)
            self._wake_for_places(state, place.inherited if lender is None else (*place.inherited, lender))
            place.lender = None

    def _is_full(self, state: _State) -> bool:
        return self._max_concurrent is not None and len(state.holders) >= self._max_concurrent

    def _wake_for_places(self, state: _State, lenders: tuple[Place, ...]) -> None:
        """Wake whoever is first in line for a place that can be had."""
        if not self._is_full(state):
            _wake_first(state.line)
        for lender in lenders:
            if lender.can_be_lent():
                _wake_first(lender.wanted_by)


def _bequeath(place: Place, heir: Place) -> None:
    """Leave a place, held or borrowed, to the inner call that it was lent to, which goes on."""
    if place.lender is None:
        place.state.holders.add(heir)
    else:
        place.lender.borrower = heir
    heir.lender = place.lender
    place.borrower = None


def _stand_in_line(place: Place) -> None:
    place.state.line[place] = None
    for outer in place.inherited:
        outer.wanted_by[place] = None


def _leave_line(place: Place) -> None:
    place.state.line.pop(place, None)
    for outer in place.inherited:
        outer.wanted_by.pop(place, None)


def _is_first(line: _Line, place: Place) -> bool:
    return next(iter(line), place) is place


def _wake_first(line: _Line) -> None:
    for place in line:
        place.parker.wake()
        return


def _spin(seconds: float) -> None:
    due = monotonic() + seconds
    while monotonic() < due:
        pass


def _is_machine_time() -> bool:
    return isinstance(clock.in_use(), SystemClock)


def _check_rate(given: Any) -> None:
    """Raise unless ``given`` is a number of calls a second that has a time between them."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise WrongType("max_per_second", describe(given), "a number of calls a second")
    if not 1e-300 < given < 1e300:  # also refuses NaN
        raise InvalidArgument("max_per_second", str(given), "a finite number above 0")
