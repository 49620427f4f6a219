"""What functions share with their program: ``engine="auto"`` does not move those to a process, which has a copy."""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

import treadle
from treadle._crew import decider
from treadle._crew.deciding import Measures
from treadle._crew.shared_state import why_shared
from treadle._run import choosing

guarded = treadle.Guarded(0)
limiter = treadle.Limiter(100)
lock = threading.Lock()
file = open(os.devnull)  # noqa: SIM115
total = 0
counts: dict[str, int] = defaultdict(int)
found: list[int] = []
numbers = (1, 2, 3)
table = {"a": 1}


class Tally:
    """Counts calls."""

    most = 0

    def __init__(self) -> None:
        self.count = 0

    def add(self, number: int) -> int:
        self.count += 1
        return number

    def read(self, number: int) -> int:
        return number + self.count

    def __call__(self, number: int) -> int:
        self.count += number
        return number


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def look(self, number: int) -> int:
        return number


tally = Tally()


def uses_guarded(number: int) -> int:
    with guarded as handle:
        handle.value += 1
    return number


def uses_limiter(number: int) -> int:
    with limiter:
        return number


def uses_lock(number: int) -> int:
    with lock:
        return number


def uses_file(_: int) -> str:
    return file.read(1)


def assigns(number: int) -> None:
    global total
    total += number


def counts_up(number: int) -> None:
    counts["calls"] += number


def counts_up_by_another_name(number: int) -> None:
    mine = counts
    mine["calls"] = number


def appends(number: int) -> None:
    found.append(number)


def appends_in_a_part(number: int) -> list[Any]:
    return [found.append(other) for other in range(number)]  # type: ignore[func-returns-value]


def calls_what_appends(number: int) -> None:
    if number:
        calls_what_appends(number - 1)
    appends(number)


def calls_a_method(number: int) -> int:
    return tally.add(number)


def changes_an_object(number: int) -> None:
    tally.count = number


def changes_a_class(number: int) -> None:
    Tally.most = max(Tally.most, number)


def changes_the_environment(number: int) -> None:
    os.environ["NUMBER"] = str(number)


def deletes(_: int) -> None:
    del table["a"]


def has_a_default(number: int, mine: Any = lock) -> int:  # it is there
    return number


@functools.lru_cache
def remembers_and_appends(number: int) -> None:
    found.append(number)


def closure() -> Callable[[int], int]:
    count = 0

    def call(number: int) -> int:
        nonlocal count
        count += number
        return count

    return call


def closure_with_a_list() -> Callable[[int], None]:
    seen: list[int] = []

    def call(number: int) -> None:
        seen.append(number)

    return call


SHARED: dict[str, tuple[Any, str]] = {
    "Guarded": (uses_guarded, "share the global 'guarded' (Guarded)"),
    "Limiter": (uses_limiter, "share the global 'limiter' (Limiter)"),
    "lock": (uses_lock, "share the global 'lock' (lock)"),
    "file": (uses_file, "share the global 'file'"),
    "global": (assigns, "assign to the global 'total'"),
    "item": (counts_up, "change the global 'counts'"),
    "alias": (counts_up_by_another_name, "change the global 'counts'"),
    "append": (appends, "change the global 'found'"),
    "append in a comprehension": (appends_in_a_part, "change the global 'found'"),
    "what it calls": (calls_what_appends, "change the global 'found'"),
    "method it calls": (calls_a_method, "change the global 'tally'"),
    "attribute": (changes_an_object, "change the global 'tally'"),
    "class": (changes_a_class, "change the global 'Tally'"),
    "environment": (changes_the_environment, "change 'environ' of module 'os'"),
    "deletion": (deletes, "change the global 'table'"),
    "wrapped": (remembers_and_appends, "change the global 'found'"),
    "nonlocal": (closure(), "assign to the variable 'count' around it"),
    "closure": (closure_with_a_list(), "change the variable 'seen' around it"),
    "bound method": (Tally().add, "change the object that the method is bound to"),
    "callable object": (Tally(), "change the object that is called"),
    "object with a lock": (Locked().look, "share the object that the method is bound to (lock)"),
    "argument of partial": (functools.partial(print, threading.Event()), "share an argument of partial() (Event)"),
    "function in partial": (functools.partial(appends), "change the global 'found'"),
    "default": (has_a_default, "share a default (lock)"),
}


@pytest.mark.parametrize("kind", SHARED)
def test_what_a_function_shares_is_found(kind: str) -> None:
    fn, reason = SHARED[kind]

    assert reason in (why_shared(fn) or "")


def computes(number: int) -> int:
    mine: dict[int, int] = {}
    seen = [number]
    for at in numbers:
        mine[at] = at
        seen.append(at)
    counter = Counter(seen)
    counter[0] += 1
    fresh = Tally()
    fresh.count = 3
    fresh.add(1)
    return sum(mine.values()) + table["a"] + math.isqrt(number)


def changes_its_argument(row: dict[str, int]) -> dict[str, int]:
    row["done"] = 1
    row.update(a=2)
    return row


def recurses(number: int) -> int:
    return 0 if number == 0 else recurses(number - 1)


@functools.lru_cache
def remembers(number: int) -> int:
    return number


@pytest.mark.parametrize(
    "fn",
    [computes, changes_its_argument, recurses, remembers, math.sqrt, len, str, Tally().read, Tally, lambda n: n + 1],
)
def test_what_a_function_has_to_itself_is_not_shared(fn: Any) -> None:
    assert why_shared(fn) is None


def test_auto_stays_on_threads_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its calls are found to hold the GIL."""
    monkeypatch.setattr(choosing, "usable_cores", lambda: 2)
    monkeypatch.setattr(decider, "is_gil_enabled", lambda: True)
    monkeypatch.setattr(decider.Decider, "_sample", lambda *_, **__: Measures(20, 0.020, 1.0))
    monkeypatch.setattr(decider, "probe", lambda *_: 1.0)
    before, made = guarded.copy(), 0

    with treadle.map(uses_guarded, itertools.count(), engine="auto", max_workers=2) as run:
        while "nothing was decided" in (run.stats.decision or ""):
            next(run)
            made += 1
        made += len(list(itertools.islice(run, 500)))
        decision = run.stats.decision or ""

    assert guarded.copy() - before >= made
    assert decision.startswith("threads")
    assert "cannot move to processes: calls share the global 'guarded' (Guarded)" in decision
