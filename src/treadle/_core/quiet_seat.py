"""A seat in which waits are nobody's concern: no worker of ours is held up by them."""

from __future__ import annotations

import math


class QuietSeat:
    """What is common to the seats of calls that are made elsewhere, or on a loop."""

    __slots__ = ()

    def patience(self) -> float:
        """Return for ever."""
        return math.inf

    def note_wait(self, change: int, is_for_any: bool) -> None:
        """Do nothing."""
