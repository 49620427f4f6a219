"""What is known of one attempt at an item, where calls are held to a policy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from treadle._core.describe import annotate, describe

if TYPE_CHECKING:
    from treadle._core.chunk import Chunk


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed and was followed by another, ``delay`` seconds later.

    One that ``is_spared`` is none of those that its item has; one that ``is_timed_out`` went beyond ``call_timeout``.
    It stands for so many ``times``, where several in a row, ``refused_since`` then, met a request to slow down.
    """

    error: BaseException
    delay: float
    is_spared: bool = False
    is_timed_out: bool = False
    times: int = 1
    refused_since: float | None = None


@dataclass(slots=True, eq=False)
class Trial:
    """One attempt. Changes under the crew's lock, but for ``begun``, which its worker sets once.

    Attributes:
        places: In limiters, held by whoever asked for the call; it may share them.
        history: The attempts before.
        begun: When the call began, by ``clock.now()``; None: it still waits for its turn.
        told_at: When it was told to end, having taken too long or lost against its twin.
        is_timed_out: It went beyond ``call_timeout``.
        is_abandoned: Its worker was left behind with it.
        is_closed: The call has ended, and what becomes of its answer is being decided.
        is_void: Its answer no longer counts: its twin was faster.
        twin: The other call for the same item, in a hedge.
        is_hedged: It was started a second time, or is that second call.
        is_told: The history is on the error already.
        is_last: Whoever asked for the call has cancelled it, so there is no further attempt, whatever it raises.
        original: This is the second call; the account knows that one's chunk.
        is_killed: It did not end when told to, and its engine was told to end it by force.
        is_throttled: What came back meant "slow down".
        beside: What the other call of a hedge came to, should this one never begin.
        opened_at: When the resource was opened with which the call failed, where that means it is broken.
        spared_since: When the first attempt in a row was refused, where this one was, and does not count for that.
        since: When the item's first attempt was taken by a worker, if this is a later one; as ``Chunk.begun``.
        no_retry: Why it is not made again, although it should be.
    """

    places: tuple[Any, ...] = ()
    history: list[Failure] = field(default_factory=list)
    begun: float | None = None
    told_at: float | None = None
    is_timed_out: bool = False
    is_abandoned: bool = False
    is_closed: bool = False
    is_void: bool = False
    twin: Chunk | None = None
    original: Chunk | None = None
    is_hedged: bool = False
    is_told: bool = False
    is_last: bool = False
    is_killed: bool = False
    is_throttled: bool = False
    beside: Failure | None = None
    opened_at: float | None = None
    spared_since: float | None = None
    since: float | None = None
    no_retry: str = ""

    @property
    def attempts(self) -> int:
        """Calls made for the item, this one included if it has begun."""
        before = sum(failure.times for failure in self.history)
        return before + (self.begun is not None or self.beside is not None)

    def last_failure(self) -> Failure | None:
        """Return what the item is left with if this attempt never begins; None: nothing."""
        return self.beside or (self.history[-1] if self.history else None)

    @property
    def charged(self) -> int:
        """Of these, the ones that count against the item."""
        return self.attempts - sum(failure.times for failure in self.history if failure.is_spared)

    @property
    def refused_since(self) -> float | None:
        """When the first was refused of the attempts right before this one, if they were."""
        return self.history[-1].refused_since if self.history else None

    def history_with(self, failure: Failure) -> list[Failure]:
        """Return the history of the attempt that follows on this failed one. Of refusals in a row it has the last."""
        if failure.refused_since is None or self.refused_since is None:
            return [*self.history, failure]
        return [*self.history[:-1], replace(failure, times=self.history[-1].times + 1)]

    def is_spared(self, since: float) -> bool:
        """Return True if the call failed for a resource that was open before ``since``, the item's first call."""
        return self.opened_at is not None and self.opened_at < since

    def tell_history(self, error: BaseException) -> None:
        """Note on the error of the last attempt, once, what the ones before came to. Without a lock."""
        if self.is_told:
            return
        self.is_told, number = True, 0
        for failure in self.history:
            first, number = number + 1, number + failure.times
            which = f"attempt {number}" if failure.times == 1 else f"attempts {first} to {number}"
            what = "with the same error" if failure.error is error else f"with {describe(failure.error)}"
            if self.begun is None and self.beside is None and failure is self.history[-1]:
                annotate(error, f"attempt {number} was the last, as the end came before the next")
            elif failure.refused_since is not None:
                annotate(error, f"{which} met a request to slow down, {what}, and did not count")
            else:
                annotate(error, f"{which} failed {what}; the next came {failure.delay:.3g} s later")
        if self.no_retry:
            annotate(error, self.no_retry)
