"""What can be waited for with calls, as the wait graph knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from treadle._core.chunk import Chunk
from treadle._core.importing import import_waited_for
from treadle._crew.bringers import bringers_of_all, bringers_of_any, bringers_of_call, idents_of
from treadle._sync.wait_graph import GOES_ON, Needs

if TYPE_CHECKING:
    from treadle._run.course import Course
    from treadle._run.task import Task
    from treadle._run.task_book import TaskBook


class EndOfTask:
    """That a task has ended."""

    verb: ClassVar[str] = "has to bring"

    __slots__ = ("_task",)

    def __init__(self, task: Task[Any]) -> None:
        self._task = task

    def holders(self) -> Needs:
        """Return the worker that makes its call, or those of whom any could begin it."""
        task = self._task
        chunk = task._chunk
        if chunk is None or task.done():
            return GOES_ON
        return bringers_of_call(task._book.crew, chunk)

    def describe(self) -> str:
        """Return which task it is, and what it calls."""
        return self._task._describe()


class EndOfAll:
    """That all tasks of a group or an executor have ended."""

    verb: ClassVar[str] = "has to bring"

    __slots__ = ("_book",)

    def __init__(self, book: TaskBook) -> None:
        self._book = book

    def holders(self) -> Needs:
        """Return the workers, all of whom have to leave; a cancellation, a timeout or a success may end them."""
        book = self._book
        if book.stopped_at is not None:  # what waits for an import hears of nothing
            stuck = [ident for ident in idents_of(book.crew.workers) if import_waited_for(ident)]
            return (any, stuck) if stuck else GOES_ON
        if book.has_timeout:
            return GOES_ON
        return bringers_of_any(book.crew) if book.ends_with_first else bringers_of_all(book.crew)

    def describe(self) -> str:
        """Return whose end it is."""
        return f"the end of {self._book.kind} {self._book.name!r}"


class NextResult:
    """That a run has something to deliver."""

    verb: ClassVar[str] = "has to bring"

    __slots__ = ("_course",)

    def __init__(self, course: Course) -> None:
        self._course = course

    def holders(self) -> Needs:
        """Return the worker whose call is next, or all of whom any could bring a result; before those, the feeder."""
        course = self._course
        awaited = course.awaited
        if awaited is False or course.crew.is_stopping or course.deadline is not None:
            return GOES_ON
        if isinstance(awaited, Chunk):
            return GOES_ON if len(awaited.results) > awaited.delivered else bringers_of_call(course.crew, awaited)
        feeder = [ident] if (ident := course.intake.feeder()) else []
        if course.settings.ordered:
            return any, feeder
        quantifier, workers = bringers_of_any(course.crew)
        return GOES_ON if quantifier is any else (all, [*workers, *feeder])

    def describe(self) -> str:
        """Return whose result it is."""
        return f"the next result of run {self._course.name!r}"
