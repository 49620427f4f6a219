"""What a run keeps of the error that ended it, once its consumer has that."""

from __future__ import annotations

from treadle._core.describe import describe
from treadle._core.user_code import is_a
from treadle.errors import Cancelled


class Told(Exception):
    """Stands for the error that ended a run: that one's traceback leads to frames which hold the run.

    Kept in its place, it would close a circle, and all that those frames hold would wait for the garbage collector.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.was_cancelled = is_a(error, Cancelled)
        self._text = describe(error)
        self._identity = id(error)

    def __repr__(self) -> str:
        return self._text

    def stands_for(self, error: BaseException) -> bool:
        """Return True if it was ``error``, which the caller still has."""
        return self._identity == id(error)


def is_cancelled(ending: BaseException | None) -> bool:
    """Return True if a run ended since what it is a part of was cancelled."""
    return ending.was_cancelled if isinstance(ending, Told) else ending is not None and is_a(ending, Cancelled)
