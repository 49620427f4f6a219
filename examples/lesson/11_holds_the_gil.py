"""A call into C that keeps the GIL stops every thread of the program, until it returns.

Here it is a regular expression that tries every way to divide a row of letters. Nothing else in the program can run
meanwhile: no other thread, no time limit, no progress bar. Such a call belongs in another process, as ``treadle.map``
has it with ``engine="processes"``. On a Python without a GIL (free-threaded) the others go on.
"""

import re
import time
from itertools import pairwise

import treadle

ticks: list[float] = []


def tick() -> None:
    """Note the time every 5 ms, until the group asks for the end."""
    while True:
        treadle.sleep(0.005)
        ticks.append(time.perf_counter())


def search(text: str) -> bool:
    return re.fullmatch(r"(a+)+", text) is not None


for letters in (10, 22):
    ticks.clear()
    with treadle.TaskGroup() as group:
        group.submit(tick)
        time.sleep(0.05)  # let it tick
        began = time.perf_counter()
        search("a" * letters + "!")
        took = time.perf_counter() - began
        time.sleep(0.05)  # and again
        group.cancel()
    silence = max(later - earlier for earlier, later in pairwise(ticks))
    print(f"{letters} letters: the search took {took:.2f} s, the clock was silent for {silence:.2f} s")
