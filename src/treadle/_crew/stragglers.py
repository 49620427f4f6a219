"""Calls that were left behind: they are named in the log, counted, limited in number, and shown while they run."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from treadle._core import register
from treadle._core.register import WorkerState
from treadle._core.tell import tell
from treadle._crew.onlook import LeftBehind
from treadle.errors import TooManyAbandoned

# Calls that are left behind at once, and have a line of the log each.
MAX_LINES = 3


class Stragglers:
    """The calls that one run, group or executor has left behind. On the register, also after the end of its owner.

    Args:
        kind: What a person calls the owner.
        name: Of the owner.
        most: How many may be stuck at the same time.
    """

    def __init__(self, kind: str, name: str, most: int) -> None:
        self.kind = kind
        self.name = name
        self._most = most
        self._count = 0  # of all there ever were
        self._calls: list[LeftBehind] = []  # those that were stuck when the latest came; replaced, never changed
        self._unlogged: deque[LeftBehind] = deque()

    def __len__(self) -> int:
        return self._count

    def add(self, calls: Iterable[LeftBehind]) -> TooManyAbandoned | None:
        """Count ``calls``, and return the error if too many are stuck now. Under the crew's lock."""
        if not (new := list(calls)):
            return None
        self._count += len(new)
        self._calls = [*self._stuck(), *new]  # without those that have ended: this may go on for months
        self._unlogged += new
        register.keep(self)
        stuck = len(self._stuck())
        return TooManyAbandoned(self.name, stuck, self._most) if stuck > self._most else None

    def are_too_many(self) -> bool:
        """Tell whether more are stuck now than there may be."""
        return len(self._stuck()) > self._most

    def log(self) -> None:
        """Say in the log which calls were left behind since the last time. Without a lock: handlers are the user's."""
        calls: list[LeftBehind] = []
        with suppress(IndexError):
            while True:
                calls.append(self._unlogged.popleft())
        if len(calls) > MAX_LINES:
            self._log_together(calls)
            return
        for call in calls:
            state = call.state(is_abandoned=True)
            tell(
                logging.WARNING,
                "%s %r leaves a %s behind: the call for item %d (%s) still runs after %.1f s in %s",
                self.kind,
                self.name,
                call.kind,
                state.index,
                state.item,
                state.seconds,
                state.thread,
            )

    def _log_together(self, calls: list[LeftBehind]) -> None:
        """Say it in one line: hundreds of alike ones would bury what else the log has to say."""
        states = [call.state(is_abandoned=True) for call in calls]
        named = ", ".join(f"{state.index} ({state.item})" for state in states[:MAX_LINES])
        tell(
            logging.WARNING,
            "%s %r leaves %d %ss behind: the calls for items %s and %d more still run, the oldest after %.1f s",
            self.kind,
            self.name,
            len(calls),
            calls[0].kind,
            named,
            len(calls) - MAX_LINES,
            max(state.seconds for state in states),
        )

    def is_over(self) -> bool:
        """Tell whether none of them runs any more."""
        return not self._stuck()

    def worker_states(self) -> list[WorkerState]:
        """Return what those that are still stuck are doing; takes no lock."""
        return [call.state(is_abandoned=True) for call in self._stuck()]

    def count_waiting(self) -> int:
        """Return 0: what waited was not left behind."""
        return 0

    def _stuck(self) -> list[LeftBehind]:
        return [call for call in self._calls if call.thread.is_alive()]
