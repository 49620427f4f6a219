"""A diagnosis put together: the line to use, and what else is worth knowing."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

from treadle._core.describe import describe, describe_function
from treadle._crew.deciding import POOR_GAIN, make_out
from treadle._diagnose.blas import Blas, find_blas
from treadle._diagnose.diagnosis import Diagnosis, Speed, amount, count
from treadle._diagnose.prospects import Findings, Verdict, contradiction, give_verdict, kind_of, speeds_of
from treadle._diagnose.rehearsal import Trial


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was found out.

    Attributes:
        fn: The function.
        findings: What judgement goes by.
        trials: All that were made.
        items: Different ones that were taken.
        seconds: That it took.
        has_resource: Calls get one.
        load: Of the machine, before.
    """

    fn: Callable[..., Any]
    findings: Findings
    trials: tuple[Trial, ...]
    items: int
    seconds: float
    has_resource: bool
    load: float

    def report(self) -> Diagnosis:
        """Return the diagnosis."""
        it = self.findings
        speeds = speeds_of(it)
        verdict = give_verdict(it, speeds)
        blas = find_blas(it.cores)
        computing = min(1.0, it.found.computing)
        calls = sum(trial.calls for trial in self.trials)
        unfinished = sum(trial.unfinished for trial in self.trials)
        return Diagnosis(
            function=describe_function(self.fn),
            kind=kind_of(it),
            calls=calls,
            items=min(self.items, calls + unfinished),
            failed=sum(trial.failed for trial in self.trials),
            unfinished=unfinished,
            seconds=self.seconds,
            call_seconds=it.found.mean if it.found.calls else None,
            waiting=1.0 - computing,
            computing=computing,
            held=it.found.held,
            cores=it.cores,
            has_gil=it.has_gil,
            python=platform.python_version(),
            speeds=speeds,
            pickling=it.pickling,
            blas=blas,
            engine=verdict.engine,
            workers=verdict.workers,
            line=self._line(verdict),
            why=verdict.why,
            notes=tuple(self._notes(verdict, speeds, blas)),
        )

    def _line(self, verdict: Verdict) -> str:
        name = name_of(self.fn)
        resource = ", resource=resource" if self.has_resource else ""
        if verdict.engine == "loop" and not resource:
            return f"[{name}(item) for item in items]"
        engine = ', engine="processes"' if verdict.engine == "processes" else ""
        patience = "" if self.findings.found.calls else ", call_timeout=60"
        return f"treadle.map({name}, items{resource}{engine}, max_workers={verdict.workers}{patience})"

    def _notes(self, verdict: Verdict, speeds: tuple[Speed, ...], blas: tuple[Blas, ...]) -> Iterator[str]:
        yield from self._notes_on_calls()
        yield from self._notes_on_cores(verdict, blas)
        it = self.findings
        yield from self._notes_on_processes(verdict)
        if it.found.gain is not None and it.found.gain <= POOR_GAIN and kind_of(it) == "holds the GIL":
            yield f"Two threads came {it.found.gain:.1f} times as far as one"
        if verdict.engine == it.basis and 1 < verdict.workers == it.most_workers != it.left:
            yield 'More workers may bring more: max_workers="auto" finds how many while calls are made'
        if (said := contradiction(verdict, speeds)) is not None:
            yield said

    def _notes_on_processes(self, verdict: Verdict) -> Iterator[str]:
        """Say where processes would bring something, if things were otherwise."""
        it = self.findings
        could_be = it.found.calls and it.has_processes and it.cores > 1 and not it.is_async
        if verdict.engine != "loop" or kind_of(it) != "holds the GIL" or not could_be:
            return
        bill = make_out(it.found, it.pickling.seconds, None, it.cores)
        if bill.pays:
            condition = "if its calls could be made there" if it.pickling.problems else "for many more calls than these"
            yield f"{amount(it.cores, 'processes')} would be about {bill.gain:.1f} times as fast, {condition}"

    def _notes_on_calls(self) -> Iterator[str]:
        calls = sum(trial.calls for trial in self.trials)
        if failed := sum(trial.failed for trial in self.trials):
            error = next(trial.error for trial in self.trials if trial.error is not None)
            yield f"{failed:,} of {calls:,} calls failed, the first with {describe(error)}"
        if unfinished := sum(trial.unfinished for trial in self.trials):
            yield (
                f"{count(unfinished, 'call')} had not ended when time was up: give more seconds=, or see by "
                "treadle.dump() where it hangs"
            )
        if calls > self.items:
            yield f"{count(calls, 'call')} were made of {count(self.items, 'item')}: again and again of the same"

    def _notes_on_cores(self, verdict: Verdict, blas: tuple[Blas, ...]) -> Iterator[str]:
        cores = self.findings.cores
        if self.load > cores + 1:
            yield f"The machine had other things to do (load {self.load:.1f}, {cores} cores), which slows calls down"
        workers = 1 if kind_of(self.findings) == "waits" else verdict.workers
        for library in blas:
            if min(workers, library.threads) > 1 and workers * library.threads > cores:
                yield (
                    f"{workers} workers with {library.threads} threads of {library.name} each are more than "
                    f"{cores} cores can serve: set {library.variable}={max(1, cores // workers)} before it is "
                    "imported, or keep the workers at 1"
                )


def name_of(fn: Any) -> str:
    """Return what to call ``fn`` by in a line of Python, where its user has written one: ``fn``, if nobody can tell."""
    name = str(getattr(fn, "__name__", ""))
    if not isinstance(fn, FunctionType | BuiltinFunctionType | type) or not name.isidentifier():
        return "fn"
    qualified = str(getattr(fn, "__qualname__", name)).rpartition("<locals>.")[2]
    return qualified if all(part.isidentifier() for part in qualified.split(".")) else "fn"
