"""An endless input: no more of it is taken than ``max_workers + buffersize`` items beyond the last result.

Leaving the loop is enough: nobody holds the run any more, so it takes no further item and begins no call.
"""

import time
from collections.abc import Iterator

import treadle

taken = 0


def numbers() -> Iterator[int]:
    """Count for ever, and how far anybody came."""
    global taken
    while True:
        yield taken
        taken += 1


def measure(number: int) -> float:
    time.sleep(0.005)  # ask some device
    return (number * 0.37) % 10


seen = 0
for value in treadle.map(measure, numbers(), max_workers=4, buffersize=6):
    seen += 1
    if value > 9.9:
        break

print(f"stopped at {value:.2f}, the {seen}th value; {taken - seen} more items had been taken, of 10 at most")
assert taken - seen <= 10
