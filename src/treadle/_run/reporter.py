"""Says in the log what somebody waits for, again and again."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

from treadle._core import clock
from treadle._core.register import WorkerState
from treadle._core.stacks import NOT_SHOWN, read_stacks
from treadle._core.tell import tell

# How long to wait in silence, for calls that were asked to end and for others; it doubles with each report.
CANCELLED_REPORT_SECONDS = 1.0
PLAIN_REPORT_SECONDS = 10.0


class Reporter:
    """Names the calls that a group or an executor waits for, at growing intervals from its making on.

    Args:
        kind: ``group`` or ``executor``.
        name: Its name.
        states: Returns what its workers are doing.
    """

    def __init__(self, kind: str, name: str, states: Callable[[], list[WorkerState]]) -> None:
        self._kind = kind
        self._name = name
        self._states = states
        self._began = clock.now()
        self._reports = [0, 0]  # before the calls were asked to end, and after

    def due_at(self, stopped_at: float | None) -> float:
        """Return when to report next; ``stopped_at`` is when the calls were asked to end, if they were."""
        if stopped_at is None:
            return self._began + PLAIN_REPORT_SECONDS * 2.0 ** self._reports[0]
        return stopped_at + CANCELLED_REPORT_SECONDS * 2.0 ** self._reports[1]

    def report_if_due(self, stopped_at: float | None) -> None:
        """Report, if it is time; what was due several times is told once."""
        now, is_plain = clock.now(), stopped_at is None
        if now < self.due_at(stopped_at):
            return
        while self.due_at(stopped_at) <= now:
            self._reports[not is_plain] += 1
        stacks = read_stacks()
        for state in self._states():
            if state.index is None:
                continue
            stack = stacks.get(state.ident or 0)
            text = NOT_SHOWN if stack is None else "".join(traceback.format_list(stack))
            tell(
                logging.INFO if is_plain else logging.WARNING,
                "%s %r waits for task %d (%s), which has been running for %.1f s%s in %s:\n%s",
                *(self._kind, self._name, state.index, state.item, state.seconds),
                *("" if is_plain else " and was asked to end", state.thread, text),
            )
