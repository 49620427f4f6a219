"""A chunk: consecutive items that one worker takes in one go, and what became of them."""

from __future__ import annotations

from typing import Any, Literal

from treadle._core.cancellation import Scope
from treadle._core.describe import annotate, cut_our_frames, describe
from treadle._core.outcome import Outcome, Status
from treadle._core.trial import Trial
from treadle._core.user_code import is_a
from treadle.errors import CallCancelled, CallNotStarted, Cancelled

End = Literal["running", "done", "abandoned"]


class FailedWithResource(Exception):
    """A call failed, and with an error that means its resource is broken. Never leaves an engine and its chunk.

    Args:
        error: What the call raised.
        opened_at: When the resource was opened, by ``perf_counter()``.
    """

    def __init__(self, error: BaseException, opened_at: float) -> None:
        super().__init__(error, opened_at)
        self.error = error
        self.opened_at = opened_at


class Chunk:
    """Consecutive items of a run, their results so far, and how much of them was delivered.

    Who may touch what, and when:

    - ``todo`` holds the items not begun, last first. The owner pops its end, thieves its beginning; each
      pop is atomic, so an item has one taker, with or without a GIL.
    - ``results`` and ``failures`` are written by the owner alone, and only grow. The item whose call is
      being made is therefore always ``items[len(results)]``: nothing has to note it.
    - ``scope`` is made by the owner, when its call first asks for it; who cancels sets ``is_cancelled`` first
      and then looks for a scope, the owner does it the other way round.
    - ``delivered`` is the consumer's; ``end`` is the consumer's, and under the crew's lock whoever's seals.
    - everything else changes under the crew's lock.

    Where calls are held to a policy (see ``Trial``), a chunk has one item.
    """

    __slots__ = (
        *("begun", "delivered", "end", "ended", "ends", "failures", "is_cancelled", "items", "results", "scope"),
        *("left_behind", "sent", "start", "todo", "trial", "was_cut"),
    )

    def __init__(self, start: int, items: list[Any] | None = None, todo: list[Any] | None = None) -> None:
        self.start = start
        self.items: list[Any] = [] if items is None else items
        self.todo: list[Any] = [] if todo is None else todo
        self.results: list[Any] = []
        self.failures: dict[int, BaseException] | None = None
        self.delivered = 0
        self.begun: float | None = None  # perf_counter() of the first call; None: in no worker's hands yet
        self.ended: float | None = None
        self.ends: list[float] | None = None  # when each call ended, where somebody asked to know
        self.end: End = "running"
        self.is_cancelled = False
        self.sent = (
            0  # the first so many items are sent off together, so that any of them may have begun; 0: one by one
        )
        self.left_behind = 0  # calls, when the account was closed
        self.was_cut = False  # its last call ended because it was asked to
        self.scope: Scope | None = None
        self.trial: Trial | None = None

    def submitter(self) -> Chunk | None:
        """Return the chunk of the call that has submitted this one, where that is known, and matters."""
        return None

    def make_ready(self) -> None:
        """Lay out the items so that a worker can take them."""
        self.todo = self.items[::-1]

    def fail(self, error: BaseException) -> None:
        """Record that the call being made raised ``error``. Its place in ``results`` is still to be filled."""
        if self.end == "abandoned":  # nobody reads it any more
            return
        if is_a(error, FailedWithResource):
            if self.trial is not None:
                self.trial.opened_at = error.opened_at
            error = error.error
        if self.failures is None:
            self.failures = {}
        self.failures[len(self.results)] = error

    def first_failure(self) -> int | None:
        """Return the offset of the first failure not delivered yet."""
        if not self.failures:
            return None
        recorded = range(self.delivered, len(self.results))
        return min((at for at in list(self.failures) if at in recorded), default=None)

    def split(self, count: int) -> Chunk | None:
        """Move up to ``count`` items that nobody has begun from the end of this chunk into a new one."""
        stolen: list[Any] = []
        try:
            while len(stolen) < count:
                stolen.append(self.todo.pop(0))
        except IndexError:  # the owner was faster
            pass
        if not stolen:
            return None
        keep = len(self.items) - len(stolen)
        tail = Chunk(self.start + keep, self.items[keep:], stolen)
        tail.ends = None if self.ends is None else []
        tail.trial = None if self.trial is None else Trial(self.trial.places, self.trial.history)
        del self.items[keep:]
        return tail

    def freeze(self) -> None:
        """Close the account of a chunk whose worker is still in a call: what it adds now no longer counts."""
        self.left_behind = max(0, self.sent - len(self.results))
        results = list(self.results)  # first: once it is abandoned, the owner records no failure with its result
        self.end = "abandoned"
        self.results = results
        recorded = range(len(results))
        self.failures = {at: error for at, error in (self.failures or {}).copy().items() if at in recorded} or None
        self.withdraw_cancelled()

    def own_scope(self) -> Scope:
        """Return the scope of the calls; for the thread that makes them."""
        scope = self.scope
        if scope is None:
            scope = self.scope = Scope()
            if self.is_cancelled:
                scope.flag("it was cancelled")
        return scope

    def mark_cancelled(self) -> Scope | None:
        """Take note that the calls are asked to end, and return their scope, which is still to be cancelled."""
        self.is_cancelled = True
        return self.scope

    def is_given_up(self) -> bool:
        """Tell whether its failure is that of an attempt before, as the end came before the next had begun."""
        return bool(self.failures) and self.trial is not None and self.trial.begun is None

    def withdraw_cancelled(self) -> None:
        """Take back the failure of a call that ended because it was asked to: that is no failure."""
        last = len(self.results) - 1
        if self.is_cancelled and self.failures and is_a(self.failures.get(last), Cancelled):
            del self.failures[last]
            self.results.pop()
            if self.ends:
                self.ends.pop()
            self.was_cut = True

    def again(self) -> Chunk:
        """Return a chunk for another attempt at the same item."""
        chunk = Chunk(self.start, self.items[:])
        chunk.make_ready()
        return chunk

    def forget(self) -> None:
        """Let go of everything: an exception's traceback leads back here, by the frame that made its call."""
        self.items, self.todo, self.results, self.failures = [], [], [], None

    def seconds(self, offset: int) -> float:
        """Return how long the call at ``offset`` took; the chunk's mean where single calls were not timed."""
        if self.begun is None:
            return 0.0
        if self.ends is not None and offset < len(self.ends):
            return self.ends[offset] - (self.ends[offset - 1] if offset else self.begun)
        return 0.0 if self.ended is None else (self.ended - self.begun) / max(1, len(self.results))

    def status(self, offset: int) -> Status:
        """Return what became of the item at ``offset``, as the account stands."""
        if offset < len(self.results):
            if not (self.failures and offset in self.failures):
                return "succeeded"
            return "timed_out" if self.trial is not None and self.trial.is_timed_out else "failed"
        return "cancelled" if offset < len(self.results) + self.count_cut_short() else "not_started"

    def count_cut_short(self) -> int:
        """Return how many calls had begun and were cancelled, or left behind, without an answer."""
        if not (self.was_cut or self.end == "abandoned") or len(self.results) >= len(self.items):
            return 0
        if self.trial is not None and self.trial.begun is None and self.trial.beside is None:
            return 0
        return self.left_behind or 1

    def outcomes(self, begin: int, end: int, run: str, now: float) -> list[Outcome[Any, Any]]:
        """Return the outcomes of the items from offset ``begin`` to ``end``."""
        if self.failures or self.ends or self.trial or self.end != "done" or end > len(self.results):
            return [self.outcome(offset, run, now) for offset in range(begin, end)]
        first, seconds = self.start + begin, self.seconds(begin)
        return [
            Outcome(index, item, "succeeded", value, None, 1, seconds)
            for index, (item, value) in enumerate(
                zip(self.items[begin:end], self.results[begin:end], strict=True), first
            )
        ]

    def outcome(self, offset: int, run: str, now: float) -> Outcome[Any, Any]:
        """Return the outcome of the item at ``offset``; ``now`` tells the age of a call left behind."""
        index, item, status = self.start + offset, self.items[offset], self.status(offset)
        trial = self.trial
        attempts = 1 if trial is None else trial.attempts
        if status == "succeeded":
            return Outcome(index, item, status, self.results[offset], None, attempts, self.seconds(offset))
        if status in ("failed", "timed_out"):
            assert self.failures is not None
            error = self.failures[offset]
            self.name_item(error, offset, run)
            left = trial is not None and trial.is_abandoned
            return Outcome(index, item, status, None, error, attempts, self.seconds(offset), left)
        if status == "cancelled":
            age = (self.ended or now) - (self.begun or now)
            cancelled = CallCancelled(run, index)
            return Outcome(index, item, status, None, cancelled, attempts, age, self.end == "abandoned")
        return Outcome(index, item, status, error=CallNotStarted(run, index), attempts=0)

    def name_item(self, error: BaseException, offset: int, run: str) -> None:
        """Put a note on ``error`` that says which item it belongs to, and leave only the user's traceback."""
        cut_our_frames(error)
        if self.trial is not None:
            self.trial.tell_history(error)
        annotate(error, f"item {self.start + offset} of run {run!r}: {describe(self.items[offset])}")
