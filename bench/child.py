"""What is measured in a process of its own: ``python -m bench.child SCRIPT ...`` prints one line of JSON."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import treadle
from bench import peers

CROWD_SECONDS = 1.0
WARM_UP_ITEMS = 100_000
STALLED_ITEMS = 10_000
STALLED_WORKERS = 4
STALLED_CALL_SECONDS = 0.01
GOODBYE_WORKERS = 4
QUICK_CALLS = 8
CALLS_AFTERWARDS = 100
# From the moment the stuck call has begun until the other one fails.
BEFORE_FAILURE_SECONDS = 0.3


def main() -> None:
    """Run the script that the command line names."""
    script, *args = sys.argv[1:]
    SCRIPTS[script](*args)


def _report(**figures: float) -> None:
    print(json.dumps(figures), flush=True)


# Memory


def resident_kilobytes() -> int:
    """Return what this process has in memory now; where that is not told, the most it ever had."""
    return _status_line("VmRSS") or _peak_by_rusage()


def peak_kilobytes() -> int:
    """Return the most this process ever had in memory."""
    return _status_line("VmHWM") or _peak_by_rusage()


def _status_line(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), None)


def _peak_by_rusage() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def crowd(contender: str, size: str) -> None:
    """Make ``size`` calls that sleep for a second, all at once."""
    make_calls = _crowd_of(contender)
    began = time.perf_counter()
    make_calls(lambda _: time.sleep(CROWD_SECONDS), int(size))
    _report(seconds=time.perf_counter() - began)


def crowd_memory(contender: str, size: str) -> None:
    """Make ``size`` calls that wait until all of them have begun, and see what they weigh then."""
    workers = int(size)
    arrived = count(1)
    gate = threading.Lock()  # one for all: a lock each would be weighed with them
    weight = 0.0

    def call(_: object) -> None:
        nonlocal weight
        if next(arrived) == workers:
            weight = resident_kilobytes() - before
            gate.release()
            return
        with gate:
            pass

    make_calls = _crowd_of(contender)
    gc.collect()
    before = resident_kilobytes()
    gate.acquire()
    make_calls(call, workers)
    _report(kilobytes=weight / workers)


def _crowd_of(contender: str) -> Callable[[peers.Call, int], None]:
    """Return what makes as many calls as there are workers; its imports are done."""
    if contender == "threads":
        return _call_in_threads
    peer = peers.BY_KEY[contender]

    def make_calls(call: peers.Call, workers: int) -> None:
        with peer.open(call, range(workers), workers) as results:
            assert _discard(results) == workers

    make_calls(abs, 1)
    return make_calls


def _call_in_threads(call: peers.Call, workers: int) -> None:
    threads = [threading.Thread(target=call, args=(0,)) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def stream(contender: str, items: str) -> None:
    """Pass ``items`` items through no-op calls and discard the results; memory from the warm-up on."""
    total = int(items)
    source = (item for item in range(total))
    peer = peers.thread_pool(chunksize=1024) if contender == "imap" else peers.BY_KEY[contender]
    warm = min(WARM_UP_ITEMS, total // 10)
    began = time.perf_counter()
    with peer.open(_noop, source, None) as opened:
        results = iter(opened)
        _discard(islice(results, warm))
        before = resident_kilobytes()
        delivered = warm + _discard(results)
    seconds = time.perf_counter() - began
    assert delivered == total
    _report(call=seconds / total, seconds=seconds, megabytes=max(0, peak_kilobytes() - before) / 1024)


def array(megabytes: str) -> None:
    """Make a call with an array for its argument, and see how long it takes and what both processes weigh at most."""
    import numpy as np

    size = int(megabytes) * 1_000_000
    with treadle.PoolExecutor(max_workers=1, engine="processes") as pool:
        weight = pool.submit(_load_numpy).result() + resident_kilobytes()
        items = np.ones(size // 8)
        began = time.perf_counter()
        pool.submit(_noop, items).result()
        seconds = time.perf_counter() - began
        peak = pool.submit(peak_kilobytes).result() + peak_kilobytes() - weight
    _report(seconds=seconds, peak=peak * 1024 / size)


def _load_numpy() -> int:
    import numpy as np

    np.ones(1)
    return resident_kilobytes()


def _noop(item: object) -> None:
    pass


def _discard(results: Iterable[object]) -> int:
    return sum(1 for _ in results)


# Bounds


def stalled(contender: str) -> None:
    """Take one result of a long input, then none for a second."""
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for item in range(STALLED_ITEMS):
            taken += 1
            yield item

    def call(_: object) -> None:
        time.sleep(STALLED_CALL_SECONDS)

    began = time.perf_counter()
    with peers.BY_KEY[contender].open(call, source(), STALLED_WORKERS) as opened:
        results = iter(opened)
        next(results)
        first_seconds = time.perf_counter() - began
        time.sleep(1.0)
        _report(first_seconds=first_seconds, taken=taken - 1, items=STALLED_ITEMS)
        os._exit(0)  # the rest would take its time, and is of no interest


# Goodbye


class PlannedError(Exception):
    """What the failing call raises."""


def fail_stuck(contender: str, place: str, stuck_seconds: str) -> None:
    """Have one call fail while another is stuck that stands before or after it in the input (``place``)."""
    stuck, failing = (0, 1) if place == "before" else (1, 0)
    is_stuck = threading.Event()
    failed_at = 0.0

    def call(item: int) -> None:
        nonlocal failed_at
        if item == stuck:
            is_stuck.set()
            time.sleep(float(stuck_seconds))
        elif item == failing:
            is_stuck.wait()
            time.sleep(BEFORE_FAILURE_SECONDS)
            failed_at = time.monotonic()
            raise PlannedError

    try:
        with peers.BY_KEY[contender].open(call, range(QUICK_CALLS), GOODBYE_WORKERS) as results:
            _discard(results)
    except PlannedError:
        _report(failed_at=failed_at, seen_at=time.monotonic())


def ctrl_c(contender: str, stuck_seconds: str) -> None:
    """Have all workers stuck, say ``stuck``, and wait for Ctrl-C; Treadle accounts for every item taken."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background starts us without it
    call = _stuck_call(float(stuck_seconds))
    items = range(QUICK_CALLS + GOODBYE_WORKERS + CALLS_AFTERWARDS)
    if contender == peers.TREADLE.key:
        _interrupt_treadle(call, items)
        return
    try:
        with peers.BY_KEY[contender].open(call, items, GOODBYE_WORKERS) as results:
            _discard(results)
    except KeyboardInterrupt:
        _report(seen_at=time.monotonic())


def _interrupt_treadle(call: Callable[[int], Any], items: Iterable[int]) -> None:
    delivered = []
    run = treadle.map(call, items, max_workers=GOODBYE_WORKERS)
    try:
        for item in run:
            delivered.append(item)  # one by one: what came before Ctrl-C counts
    except KeyboardInterrupt:
        seen_at = time.monotonic()
        rest = list(run.rest())
        accounted = [*delivered, *(outcome.item for outcome in rest)]
        taken = run.stats.taken
        is_exact = accounted == list(range(taken))
        _report(seen_at=seen_at, taken=taken, delivered=len(delivered), rest=len(rest), exact=float(is_exact))


def _stuck_call(seconds: float) -> Callable[[int], int]:
    """Return a function that is quick at first, then stuck once for each worker, then quick again."""

    def call(item: int) -> int:
        if QUICK_CALLS <= item < QUICK_CALLS + GOODBYE_WORKERS:
            os.write(sys.stdout.fileno(), b"stuck\n")  # several threads at once, so not through the buffer
            time.sleep(seconds)
        return item

    return call


SCRIPTS: dict[str, Callable[..., None]] = {
    script.__name__: script for script in (crowd, crowd_memory, stream, array, stalled, fail_stuck, ctrl_c)
}

if __name__ == "__main__":
    main()
