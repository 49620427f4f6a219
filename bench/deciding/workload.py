"""What work is, for those who have to do it without knowing what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Size: TypeAlias = Literal[30, 1_000, 100_000]
SIZES: tuple[Size, ...] = (30, 1_000, 100_000)
# Something for each number of items: seconds, bytes, steps.
BySize: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Job:
    """A function and its items, ready to be timed.

    Attributes:
        fn: To be called with each item.
        items: All of them.
        options: For ``treadle.map``, with whatever setting.
        auto_options: Makes those that come to it where Treadle decides.
        fn_alone: What whoever has no such options would call; None: the same.
        is_here_only: It stands for a server that all calls share, and works in one process only.
    """

    fn: Callable[[Any], object]
    items: Sequence[Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    auto_options: Callable[[], Mapping[str, Any]] = dict
    fn_alone: Callable[[Any], object] | None = None
    is_here_only: bool = False


@dataclass(frozen=True)
class Workload:
    """A kind of work: ``make`` returns a job of so many items."""

    name: str
    make: Callable[[Size], Job]


def for_size(values: BySize, size: Size) -> float:
    """Return the value that goes with ``size``."""
    return values[SIZES.index(size)]
