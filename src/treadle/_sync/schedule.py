"""When calls may pass a gate: a rate, with what was saved up, pauses, and a brake beneath it.

This is the generic cell rate algorithm (virtual scheduling, ITU-T Recommendation I.371): each call that passes is given
a time, and the next one's is an interval later. With what it saves up (``burst``) a call may be given a time that has
passed. A call begins at its time or a little later, as its thread has to wake up; the next one's counts from when it
began, so that in any ``t`` seconds at most ``burst + rate * t`` calls begin.

That loses what threads are late: next to nothing where they wake up in time, so they wake up a little early, and look
at the clock for the rest. But beside a thread that computes, whoever waits for the GIL gets it after 5 ms, or more, and
on a machine with too much to do all wait for a processor: most of the rate would be lost. So where more than
``BEARABLE_LOSS`` of it is, the schedule goes on as if nobody were late, whoever finds that the times of several have
come calls them all, and they catch up with up to ``LATE_SECONDS`` of it: then at most ``burst + rate * (t +
LATE_SECONDS)`` calls begin in any ``t`` seconds. (Counted from the first, never more than ``burst + rate * t``.) It is
always so where a wake-up takes as long as the time between two calls.
"""

from __future__ import annotations

import math

from treadle._core import clock
from treadle._core.clock import SystemClock
from treadle._sync.brake import Brake

# Calls that are behind the schedule catch up with so much of it; what was lost beyond is lost.
LATE_SECONDS = 0.1
# What may be lost of the rate as calls are late, before they catch up; and below which they no longer need to.
BEARABLE_LOSS = 0.025
SMALL_LOSS = 0.01
# One call that is very late may be chance.
MOST_LOSS_BY_ONE = 0.2
# So much of the latest call's is in what is lost by and large.
LEARNING = 1 / 16
# Less than that between two calls is no longer than a wake-up takes.
TIGHT_SECONDS = 0.0004
# Who comes so soon after a call that was late is late with it, and not a caller after some idle time.
AT_ONCE_SECONDS = 0.0002
# Between the gate and the first step of a call, an interrupt may cost so much. Calls keep such a distance in
# addition, up to a hundredth of the time between two; with a burst they catch up on it.
MARGIN_SECONDS = 0.00003
MARGIN_SHARE = 0.01
# So far apart are times that are equal, but for the rounding of sums.
ROUNDING_SECONDS = 1e-9
# So many calls may be given a time in one go, where there is no time between two.
MANY = 64


class Turn:
    """The time that a call was given.

    Attributes:
        time: By the schedule.
        start: When the call may begin; a moment later.
        is_behind: It may begin late without others being put off.
        shift: Of the schedule, when it was given.
    """

    __slots__ = ("is_behind", "shift", "start", "time")

    def __init__(self, time: float, start: float, is_behind: bool, shift: float) -> None:
        self.time = time
        self.start = start
        self.is_behind = is_behind
        self.shift = shift


class Schedule:
    """When calls may pass. Used under the lock of its limiter.

    Args:
        interval: Seconds from one call to the next; 0: no rate.
        burst: How many may pass at the same time after a time without calls.
        brake: Another rate beneath, if there is one.
    """

    __slots__ = (
        *("_brake", "_interval", "_is_catching_up", "_is_tight", "_late", "_loss", "_margin"),
        *("_saved", "_shift", "next"),
    )

    def __init__(self, interval: float, burst: int, brake: Brake | None) -> None:
        self.next = -math.inf  # the time of the next call, as far back as the burst reaches
        self._interval = interval
        self._saved = (burst - 1) * interval
        self._margin = min(MARGIN_SECONDS, MARGIN_SHARE * interval)
        self._is_tight = interval < TIGHT_SECONDS
        self._brake = brake
        self._late = 0.0  # by which calls are behind the schedule
        self._loss = 0.0  # of the rate, as calls are late
        self._is_catching_up = self._is_tight
        self._shift = 0.0  # by which all times were put off, as calls began late

    @property
    def has_rate(self) -> bool:
        """Whether there is a time between two calls by themselves."""
        return self._interval > 0

    def is_catching_up(self) -> bool:
        """Return True where calls that are late put off no others; never by a clock that is turned by hand."""
        return self._is_catching_up and is_machine_time()

    def margin(self) -> float:
        """Return how long after its time a call may begin."""
        return self._margin if is_machine_time() and not self.is_catching_up() else 0.0

    def due(self, now: float) -> int:
        """Return how many calls may pass; no more than ``MANY`` where there is no rate."""
        behind = now + ROUNDING_SECONDS - self.next
        if behind < 0:
            return 0
        interval = self._interval_at(now)
        if interval == 0:
            return MANY
        return 1 + int(min(behind, self._saved + (LATE_SECONDS if self.is_catching_up() else 0.0)) / interval)

    def seconds_until(self, number: int, now: float) -> float:
        """Return how long it is until ``number`` calls may pass; more than 0."""
        return max(self.next + (number - 1) * self._interval_at(now) - now, ROUNDING_SECONDS)

    def note_wait(self, now: float) -> None:
        """Take note that a call passes which was next, and has waited for its time."""
        late = now - self._saved - self.next - self.margin()
        loss = min(max(0.0, late / self._interval_at(now)), MOST_LOSS_BY_ONE)
        self._loss += LEARNING * (loss - self._loss)
        if self._loss > BEARABLE_LOSS:
            self._is_catching_up = True
        elif self._loss < SMALL_LOSS:
            self._is_catching_up = self._is_tight

    def take(self, now: float, has_waited: bool) -> Turn:
        """Give a time to a call that passes, and return it.

        Args:
            now: When it passes.
            has_waited: It has waited for its time, and is late if that has passed; otherwise it has just come.
        """
        is_behind = self.is_catching_up() and (has_waited or self._late > 0)
        credit = LATE_SECONDS if has_waited else min(self._late + AT_ONCE_SECONDS, LATE_SECONDS)
        earliest = now - self._saved - (credit if is_behind else 0.0)
        is_behind = is_behind and self.next >= earliest
        time = max(self.next, earliest)
        self.next = time + self._interval_at(now, passes=True)
        late = max(0.0, now - self._saved - self.next) if is_behind else 0.0
        self._late = late if has_waited else min(late, self._late)
        return Turn(time, time + self.margin(), is_behind, self._shift)

    def begin(self, turn: Turn, now: float) -> None:
        """Take note that the call of ``turn`` begins now: unless it is behind, what comes after it counts from then.

        Several that were let through together may have lost the same time.
        """
        if self._interval == 0:
            return
        allowed = self._saved + (LATE_SECONDS if turn.is_behind else 0.0) + self._shift - turn.shift
        if (lost := now - turn.time - allowed) > 0:
            self._shift += lost
            self.next += lost

    def pause(self, until: float) -> None:
        """Let no call pass before ``until``. Nothing is saved up meanwhile, and nothing late is caught up with."""
        if until > self.next:
            self.next = until
            self._late = 0.0

    def _interval_at(self, now: float, passes: bool = False) -> float:
        brake = self._brake
        if brake is None:
            return self._interval
        if passes:
            brake.note_pass(now)
        return max(self._interval, brake.interval(now))


def is_machine_time() -> bool:
    """Return True if time goes by the machine's clock: another may stand still, however long one looks at it."""
    return isinstance(clock.in_use(), SystemClock)
