"""Real calls, some at a time, timed: what ``diagnose`` goes by."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from treadle._core.describe import describe_function
from treadle._core.processor import seconds_in_line
from treadle._core.real_time import perf_counter, process_time, thread_time
from treadle._core.settings import EngineName
from treadle._crew.deciding import Measures
from treadle._diagnose.diagnosis import DiagnosedEngine, Speed
from treadle._diagnose.gauging import Onlooker
from treadle._diagnose.memory import descendants_of, private_bytes, resident_bytes
from treadle._diagnose.supply import Supply
from treadle._run.mapping import map as call_each
from treadle._run.mapping import start_run
from treadle._run.options import prepare
from treadle._run.run import Run
from treadle.errors import TooManyAbandoned

# A call that takes so long waits for nobody who hands over: there, no item is taken before somebody is free for it.
SLOW_SECONDS = 0.020
GRACE_SECONDS = 0.25
WEIGHING_SECONDS = 0.05
MAX_LOOPED = 100_000


@dataclass(slots=True)
class Trial:
    """What came of some calls, by so many workers at a time.

    Attributes:
        calls: That have ended, also those that failed.
        rate: Calls in a second, once all workers were at it; None: none has ended.
        first: Seconds until the first had ended.
        start: Seconds of that in which processes started.
        seconds: Of calls, all workers together, without those in which they waited for a processor that others had.
        computing: The share of that in which they had a processor.
        held: The share of the time in which the GIL was held; None: not measured.
        cores: Processors that were busy while a call was made, but for the one who looked on.
        failed: Calls that raised.
        unfinished: Calls that had not ended when time was up; they were left behind.
        error: What the first one raised that did.
        memory: Bytes that came with the workers, at most; None: the system does not tell.
        sample: An item and what its call returned.
    """

    engine: DiagnosedEngine
    workers: int
    calls: int = 0
    rate: float | None = None
    first: float = 0.0
    start: float = 0.0
    seconds: float = 0.0
    computing: float = 0.0
    held: float | None = None
    cores: float = 0.0
    failed: int = 0
    unfinished: int = 0
    error: BaseException | None = None
    memory: int | None = None
    sample: tuple[Any, Any] | None = None

    def measures(self) -> Measures:
        """Return what one worker showed; where calls are awaited, by how busy processors were meanwhile."""
        if self.engine == "coroutines":
            seconds = self.calls / self.rate if self.rate else self.first
            return Measures(self.calls, seconds, min(1.0, self.cores))
        seconds = self.calls / self.rate if self.unfinished and self.rate else self.seconds
        return Measures(self.calls, seconds, self.computing, self.held, cores=self.cores)

    def speed(self) -> Speed:
        """Return the row of a table that this trial is."""
        assert self.rate is not None
        start = self.start if self.engine == "processes" else None
        return Speed(self.engine, self.workers, self.rate, 1.0, self.memory, start, True)


class Rehearsal:
    """Makes calls of one function, now so, now so, and times them.

    Args:
        fn: The function.
        supply: Its items.
        resource: As in ``map``.
    """

    def __init__(self, fn: Callable[..., Any], supply: Supply, resource: Callable[[], Any] | None = None) -> None:
        self._fn = fn
        self._supply = supply
        self._resource = resource
        self.mean = 0.0  # seconds of a call, as far as is known

    def try_out(
        self, engine: EngineName, workers: int, seconds: float, limit: float, most: int = 10**9, are_tiny: bool = False
    ) -> Trial:
        """Make calls, and return what came of them.

        Args:
            engine: That makes them.
            workers: At a time.
            seconds: After which no further call begins; the start of processes does not count.
            limit: Seconds after which those that have not ended are left behind.
            most: Calls.
            are_tiny: They take less than it takes to note when each of them has ended.

        Raises:
            BaseException: What the input raises, or the getting ready of a worker.
        """
        recipe = prepare(
            self._fn,
            engine=engine,
            max_workers=workers,
            ordered=False,
            buffersize=0 if self.mean > SLOW_SECONDS or most == 1 else None,
            timeout=limit,
            resource=self._resource,
            grace=GRACE_SECONDS,
            name=f"diagnosis of {describe_function(self._fn)}",
        )
        trial, onlook = Trial(engine, workers), Onlooker()
        look = _Look(trial, self.mean)
        items = self._supply.items(lambda count: count >= most or look.is_enough(count, seconds))
        with (
            start_run(Run, recipe, items, choose=onlook.choose) as run,
            onlook.knocking(workers == 1 and engine == "threads"),
        ):
            try:
                if are_tiny and engine == "threads":
                    self._take_results(run, look)
                else:
                    self._take_outcomes(run, look)
            except TimeoutError as error:
                if not _is_over(run, error):
                    raise
            except TooManyAbandoned:
                pass  # they are counted
        trial.seconds, computing = onlook.read()
        trial.computing, trial.held = computing / trial.seconds, onlook.held
        look.tell()
        return trial

    def try_loop(self, seconds: float) -> Trial:
        """Make calls in a plain loop, on a thread that can be left behind."""
        trial = Trial("loop", 1, memory=0)

        def loop(items: list[Any]) -> None:
            fn, thread = self._fn, threading.get_native_id()
            in_line, processor, begun = seconds_in_line(thread), thread_time(), perf_counter()
            for item in items:
                fn(item)
            seconds, computing = perf_counter() - begun, thread_time() - processor
            trial.calls, trial.rate = len(items), len(items) / seconds
            trial.seconds = max(computing, seconds - (seconds_in_line(thread) - in_line))
            trial.computing = computing / trial.seconds

        items = self._some(seconds)
        with suppress(Exception), call_each(loop, [items], timeout=2 * seconds) as run:
            next(run)
        return trial

    def _some(self, seconds: float) -> list[Any]:
        most = min(MAX_LOOPED, seconds / max(self.mean, 1e-9))
        return list(self._supply.items(lambda count: count >= most))

    def _take_outcomes(self, run: Run[Any, Any], look: _Look) -> None:
        trial = look.trial
        for outcome in run.outcomes():
            if outcome.status == "not_started":
                self._supply.give_back(outcome.item)
            elif outcome.status == "cancelled":
                trial.unfinished += 1
                self._supply.leave_out(outcome.item)
            else:
                look.note_end()
                if outcome.error is not None:
                    trial.failed += 1
                    trial.error = trial.error or outcome.error
                elif trial.sample is None:
                    trial.sample = (outcome.item, outcome.value)

    def _take_results(self, run: Run[Any, Any], look: _Look) -> None:
        """Take what tiny calls come to; a failure ends it."""
        try:
            deque(run, maxlen=0)
        except Exception as error:
            if error is self._supply.error:
                raise
            if not _is_over(run, error):
                look.trial.failed += 1
                look.trial.error = error
        look.note_ends(run.stats.succeeded)


def _is_over(run: Run[Any, Any], error: Exception) -> bool:
    """Tell whether it was the time of the run that was over, and not somebody else's."""
    return isinstance(error, TimeoutError) and str(error) == str(run._course.timeout_error())


class _Look:
    """The watch and the scales of the one who takes results."""

    def __init__(self, trial: Trial, mean: float) -> None:
        self.trial = trial
        self._mean = mean
        self._ends: list[float] = []
        self._tiny = 0
        self._resident = resident_bytes()
        self._processes = descendants_of(os.getpid())
        self._weigh_at = 0.0
        self._processor = process_time() - thread_time()
        self._begun = perf_counter()

    def is_enough(self, begun: int, seconds: float) -> bool:
        """Tell whether so many calls need no company: each worker has one, and time is up.

        Time goes by once calls are made: the start of processes does not count.
        """
        if begun < self.trial.workers or (self.trial.engine == "processes" and not self._ends):
            return False
        return perf_counter() - self._begun - self._start() >= seconds

    def _start(self) -> float:
        """Return how long processes took to start, as far as is known: the first call's end came so much later."""
        return max(0.0, self._ends[0] - self._mean) if self.trial.engine == "processes" and self._ends else 0.0

    def note_end(self) -> None:
        """Take note that a call has ended."""
        now = perf_counter()
        self._ends.append(now - self._begun)
        if now >= self._weigh_at and len(self._ends) >= self.trial.workers:
            self._weigh()
            self._weigh_at = perf_counter() + WEIGHING_SECONDS

    def note_ends(self, calls: int) -> None:
        """Take note that so many have ended, all at once."""
        self._tiny = calls
        self._ends.append(perf_counter() - self._begun)

    def tell(self) -> None:
        """Put down what was seen."""
        trial = self.trial
        seconds = perf_counter() - self._begun
        trial.calls = self._tiny or len(self._ends)
        trial.first = self._ends[0] if self._ends else seconds
        trial.start = self._start()
        trial.rate = self._tiny / self._ends[0] if self._tiny else rate_of(self._ends, trial.workers, trial.start)
        trial.cores = (process_time() - thread_time() - self._processor) / (
            trial.seconds if trial.engine == "threads" else seconds
        )

    def _weigh(self) -> None:
        if self._resident is None:
            return
        ours = max(0, (resident_bytes() or 0) - self._resident)
        theirs = 0
        if self.trial.engine == "processes":
            theirs = sum(map(private_bytes, descendants_of(os.getpid()) - self._processes))
        self.trial.memory = max(self.trial.memory or 0, ours + theirs)


def rate_of(ends: list[float], workers: int, start: float = 0.0) -> float | None:
    """Return the calls in a second, by when they ended.

    What came before all workers had made a call is left out, if there is enough after it, and so is the last round,
    where not all of them had one to make.

    Args:
        ends: Seconds since the workers were sent for.
        workers: That made calls at a time.
        start: Seconds until they could.
    """
    rounds, _ = divmod(len(ends), workers)
    if rounds >= 2:
        last, first = ends[rounds * workers - 1], ends[workers - 1]
        if last > first:
            return (rounds - 1) * workers / (last - first)
    return len(ends) / max(ends[-1] - start, 1e-9) if ends else None
