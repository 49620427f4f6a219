"""What the demo computes. It stands by itself, as the processes import what they call."""

from __future__ import annotations


def sum_of_squares(limit: int) -> int:
    """Return the sum of the squares below ``limit``, slowly."""
    total = 0
    for number in range(limit):
        total += number * number
    return total
