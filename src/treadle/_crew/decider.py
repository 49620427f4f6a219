"""The decider of a run with ``engine="auto"``: measures its first calls, and has them go on where they do best.

They are made by threads, as all calls are unless something speaks for a process; so whatever it finds, their results
count. It has a thread of its own, which reads, waits and knocks, and ends with its decision: what is measured are real
calls, in whatever order they come, and one that takes for ever must hold up no decision.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from treadle._core.chunk import Chunk
from treadle._core.context import variable_in_sight
from treadle._core.gil import is_gil_enabled
from treadle._core.importing import module_being_imported
from treadle._core.real_time import perf_counter, process_time
from treadle._core.tell import tell
from treadle._crew.chunking import IN_PROCESSES, ON_THREADS
from treadle._crew.controller import Knee
from treadle._crew.deciding import (
    COMPUTING_SHARE,
    FURTHER_START_SECONDS,
    HELD_SHARE,
    PROCESSES_PER_CORE,
    Measures,
    judge,
    make_out,
)
from treadle._crew.gauges import Gauges
from treadle._crew.gil_probe import Over, probe
from treadle._crew.pickling_trial import Trial, start_seconds, try_pickling
from treadle._engines.engine import CallPlan, Engine
from treadle._engines.inline import InlineEngine
from treadle._engines.movable import Gauge, MovableEngine
from treadle._sync.aside import start_thread
from treadle._sync.parker import Parker

if TYPE_CHECKING:
    from treadle._crew.crew import Crew

# The first calls: at least so many that take so long; or whatever there is by then.
SAMPLE_CALLS = 3
SAMPLE_SECONDS = 0.005
MAX_SAMPLE_SECONDS = 0.020
LOOK_SECONDS = 0.005
# While the first call waits, others may; but if they keep so much of a processor busy, they do something else as well.
BUSY_CORES = 0.5
# One call that has had next to nothing of a processor is enough; a whole one, as it may compute in the end.
CLEARLY_WAITING_SHARE = 0.05
# With a second thread: so long to find its pace, then so many calls for a comparison; else processor time has to do.
SETTLE_SECONDS = 0.010
TRY_SECONDS = 0.040
TRY_CALLS = 8
# A call that does not end may wait for one that has not begun, or for many: so twice the workers each time if those
# there are wait, and otherwise one more, at ever longer intervals.
PATIENCE_SECONDS = 0.25
# When calls that stay on threads are looked at again, and how much later each further time.
LOOK_AGAIN_SECONDS = 0.5
LOOK_AGAIN_LATER = 4
# Two that are at work for less than this, together, do not have enough of it.
WORK_FOR_TWO = 1.5


class Decider:
    """Decides for one crew where its calls are made, once, and says why in ``decision``.

    Args:
        plan: How calls are made.
        name: Of the run.
        max_workers: That the run may have; while calls are measured there is one.
        cores: That may be used: so many processes at most; 0: there can be none.
    """

    def __init__(self, plan: CallPlan, name: str, max_workers: int, cores: int) -> None:
        self.destination: Callable[[], Engine] | None = None
        self._plan = plan
        self._name = name
        self.knee: Knee | None = None  # finds the number of threads, once calls are not measured any more
        self._max_workers = max_workers
        self._cores = min(cores, max_workers)
        self._total: int | None = None
        self._crew: Crew | None = None
        self._gauges = Gauges()
        self._begin = threading.Lock()  # taken for good by whoever starts the thread
        self._moving = threading.Lock()  # held by whoever says that calls are to move, or that they are not after all
        self._is_over = False
        self._parker = Parker()
        self._awaits_news = False  # first this, then the look: workers do it the other way round
        self._wants_trial = False
        self._trial: Trial | None = None
        self._is_thread_due = False
        self._had_gil = False
        self._is_decided = False
        self._is_final = False
        self._processes = 0  # once they are decided on
        self.decision = ""
        self._say_threads("nothing was decided yet")

    def lead(self, crew: Crew, total: int | None) -> None:
        """Decide for ``crew``, which has nothing to do yet, and expects ``total`` calls, if anybody knows."""
        self._crew, self._total = crew, total
        if (reason := self._why_not_at_all()) is not None:
            self._stay(reason)
        elif not is_gil_enabled():
            self._stay("without a GIL, threads compute side by side")
            self._is_thread_due = True  # the first calls may import something that turns it on
        else:
            self._had_gil = self._is_thread_due = True
            crew.resize(1)

    def end(self) -> None:
        """Take note that the run has ended."""
        if not self._is_decided:
            self._say_threads("it was over before more was known")
        self._is_over = True
        self._crew = None
        self._parker.wake()

    def make_engine(self) -> Engine:
        """Return the engine of one worker."""
        return MovableEngine(InlineEngine(self._plan), self)

    def _why_not_at_all(self) -> str | None:
        if self._cores == 0:
            return "there are no processes on this system"
        if self._cores < 2:
            return "one worker is all there may be" if self._max_workers < 2 else "there is one core to use"
        if self._total is not None and self._total < 2:
            return "there is one call to make"
        if (name := module_being_imported()) is not None:
            return f"module {name!r} is still being imported, and processes would need it"
        if (name := variable_in_sight(self._plan.fn, self._plan.context)) is not None:
            return f"calls may look at the context variable {name!r}, and such do not travel to processes"
        return None

    # On the workers' threads

    def note_begun(self, gauge: Gauge) -> None:
        """Begin with the first call, and wake who waits for one."""
        if not self._is_thread_due:
            return
        self._gauges.add(gauge)
        if self._begin.acquire(blocking=False):
            thread = threading.Thread(target=self._run, name=f"treadle-{self._name}-decider", daemon=True)
            try:
                start_thread(thread)
            except (RuntimeError, MemoryError) as error:
                self._is_thread_due = False
                self._stay(f"nothing was measured, as no further thread starts ({error})")
        elif self._awaits_news:
            self._parker.wake()

    def note_ended(self, chunk: Chunk) -> None:
        """Try whether an argument and a result can be pickled, where that is the question.

        Here and now: later, others may be changing them. And whatever has to be imported would take a thread beside
        calls that hold the GIL ten times as long, which waits for it after each file.
        """
        if chunk.start == 0 and self.knee is not None and chunk.begun is not None and chunk.results:
            self.knee.note_alone((perf_counter() - chunk.begun) / len(chunk.results))
        if self._wants_trial and chunk.results and not (chunk.failures and 0 in chunk.failures):
            self._wants_trial = False
            if chunk.trial is not None and (crew := self._crew) is not None:
                with crew.lock:
                    chunk.trial.is_closed = True  # what follows is not the call's time
            self._trial = try_pickling(self._plan, chunk.items[0], chunk.results[0])
        if self._awaits_news:
            self._parker.wake()

    def close_after_fork(self) -> None:
        """Make the lock anew in a forked child: a thread that is not there may hold the parent's."""
        self._moving = threading.Lock()

    def call_off(self, error: BaseException) -> None:
        """Stay on threads, as a process would not start."""
        with self._moving:
            if self.destination is None:  # another worker was faster
                return
            self._is_final, self.destination = True, None
            self._stay(f"they were to go on in processes, but one could not get ready: {error}")
        tell(logging.WARNING, "run %r stays on threads: a process could not get ready", self._name, error=error)

    # On the decider's

    def _run(self) -> None:
        try:
            self._decide()
            self._awaits_news = self._wants_trial = False
            self._look_again()
            self._make_up_for_the_last()
        except Over:
            pass
        except BaseException as error:
            tell(logging.ERROR, "run %r: deciding failed", self._name, error=error)
            self._stay("deciding failed, see the log")
        self._is_thread_due = self._awaits_news = self._wants_trial = False
        self._gauges.clear()

    def _decide(self) -> None:
        found = self._sample(is_alone=self._had_gil)
        if not self._had_gil:
            if not is_gil_enabled():
                self._is_final = True
                return
            self._gather()  # those were made by many at a time
            found = self._sample()
        while (kind := judge(found)) in ("knock", "try two"):
            if kind == "knock":
                found = replace(found, held=probe(self._wait_until_busy, self._gauges.busy))
            else:
                found = replace(found, gain=self._try_two(found))
        if kind == "tiny":
            self._stay(f"a call takes {found.mean * 1e6:.2g} us, so they are made many at a time by one worker")
        elif kind == "waits":
            self._stay(f"calls wait: they compute {found.computing:.0%} of their time")
        elif kind == "computes on several cores":
            self._stay(f"calls compute on {found.cores:.1f} cores each")
        elif kind == "computes without the GIL":
            self._stay(f"calls compute, and let others do so too: {_shown(found)}")
        else:
            self._weigh(found, f"calls hold the GIL ({_shown(found)})", begin_with=1)

    def _sample(self, is_alone: bool = True) -> Measures:
        """Return what calls take, made by one worker; or by many, where the first one waits and ``is_alone``."""
        began = perf_counter(), process_time()
        while True:
            calls, seconds, computing = self._gauges.lately()
            is_waiting = computing < CLEARLY_WAITING_SHARE * seconds
            if seconds >= SAMPLE_SECONDS and is_alone and is_waiting and not calls:
                if (measures := self._let_others_in()) is not None:
                    return measures
                is_alone, began = False, (perf_counter(), process_time())
            elif seconds >= MAX_SAMPLE_SECONDS or (
                seconds >= SAMPLE_SECONDS and calls >= (1 if is_waiting else SAMPLE_CALLS)
            ):
                cores = (process_time() - began[1]) / (perf_counter() - began[0])
                return replace(self._gauges.measures(), cores=cores)
            self._wait_until_busy()
            self._pause(LOOK_SECONDS)

    def _let_others_in(self) -> Measures | None:
        """Have as many workers as for calls that wait, as the first one does so far, and see whether they all do.

        Returns None where they compute after all, and one worker makes calls again. So a call that takes long to wait
        costs a run no time, and one that computes after it has waited is not taken for another.
        """
        before, began = self._gauges.since(), perf_counter()
        self._spread_out()
        while True:
            self._pause(LOOK_SECONDS)
            calls, _, computing = self._gauges.since(before)
            passed = perf_counter() - began
            if passed >= MAX_SAMPLE_SECONDS and computing >= BUSY_CORES * passed:
                self._gather()
                return None
            if (calls and computing < BUSY_CORES * passed) or passed >= PATIENCE_SECONDS:
                return self._gauges.measures()

    def _spread_out(self) -> None:
        crew = self._ours()
        if self.knee is not None:
            crew.tune(self.knee)
        else:
            crew.resize(self._max_workers)

    def _gather(self) -> None:
        """Have one worker again, and count what comes from now on."""
        crew = self._ours()
        crew.stop_tuning()
        crew.resize(1)
        deadline = perf_counter() + PATIENCE_SECONDS
        while self._gauges.busy() > 1 and perf_counter() < deadline:
            self._pause(LOOK_SECONDS)
        self._gauges.start_over()

    def _try_two(self, one: Measures) -> float:
        """Return how much further two threads get than one; infinite where the work is not enough for two."""
        crew = self._ours()
        crew.stop_tuning()  # if others were let in
        crew.resize(2)
        self._pause(SETTLE_SECONDS)
        before, began = self._gauges.since(), perf_counter()
        self._pause(TRY_SECONDS)
        passed = perf_counter() - began
        calls, seconds, computing = self._gauges.since(before)
        if seconds < WORK_FOR_TWO * passed:
            return math.inf
        if calls >= TRY_CALLS and one.calls >= TRY_CALLS:
            return 2 * (calls / seconds) * one.mean
        return 2 * (computing / seconds) / one.computing

    def _look_again(self) -> None:
        """See now and then whether calls on threads have come to wait for the GIL, as many do or others came."""
        seconds = LOOK_AGAIN_SECONDS
        while not (self.destination or self._is_final):
            self._pause(seconds)
            seconds *= LOOK_AGAIN_LATER
            self._wait_until_busy()
            before, began = self._gauges.since(), perf_counter()
            held = probe(self._ours, self._gauges.busy)
            calls, _, computing = self._gauges.since(before)
            if calls and held >= HELD_SHARE and computing > COMPUTING_SHARE * (perf_counter() - began):
                self._weigh_many(held)

    def _weigh_many(self, held: float) -> None:
        """Move to processes if calls that hold the GIL together, by so much, would be faster there than they are now.

        What they take by themselves, one worker has to show: many that take turns all seem to wait.
        """
        self._gather()
        found = self._sample(is_alone=False)
        if found.calls and judge(found) not in ("tiny", "computes on several cores"):
            self._weigh(replace(found, held=found.computing), f"calls hold the GIL: together {held:.0%} of the time")
        if self.destination is None:
            self._spread_out()

    def _weigh(self, found: Measures, holds: str, begin_with: int | None = None) -> None:
        """Move to processes, if that pays and everything pickles; otherwise go on with so many workers."""
        self._ours().stop_tuning()
        trial = self._wait_for_trial()
        if trial.make_engine is None:
            self._is_final = True
            self._stay(f"{holds}, but cannot move to processes: {trial.refusal}", begin_with)
            return
        totals = self._gauges.since()
        left = None if self._total is None else self._total - totals[0]
        if not found.calls:  # only now is it known how long one takes
            found = replace(self._gauges.measures(), held=found.held, gain=found.gain)
        processes = self._count_processes(found)
        bill = make_out(found, trial.seconds, left, processes, self._start_seconds(processes), self._cores)
        if not bill.pays:
            self._stay(f"{holds}, but processes would not pay for the calls that are left: {left}", begin_with)
            return
        crew = self._ours()
        with self._moving:
            self._is_decided = True
            self.decision = f"processes, at most {processes} workers: {holds}; about {bill.gain:.1f}x faster"
            self.destination = trial.make_engine
            self._processes = processes
            crew.sizer.pace = IN_PROCESSES
            if self.knee is not None:  # then the bound goes by the number of the moment
                crew.sizer.resize(processes)
            crew.resize(processes)

    def _make_up_for_the_last(self) -> None:
        """Have a process more for each call that is still made on a thread: it may last, and has a place."""
        last = self._gauges.busy()
        while last and self.destination is not None:
            self._pause(PATIENCE_SECONDS)
            last = self._gauges.busy()
            with self._moving:
                if self.destination is not None:
                    self._ours().resize(min(self._processes + last, self._max_workers))

    def _count_processes(self, found: Measures) -> int:
        """Return how many it takes to keep the cores busy."""
        wanted = math.ceil(self._cores / max(found.computing, found.held or 0.0, 1 / PROCESSES_PER_CORE) - 0.5)
        return min(max(self._cores, wanted), self._max_workers)

    def _start_seconds(self, processes: int) -> float:
        return start_seconds() + self._gauges.opening + FURTHER_START_SECONDS * (processes - self._cores)

    def _wait_for_trial(self) -> Trial:
        patience = PATIENCE_SECONDS
        self._wants_trial = self._awaits_news = True
        before, deadline = self._gauges.since(), perf_counter() + patience
        while (trial := self._trial) is None:
            self._wait(deadline - perf_counter())
            if perf_counter() >= deadline:
                if self._gauges.since(before)[2] < BUSY_CORES * patience:  # they wait, perhaps for many others
                    self._have_more(self._ours().max_workers)
                else:
                    self._have_more(1)
                    patience *= 2
                before, deadline = self._gauges.since(), perf_counter() + patience
        self._awaits_news = False
        return trial

    def _have_more(self, workers: int) -> None:
        crew = self._ours()
        if (more := min(crew.max_workers + workers, self._max_workers)) > crew.max_workers:
            crew.resize(more)

    def _stay(self, reason: str, begin_with: int | None = None) -> None:
        self._is_decided = True
        self._say_threads(reason)
        if (crew := self._crew) is None:
            return
        crew.sizer.pace = ON_THREADS
        if self.knee is not None:
            if begin_with is not None:
                self.knee.begin_with(begin_with)
            crew.tune(self.knee)
        else:
            crew.resize(self._max_workers)

    def _say_threads(self, reason: str) -> None:
        workers = "" if self.knee is not None else f", at most {self._max_workers} workers"
        self.decision = f"threads{workers}: {reason}"

    def _ours(self) -> Crew:
        crew = self._crew
        if crew is None or self._is_over or crew.is_stopping:
            raise Over
        return crew

    def _wait_until_busy(self) -> None:
        self._ours()
        while not self._gauges.busy():
            self._awaits_news = True
            if not self._gauges.busy():
                self._parker.rest(-1)
            self._awaits_news = False
            self._ours()

    def _wait(self, seconds: float) -> None:
        """Wait for news, or so long."""
        self._parker.rest(max(0.0, seconds))
        self._ours()

    def _pause(self, seconds: float) -> None:
        deadline = perf_counter() + seconds
        while (left := deadline - perf_counter()) > 0:
            self._wait(left)


def _shown(found: Measures) -> str:
    """Return the evidence, for people."""
    shown = f"they compute {found.computing:.0%} of their time, and it was held {found.held or 0:.0%} of it"
    if found.gain is None or found.gain == math.inf:
        return shown
    return f"{shown}; two threads got {found.gain:.1f}x as far as one"
