"""How many workers: finds the knee of throughput, beyond which more of them only wait for one another.

The idea is that of BBR (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue, 2016), with calls for
packets: what is worth having is the best rate seen, times what a call takes while nothing is in its way. Latency
alone would not do, as items differ; nor would waiting for errors, as most servers only get slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from treadle._crew.deciding import WAITING_SHARE
from treadle._crew.rounds import Lesson, Level, Round, Window

# As many as there are where nobody says how many: so finding the number is no slower, where more are better.
START_WORKERS = 32
MAX_WORKERS = 256
# A window has at least so many rounds, and one for each worker; up to so many times that, where they are unlike.
WINDOW_ROUNDS = 8
MAX_WINDOWS = 4
# While it grows, half of many workers are enough: those that were added last. In a short run, each window counts.
ENOUGH_ROUNDS = 16
# Calls that are alike, and take so many times as long as one did that was alone, stand in each other's way.
ALIKE = 0.7
CROWDED = 1.4
# With twice the workers, no gain worth having is left when a call takes so many times as long as before.
VERDICT_LATENCIES = 1.6
# To compare numbers that are near to each other takes more, and there is time for it.
PROBE_WINDOWS = 3
# Workers with less to do than this were not what limited the rate.
BUSY_SHARE = 0.85
# So much of the processors busy means that these are what workers share.
COMPUTING_CORES = 0.7
# Twice the workers have to bring so much more.
WORTH_DOUBLING = 0.25
HARDLY_ANY_GAIN = 0.10
HEADROOM = 1.1
BEARABLE_LOSS = 0.05
HOLD_SECONDS = 4.0
HOLD_LONGER = 1.5
MAX_HOLD_SECONDS = 15.0
# How much of the last window is in the rate that others are compared with.
MEMORY = 0.3
# Calls that became so much faster by themselves are a reason to probe before it is time.
SURPRISE = 0.08
# But not right after a change, whose aftermath may look like that.
REST_SECONDS = 1.0
# A quarter more is to bring half of that.
WORTH_KEEPING = 0.5
# After an answer that means "slow down".
BACK_OFF = 0.7
DEAF_SECONDS = 0.1
DEAF_LATENCIES = 2.0
BELOW_CEILING = 0.95
CEILING_SECONDS = 20.0
MAX_CEILING_SECONDS = 300.0
# Rates below half of what they were.
COLLAPSE = 0.5
# Half as many workers that get so much less far are not what it takes.
STILL_SLOW = 0.8
# One window may be chance; so many in a row are news.
WINDOWS_OF_NEWS = 3


class Knee:
    """Tells the number of workers, given every call that has ended. Has no thread, no lock and no clock.

    - *growing*: the number doubles while that brings a quarter more; when it does not, it is what the best rate needs.
    - *shrinking*: the first doubling brought nothing, so fewer may do as well.
    - *holding*, for some seconds, and then *probing*: a quarter more and a quarter less, in turn.

    Args:
        start: The number to begin with.
        most: The number never to go beyond.
        cores: That this process may use.
        lesson: What an earlier one has learnt.
    """

    def __init__(
        self, start: int = START_WORKERS, most: int = MAX_WORKERS, cores: int = 1, lesson: Lesson | None = None
    ) -> None:
        self.most = most
        self.workers = min(start if lesson is None else lesson.workers, most)
        self.reason = "as at the last time" if lesson else "to begin with"
        self._cores = cores
        self._is_fresh = lesson is None  # nothing is known yet
        self._decide: Callable[[Window, float], None] = self._grow
        self._since = -math.inf  # calls that began before this say nothing of the present number
        self._verdict_due = math.inf  # when it may be clear already that more are too many
        self._window = Window(self.workers)
        self._base: Level | None = None  # the best number so far
        self._best_rate = 0.0
        self._latency = math.inf  # of a call while nothing is in its way
        self._alone = math.inf  # what one call took while there was no other
        self._hold_seconds = HOLD_SECONDS
        self._hold_until = math.inf
        self._grows_next = True
        self._fewer = Level(1, 0.0, 0.0)  # that was tried last
        self._is_guess = False  # that fewer would do as well
        self._slow_windows = 0  # one after the other
        self._fast_windows = 0
        self._calm_rate = 0.0  # before the fast ones
        self._has_collapsed = False
        self._slow = Level(1, 0.0, 0.0)  # when they had
        self._ceiling = math.inf
        self._ceiling_until = -math.inf
        self._ceiling_seconds = CEILING_SECONDS / 2
        self._deaf_until = -math.inf
        if lesson is not None and lesson.is_settled:
            self._decide = self._hold

    @property
    def lesson(self) -> Lesson | None:
        """What the next one may begin with; None: nothing was learnt."""
        if self._is_fresh:
            return None
        return Lesson(self.workers, self._decide != self._grow)

    # What happens

    def begin_with(self, workers: int) -> None:
        """Begin with so few, as more of them have brought nothing so far."""
        self.workers = min(workers, self.most)
        self._restart(self._since)

    def note_alone(self, seconds: float) -> None:
        """Take note of what a call takes while there is no other."""
        self._alone = seconds

    def note(self, done: Round, open_since: Callable[[], Iterable[float]]) -> None:
        """Take note that a round of calls has ended.

        Args:
            done: What there is to know of it.
            open_since: Tells when the rounds began that have not ended.
        """
        began, ended = done.began, done.ended
        if ended >= self._verdict_due:
            self._give_up_early(ended, open_since)
        if began < self._since:
            return
        if done.workers > self.workers:  # some are to leave yet: what begins now still feels them
            self._restart(ended)
            return
        window = self._window
        window.add(max(ended - began, 1e-9), done.calls, done.busy, done.cores)
        if window.rounds >= self._rounds_wanted():
            late = ended - window.seconds / window.rounds
            window.seconds_open = sum(max(0.0, late - max(since, self._since)) for since in open_since())
            if self._is_fresh and self._base is None and self._computes(window):
                self._is_fresh = False
                self._set(min(2, self._cores, self.workers), ended, "calls compute rather than wait")
            elif window.mean_busy >= BUSY_SHARE * self.workers:
                self._decide(window, ended)
            else:  # something else is too slow for as many
                self._restart(ended)

    def note_throttled(self, now: float) -> None:
        """Take note of an answer that means "slow down"."""
        if now < self._deaf_until:
            return
        self._is_fresh = False
        latency = self._window.latency if self._window.calls else self._latency
        self._deaf_until = now + max(DEAF_SECONDS, DEAF_LATENCIES * latency if latency < math.inf else 0.0)
        self._remember_ceiling(now)
        self._set(int(BACK_OFF * self.workers), now, "some answers meant to slow down")
        self._settle(now)

    def limit(self, most: int) -> None:
        """Take note that there can be no more than ``most`` workers."""
        self.most = max(1, most)
        self.workers = min(self.workers, self.most)

    # Growing

    def _grow(self, window: Window, now: float) -> None:
        base = self._base
        if base is None:
            self._accept(window)
            if self._is_crowded(window):
                self._is_guess = True
                self._step_down(self.workers // 2, now)
            else:
                self._double(now)
            return
        wanted = self._wanted(base)
        if self._is_unclear(window, base, base.rate * wanted):
            return
        if window.rate >= base.rate * wanted:
            self._accept(window)
            self._double(now)
            self._is_fresh = False
        else:
            self._note_rate(window)
            self._stop_growing(base, window.rate / base.rate, now)

    def _wanted(self, base: Level) -> float:
        """Return how many times the rate of ``base`` is worth the workers that there are more."""
        return 1 + WORTH_DOUBLING * (self.workers / base.workers - 1)

    def _computes(self, window: Window) -> bool:
        """Tell whether calls compute, rather than keep the processors busy only by how many there are."""
        if window.computing < COMPUTING_CORES:
            return False
        return self._alone == math.inf or window.cores / max(1, window.calls) > WAITING_SHARE * self._alone

    def _is_crowded(self, window: Window) -> bool:
        """Tell whether calls stand in each other's way, as far as one that was alone can tell."""
        is_alike = window.error * math.sqrt(window.rounds) < ALIKE
        return is_alike and window.latency > CROWDED * self._alone

    def _give_up_early(self, now: float, open_since: Callable[[], Iterable[float]]) -> None:
        """Stop growing where even calls that end right now would be too slow.

        Otherwise a server that has too much to do would be left alone only when it has answered all of it.
        """
        base, window = self._base, self._window
        if base is None or self._decide != self._grow:
            self._verdict_due = math.inf
            return
        self._verdict_due = now + VERDICT_LATENCIES / 4 * base.workers / base.rate
        ages = [now - since for since in open_since() if since >= self._since]
        calls = window.calls + len(ages) * window.calls / max(1, window.rounds) if window.calls else len(ages)
        fastest = self.workers * calls / max(window.seconds + sum(ages), 1e-9)
        if len(ages) + window.rounds >= WINDOW_ROUNDS and fastest < base.rate * self._wanted(base) * (1 - base.error):
            self._stop_growing(base, min(1.0, fastest / base.rate), now)  # how much less it is, nobody has seen

    def _stop_growing(self, base: Level, gain: float, now: float) -> None:
        has_gained = gain >= 1 + HARDLY_ANY_GAIN
        if self._is_fresh and not has_gained:
            self._step_down(base.workers // 2, now)
        else:
            needed = math.ceil(HEADROOM * self._best_rate * self._latency) if has_gained else base.workers
            self._set(min(max(needed, base.workers), self.workers), now, "more brought hardly more")
            self._settle(now)
        self._is_fresh = False

    def _double(self, now: float) -> None:
        before = self.workers
        self._set(2 * before, now, "as more brought more")
        if self.workers == before:
            self.reason = "no more are allowed"
            self._settle(now)
        elif (base := self._base) is not None:
            self._verdict_due = now + VERDICT_LATENCIES * base.workers / base.rate

    # Shrinking

    def _step_down(self, workers: int, now: float) -> None:
        self._is_fresh = False
        assert self._base is not None
        if workers >= self._base.workers or workers < 1:
            self._set(self._base.workers, now, "fewer brought less")
            if self._is_guess:  # nor is it known that more bring nothing
                self._is_guess, self._decide = False, self._grow
                self._double(now)
            elif self._fewer.workers < self._base.workers:
                self._decide = self._confirm
            else:  # it was one, and is
                self._settle(now)
        else:
            self._set(workers, now, "fewer may do as well")
            self._decide = self._shrink

    def _shrink(self, window: Window, now: float) -> None:
        base = self._base
        assert base is not None
        wanted = self._best_rate * (1 - BEARABLE_LOSS)
        if self._is_unclear(window, base, wanted):
            return
        self._fewer = Level(self.workers, window.rate, window.error)
        was_half = self.workers <= base.workers // 2
        if window.rate >= wanted:
            self._is_guess = False
            self._accept(window)
            self._step_down(self.workers // 2 if was_half else int(0.75 * self.workers), now)
        elif was_half and int(0.75 * base.workers) > self.workers:
            self._set(int(0.75 * base.workers), now, "more brought nothing")
        else:
            self._step_down(base.workers, now)

    def _confirm(self, window: Window, now: float) -> None:
        """Go back to fewer, if the rate with more is less than it had seemed: the first calls had more room."""
        fewer = self._fewer
        if self._is_unclear(window, fewer, fewer.rate):
            return
        if window.rate < fewer.rate:
            self._set(fewer.workers, now, "more brought less")
        self._settle(now)

    # Holding and probing

    def _settle(self, now: float) -> None:
        """Stay with this number for a while."""
        self._decide = self._hold
        self._base = None
        self._slow_windows = self._fast_windows = 0
        self._hold_until = now + self._hold_seconds

    def _hold(self, window: Window, now: float) -> None:
        if self._hold_until == math.inf:  # it began by holding
            self._hold_until = now + self._hold_seconds
        rate, base = window.rate, self._base
        self._restart(now)
        if base is None:
            self._accept(window)
            return
        if not self._fast_windows:
            self._calm_rate = base.rate
        is_at_rest = now >= self._hold_until - self._hold_seconds + REST_SECONDS
        is_fast = rate > self._calm_rate * (1 + max(SURPRISE, 2 * math.hypot(window.error, base.error)))
        self._fast_windows = self._fast_windows + 1 if is_at_rest and is_fast else 0
        self._slow_windows = self._slow_windows + 1 if rate < COLLAPSE * base.rate else 0
        if self._slow_windows >= WINDOWS_OF_NEWS:
            self._collapse(rate, now)
            return
        if self._fast_windows >= WINDOWS_OF_NEWS:  # there may be room for more now
            self._grows_next, self._hold_until = True, now
        if not self._slow_windows:
            self._has_collapsed = False
            mean = (1 - MEMORY) * base.rate + MEMORY * rate
            self._base = Level(self.workers, mean, math.sqrt(MEMORY / (2 - MEMORY)) * window.error)
        if now >= self._hold_until:
            self._probe(now)

    def _collapse(self, rate: float, now: float) -> None:
        """Halve the number, once, as what is asked has become much slower without a word."""
        if not self._has_collapsed and self.workers > 1:
            self._has_collapsed = True
            self._slow = Level(self.workers, rate, 0.0)
            self._remember_ceiling(now)
            self._set(self.workers // 2, now, "calls had become much slower")
            self._decide = self._take_back
            return
        self._settle(now)

    def _take_back(self, window: Window, now: float) -> None:
        """Have as many as before, if calls became no faster for being fewer: they were not what made them slow."""
        before = self._slow
        if window.rate < before.rate * STILL_SLOW:
            self._ceiling_until = now
            self._set(before.workers, now, "fewer brought less")
        self._settle(now)

    def _probe(self, now: float) -> None:
        step = max(1, round(self.workers / 4))
        for _ in range(2):
            workers = self._within(self.workers + (step if self._grows_next else -step), now)
            self._grows_next = not self._grows_next
            if workers != self.workers:
                self._set(workers, now, self.reason)
                self._decide = self._compare
                return
        self._settle(now)

    def _compare(self, window: Window, now: float) -> None:
        base = self._base
        assert base is not None
        is_more = self.workers > base.workers
        wanted = 1 + WORTH_KEEPING * (self.workers / base.workers - 1) if is_more else 1 - BEARABLE_LOSS
        if self._is_unclear(window, base, base.rate * wanted):
            return
        if window.rate < base.rate * wanted:
            self._hold_seconds = min(self._hold_seconds * HOLD_LONGER, MAX_HOLD_SECONDS)
            self._set(base.workers, now, "neither more nor fewer were better")
            self._settle(now)
            return
        self._hold_seconds = HOLD_SECONDS
        self._best_rate, self._latency = 0.0, math.inf  # things have changed
        self._accept(window)
        if is_more:
            self._decide = self._grow
            self._double(now)
        else:
            self._best_rate = max(self._best_rate, base.rate)
            self._step_down(int(0.75 * self.workers), now)

    # What all have in common

    def _is_unclear(self, window: Window, base: Level, bound: float) -> bool:
        """Tell whether the rate is too near to ``bound`` to say on which side of it, and more calls would help."""
        if window.rounds >= MAX_WINDOWS * self._rounds_wanted():
            return False
        return abs(window.rate / bound - 1) < math.hypot(window.error, base.error)

    def _rounds_wanted(self) -> int:
        windows, rounds = PROBE_WINDOWS if self._decide == self._compare else 1, self.workers
        if self._decide == self._grow and self._base is not None:
            rounds = min(rounds, max(ENOUGH_ROUNDS, rounds // 2))
        return windows * max(WINDOW_ROUNDS, rounds)

    def _accept(self, window: Window) -> None:
        self._base = Level(self.workers, window.rate, window.error)
        self._note_rate(window)

    def _note_rate(self, window: Window) -> None:
        self._best_rate = max(self._best_rate, window.rate)
        self._latency = min(self._latency, window.latency * (1 + window.error))

    def _remember_ceiling(self, now: float) -> None:
        is_again = now < self._ceiling_until + MAX_CEILING_SECONDS
        self._ceiling_seconds = min(2 * self._ceiling_seconds, MAX_CEILING_SECONDS) if is_again else CEILING_SECONDS
        self._ceiling = self.workers
        self._ceiling_until = now + self._ceiling_seconds

    def _within(self, workers: int, now: float) -> int:
        most: float = self.most
        if now < self._ceiling_until:
            most = min(most, max(1, int(BELOW_CEILING * self._ceiling)))
        return max(1, min(workers, int(most)))

    def _set(self, workers: int, now: float, reason: str) -> None:
        self.workers = self._within(workers, now)
        self.reason = reason
        self._restart(now)

    def _restart(self, now: float) -> None:
        self._since = now
        self._verdict_due = math.inf
        self._window = Window(self.workers)
