"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bench.measure import Series


def micros(seconds: float) -> str:
    """Seconds as microseconds, or nanoseconds below one."""
    return f"{seconds * 1e9:.0f} ns" if seconds < 1e-6 else f"{seconds * 1e6:.1f} µs"


def millis(seconds: float) -> str:
    """Seconds as milliseconds."""
    return f"{seconds * 1e3:.0f} ms"


def secs(seconds: float) -> str:
    """Seconds."""
    return f"{seconds:.2f} s"


def times(ratio: float) -> str:
    """A ratio."""
    return f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x"


def kilobytes(kilobytes: float) -> str:
    """Kilobytes, one decimal."""
    return f"{kilobytes:.1f} KB"


def megabytes(megabytes: float) -> str:
    """Megabytes, one decimal."""
    return f"{megabytes:.1f} MB"


def count(number: float) -> str:
    """A whole number with thousands set apart."""
    return f"{number:,.0f}"


def failures(series: Iterable[Series]) -> list[str]:
    """Return a note for each contender that did not come through."""
    return [f"{one.name}: {one.failure}" for one in series if one.failure]


def spread(series: Series, figure: str, show: Callable[[float], str]) -> str:
    """Return a note on how far apart the rounds of one contender were."""
    values = [sample[figure] for sample in series.samples]
    if not values:
        return f"{series.name} did not come through."
    return f"{series.name} itself took from {show(min(values))} to {show(max(values))} in {len(values)} rounds."
