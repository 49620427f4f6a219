"""A counter that loses updates, and one that does not.

To add one is three steps: read the number, compute the next, write it back. If another thread gets its turn in
between, both write the same number, and one update is lost. ``Guarded`` lets one thread at a time into its block, and
there is no other way to the value.

A bare ``count += 1`` loses nothing on a Python with a GIL since 3.10, as threads take turns there only at calls and
jumps. That is no promise, and one call in between is enough: here it is ``next_after``.
"""

import threading

import treadle

WORKERS, ROUNDS = 4, 300_000
GUARDED_ROUNDS = 25_000
all_are_here = threading.Barrier(WORKERS)
count = 0
guarded = treadle.Guarded(0)


def next_after(number: int) -> int:
    return number + 1


def add_without_lock() -> None:
    global count
    all_are_here.wait()
    for _ in range(ROUNDS):
        count = next_after(count)


def add_guarded() -> None:
    all_are_here.wait()
    for _ in range(GUARDED_ROUNDS):
        with guarded as handle:
            handle.value = next_after(handle.value)


with treadle.TaskGroup() as group:
    for _ in range(WORKERS):
        group.submit(add_without_lock)
print(f"without a lock: {count:,} of {WORKERS * ROUNDS:,}, {WORKERS * ROUNDS - count:,} updates are lost")

with treadle.TaskGroup() as group:
    for _ in range(WORKERS):
        group.submit(add_guarded)
print(f"guarded:        {guarded.copy():,} of {WORKERS * GUARDED_ROUNDS:,}")
assert guarded.copy() == WORKERS * GUARDED_ROUNDS
