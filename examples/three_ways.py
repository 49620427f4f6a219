"""Six kinds of calls, and what suits each: threads, processes or coroutines. See docs/threads-processes-async.md.

Run it to see what is to be used for each; for the tables, in this folder and for any of the functions:

    treadle diagnose three_ways.py:fetch --lines numbers.txt
"""

import asyncio
import hashlib
import sys
import time

import treadle

MEGABYTE = bytes(1_000_000)


def fetch(item):
    """Wait, as for the answer of a server."""
    time.sleep(0.02)
    return item


async def fetch_async(item):
    """The same, to be awaited."""
    await asyncio.sleep(0.02)
    return item


def count_primes(_):
    """Compute in pure Python, which holds the GIL."""
    return sum(all(number % divisor for divisor in range(2, int(number**0.5) + 1)) for number in range(2, 4000))


def checksum(_):
    """Compute in C, which lets go of the GIL: hashlib does from 2 kB on."""
    return hashlib.sha256(MEGABYTE).hexdigest()


def fetch_and_parse(_):
    """Wait for three quarters of the time, and compute for one."""
    time.sleep(0.012)
    return sum(number * number for number in range(60_000))


def double(item):
    """Do next to nothing."""
    return item + item


CALLS = (fetch, fetch_async, count_primes, checksum, fetch_and_parse, double)

if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    for function in CALLS:
        found = treadle.diagnose(function, range(10_000), seconds=seconds, max_workers=16)
        print(found.line)
