"""Items that are taken out of a chunk to be sent away together, and what becomes of them."""

from __future__ import annotations

from itertools import repeat
from typing import Any

from treadle._core.chunk import Chunk

MAX_PORTION_ITEMS = 2048


def take(chunk: Chunk, most: int) -> list[Any]:
    """Take up to ``most`` items out of what is to do."""
    portion: list[Any] = []
    try:
        portion.extend(map(chunk.todo.pop, repeat(-1, most)))  # one by one, and keeps those it had when it fails
    except IndexError:  # others were faster
        pass
    return portion


def put_back(chunk: Chunk, items: list[Any]) -> None:
    """Return to ``chunk`` what was taken out of it and has not begun, unless nothing is to begin any more.

    Who ends a chunk marks it first and clears it then; here it is the other way round.
    """
    if items:
        chunk.todo.extend(items[::-1])
        if chunk.is_cancelled or chunk.end == "abandoned":
            chunk.todo.clear()


def fail(chunk: Chunk, results: list[Any], error: BaseException) -> None:
    """Record that the next call of ``chunk``, whose results these are, raised ``error``."""
    chunk.fail(error)
    results.append(None)


def fitting(before: int, made: int, seconds: float, portion_seconds: float) -> int:
    """Return how many calls last ``portion_seconds``, after so many took so long; twice ``before`` at most."""
    found = int(portion_seconds * made / seconds) if seconds > 0 else MAX_PORTION_ITEMS
    return max(1, min(2 * before, found, MAX_PORTION_ITEMS))
