"""Whose turn it is to take results of a run: one thread's, or one coroutine's, at a time."""

from __future__ import annotations

import threading

from treadle._core.real_time import monotonic
from treadle._sync.parker import Parker

# How long to wait for somebody who is about to leave, as the run has ended.
PATIENCE_SECONDS = 1.0
LOOK_SECONDS = 0.001


class Turn:
    """One stay in a run to take results. Two at once would each get a part, and take each other's wake-ups.

    To be used so, as Ctrl-C may come after any call, and nothing must be left behind::

        turn = Turn()
        try:
            if (other := turn.take(turns)) is not None: ...
        finally:
            if HERE in turns and turns[HERE] is turn:
                del turns[HERE]
    """

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread = threading.current_thread()

    def take(self, turns: Turns) -> Turn | None:
        """Take the turn, or return whose it is."""
        holder = turns.setdefault(HERE, self)
        return None if holder is self else holder

    def take_patiently(self, turns: Turns) -> Turn | None:
        """As ``take``, of a run that has ended: others may not have left it yet."""
        deadline = monotonic() + PATIENCE_SECONDS
        parker = Parker()
        while (other := self.take(turns)) is not None:
            if other.thread is self.thread or monotonic() >= deadline:
                return other
            parker.rest(LOOK_SECONDS)
        return None

    def refusal(self, run: str) -> RuntimeError:
        """Return the error for whoever comes while this turn lasts."""
        if self.thread is not threading.current_thread():
            return RuntimeError(
                f"thread {self.thread.name!r} takes the results of run {run!r} right now, and only one at a time may; "
                "to share items among several threads, put them into a treadle.Channel"
            )
        return RuntimeError(
            f"this thread takes the results of run {run!r} right now: neither the input of the run, nor a signal "
            "handler, nor another coroutine can take any meanwhile"
        )


HERE = "here"
Turns = dict[str, Turn]  # at most one, by ``HERE``: to put one there, unless there is one, is a single step
