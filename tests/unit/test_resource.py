"""A resource per worker, and an initializer."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import treadle
from tests.conftest import Gate


class Connection:
    """Opened and used by one thread, and closed by the same."""

    opened: list[Connection]

    def __init__(self, opened: list[Connection]) -> None:
        self.thread = threading.get_ident()
        self.closed_by: int | None = None
        opened.append(self)

    def close(self) -> None:
        self.closed_by = threading.get_ident()


def test_each_worker_has_its_own_and_closes_it() -> None:
    opened: list[Connection] = []
    barrier = threading.Barrier(3, timeout=10)

    def call(item: int, connection: Connection) -> bool:
        barrier.wait()
        return connection.thread == threading.get_ident()

    assert all(treadle.map(call, range(6), max_workers=3, resource=lambda: Connection(opened)))

    assert len(opened) == 3
    assert all(connection.closed_by == connection.thread for connection in opened)


def test_all_are_closed_when_the_last_result_is_delivered() -> None:
    """So that what a resource commits in the end is there for the next line of the program."""
    opened: list[Connection] = []
    run = treadle.map(lambda item, connection: item, range(100), max_workers=4, resource=lambda: Connection(opened))

    assert list(run) == list(range(100))
    assert all(connection.closed_by for connection in opened)


def test_all_are_closed_after_a_failure(gate: Gate) -> None:
    opened: list[Connection] = []

    def call(item: int, connection: Connection) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        list(treadle.map(call, range(100), max_workers=4, resource=lambda: Connection(opened)))
    assert all(connection.closed_by for connection in opened)


def test_one_that_fails_to_open_ends_the_run_with_its_error() -> None:
    def refuse() -> None:
        raise ConnectionError("too many connections")

    run = treadle.map(lambda item, connection: item, range(100), resource=refuse, max_workers=2)

    with pytest.raises(ConnectionError, match="too many connections") as caught:
        list(run)
    assert "could not get ready" in caught.value.__notes__[0]
    assert {outcome.status for outcome in run.rest()} == {"not_started"}


def test_outcomes_come_before_the_error_of_opening() -> None:
    first = threading.Event()
    barrier = threading.Barrier(2, timeout=10)

    def connect() -> str:
        if first.is_set():
            barrier.wait()
            raise ConnectionError("too many connections")
        first.set()
        return "connection"

    def call(item: int, connection: str) -> int:
        if item == 0:
            barrier.wait()
        return item

    seen: list[treadle.Outcome[int, int]] = []
    with pytest.raises(ConnectionError):
        seen.extend(treadle.map(call, range(50), max_workers=2, resource=connect, grace=10).outcomes())

    assert [outcome.index for outcome in seen] == list(range(len(seen)))
    assert seen[0].status == "succeeded"


def test_an_initializer_that_fails_ends_the_run_with_its_error() -> None:
    def refuse() -> None:
        raise OSError("not today")

    with pytest.raises(OSError, match="not today"):
        list(treadle.map(abs, [1], initializer=refuse))


def test_one_that_fails_to_close_is_told_after_the_results(caplog: pytest.LogCaptureFixture) -> None:
    """What fails in the end may have been a commit."""

    @contextlib.contextmanager
    def connect() -> Iterator[str]:
        yield "connection"
        raise OSError("commit failed")

    run = treadle.map(lambda item, connection: item, [1, 2], max_workers=1, resource=connect)

    assert [next(run), next(run)] == [1, 2]
    with pytest.raises(OSError, match="commit failed"):
        next(run)
    assert "closing the resource" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


def test_slow_openings_do_not_wait_for_each_other() -> None:
    """Three connections open at the same time, or the barrier would break."""
    barrier = threading.Barrier(3, timeout=10)

    run = treadle.map(lambda item, _: item, range(3), max_workers=3, resource=barrier.wait)

    assert list(run) == [0, 1, 2]


def test_a_real_database_with_one_connection_a_worker(tmp_path: Path) -> None:
    """A sqlite3 connection refuses to be used by another thread than its own."""
    path = tmp_path / "test.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table item (number integer)")

    def insert(number: int, connection: sqlite3.Connection) -> int:
        connection.execute("insert into item values (?)", (number,))
        return number

    def connect() -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30))

    assert sum(treadle.map(insert, range(50), max_workers=4, resource=connect)) == sum(range(50))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("select count(*), sum(number) from item").fetchone() == (50, sum(range(50)))
