"""Calls that were left behind: they are named in the log, counted, limited in number, and shown while they run."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

from treadle._core import register
from treadle._core.register import WorkerState
from treadle._crew.onlook import LeftBehind
from treadle.errors import TooManyAbandoned

_logger = logging.getLogger("treadle")


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
        self._calls: list[LeftBehind] = []
        self._unlogged: deque[LeftBehind] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, calls: Iterable[LeftBehind]) -> TooManyAbandoned | None:
        """Count ``calls``, and return the error if too many are stuck now. Under the crew's lock."""
        before = len(self._calls)
        self._calls += calls
        if len(self._calls) == before:
            return None
        self._unlogged += self._calls[before:]
        register.keep(self)
        stuck = len(self._stuck())
        return TooManyAbandoned(self.name, stuck, self._most) if stuck > self._most else None

    def log(self) -> None:
        """Say in the log which calls were left behind since the last time. Without a lock: handlers are the user's."""
        while True:
            try:
                state = self._unlogged.popleft().state(is_abandoned=True)
            except IndexError:
                return
            _logger.warning(
                "%s %r leaves a thread behind: the call for item %d (%s) still runs after %.1f s in %s",
                *(self.kind, self.name, state.index, state.item, state.seconds, state.thread),
            )

    def is_over(self) -> bool:
        """Tell whether none of them runs any more."""
        return not self._stuck()

    def worker_states(self) -> list[WorkerState]:
        """Return what those that are still stuck are doing; takes no lock."""
        return [call.state(is_abandoned=True) for call in self._stuck()]

    def _stuck(self) -> list[LeftBehind]:
        return [call for call in list(self._calls) if call.thread.is_alive()]
