"""Moments of a few bytecodes in the life of a group, held open: what happens in them must not be lost."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

import treadle
from tests.conftest import Gate
from tests.places import wait_until
from treadle._run import task_book
from treadle._run.task_book import TaskBook
from treadle.testing import ManualClock, assert_no_leaked_threads

PATIENCE_SECONDS = 10.0


def test_failure_that_comes_as_a_reader_gives_up_is_still_raised(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gave up waiting was not given the error, even if the task has failed before it is out of ``result``."""
    give_up = Future.result

    def fail_meanwhile(self: Future[Any], timeout: float | None = None) -> Any:
        try:
            return give_up(self, timeout)
        except TimeoutError:
            gate.open()
            assert ended.wait(PATIENCE_SECONDS)
            raise

    def fail() -> None:
        gate.hold()
        raise ValueError("told to nobody")

    monkeypatch.setattr(Future, "result", fail_meanwhile)
    ended = threading.Event()

    with pytest.raises(ExceptionGroup) as raised, treadle.TaskGroup(on_error="collect") as group:
        task = group.submit(fail)
        task.add_done_callback(lambda _: ended.set())
        with pytest.raises(TimeoutError):
            task.result(timeout=0)

    assert [str(error) for error in raised.value.exceptions] == ["told to nobody"]


class HeldOpen(TaskBook):
    """A book that, when it closes, has an outsider submit between the step and the second look."""

    outsider: threading.Thread | None = None
    _closed: str | None = None

    @property
    def closed(self) -> str | None:
        if threading.current_thread() is self.outsider and self._closed is not None:
            self.has_seen_it.set()
        return self._closed

    @closed.setter
    def closed(self, reason: str | None) -> None:
        self._closed = reason
        if reason == "has ended" and self.outsider is not None and self.outsider.ident is None:
            self.outsider.start()
            assert self.has_seen_it.wait(PATIENCE_SECONDS)

    has_seen_it: threading.Event


class Unfinished(dict[Any, None]):
    """Keeps the outsider's task listed until the closing thread has looked for it."""

    def __init__(self, book: HeldOpen, given: dict[Any, None]) -> None:
        super().__init__(given)
        self._book = book
        self._was_looked_at = threading.Event()

    def __bool__(self) -> bool:
        if threading.current_thread() is not self._book.outsider and len(self):
            self._was_looked_at.set()
        return len(self) > 0

    def pop(self, key: Any, default: Any = None) -> Any:
        if threading.current_thread() is self._book.outsider:
            assert self._was_looked_at.wait(PATIENCE_SECONDS)
        return super().pop(key, default)


def test_group_ends_though_an_outsider_is_refused_in_the_moment_it_closes() -> None:
    """Who closes leaves the last step to a task that it sees; a refused one must take that step too, or all hang."""
    refused: list[BaseException] = []

    def submit_late() -> None:
        try:
            group.submit(abs, -2)
        except treadle.errors.GroupClosed as error:
            refused.append(error)

    with treadle.TaskGroup() as group:
        group.submit(abs, -1).result()
        book: Any = group._book
        del book.__dict__["closed"]  # None so far; the class takes over
        book.__class__ = HeldOpen
        book.has_seen_it = threading.Event()
        book.outsider = threading.Thread(target=submit_late)
        book.unfinished = Unfinished(book, book.unfinished)
    book.outsider.join(PATIENCE_SECONDS)

    assert ["has ended" in str(error) for error in refused] == [True]


def test_ended_group_leaves_no_timer_for_its_call_timeout() -> None:
    """It would hold a thread, and the memory of each group, until it is due, however long ago the calls ended."""
    with ManualClock(), assert_no_leaked_threads(), treadle.TaskGroup(call_timeout=3600) as group:
        task = group.submit(abs, -1)

    assert task.result() == 1


def test_group_that_refused_a_task_before_it_began_makes_the_calls_of_the_next() -> None:
    """What a refused task does to let a group end that was waiting for it must not end one that has not begun."""
    group = treadle.TaskGroup()
    with pytest.raises(treadle.errors.GroupClosed, match="has not begun"):
        group.submit(abs, -1)

    with group:
        task = group.submit(abs, -2)

    assert task.result() == 2


class CancelledAtALook(TaskBook):
    """A book that is cancelled when it is asked whether it is closed."""

    _closed: str | None = None

    @property
    def closed(self) -> str | None:
        if self._closed is None:
            self._closed = "was cancelled"
            self.cancel_all()
        return self._closed

    @closed.setter
    def closed(self, reason: str | None) -> None:
        self._closed = reason


def test_task_that_a_cancellation_saw_before_it_was_refused_is_cancelled_and_not_refused() -> None:
    """It is in the account by then: refused as well, it would be a task that was taken and that nobody has."""
    with treadle.TaskGroup() as group:
        book: Any = group._book
        del book.__dict__["closed"]  # None so far; the class takes over
        book.__class__ = CancelledAtALook
        task = group.submit(abs, -1)

    assert task.cancelled()
    assert group.stats.taken == 1


def test_cancellation_goes_on_while_somebody_submits(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever submits enters the task without a lock; a cancellation that trips over that would stop halfway."""

    def look_while_somebody_submits(chunk: Any, known: Any) -> bool:
        book.unfinished[late] = None
        return bool(is_stray(chunk, known))

    is_stray = task_book._is_stray
    with treadle.TaskGroup() as other:
        late = other.submit(abs, -1)

    with treadle.TaskGroup() as group:
        book: Any = group._book
        held = [group.submit(gate.hold) for _ in range(3)]
        gate.wait_for_arrivals(3)
        monkeypatch.setattr(task_book, "_is_stray", look_while_somebody_submits)
        group.cancel()
        del book.unfinished[late]
        gate.open()

    assert [task.done() for task in held] == [True] * 3


class Todo(list[Any]):
    """The call of a task, which a worker takes right after somebody has looked whether it is there."""

    def __init__(self, given: list[Any], gate: Gate) -> None:
        super().__init__(given)
        self._gate = gate
        self._looker = threading.current_thread()

    def __len__(self) -> int:
        count = super().__len__()
        if threading.current_thread() is self._looker:
            self._gate.open()
            wait_until(lambda: list.__len__(self) == 0)
        return count


def test_cancel_says_so_only_where_no_worker_takes_the_call_meanwhile(gate: Gate) -> None:
    with treadle.PoolExecutor(1) as pool:
        pool.submit(gate.hold)
        gate.wait_for_arrivals()
        task = pool.submit(abs, -1)
        assert task._chunk is not None
        task._chunk.todo = Todo(task._chunk.todo, gate)

        said = pool._book.cancel_running(task)

        gate.open()
        assert said == task.cancelled()
