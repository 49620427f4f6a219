"""``concurrent.futures.wait`` and ``as_completed`` on a worker's thread: waits of the standard library's that are seen.

Both put a waiter into each future, and then block on an event of its own. A task's list of waiters gives it another
event, if it is a worker that is about to block, or the feeder of a run: one that makes room for the tasks that are
waited for, as ``Task.result`` does, notices deadlocks, and ends the wait when the call that waits is cancelled.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from treadle._core import clock
from treadle._core.cancellation import here
from treadle._core.chunk import Chunk
from treadle._crew.bringers import bringers_of_call
from treadle._crew.crew import Crew
from treadle._crew.room import making_room
from treadle._crew.worker import Worker
from treadle._sync import cancelling
from treadle._sync.parker import Parker
from treadle._sync.wait_graph import GOES_ON, Needs, Wait

if TYPE_CHECKING:
    from treadle._run.task import Task

MOST_LOOKED_AT = 64  # tasks, in search of a deadlock; to look at all of ten thousand each time would take too long


class Waiters(list[Any]):
    """Who waits for a task by ``concurrent.futures``."""

    __slots__ = ("_task",)

    def __init__(self, task: Task[Any]) -> None:
        super().__init__()
        self._task = task

    def append(self, waiter: Any) -> None:
        """Let ``waiter`` be told of the end."""
        super().append(waiter)
        if isinstance(here.seat, Worker) or here.is_feeder:
            event = getattr(waiter, "event", None)
            if not isinstance(event, _SeenEvent):
                waiter.event = event = _SeenEvent(is_for_all=getattr(waiter, "stop_on_exception", True) is False)
            event.tasks[self._task] = None

    def remove(self, waiter: Any) -> None:
        """Let ``waiter`` be told no more; whoever has seen the end should not keep the task alive."""
        super().remove(waiter)
        if isinstance(event := getattr(waiter, "event", None), _SeenEvent):
            event.tasks.pop(self._task, None)


class WaitersOnDemand:
    """The list of a task's waiters, made when it is first asked for; few tasks ever have one."""

    def __get__(self, task: Task[Any], owner: type) -> Waiters:
        waiters: Waiters = task.__dict__.setdefault("_waiters", Waiters(task))
        return waiters


class _SeenEvent:
    """In the place of a ``threading.Event`` that one thread waits for, which is told of tasks that have ended."""

    def __init__(self, is_for_all: bool) -> None:
        self.tasks: dict[Task[Any], None] = {}
        self._unbegun: dict[Crew, _Unbegun] = {}
        self._is_for_all = is_for_all
        self._is_set = False
        self._parker = Parker()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._parker.wake()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for ``timeout`` seconds; tell which it was.

        Raises:
            Cancelled: What waits here was asked to end.
            Deadlock: The tasks wait for what only this thread could bring.
        """
        deadline = None if timeout is None else clock.now() + timeout
        with ExitStack() as stack:
            for crew, awaited in self._find_unbegun().items():
                stack.enter_context(making_room(crew, awaited))
            wait = stack.enter_context(Wait(_EndOfTasks(self.tasks, self._is_for_all), self._parker, timeout))
            while not self._is_set and (deadline is None or not clock.has_come(deadline)):
                wait.check()
                cancelling.wait(self._parker, None if deadline is None else clock.left_until(deadline))
        return self._is_set

    def _find_unbegun(self) -> dict[Crew, _Unbegun]:
        """Return what each crew is to be asked for. Found once: it only becomes less."""
        if not self._unbegun:
            for task in sorted(self.tasks, key=lambda task: task._number, reverse=True):  # theirs is a set
                if task._chunk is not None:
                    self._unbegun.setdefault(task._book.crew, _Unbegun()).tasks.append(task)
        return self._unbegun


class _Unbegun:
    """Of several tasks that are waited for at once, one that has not begun. Asked under the lock of their crew."""

    def __init__(self) -> None:
        self.tasks: list[Task[Any]] = []  # the first to be made comes last

    @property
    def _chunk(self) -> Chunk | None:
        tasks = self.tasks
        for at in range(len(tasks) - 1, -1, -1):
            chunk = tasks[at]._chunk
            if chunk is not None and chunk.todo:
                return chunk
            if chunk is None or chunk.trial is None:  # it will not be made again
                del tasks[at]
        return None


class _EndOfTasks:
    """That all of several tasks have ended, or any."""

    verb: ClassVar[str] = "has to bring"

    def __init__(self, tasks: dict[Task[Any], None], is_for_all: bool) -> None:
        self._tasks = tasks
        self._is_for_all = is_for_all

    def holders(self) -> Needs:
        """Return the workers that make the calls; any that is stuck is enough. Of the first to end nothing is known."""
        if not self._is_for_all:
            return GOES_ON
        pending = [(task, chunk) for task in list(self._tasks) if (chunk := task._chunk) is not None]
        idents: list[int] = []
        for task, chunk in pending[:MOST_LOOKED_AT]:
            quantifier, found = bringers_of_call(task._book.crew, chunk)
            idents += found if quantifier is any else ()
        return any, idents

    def describe(self) -> str:
        """Return which tasks these are."""
        pending = [task for task in list(self._tasks) if not task.done()]
        return f"{pending[0]._describe()} and {len(pending) - 1} more" if pending else "tasks that have ended"
