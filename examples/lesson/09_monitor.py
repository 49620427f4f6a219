"""A monitor in the background: started, looking every 20 ms while the main program works, and stopped.

Were it a plain thread, an exception would end it unnoticed, and somebody would have to tell it to stop. ``every`` logs
a failure and goes on; the end of the ``with`` block stops it.
"""

import time

import treadle

jobs = list(range(30))
seen: list[int] = []


def look() -> int:
    seen.append(len(jobs))
    return len(jobs)


with treadle.every(0.02, look) as monitor:
    first = monitor.wait_next(timeout=5)
    print(f"the first look: {first.result()} jobs left")
    while jobs:
        time.sleep(0.01)  # the work
        jobs.pop()
    print("the work is done")

looks = monitor.runs
time.sleep(0.1)  # time for five looks, were it not stopped
print(f"{looks} looks while it worked, {monitor.runs - looks} after that; jobs left: {seen}")
assert monitor.runs == looks
