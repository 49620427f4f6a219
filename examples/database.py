"""Database queries with a connection for each worker: connections must not be shared between threads.

``resource=`` opens one for each worker that starts, gives it to the worker's calls as their last argument, and closes
it when the worker leaves. With SQLite; and with PostgreSQL where psycopg is installed and PGHOST (and whatever else
PostgreSQL's own programs look at) says where the server is. There it makes a table, and drops it in the end.
"""

import importlib.util
import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import treadle

Connect = Callable[[], Any]  # returns a context manager, which closes the connection in the end


def fill(connect: Connect, mark: str) -> None:
    rows = [(number % 50, number * 37 % 10_000) for number in range(20_000)]
    with connect() as database:
        cursor = database.cursor()
        cursor.execute("CREATE TABLE treadle_orders (customer INTEGER, cents INTEGER)")
        cursor.executemany(f"INSERT INTO treadle_orders VALUES ({mark}, {mark})", rows)
        database.commit()


def drop(connect: Connect) -> None:
    with connect() as database:
        database.execute("DROP TABLE treadle_orders")
        database.commit()


def report(name: str, connect: Connect, mark: str) -> None:
    opened: list[int] = []

    def open_one() -> Any:
        opened.append(1)
        return connect()

    def total_of(customer: int, database: Any) -> Any:
        query = f"SELECT count(*), sum(cents) FROM treadle_orders WHERE customer = {mark}"
        return database.execute(query, (customer,)).fetchone()

    totals = list(treadle.map(total_of, range(50), resource=open_one, max_workers=4))

    assert sum(count for count, _ in totals) == 20_000
    best = max(range(50), key=lambda customer: totals[customer][1])
    print(f"{name}: customer {best} spent most: {totals[best][1] / 100:,.2f} in {totals[best][0]} orders")
    print(f"{name}: {len(totals)} queries over {len(opened)} connections, of 4 at most")


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "shop.db"
    databases: list[tuple[str, Connect, str]] = [("SQLite", lambda: closing(sqlite3.connect(path)), "?")]
    if "PGHOST" in os.environ and importlib.util.find_spec("psycopg"):
        import psycopg

        databases.append(("PostgreSQL", psycopg.connect, "%s"))
    for name, connect, mark in databases:
        fill(connect, mark)
        report(name, connect, mark)
        drop(connect)
