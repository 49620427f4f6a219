"""Advice for runs on threads whose calls hold the GIL: how much faster processes would be, measured beside them."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING

from treadle._core.cores import usable_cores
from treadle._core.gil import is_gil_enabled
from treadle._core.processor import processor_seconds_of
from treadle._core.real_time import perf_counter
from treadle._core.tell import tell
from treadle._crew.deciding import COMPUTING_SHARE, HELD_SHARE, Measures, make_out
from treadle._crew.gil_probe import Over, probe
from treadle._sync.aside import start_thread

if TYPE_CHECKING:
    from treadle._crew.crew import Crew

# A run that is over sooner needs no advice, and pays nothing for it.
LASTING_SECONDS = 0.5
# Where calls end more often than that, most of what holds the GIL may be handing them over.
WORTH_ADVICE_SECONDS = 100e-6


class Advisor:
    """Looks once at a run that lasts, from a thread of its own, for some tens of milliseconds.

    Nothing is pickled for it: that is code of the user's, and may take any amount of memory. So the factor is that for
    arguments and results that travel easily.

    Args:
        name: Of the run.
        crew: Whose calls are made on threads.
    """

    def __init__(self, name: str, crew: Crew) -> None:
        self.advice = ""
        self._name = name
        self._crew = crew
        self._begun = perf_counter()
        self._due = self._begun + LASTING_SECONDS

    def seconds_left(self) -> float:
        """Return how long it is until a look is due; infinite once it was taken."""
        return max(0.001, self._due - perf_counter())

    def look_if_due(self, calls: int) -> None:
        """Take the look, should it be time; ``calls`` have ended."""
        if perf_counter() < self._due:
            return
        self._due = math.inf
        if not is_gil_enabled() or min(usable_cores(), self._crew.max_workers) < 2:
            return
        name = f"treadle-{self._name}-advisor"
        try:
            start_thread(threading.Thread(target=self._look, args=(calls,), name=name, daemon=True))
        except (RuntimeError, MemoryError):  # no thread to be had, and no advice
            return

    def _look(self, calls: int) -> None:
        try:
            before, began = self._processor_seconds(), perf_counter()
            held = probe(self._check_goes_on, lambda: True)
            passed = perf_counter() - began
            computing = (self._processor_seconds() - before) / passed
        except Over:
            return
        if held < HELD_SHARE or computing <= COMPUTING_SHARE:
            return
        # By how often calls end, not by how long they take: many take turns.
        found = Measures(calls, perf_counter() - self._begun, min(1.0, computing), held)
        if found.mean < WORTH_ADVICE_SECONDS:
            return
        bill = make_out(found, 0.0, None, min(usable_cores(), self._crew.max_workers))
        if not bill.pays:
            return
        self.advice = (
            f"GIL-bound: processes would be about {bill.gain:.1f}x faster (engine='processes', or 'auto'); "
            f"the GIL was held {held:.0%} of the time, so that more threads bring nothing"
        )
        tell(logging.WARNING, "run %r is %s", self._name, self.advice)

    def _check_goes_on(self) -> None:
        if self._crew.is_stopping or not self._crew.workers:
            raise Over

    def _processor_seconds(self) -> float:
        threads = [worker.thread for worker in list(self._crew.workers)]
        return processor_seconds_of([thread for thread in threads if isinstance(thread, threading.Thread)])
