"""The end of a group, an executor or a periodic task: a thread waits for it, says for what, and may be interrupted.

There is one such wait, for the end of a group's block, ``shutdown(wait=True)`` and the interpreter's exit alike. The
first Ctrl-C asks the calls to end, the second leaves behind what still runs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from treadle._core import clock, register
from treadle._crew.room import making_room
from treadle._run.awaited import EndOfAll
from treadle._run.reporter import Reporter
from treadle._sync.parker import Parker
from treadle._sync.wait_graph import Wait

if TYPE_CHECKING:
    from treadle._run.task_book import TaskBook


MOST_INTERRUPTS = 10  # after which whatever keeps us from leaving calls behind is raised


class Interrupts:
    """How often somebody who waits was interrupted: a Ctrl-C, as a rule."""

    def __init__(self, count: int = 0) -> None:
        self.count = count


_at_exit = Interrupts()  # then there is one for all: who presses Ctrl-C twice has waited enough


class Shutdown:
    """The wait of one thread until every task of ``book`` has ended and every worker has left.

    Args:
        book: Whose end it is.
        interrupts: How many there have been already.
        grace: Seconds after which calls that were asked to end are left behind; None: never.
        holds_exit: The interpreter exits, and waits for this.
    """

    def __init__(self, book: TaskBook, interrupts: int, grace: float | None, holds_exit: bool) -> None:
        self._book = book
        self._interrupts = _at_exit if holds_exit else Interrupts(interrupts)
        self._grace = grace
        self._holds_exit = holds_exit
        self._has_asked = False  # calls to end
        self._parker = Parker()
        self._reporter = Reporter(book, holds_exit)

    def wait(self) -> BaseException | None:
        """Wait, and return what interrupted the wait.

        That may be a ``Deadlock``: tasks wait for what only this thread could bring.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                while not self._is_over():
                    self._wait_a_while()
                return interrupt
            except BaseException as error:
                interrupt = error
                self._interrupts.count += 1
                if self._interrupts.count > MOST_INTERRUPTS:
                    raise
            finally:
                self._leave()

    def _is_over(self) -> bool:
        """Tell whether there is nothing left to wait for: because it has ended, or was left behind."""
        book = self._book
        if self._interrupts.count > 1 or clock.has_come(self._end_at()):
            book.abandon()
            return True
        if self._interrupts.count == 1 and not self._has_asked:  # once: it wakes whoever waits, this thread too
            book.cancel_all()
            if self._holds_exit:
                _ask_all_to_end()
            self._has_asked = True
        if self._parker not in book._waiters:
            book._waiters.append(self._parker)
        return not (book.unfinished or book.crew.workers)

    def _wait_a_while(self) -> None:
        book, reporter = self._book, self._reporter
        with making_room(), Wait(EndOfAll(book), self._parker, is_cancellable=False) as wait:
            wait.check()
            self._parker.wait_watchfully(clock.left_until(min(reporter.due_at(), self._end_at())))
        if book.unfinished or book.crew.workers:
            reporter.report_if_due(self._interrupts.count, self._grace)

    def _end_at(self) -> float:
        stopped_at = self._book.stopped_at
        return math.inf if self._grace is None or stopped_at is None else stopped_at + self._grace

    def _leave(self) -> None:
        if self._parker in self._book._waiters:
            self._book._waiters.remove(self._parker)


def _ask_all_to_end() -> None:
    """Ask the calls of all that hold the interpreter's exit to end, at the same time."""
    for thing in register.living():
        if callable(cancel_all := getattr(thing, "cancel_all", None)):
            cancel_all()
