"""Answer what somebody types while work goes on: "status", "stop", or nothing more (Ctrl-D).

The commands are a run of their own. Nobody can call back a thread that waits for a line, so with ``intake="thread"``
one that nothing else depends on waits for it: the program ends with its work, whether somebody types or not.
"""

import sys
import time

import treadle


def fetch(number: int) -> int:
    time.sleep(0.1)  # ask a server
    return number


def answer(line: str) -> None:
    match line.strip():
        case "status":
            print(f"{work.stats.succeeded} of {len(numbers)} done, {work.stats.running} running", flush=True)
        case "stop":
            work.close()
        case other:
            print(f"{other!r}? There are status and stop.", flush=True)


def listen() -> None:
    treadle.for_each(answer, sys.stdin, intake="thread", max_workers=1)


numbers = range(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
count = total = 0
print('type "status" or "stop"', flush=True)

with treadle.TaskGroup() as group, treadle.map(fetch, numbers, max_workers=4) as work:
    group.submit(listen)
    try:
        for number in work:
            count, total = count + 1, total + number
    except treadle.RunClosed:
        print("stopped")
    group.cancel()

print(f"the sum of the first {count} is {total}")
