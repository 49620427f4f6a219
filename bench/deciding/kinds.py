"""Kinds of work, to be made into workloads with figures of their own."""

from __future__ import annotations

import atexit
import random
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import treadle
from bench.deciding import calls
from bench.deciding.workload import BySize, Job, Size, Workload, for_size


def waiting(name: str, seconds: BySize, sigma: float = 0.0) -> Workload:
    """Calls that wait, all alike, or with a long tail: log-normal, with ``sigma``."""

    def make(size: Size) -> Job:
        chance = random.Random(7)
        mean = for_size(seconds, size)
        return Job(calls.sleep, [mean * chance.lognormvariate(-sigma * sigma / 2, sigma) for _ in range(size)])

    return Workload(name, make)


def mixed(name: str, seconds: BySize, steps: BySize) -> Workload:
    """Calls that wait, and then compute in Python."""

    def make(size: Size) -> Job:
        return Job(calls.sleep_and_add, [(for_size(seconds, size), int(for_size(steps, size)))] * size)

    return Workload(name, make)


def of_two_kinds(name: str, seconds: BySize, steps: BySize, every: int) -> Workload:
    """Each ``every``-th call waits, the others compute in Python."""

    def make(size: Size) -> Job:
        waits, computes = (for_size(seconds, size), 0), (0.0, int(for_size(steps, size)))
        return Job(calls.add_or_sleep, [computes if number % every else waits for number in range(size)])

    return Workload(name, make)


def first_one_then_another(name: str, first: tuple[float, int], share: float, then: tuple[BySize, BySize]) -> Workload:
    """A share of the calls is of one kind, (seconds, steps), and all that come then of another."""

    def make(size: Size) -> Job:
        seconds, steps = then
        later = (for_size(seconds, size), int(for_size(steps, size)))
        begin = int(size * share)
        return Job(calls.add_or_sleep, [first] * begin + [later] * (size - begin))

    return Workload(name, make)


def server(
    name: str,
    seconds: BySize,
    *,
    places: int | None = None,
    knee: int | None = None,
    refuses_beyond: int | None = None,
) -> Workload:
    """A server that all calls share; see ``calls.Server``."""

    def make(size: Size) -> Job:
        there = calls.Server(for_size(seconds, size), places, knee, refuses_beyond)
        if refuses_beyond is None:
            return Job(there.ask, range(size), is_here_only=True)
        retry = treadle.Retry(max_attempts=100, retry_on=calls.Refused, backoff=2 * there.seconds, max_delay=1.0)
        return Job(
            there.ask,
            range(size),
            options={"retry": retry},
            auto_options=lambda: {"retry": retry, "limiter": treadle.Limiter(throttled=calls.Refused)},
            fn_alone=there.ask_again,
            is_here_only=True,
        )

    return Workload(name, make)


def computing(name: str, fn: Callable[[Any], object], make_item: Callable[[float], Any], by_size: BySize) -> Workload:
    """Calls of a function that computes, all with the same argument."""
    return Workload(name, lambda size: Job(fn, [make_item(for_size(by_size, size))] * size))


def heavy_tailed(name: str, fn: Callable[[int], object], steps: BySize, alpha: float) -> Workload:
    """Calls that compute, few of them for very long: Pareto, with ``alpha``, cut at 50 times the least."""

    def make(size: Size) -> Job:
        chance = random.Random(11)
        least = for_size(steps, size)
        return Job(fn, [int(least * min(50.0, chance.paretovariate(alpha))) for _ in range(size)])

    return Workload(name, make)


def in_a_closure(name: str, steps: BySize) -> Workload:
    """Python that computes, in a function that cannot be pickled."""

    def make(size: Size) -> Job:
        lock = threading.Lock()
        done = 0

        def add_up(steps: int) -> int:
            nonlocal done
            total = calls.add(steps)
            with lock:
                done += 1
            return total

        return Job(add_up, [int(for_size(steps, size))] * size, is_here_only=True)

    return Workload(name, make)


def with_data(name: str, fn: Callable[[bytes], object], sizes: BySize, distinct: int = 10) -> Workload:
    """Calls of a function of so many bytes, which are not the same each time."""

    def make(size: Size) -> Job:
        chance = random.Random(13)
        data = [_text(chance, int(for_size(sizes, size))) for _ in range(distinct)]
        return Job(fn, [data[number % distinct] for number in range(size)])

    return Workload(name, make)


def rows(name: str, numbers: BySize) -> Workload:
    """Rows of a database in a file, which are fetched in one go."""

    def make(size: Size) -> Job:
        return Job(calls.fetch_rows, [(_database(), int(for_size(numbers, size)))] * size)

    return Workload(name, make)


def files(name: str, bytes_each: int, distinct: int = 100) -> Workload:
    """Files that are read."""
    return Workload(name, lambda size: Job(calls.read, _repeated(_files(bytes_each, distinct), size)))


def json_text(items: float) -> str:
    """Return JSON with so many objects."""
    return "[" + ",".join(f'{{"id": {n}, "name": "item {n}", "tags": ["a", "b"]}}' for n in range(int(items))) + "]"


def addresses(count: float) -> str:
    """Return text with so many e-mail addresses."""
    return " and so on, ".join(f"user{n}@host{n}.org" for n in range(int(count)))


def _repeated(items: Sequence[Any], size: int) -> list[Any]:
    return [items[number % len(items)] for number in range(size)]


def _text(chance: random.Random, size: int) -> bytes:
    block = bytes(chance.choices(b"abcdefgh \n", k=4096))
    return (block * (size // len(block) + 1))[:size]


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="treadle-bench-"))
    atexit.register(partial(shutil.rmtree, folder, ignore_errors=True))
    return folder


@cache
def _database() -> str:
    path = str(_folder() / "rows.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE rows (number INTEGER, name TEXT)")
        connection.executemany("INSERT INTO rows VALUES (?, ?)", ((n, f"row {n}") for n in range(20_000)))
    connection.close()
    return path


@cache
def _files(bytes_each: int, distinct: int) -> list[str]:
    paths = []
    for number in range(distinct):
        path = _folder() / f"{bytes_each}-{number}.bin"
        path.write_bytes(bytes([number % 256]) * bytes_each)
        paths.append(str(path))
    return paths
