"""A thread that computes without a pause does not stop the others, but makes them late.

Python's global interpreter lock (GIL) lets one thread at a time run Python code. A thread that wants a turn asks for
it after ``sys.getswitchinterval()`` seconds, 5 milliseconds; the one that runs then hands the lock over at its next
chance, to whichever thread the system wakes first. So a thread that wakes up is late by about 5 ms beside one that
computes, and beside several by some turns of theirs as well: by a tenth of a second and more beside 4 or 8. Without a
GIL (free-threaded) it is late only where there are more threads that compute than cores.
"""

import sys
import time

import treadle


def spin() -> None:
    """Compute, without ever waiting, until the group asks for the end."""
    while True:
        treadle.check_cancelled()


def latest_of_ticks() -> float:
    """Wake up 15 times, as a clock would, and return by how much the latest was too late."""
    latest = 0.0
    for _ in range(15):
        due = time.perf_counter() + 0.01
        time.sleep(0.01)
        latest = max(latest, time.perf_counter() - due)
    return latest


print(f"a thread may run for {sys.getswitchinterval() * 1000:.0f} ms before another may ask for its turn")
for spinning in (0, 1, 4):
    with treadle.TaskGroup() as group:
        for _ in range(spinning):
            group.submit(spin)
        latest = latest_of_ticks()
        group.cancel()
    print(f"15 ticks beside {spinning} that compute: the latest was {latest * 1000:4.0f} ms late")
