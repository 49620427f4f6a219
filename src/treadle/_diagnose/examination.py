"""An examination: trial after trial, as long as there is time, and then the diagnosis."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from treadle._core.cores import usable_cores
from treadle._core.coroutine_function import is_coroutine_function
from treadle._core.describe import annotate, describe
from treadle._core.gil import is_gil_enabled
from treadle._core.real_time import perf_counter
from treadle._core.settings import EngineName
from treadle._crew.deciding import TINY_SECONDS, Measures
from treadle._crew.pickling_trial import start_seconds
from treadle._diagnose.diagnosis import Diagnosis, Pickling, count
from treadle._diagnose.prospects import Findings, is_past_knee, most_workers, numbers_of
from treadle._diagnose.rehearsal import Rehearsal, Trial
from treadle._diagnose.report import Facts
from treadle._diagnose.sendability import try_pickling
from treadle._diagnose.supply import Supply
from treadle._run.choosing import _has_processes
from treadle.errors import InvalidArgument

# Of the time, for the first call: with what is left, more can be found out.
FIRST_SHARE = 0.5
# A trial lasts so long, unless calls take longer.
TRIAL_SECONDS = 0.5
MIN_TRIAL_SECONDS = 0.05
# Calls may take so many times as long as they took alone, before a trial is given up.
SLACK = 4.0
MIN_SLACK_SECONDS = 0.5
# Processes may take so long to start, on a busy machine.
START_PATIENCE_SECONDS = 3.0


class Examination:
    """One diagnosis on its way: what was tried so far, and for how long to go on."""

    def __init__(
        self,
        fn: Callable[..., Any],
        supply: Supply,
        left: int | None,
        seconds: float,
        max_workers: int,
        resource: Callable[[], Any] | None,
    ) -> None:
        self._fn = fn
        self._supply = supply
        self._given = left
        self._max_workers = max_workers
        self._began = perf_counter()
        self._seconds = seconds
        self._resource = resource
        self._rehearsal = Rehearsal(fn, supply, resource)
        self._is_async = is_coroutine_function(fn)
        self._basis: EngineName = "coroutines" if self._is_async else "threads"
        self._trials: list[Trial] = []
        self._found = Measures(0, 0.0, 0.0)
        self._pickling = Pickling()
        self._start = start_seconds() if _has_processes() else math.inf
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0

    def diagnosis(self) -> Diagnosis:
        """Make the calls, and say what they show."""
        first = self._look_at_one()
        if first.calls:
            self._pickling = try_pickling(self._fn, self._resource, first.sample)
            self._try_more()
        facts = Facts(
            self._fn,
            self._findings(),
            tuple(self._trials),
            items=self._supply.taken,
            seconds=perf_counter() - self._began,
            has_resource=self._resource is not None,
            load=self._load,
        )
        return facts.report()

    def _look_at_one(self) -> Trial:
        """Make calls one at a time, and return what came of them; the first has perhaps had to import something."""
        seconds = FIRST_SHARE * self._seconds
        trial = self._rehearsal.try_out(self._basis, 1, seconds, seconds, most=1)
        if not trial.calls and not trial.unfinished:
            raise InvalidArgument("items", "none", "at least one item to call fn with")
        self._note(trial)
        if trial.calls and trial.first < self._seconds_left() / 4:
            trial = self._try(self._basis, 1) or trial
        if trial.failed and trial.failed == trial.calls:
            assert trial.error is not None
            annotate(trial.error, f"so did all of the first calls that diagnose made: {trial.calls}")
            raise trial.error
        return trial

    def _try_more(self) -> None:
        if self._is_tiny():
            self._try(self._basis, 1)
            self._note(self._rehearsal.try_loop(TRIAL_SECONDS / 2))
        self._try(self._basis, 2)
        for workers in numbers_of(most_workers(self._findings())):
            if workers > 2 and (self._is_past_knee() or not self._try(self._basis, workers)):
                break
        if self._basis == "threads" and _has_processes() and not self._pickling.problems:
            for workers in sorted({1, min(usable_cores(), self._findings().most)}, reverse=True):
                if not self._pickling.problems:
                    self._try("processes", workers)

    def _is_past_knee(self) -> bool:
        measured = {speed.workers: speed for speed in self._findings().measured if speed.engine == self._basis}
        return is_past_knee(measured, max(measured))

    def _try(self, engine: EngineName, workers: int) -> Trial | None:
        """Make calls, unless there is no time for them, or no item, or were made so already."""
        left, mean = self._seconds_left(), self._rehearsal.mean
        if self._supply.lacks() or workers > self._findings().most or left < max(MIN_TRIAL_SECONDS, 1.2 * mean):
            return None
        seconds = min(TRIAL_SECONDS, left / 2)
        patience = START_PATIENCE_SECONDS if engine == "processes" else 0.0
        limit = min(left, seconds + max(MIN_SLACK_SECONDS, SLACK * mean) + patience)
        trial = self._rehearsal.try_out(engine, workers, seconds, limit, are_tiny=self._is_tiny())
        self._note(trial)
        return trial if trial.calls else None

    def _note(self, trial: Trial) -> None:
        self._trials.append(trial)
        if trial.engine == "processes" and (problem := _trouble_of(trial)) is not None:
            self._pickling = replace(self._pickling, problems=(*self._pickling.problems, problem))
        is_alone = trial.workers == 1 and trial.engine in ("loop", self._basis)
        if is_alone and (trial.calls or not self._found.calls):
            held = self._found.held if trial.held is None else trial.held
            self._found = replace(trial.measures(), held=held)
            self._rehearsal.mean = self._found.mean if trial.calls else 0.0

    @property
    def _left(self) -> int | None:
        """How many items there will be: where they are called again they are a sample, and say nothing of that."""
        if self._supply.may_repeat:
            return None
        return self._supply.total if self._given is None else self._given

    def _is_tiny(self) -> bool:
        has_failed = any(trial.failed for trial in self._trials)
        is_tiny = self._found.calls > 0 and self._found.mean < TINY_SECONDS
        return is_tiny and not has_failed and not self._is_async

    def _seconds_left(self) -> float:
        return self._seconds - (perf_counter() - self._began)

    def _findings(self) -> Findings:
        useful = [trial for trial in self._trials if trial.rate is not None and trial.failed < trial.calls]
        tried = {(trial.engine, trial.workers): trial for trial in useful}
        two = tried.get(("threads", 2))
        return Findings(
            replace(self._found, gain=None if two is None else 2 * self._found.mean / two.measures().mean),
            tuple(trial.speed() for trial in tried.values()),
            self._pickling,
            usable_cores(),
            self._max_workers,
            self._left,
            self._start,
            has_gil=is_gil_enabled(),
            has_processes=_has_processes(),
            is_async=self._is_async,
        )


def _trouble_of(trial: Trial) -> str | None:
    """Return why calls are not for processes after all, though they can be sent there; None: they may be."""
    if trial.unfinished and not trial.calls:
        return f"there, {count(trial.unfinished, 'call')} had not ended when time was up"
    if trial.failed and trial.failed == trial.calls:
        return f"there, every call failed, the first with {describe(trial.error)}"
    return None
