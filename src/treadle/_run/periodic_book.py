"""What a ``Periodic`` is made of: the book of its runs, a run, and whoever waits for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakMethod

from treadle._core import clock
from treadle._core.outcome import Outcome
from treadle._core.real_time import perf_counter
from treadle._crew.policy import Policy
from treadle._run.task import Task
from treadle._run.task_book import TaskBook
from treadle._run.task_engine import TaskSpec
from treadle._sync.parker import Parker
from treadle.errors import PeriodicStopped

T = TypeVar("T")


class Waiter(Generic[T]):
    """Somebody who waits for the end of a run."""

    __slots__ = ("outcome", "parker")

    def __init__(self) -> None:
        self.parker = Parker()
        self.outcome: Outcome[None, T] | None = None


class Turn:
    """Calls the function, and knows whether the call is still in it. In logs it goes by the function's name."""

    __slots__ = ("_note_out", "begun", "func", "is_inside", "took")

    def __init__(self, fn: Callable[[], Any], note_out: Callable[[], object]) -> None:
        self.func = fn
        self.is_inside = False
        self.begun = 0.0
        self.took = 0.0  # the latest call that ended, by ``clock.now()``
        # Weakly: the traceback of what the function raised leads here, and its owner keeps the last error.
        self._note_out = WeakMethod(note_out)

    @property
    def __wrapped__(self) -> Callable[[], Any]:
        """What it takes, and is measured as."""
        return self.func

    def __call__(self) -> Any:
        self.begun, began = perf_counter(), clock.now()
        self.is_inside = True
        try:
            return self.func()
        finally:
            self.took = clock.now() - began
            self.is_inside = False
            if (note_out := self._note_out()) is not None:
                note_out()
                del note_out


class PeriodicBook(TaskBook):
    """The book of a ``Periodic``, which has one task at a time, and tells when that has ended.

    A task has the number of the run that it is, or follows on.
    """

    noun = "run"

    def __init__(
        self,
        name: str,
        policy: Policy,
        hear_end: Callable[[Task[Any], str], object],
    ) -> None:
        super().__init__(TaskSpec("periodic", name, 1, policy, PeriodicStopped))
        self._hear_end = hear_end
        self.run = 0  # the number of the present one

    def _next_number(self) -> int:
        return self.run

    def _note_end(self, task: Task[Any], status: str | None, error: BaseException | None) -> None:
        super()._note_end(task, status, error)
        if status is not None:  # the first answer, and the only one to be told
            self._hear_end(task, status)

    def part(self) -> None:
        """Tell the owner nothing more: otherwise the two would hold each other, and its last error, after the end."""
        self._hear_end = self.goodbye = _nothing


def _nothing(*_: object) -> None:
    pass
