"""A thread that computes without a pause does not stop the others: it is interrupted every 5 milliseconds.

Python's global interpreter lock (GIL) lets one thread at a time run Python code. A thread that wants a turn waits for
``sys.getswitchinterval()`` seconds at most, then the one that runs has to hand the lock over, whatever it is doing.
"""

import sys
import time

import treadle


def spin() -> int:
    """Compute, without ever waiting, until the group asks for the end."""
    rounds = 0
    try:
        while True:
            treadle.check_cancelled()
            rounds += 1
    finally:
        print(f"  it made {rounds} rounds meanwhile")


def latest_of_ticks() -> float:
    """Wake up 40 times, as a clock would, and return by how much the latest was too late."""
    latest = 0.0
    for _ in range(40):
        due = time.perf_counter() + 0.01
        time.sleep(0.01)
        latest = max(latest, time.perf_counter() - due)
    return latest


print(f"a thread may run for {sys.getswitchinterval() * 1000:.0f} ms before another gets its turn")
alone = latest_of_ticks()
print(f"40 ticks, nobody else runs:   the latest was {alone * 1000:.1f} ms late")

with treadle.TaskGroup() as group:
    group.submit(spin)
    beside = latest_of_ticks()
    group.cancel()
print(f"40 ticks beside one that spins: the latest was {beside * 1000:.1f} ms late")
