"""A connection for each worker: SQLite connections must not be shared between threads.

``resource=`` opens one for each worker that starts, gives it to the worker's calls as their last argument,
and closes it when the worker leaves.
"""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import treadle


def fill(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE orders (customer INTEGER, cents INTEGER)")
        rows = [(number % 50, number * 37 % 10_000) for number in range(20_000)]
        database.executemany("INSERT INTO orders VALUES (?, ?)", rows)
        database.commit()


def total_of(customer: int, database: sqlite3.Connection) -> tuple[int, int]:
    query = "SELECT count(*), sum(cents) FROM orders WHERE customer = ?"
    count, cents = database.execute(query, (customer,)).fetchone()
    return count, cents


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "shop.db"
    fill(path)
    opened: list[Path] = []

    def connect() -> closing[sqlite3.Connection]:
        opened.append(path)
        return closing(sqlite3.connect(path))  # entered for the worker's calls, closed when it leaves

    with treadle.map(total_of, range(50), resource=connect, max_workers=4) as run:
        totals = list(run)

assert sum(count for count, _ in totals) == 20_000
best = max(range(50), key=lambda customer: totals[customer][1])
print(f"customer {best} spent most: {totals[best][1] / 100:,.2f} in {totals[best][0]} orders")
print(f"{run.stats.succeeded} queries over {len(opened)} connections, of 4 at most")
