"""A run of which nothing was ever read, and the warning about it."""

from __future__ import annotations

import warnings

from treadle._core.stacks import calling_frame
from treadle._run.ledger import Ledger


class Unread:
    """Stands for a run, or a pipeline, of which nothing has been asked so far, and knows where it was started.

    That line has the warning. Made by the thread that starts it. Holds no frame: a run must not keep the variables of
    its starter alive.

    Args:
        what: What it is, as messages call it.
        instead: What reads all of it.
        ledger: Counts the items taken, where the run's own does not.
    """

    __slots__ = ("_file", "_instead", "_line", "_module", "_what", "ledger")

    def __init__(self, what: str, instead: str, ledger: Ledger | None = None) -> None:
        frame = calling_frame()
        self.ledger = ledger
        self._what = what
        self._instead = instead
        self._file, self._line = ("<unknown>", 1) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
        self._module: str | None = None if frame is None else frame.f_globals.get("__name__")

    def warn(self, taken: int) -> None:
        """Warn that the run ended after ``taken`` items and nobody looked at one.

        Called from finalizers: as Python's own warnings of this kind, it takes no lock of ours. Raises what
        the warning filters make of it.
        """
        items = "1 item" if taken == 1 else f"{taken:,} items"
        self._warn(f"was never read, so it ended after taking {items}, and their results and errors are lost")

    def warn_of_plan(self) -> None:
        """Warn that it was never even started. See ``warn``."""
        self._warn("was never run, so nothing was taken from its source")

    def _warn(self, fate: str) -> None:
        text = f"{self._what} {fate}; {self._instead}"
        warnings.warn_explicit(text, RuntimeWarning, self._file, self._line, self._module)
