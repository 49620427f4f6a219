"""The oracle: the best of all settings, each of which is tried."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from time import perf_counter
from typing import Literal

import treadle
from bench.deciding.calls import Refused
from bench.deciding.workload import Job

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CHUNKS = (1, 16, 256)
# More of them than this fill the memory of a small machine, and have won nowhere on two cores.
MAX_PROCESSES = 64
# A setting that takes so many times as long as the best so far is not waited for.
PATIENCE = 1.15
LIMIT_SECONDS = 120.0
# After a run that was cut short, whose last calls may go on for a moment.
REST_SECONDS = 0.05


@dataclass(frozen=True)
class Setting:
    """What a user would have to know."""

    engine: Literal["threads", "processes"]
    workers: int
    chunk: int

    def __str__(self) -> str:
        return f"{self.workers} {self.engine}, {self.chunk} in a chunk"


@dataclass(frozen=True)
class Trial:
    """How long the calls took with ``setting``."""

    setting: Setting
    seconds: float


def search(job: Job, finalists: int) -> list[Setting]:
    """Return the best settings for ``job``, the best one first; all have been tried."""
    trials: list[Trial] = []
    best = LIMIT_SECONDS
    for setting in _settings(job):
        seconds = attempt(job, setting, PATIENCE * best)
        if seconds is not None:
            trials.append(Trial(setting, seconds))
            best = min(best, seconds)
    return [trial.setting for trial in sorted(trials, key=lambda trial: trial.seconds)[:finalists]]


def _settings(job: Job) -> Iterator[Setting]:
    """Name all settings, and those first that often do well, as the others then need not be waited for."""
    for workers, chunk in product(sorted(WORKERS, key=lambda workers: abs(workers - 32)), CHUNKS):
        if _has_work_for(workers, chunk, job):
            yield Setting("threads", workers, chunk)
    for workers, chunk in product(sorted(WORKERS, key=lambda workers: abs(workers - 2)), CHUNKS):
        if _has_work_for(workers, chunk, job) and workers <= MAX_PROCESSES and not job.is_here_only:
            yield Setting("processes", workers, chunk)


def _has_work_for(workers: int, chunk: int, job: Job) -> bool:
    """Tell whether more than half of the workers have something to do; with fewer it is the setting before."""
    return workers == 1 or math.ceil(len(job.items) / chunk) > workers // 2


def attempt(job: Job, setting: Setting, limit_seconds: float) -> float | None:
    """Return the seconds that all calls take with ``setting``, or None if that is longer, or they fail."""
    gc.collect()
    began = perf_counter()
    try:
        count(
            job,
            engine=setting.engine,
            max_workers=setting.workers,
            chunksize=setting.chunk,
            timeout=limit_seconds,
            **job.options,
        )
    except (TimeoutError, Refused):  # too slow, or too much for the server
        time.sleep(REST_SECONDS)
        return None
    return perf_counter() - began


def count(job: Job, **options: object) -> None:
    """Make all calls by ``treadle.map``, and see that each was made."""
    make: Callable[..., treadle.Run[object]] = treadle.map
    with make(job.fn, job.items, **options) as run:
        delivered = sum(1 for _ in run)
    if delivered != len(job.items):
        raise RuntimeError(f"{delivered} results for {len(job.items)} items")
