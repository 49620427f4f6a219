"""The gate that calls pass one after another: so many a second, so many at once, and none during a pause."""

from __future__ import annotations

import logging
import math
import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from treadle._core import clock
from treadle._core.cancellation import check_cancelled, here
from treadle._core.describe import describe
from treadle._core.option_names import suggesting
from treadle._core.raw import refuse_to_wait
from treadle._core.settings import check_count, check_rate, check_seconds
from treadle._core.tell import tell
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._core.user_code import is_a
from treadle._sync import cancelling, timekeeper
from treadle._sync.brake import LONG_PAUSE_SECONDS, Brake, Throttled
from treadle._sync.lead import Lead
from treadle._sync.parker import Parker, Waker
from treadle._sync.places import Place, State
from treadle._sync.places import bequeath as _bequeath
from treadle._sync.places import first_of as _first_of
from treadle._sync.places import is_first as _is_first
from treadle._sync.places import leave_line as _leave_line
from treadle._sync.places import stand_in_line as _stand_in_line
from treadle._sync.places import wake_first as _wake_first
from treadle._sync.schedule import Schedule, is_machine_time
from treadle.errors import InvalidArgument

if TYPE_CHECKING:
    from treadle._sync.loop_parker import LoopParker

UNTIL_WOKEN = math.inf
PATIENCE_SECONDS = 300.0


@suggesting
class Limiter:
    """Let calls through at no more than a rate, and no more than a number at once, whoever makes them.

    One limiter may be shared by runs, groups, executors and threads; each call of theirs passes it once. In code
    of your own, ``with limiter:`` waits until the block may run, and in a coroutine ``async with limiter:`` does, while
    its loop goes on. First come, first served, threads and coroutines alike.

    The rate is exact: in any ``t`` seconds at most ``burst + max_per_second * t`` calls begin, wherever those
    seconds start, and no fewer, if as many come. Idle time saves up ``burst`` calls, not more. This is the generic cell
    rate algorithm (virtual scheduling, ITU-T Recommendation I.371): one number, the time of the next call. Where more
    than a fortieth of the rate would be lost as threads are held up (beside one that computes, or on a machine with too
    much to do), and above 2500 a second, calls that are late catch up, with up to 0.1 s of the schedule.

    A block inside another's shares its place: entering again in the same call, or in calls that it submits and
    that inherit its places, needs no further one of ``max_concurrent``, so nesting cannot lock itself out. One
    at a time uses a shared place; the others wait for it or for a free one, whichever comes first. The rate
    counts each.

    With ``throttled`` it slows down when it is asked to: such an answer cuts the rate to 0.7 of what it has been
    lately, at most once in 0.1 seconds and in the time of two calls; a fifth of that comes back each second, and
    after 5 seconds without such an answer there is no limit but the others. If calls that began after that are refused
    as well, and none has succeeded in between, no call passes for a while: 0.2 seconds at first, then for half as long
    as nothing has succeeded, a minute at most, give or take a quarter at random. After it calls begin one by one, and
    are back at the rate after as long again, or 10 seconds. A run with ``max_workers="auto"`` has fewer workers then.

    With ``retry=``, an attempt that fails with such an answer costs its item none: it is about the rate, not about the
    item. It is made again, through the gate, until it has been refused for ``patience`` seconds; then it is a failed
    attempt like any other, and its error says so. What a server says in ``Retry-After`` is the least pause.

    A forked child has its own places, all free, and goes on with a copy of the schedule; it does not count
    what its parent does.

    Args:
        max_per_second: Calls a second; ``0.5`` is one every two seconds. None: as many as come.
        burst: How many may begin at the same moment after a time without calls, at least 1. With 1, some hundredths
            of the rate may be lost as threads wake up late; with a few more, the calls after those catch up.
        max_concurrent: Blocks that may be inside at the same time, at least 1. None: any number. A call that
            was left behind stays inside until it really ends.
        throttled: Which answers mean "slow down": the types of exceptions, or a function that is given the answer of
            each call, which is what it returned or the exception it raised (``CallTimedOut``, where it took too long),
            and says so. Called on the worker, or by ``judge``; if it fails, that is logged once, and means no. What
            was returned is the call's result nevertheless, and without ``retry=`` what was raised its failure.
        patience: Seconds for which an attempt may be refused before it counts; 0: it counts at once.

    Raises:
        InvalidArgument: A number is out of its bounds, no limit was given, ``burst`` without a rate, or ``patience``
            without ``throttled``.
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
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        check_count("burst", burst, least=1)
        if max_per_second is not None:
            check_rate("max_per_second", max_per_second)
        elif burst != 1:
            raise InvalidArgument("burst", str(burst), "1 where max_per_second is not given")
        if max_concurrent is not None:
            check_count("max_concurrent", max_concurrent, least=1)
        elif max_per_second is None and throttled is None:
            what = "one of max_per_second, max_concurrent and throttled"
            hint = "write treadle.Limiter(10) for 10 calls a second, treadle.Limiter(max_concurrent=10) for 10 at once"
            raise InvalidArgument("the limit", "none at all", what, hint)
        check_seconds("patience", patience)
        if throttled is None and patience != PATIENCE_SECONDS:
            raise InvalidArgument("patience", f"{patience:g}", "left out where throttled is not given")
        self._max_per_second = max_per_second
        self._burst = burst
        self._max_concurrent = max_concurrent
        self._patience = patience
        self._brake = None if throttled is None else Brake(throttled)
        interval = 0.0 if max_per_second is None else 1 / max_per_second
        self._lead = Lead(interval)
        self._schedule = Schedule(interval, burst, self._brake)
        self._states: dict[int, State] = {}  # by process: after a fork, a thread that is gone may hold the lock

    def __repr__(self) -> str:
        limits = [] if self._max_per_second is None else [f"{self._max_per_second!r}, burst={self._burst}"]
        limits += [] if self._max_concurrent is None else [f"max_concurrent={self._max_concurrent}"]
        limits += [] if self._brake is None else [f"throttled={describe(self._brake.throttled)}"]
        limits += [] if self._patience == PATIENCE_SECONDS else [f"patience={self._patience:g}"]
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
            if (seconds := self._try_to_pass(place)) > 0:
                self._wait_to_pass(place, parker, seconds)
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
                await self._wait_on_loop(place, parker, seconds)
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
            if self._brake is not None and not place.is_judged:
                self._judge_block(place, error)
            self._leave(place)
        except BaseException:  # Ctrl-C: each step may be done twice
            self._leave(self._innermost() if place is None else place)
            raise

    def _judge_block(self, place: Place, error: BaseException | None) -> None:
        if is_a(error, Exception):
            self.judge(error, clock.now() - place.began)
        elif error is None:
            self._note_success(clock.now() - place.began)

    def _innermost(self) -> Place:
        """Return the place of the block that this thread leaves."""
        me = threading.get_ident()
        for place in reversed(here.places):
            if place.limiter is self and place.thread == me:
                return place  # type: ignore[no-any-return]  # core knows no places
        state = self._state()
        with state.lock:
            for place in reversed(state.left_open):
                if place.thread in (0, me):
                    place.thread = me  # nobody else's; and found again, should Ctrl-C come before it is left
                    return place
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
        assert place.turn is not None
        if is_machine_time():
            self._lead.be_on_time(place.wakes_at, place.turn.start)
        self._count_from_now(place)

    @property
    def _next(self) -> float:
        """When the next call may pass; as far back as the burst reaches."""
        return self._schedule.next

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
                self._schedule.pause(clock.now() + seconds)

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
        if brake is None:
            return False
        if not brake.is_asked_by(answer):
            if not is_a(answer, BaseException):
                self._note_success(seconds)
            return False
        self._leave_judgement()
        with self._state().lock:
            now = clock.now()
            until = brake.note_throttled(now, seconds)
            self._schedule.pause(until)
        if until - now >= LONG_PAUSE_SECONDS:
            what = "answers mean 'slow down', and none succeeds: no call passes %r for %.1f seconds"
            tell(logging.WARNING, what, self, until - now)
        return True

    def _leave_judgement(self) -> None:
        """Say, in a block, that what it comes to is told by ``judge``: that it is left is no success then."""
        if self._brake is not None:
            me = threading.get_ident()
            for place in here.places:
                if place.limiter is self and place.thread == me:
                    place.is_judged = True

    def _note_success(self, seconds: float) -> None:
        brake = self._brake
        if brake is not None and brake.is_refused:
            with self._state().lock:
                brake.note_success(clock.now(), seconds)

    def _state(self) -> State:
        pid = os.getpid()
        state = self._states.get(pid)
        return state if state is not None else self._states.setdefault(pid, State())

    def _try_to_pass(self, place: Place) -> float:
        """Pass if it is this one's turn and time, and return 0; or return for how many seconds to wait."""
        state, schedule = place.state, self._schedule
        with state.lock:
            if not (self._max_concurrent is None or place.is_held() or self._take_place(place)):
                return UNTIL_WOKEN
            now, moment, is_called = *self._moment(), place in state.called
            if not is_called:
                state.turns[place] = None
                if not _is_first(state.turns, place):
                    place.has_waited = True
                    return UNTIL_WOKEN
            called = 0 if is_called else len(state.called)
            if schedule.due(moment) <= called:
                if is_called:  # a pause has come in between
                    state.turns[place] = None
                    state.turns.move_to_end(place, last=False)
                    del state.called[place]
                place.has_waited = True
                return schedule.seconds_until(len(state.called) + 1, moment)
            if place.has_waited and not is_called and schedule.has_rate and is_machine_time():
                schedule.note_wait(now)
            place.turn = schedule.take(now, place.has_waited or bool(state.called))
            place.has_passed = True
            state.turns.pop(place, None)
            state.called.pop(place, None)
            self._call_due(state, moment)
        return 0.0

    def _moment(self) -> tuple[float, float]:
        """Return the time, and up to which time calls may pass: those who are early look at the clock for the rest."""
        if not is_machine_time():
            clock.left_until(self._schedule.next)  # one that is turned by hand knows which moments are the same
        now = clock.now()
        if not is_machine_time() or not self._schedule.has_rate:
            return now, now
        return now, now + self._lead.seconds - self._schedule.margin()

    def _call_due(self, state: State, moment: float) -> None:
        """Have the first look when its time comes; where several are late, call all those whose time has come."""
        due = self._schedule.due(moment) if state.turns and self._schedule.is_catching_up() else 0
        while len(state.called) < due and (place := _first_of(state.turns)) is not None:
            place.parker.wake()  # first this: whoever is woken in vain looks, and waits again
            place.has_waited = True
            state.called[place] = None
            del state.turns[place]
        _wake_first(state.turns)

    def _count_from_now(self, place: Place) -> None:
        """Take note that the call begins: not before it is inside."""
        assert place.turn is not None
        with place.state.lock:
            place.began = clock.now()
            self._schedule.begin(place.turn, place.began)

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

    def _wait_to_pass(self, place: Place, parker: Parker, seconds: float) -> None:
        with cancelling.WaitForOthers() as others:
            while seconds > 0:
                if seconds == UNTIL_WOKEN:
                    refuse_to_wait(place.state.lock, repr(self))
                if self._max_concurrent is None or place.is_held():
                    self._wait(place, parker, seconds)  # for time alone
                else:
                    others.wait(parker)  # for others to leave
                seconds = self._try_to_pass(place)

    def _wait(self, place: Place, parker: Parker, seconds: float) -> None:
        if seconds == UNTIL_WOKEN:
            cancelling.wait(parker)
            return
        place.wakes_at = clock.after(seconds)
        cancelling.wait(parker, seconds)

    async def _wait_on_loop(self, place: Place, parker: LoopParker, seconds: float) -> None:
        """Wait by the clock in use, as threads do: the loop's own timers go by another, and come up to 1 ms late."""
        if seconds == UNTIL_WOKEN:
            await parker.wait_cancellably()
            return
        place.wakes_at = clock.after(seconds)
        try:
            timer = timekeeper.call_at(place.wakes_at, parker.wake)
        except (RuntimeError, MemoryError):  # no thread for that is to be had: then by the loop's, which is here
            await parker.wait_cancellably(seconds)
            return
        try:
            await parker.wait_cancellably()
        finally:
            timer.cancel()

    def _drop(self, place: Place) -> None:
        """Take ``place`` out of everything; may be done twice."""
        state = place.state
        if state is not self._state():  # entered before a fork: not counted here
            return
        with state.lock:
            state.turns.pop(place, None)
            state.called.pop(place, None)
            if place in state.left_open:
                state.left_open.remove(place)
            if not place.has_passed and state.turns:
                self._call_due(state, self._moment()[1])
            _leave_line(place)
            lender = place.lender
            if place.borrower is not None:
                _bequeath(place, place.borrower)
            elif lender is not None and lender.borrower is place:
                lender.borrower = None
            state.holders.discard(place)
            self._wake_for_places(state, place.inherited if lender is None else (*place.inherited, lender))
            place.lender = None

    def _is_full(self, state: State) -> bool:
        return self._max_concurrent is not None and len(state.holders) >= self._max_concurrent

    def _wake_for_places(self, state: State, lenders: tuple[Place, ...]) -> None:
        """Wake whoever is first in line for a place that can be had."""
        if not self._is_full(state):
            _wake_first(state.line)
        for lender in lenders:
            if lender.can_be_lent():
                _wake_first(lender.wanted_by)
