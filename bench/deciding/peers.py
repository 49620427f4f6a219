"""What others make of the same work, by their defaults: ``python -m bench.deciding.peers PEER WORKLOAD SIZE``.

Each in a process of its own, which can be ended when it takes too long.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, TypeAlias

from bench.deciding import calls
from bench.deciding.judged import JUDGED
from bench.deciding.tuned import TUNED
from bench.deciding.workload import SIZES
from bench.launch import ROOT

WORKLOADS = {workload.name: workload for workload in (*JUDGED, *TUNED)}
START_SECONDS = 10.0

Call: TypeAlias = Callable[[Any], object]


def _loop(fn: Call, items: Sequence[Any]) -> int:
    return len([fn(item) for item in items])


def _thread_pool_executor(fn: Call, items: Sequence[Any]) -> int:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        return len(list(pool.map(fn, items)))


def _joblib(fn: Call, items: Sequence[Any]) -> int:
    from joblib import Parallel, delayed

    results: Iterable[object] = Parallel(n_jobs=-1)(delayed(fn)(item) for item in items)
    return len(list(results))


def _mpire(fn: Call, items: Sequence[Any]) -> int:
    from mpire import WorkerPool

    with WorkerPool() as pool:
        return len(pool.map(fn, [(item,) for item in items]))  # it would unpack an item that is a tuple


LOOP = "a loop"
EXECUTOR = "ThreadPoolExecutor"
JOBLIB = "joblib"
MPIRE = "mpire"
PEERS = {LOOP: _loop, EXECUTOR: _thread_pool_executor, JOBLIB: _joblib, MPIRE: _mpire}
# Calls that share a server cannot be made in processes, where each would have a server of its own.
IN_PROCESSES = (JOBLIB, MPIRE)


def measure(peer: str, workload: str, size: int, limit_seconds: float) -> float | None:
    """Return the seconds that ``peer`` takes; None where it takes more than ``limit_seconds``, or fails."""
    command = [sys.executable, "-m", "bench.deciding.peers", peer, workload, str(size), str(limit_seconds)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as child:
        try:
            answer = child.communicate(timeout=START_SECONDS + 2 * limit_seconds)[0]
        except subprocess.TimeoutExpired:
            answer = b""
        finally:
            _end(child.pid)
    return float(json.loads(answer)["seconds"]) if answer else None


def _end(leader: int) -> None:
    """End the process and what it has started."""
    try:
        os.killpg(leader, 9)
    except ProcessLookupError:
        pass


def main() -> None:
    """Measure one peer once, after it has got ready."""
    import threading

    peer, workload, size, limit_seconds = sys.argv[1:]
    run = PEERS[peer]
    wanted = next(one for one in SIZES if one == int(size))
    job = WORKLOADS[workload].make(wanted)
    if peer in IN_PROCESSES and job.is_here_only:
        return
    run(calls.next_number, range(10))
    ending = threading.Timer(float(limit_seconds), lambda: os.killpg(0, 9))
    ending.daemon = True
    ending.start()
    began = perf_counter()
    assert run(job.fn_alone or job.fn, job.items) == len(job.items)
    print(json.dumps({"seconds": perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
