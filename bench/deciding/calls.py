"""The functions that are called. What a process may call stands at the top level, and imports what it needs."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import threading
import time
import zlib
from pathlib import Path
from typing import Any

_WORDS = re.compile(r"(\w+)@(\w+)\.(com|org)")
_here = threading.local()


# Waiting


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def sleep_and_add(work: tuple[float, int]) -> int:
    seconds, steps = work
    time.sleep(seconds)
    return add(steps)


def add_or_sleep(work: tuple[float, int]) -> int:
    seconds, steps = work
    if seconds:
        time.sleep(seconds)
        return 0
    return add(steps)


def read(path: str) -> int:
    return sum(Path(path).read_bytes()[::4096])


# Computing


def add(steps: int) -> int:
    total = 0
    for step in range(steps):
        total += step
    return total


def count_primes(limit: int) -> int:
    return sum(all(number % divisor for divisor in range(2, int(number**0.5) + 1)) for number in range(2, limit))


def parse_json(text: str) -> int:
    return len(json.loads(text))


def find_addresses(text: str) -> int:
    return len(_WORDS.findall(text))


def next_number(number: int) -> int:
    return number + 1


def hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compress(data: bytes) -> int:
    return len(zlib.compress(data, 6))


def count_lines(data: bytes) -> int:
    return data.count(b"\n")


def list_squares(limit: int) -> list[int]:
    return [number * number for number in range(limit)]


def multiply(size: int) -> float:
    import numpy

    matrix = numpy.ones((size, size))
    return float((matrix @ matrix)[0, 0])


def add_arrays(times: int) -> float:
    import numpy

    total = numpy.zeros(16)
    for _ in range(times):
        total += numpy.ones(16)
    return float(total[0])


def fetch_rows(query: tuple[str, int]) -> int:
    path, rows = query
    connection = getattr(_here, "connection", None)
    if connection is None or _here.path != path:
        connection = _here.connection = sqlite3.connect(path)
        _here.path = path
    return len(connection.execute("SELECT number, name FROM rows LIMIT ?", (rows,)).fetchall())


# Servers that all calls share


class Refused(Exception):
    """The server has too much to do."""


class Server:
    """Waits as one waits for a server, without what sockets cost.

    Args:
        seconds: That a call takes.
        places: Calls served at a time; others wait their turn.
        knee: Calls inside from which on all become slower: with twice as many inside a call takes four times as long.
        refuses_beyond: Calls inside from which on further ones are refused, after half the time.
    """

    def __init__(
        self, seconds: float, places: int | None = None, knee: int | None = None, refuses_beyond: int | None = None
    ) -> None:
        self.seconds = seconds
        self._places = None if places is None else threading.Semaphore(places)
        self._knee = knee
        self._refuses_beyond = refuses_beyond
        self._inside = 0
        self._lock = threading.Lock()  # protects ``_inside``; and that it cannot be pickled is as with a real client

    def ask(self, item: Any) -> Any:
        with self._lock:
            self._inside += 1
            inside = self._inside
        try:
            return self._answer(item, inside)
        finally:
            with self._lock:
                self._inside -= 1

    def ask_again(self, item: Any) -> Any:
        """Ask until there is an answer, as one does by hand."""
        while True:
            try:
                return self.ask(item)
            except Refused:
                time.sleep(2 * self.seconds)

    def _answer(self, item: Any, inside: int) -> Any:
        if self._refuses_beyond is not None and inside > self._refuses_beyond:
            time.sleep(self.seconds / 2)
            raise Refused
        slower = 1.0 if self._knee is None else max(1.0, inside / self._knee) ** 2
        if self._places is None:
            time.sleep(self.seconds * slower)
        else:
            with self._places:
                time.sleep(self.seconds)
        return item
