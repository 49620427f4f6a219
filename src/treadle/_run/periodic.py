"""``every``: a function called again and again, in the background."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from treadle._core import clock, register
from treadle._core.cancellation import Registration, check_cancelled, current_scope, here
from treadle._core.coroutine_function import is_coroutine_function
from treadle._core.describe import describe, describe_function, show_own
from treadle._core.option_names import suggesting
from treadle._core.outcome import Outcome, Status
from treadle._core.raw import is_mine, make_rlock
from treadle._core.real_time import perf_counter
from treadle._core.settings import DEFAULT_GRACE_SECONDS, check_callable, check_seconds
from treadle._core.tell import tell
from treadle._core.ticks import MAX_BACKOFF_SECONDS, Ticks
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._crew.policy import Policy
from treadle._crew.room import making_room
from treadle._run.periodic_book import PeriodicBook, Turn, Waiter
from treadle._run.task import Task
from treadle._sync import cancelling, timekeeper
from treadle._sync.parker import Parker
from treadle._sync.timekeeper import Timer
from treadle.errors import InvalidArgument, PeriodicStopped, WrongType

T = TypeVar("T")

LEAST_SECONDS = 1e-9  # no clock tells less apart


@suggesting
def every(
    seconds: float,
    fn: Callable[[], T],
    *,
    name: str | None = None,
    jitter: float = 0.0,
    timeout: float | None = None,
    on_error: Callable[[BaseException], object] | None = None,
    backoff: float | None = MAX_BACKOFF_SECONDS,
) -> Periodic[T]:
    """Call ``fn`` now and then every ``seconds``, on a thread in the background, until it is stopped.

    Runs begin at ``start + n * seconds``, however long each takes, so nothing drifts. Never two at once: a tick that
    comes while a run goes on is skipped and counted (``missed``), not made up for; so is what a halted machine slept
    through. Whatever a run raises, ``SystemExit`` included, is logged and counted (``failures``), and never the end:
    after each failure in a row the distance to the next run doubles, up to 64 periods or ``backoff`` seconds (at least
    one period), and after a success it is ``seconds`` again, on the same ticks.

    It goes on until the end of its ``with`` block, ``stop()``, a cancellation of the call or group it was started in,
    or the end of the program, whether anybody holds it or not. The runs see the context variables of whoever
    started it, and what one sets is seen by nobody else.

    Args:
        seconds: From one tick to the next, at least a nanosecond.
        fn: Called without arguments.
        name: For logs, threads and errors; the function's name unless given.
        jitter: The share of ``seconds`` by which a run may begin later than its tick, at random: 0 to 1. For many
            machines that should not ask a server at the same moment.
        timeout: Seconds for one run. One that takes longer is asked to end (see ``check_cancelled``) and has failed,
            with ``CallTimedOut``. If it does not end within 0.25 s it is left behind, and logged; the next run
            comes when it has really ended.
        on_error: Told the exception of each run that failed, after it was logged and before the next run, on the
            same thread as the runs and under the same ``timeout``. Its own exceptions are logged. With it, the log has
            one line for each failure, and no traceback.
        backoff: Seconds that the distance between two runs may grow to after failures in a row. None: it does not grow,
            for what is to notice at once that something works again, such as a health check.

    Raises:
        InvalidArgument: A number is out of its bounds.
        WrongType: An argument is not what it must be.
        Cancelled: What runs here was asked to end.

    Example:
        >>> import treadle
        >>> with treadle.every(0.01, lambda: "fine", name="check") as check:
        ...     outcome = check.wait_next()
        >>> outcome.result(), check.failures
        ('fine', 0)
    """
    if callable(seconds):
        hint = "they come first: treadle.every(5, fn)"
        raise WrongType("seconds", describe(seconds), "a number of seconds", hint)
    check_seconds("seconds", seconds)
    if not LEAST_SECONDS <= seconds < math.inf:
        raise InvalidArgument("seconds", str(seconds), "at least 1e-09, a nanosecond, and finite")
    check_callable("fn", fn)
    if is_coroutine_function(fn):
        raise WrongType("fn", f"the coroutine function {describe_function(fn)}", "a plain function")
    if name is not None and not isinstance(name, str):
        raise WrongType("name", describe(name), "a string")
    if isinstance(jitter, bool) or not isinstance(jitter, int | float):
        raise WrongType("jitter", describe(jitter), "a number from 0 to 1")
    if not 0 <= jitter <= 1:
        raise InvalidArgument("jitter", describe(jitter), "from 0 to 1")
    if timeout is not None:
        check_seconds("timeout", timeout)
        if timeout == 0:
            raise InvalidArgument("timeout", "0", "more than 0 seconds, or None for no limit")
    if on_error is not None:
        check_callable("on_error", on_error)
    if backoff is not None:
        check_seconds("backoff", backoff)
    ticks = Ticks(clock.now(), seconds, jitter, backoff or 0.0)
    return Periodic(ticks, fn, describe_function(fn) if name is None else name, timeout, on_error)


class Periodic(Generic[T]):
    """A function that is called again and again; what ``every`` returns.

    A context manager that stops it. All of it may be used from any thread, also by the function itself.

    A run is a task of a book with one worker, so a run's timeout, its cancellation, what is left behind, the end of
    the interpreter and a fork are the same here as for groups and executors. What is new is when the next one begins:
    from the tick until the report of its failure is made it is busy; a tick that comes meanwhile does nothing.
    """

    def __init__(
        self,
        ticks: Ticks,
        fn: Callable[[], T],
        name: str,
        timeout: float | None,
        on_error: Callable[[BaseException], object] | None,
    ) -> None:
        check_cancelled()
        self.name = name
        self._runs = 0
        self._failures = 0
        self._in_a_row = 0
        self._last_result: T | None = None
        self._last_error: BaseException | None = None
        self._on_error = on_error
        self._context = copy_context()
        self._places = here.places
        self._turn = Turn(fn, self._note_out)
        self._book = PeriodicBook(name, Policy(timeout, timeout_option="timeout"), self._note_end)
        self._book.goodbye = self._say_goodbye
        # Protects the ticks, the timer, and whether it is busy. Reentrant so that a finalizer knows: see ``is_mine``.
        self._lock = make_rlock()
        register.enroll_for_fork(self)
        self._ticks = ticks
        self._timer: Timer | None = None  # None as well once it has gone off while a run went on
        self._due = (0, 0.0)  # what the timer is for: a tick's number and time
        self._is_busy = False
        self._is_held_up = False  # busy with nothing but a run that was left behind
        self._is_pausing = False  # the task in the book waits for the next tick
        self._is_pause_told = False
        self._is_reporting = False  # the task in the book tells of a failure; for whoever brings its end
        self._waiters: list[Waiter[T]] = []
        self._outer = current_scope()
        self._registration: Registration | None = None
        try:
            if (outer := self._outer) is not None:
                self._registration = outer.add(lambda: self._cancel(outer.reason))
            with self._lock:
                self._plan()
        except BaseException:  # nobody will stop what nobody was given
            self._end("could not be started")
            raise

    def __enter__(self) -> Self:
        return self

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return show_own(self, lambda: f"{self.name!r}, {self._book.closed or 'is going on'}")

    @property
    def runs(self) -> int:
        """How many runs have come to their end, those that failed included."""
        return self._runs

    @property
    def failures(self) -> int:
        """How many of them failed."""
        return self._failures

    @property
    def missed(self) -> int:
        """How many ticks passed without a run, counted when the next one begins; not those left out after failures."""
        return self._ticks.missed

    @property
    def abandoned(self) -> int:
        """How many runs were left behind, in threads that may still run."""
        return self._book.stats().abandoned

    @property
    def last_result(self) -> T | None:
        """What the latest run to succeed returned; None before there is one."""
        return self._last_result

    @property
    def last_error(self) -> BaseException | None:
        """What the latest run failed with; None if it succeeded, or there was none."""
        return self._last_error

    def wait_next(self, timeout: float | None = None) -> Outcome[None, T]:
        """Wait until a run ends, the one that goes on now or else the next, and return what became of it.

        Does not raise for a run that failed: ``outcome.result()`` does. Any number of threads may wait, and all are
        given the same. The outcome's index counts the runs, from 0.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: None has ended by then.
            PeriodicStopped: It was stopped, before or meanwhile.
            Cancelled: What waits here was asked to end.
            RuntimeError: The function itself asks, in a run.
        """
        if self._is_own_call():
            raise RuntimeError(f"periodic {self.name!r} cannot wait for its next run in a run")
        if timeout is not None:
            check_seconds("timeout", timeout)
        deadline = math.inf if timeout is None else clock.now() + timeout
        waiter: Waiter[T] = Waiter()
        self._waiters.append(waiter)  # first, and then look: whoever ends a run does it the other way round
        try:
            with making_room():
                while waiter.outcome is None and self._is_live():
                    if (left := clock.left_until(deadline)) <= 0:
                        raise TimeoutError(f"no run of periodic {self.name!r} ended within {timeout} seconds")
                    cancelling.wait(waiter.parker, None if left == math.inf else left)
        finally:
            self._waiters.remove(waiter)
        if waiter.outcome is None:
            raise PeriodicStopped(self.name, self._book.closed or "was stopped")
        return waiter.outcome

    @starts_uninterrupted
    def stop(self) -> None:
        """Begin no further run, ask the one that goes on to end, and wait 0.25 s at most for that.

        A run that does not heed it is left behind, and logged. Called in a run, it lets this run come to its end, and
        returns at once. Stopping twice does nothing.

        Raises:
            KeyboardInterrupt: Ctrl-C, meanwhile; it is stopped nevertheless.
        """
        interrupt: BaseException | None
        try:
            interrupt = self._end("was stopped")
        except BaseException as raised:  # Ctrl-C between two steps
            interrupt = self._end("was stopped") or raised
        if interrupt is not None:
            raise interrupt

    # From tick to tick

    def _plan(self) -> None:
        """Set the timer for the next tick. Under the lock."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._due = self._ticks.after(clock.now(), self._turn.took)
        self._timer = timekeeper.call_at(self._due[1], partial(self._begin, *self._due))
        self._is_pause_told = False

    def _begin(self, number: int, when: float) -> None:
        """Begin a run, on the timekeeper's thread, unless one goes on: then its end sets the timer anew."""
        with self._lock:
            if self._due != (number, when):
                return  # another was set while this one went off
            self._timer = None
            if self._is_busy or self._book.closed is not None:
                return
            self._is_busy = True
            self._ticks.take(number, when, clock.now())
            self._turn.begun = perf_counter()
            self._book.run = self._runs
            with suppress(RuntimeError, MemoryError):  # no thread for the timekeeper: the end of the run tries again
                self._plan()  # now, so that the timekeeper need not leave and come back for each tick
        self._submit(self._turn)

    def _submit(self, fn: Callable[..., Any], *args: Any) -> None:
        before, here.places = here.places, self._places
        try:
            self._context.copy().run(self._book.submit, fn, args, {})
        except Exception as error:  # it was stopped in this moment, or the book is broken, which has been logged
            if self._book.closed is None:
                tell(logging.ERROR, "periodic %r could not begin a run", self.name, error=error)
            self._is_reporting = self._is_pausing = False
            self._rest()
        finally:
            here.places = before

    def _note_end(self, task: Task[Any], status: str) -> None:
        """Take note that the run has ended, or the report of its failure. On the worker's thread, or an extra one."""
        error = task.failure
        if self._is_pausing:
            self._note_pause(error)
            return
        if self._is_reporting:
            self._is_reporting = False
            if error is not None:
                tell(logging.ERROR, "on_error of periodic %r failed", self.name, error=error)
        elif status == "succeeded":
            self._note_run("succeeded", task.result(), None)
        elif error is not None:
            self._note_run("timed_out" if status == "timed_out" else "failed", None, error)
            if self._on_error is not None:
                self._is_reporting = True
                self._turn.took = math.inf  # a tick that the report takes was not taken by a late machine
                self._submit(self._on_error, error)
                return
        self._rest()

    def _note_run(self, status: Status, value: T | None, error: BaseException | None) -> None:
        abandoned, seconds = self._turn.is_inside, perf_counter() - self._turn.begun
        outcome: Outcome[None, T] = Outcome(self._runs, None, status, value, error, 1, seconds, abandoned)
        self._last_error = error
        if error is None:
            self._last_result = value
            self._in_a_row = 0
        else:
            self._failures += 1
            self._in_a_row += 1
        self._runs += 1
        with self._lock:
            distance = self._ticks.expect(self._in_a_row)
        if error is not None:
            what = f"run {outcome.index} of periodic {self.name!r} {status.replace('_', ' ')}"
            told = (what, self._in_a_row, distance)
            if self._on_error is None:
                tell(logging.ERROR, "%s, %d in a row; the next is %.3g s after it", *told, error=error)
            else:  # who is told the error logs what there is to log of it
                tell(logging.ERROR, "%s, %d in a row; the next is %.3g s after it: %s", *told, describe(error))
        for waiter in list(self._waiters):
            waiter.outcome = waiter.outcome or outcome
            waiter.parker.wake()

    def _rest(self) -> None:
        """Go on with the next tick, unless the run that has timed out is still inside the function."""
        error: BaseException | None = None
        with self._lock:
            if self._turn.is_inside:
                self._is_held_up = True
            else:
                error = self._go_on()
        if error is not None:
            self._pause(error)
        self._wake_waiters()  # it may have been the last one
        if not self._is_live():
            self._book.part()

    def _note_out(self) -> None:
        """Take note that a run is out of the function, long before its end is known or, left behind, long after."""
        error: BaseException | None = None
        with self._lock:
            if self._is_held_up:
                error = self._go_on()
        if error is not None:
            self._pause(error)

    def _go_on(self) -> BaseException | None:
        """Wait for the next tick; return why nobody does so, if the timekeeper cannot. Under the lock."""
        self._is_busy = self._is_held_up = False
        if self._book.closed is not None:
            return None
        number, when = self._due
        if self._timer is not None and number >= self._ticks.expected and not clock.has_come(when):
            return None
        try:
            self._plan()
        except (RuntimeError, MemoryError) as error:  # no thread for the timekeeper
            self._is_busy = self._is_pausing = True
            return error
        return None

    # Where no thread can keep the time, for now: the one that makes the runs does so, or else the next that comes

    def _pause(self, error: BaseException) -> None:
        if not self._is_pause_told:
            self._is_pause_told = True
            what = "periodic %r waits for its time on the thread of its runs for now: no other starts (%s)"
            tell(logging.WARNING, what, self.name, describe(error))
        self._submit(self._wait_for_tick)

    def _wait_for_tick(self) -> None:
        parker = Parker()
        while (left := self._due[1] - clock.now()) > 0:
            cancelling.wait(parker, left)

    def _note_pause(self, error: BaseException | None) -> None:
        """Begin the next run, for which this thread has waited; if there was none that could, whenever there is one."""
        with self._lock:
            self._is_busy = self._is_pausing = False
            due = self._due
        if error is None:
            self._begin(*due)
        else:
            timekeeper.leave(self._rest)

    def _is_live(self) -> bool:
        """Tell whether there is, or will be, a run to wait for."""
        return self._book.closed is None or (self._is_busy and not self._is_held_up)

    # The end

    def _is_own_call(self) -> bool:
        return getattr(here.seat, "crew", None) is self._book.crew

    def _close(self, reason: str) -> None:
        """Begin no further run. Calls nothing of the user's, and waits for nobody."""
        self._book.close(reason)
        if is_mine(self._lock):  # a finalizer has come upon this thread in the middle of a step
            timekeeper.leave(self._forget_timer)
        else:
            self._forget_timer()

    def _forget_timer(self) -> None:
        with self._lock:  # whoever sets a timer looks first whether it is closed
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None

    def _cancel(self, reason: str) -> None:
        """Begin no further run, and ask the one that goes on to end."""
        self._close(reason)
        self._book.cancel_all()
        self._wake_waiters()

    def _end(self, reason: str, grace: float | None = DEFAULT_GRACE_SECONDS) -> BaseException | None:
        """Come to an end, and return what interrupted the wait for it."""
        if self._outer is not None and self._registration is not None:
            self._outer.remove(self._registration)
        if self._is_own_call():
            self._close(reason)
            return None
        self._cancel(reason)
        interrupt = self._book.join(1, grace)
        if not self._is_live():
            self._book.part()
        return interrupt

    def _wake_waiters(self) -> None:
        for waiter in list(self._waiters):
            waiter.parker.wake()

    def _say_goodbye(self, grace: float | None) -> None:
        self._end("belongs to an interpreter that is shutting down", grace)

    def close_after_fork(self) -> None:
        """In a forked child, be free: a thread that is not there may hold the parent's lock, and keeps its timer."""
        self._lock = make_rlock()
        self._timer = None
        self._is_busy = False
        self._waiters.clear()
