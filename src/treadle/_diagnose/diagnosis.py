"""What ``treadle.diagnose`` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from treadle._diagnose.blas import Blas

DiagnosedKind = Literal[
    "tiny", "waits", "holds the GIL", "computes without the GIL", "computes on several cores", "unknown"
]
DiagnosedEngine = Literal["loop", "threads", "processes", "coroutines"]

# Who waits for so much of the time and computes for the rest is said to do both.
MIXED_SHARE = 0.3

# Where the GIL was seen held for less than this of the time in which calls compute, two at once have shown that it is.
SEEN_SHARE = 0.5

_KINDS: dict[DiagnosedKind, str] = {
    "tiny": "its calls are tiny",
    "waits": "it waits",
    "holds the GIL": "it computes, and holds the GIL",
    "computes without the GIL": "it computes, and lets others do so too",
    "computes on several cores": "each call computes on several cores",
    "unknown": "what it does could not be found out",
}


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast calls are, or would be, by so many workers of an engine.

    Attributes:
        engine: ``"loop"`` (a plain ``for`` loop), ``"threads"``, ``"processes"`` or ``"coroutines"``.
        workers: At a time.
        per_second: Calls in a second.
        gain: How many times as fast as the first row: one thread, one coroutine.
        memory: Bytes that come with the workers; None: not known.
        start: Seconds until they could make calls, where that was measured: with processes.
        is_measured: With real calls; otherwise this is what is to be expected from those that were.
    """

    engine: DiagnosedEngine
    workers: int
    per_second: float
    gain: float
    memory: int | None
    start: float | None
    is_measured: bool


@dataclass(frozen=True, slots=True)
class Pickling:
    """What it takes to send an argument and a result to a process.

    Attributes:
        seconds: To pickle both.
        argument: Bytes of the one; None: not known.
        result: Bytes of the other; None: not known.
        problems: What cannot be sent, with the way to it, or what became of all calls there; empty: nothing is in the
            way.
    """

    seconds: float = 0.0
    argument: int | None = None
    result: int | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a function does with its time, how fast its calls are by each engine, and which to use. From ``diagnose``.

    ``str()`` explains it in words, with a table. It can be pickled.

    Attributes:
        function: Its name.
        kind: ``"tiny"``, ``"waits"``, ``"holds the GIL"``, ``"computes without the GIL"``,
            ``"computes on several cores"`` or ``"unknown"``.
        calls: That were made and have ended.
        items: Different ones that were taken for them.
        failed: Calls that raised.
        unfinished: Calls that had not ended when time was up, and were left behind.
        seconds: That it took to find all this out.
        call_seconds: For one call, where nothing else goes on; None: none has ended.
        waiting: The share of its time in which a call had no processor.
        computing: The share in which it had one.
        held: The share of the time in which the GIL was held; None: not measured, or there is none.
        cores: That may be used.
        has_gil: Whether one thread computes at a time.
        python: The version.
        speeds: By engine and number of workers, measured and expected.
        pickling: What it takes to send calls to processes.
        blas: Libraries of linear algebra that are loaded, with threads of their own.
        engine: The one to use, ``"loop"`` for none.
        workers: How many of it.
        line: The line of Python to use.
        why: Why this one.
        notes: What else is worth knowing.
    """

    function: str
    kind: DiagnosedKind
    calls: int
    items: int
    failed: int
    unfinished: int
    seconds: float
    call_seconds: float | None
    waiting: float
    computing: float
    held: float | None
    cores: int
    has_gil: bool
    python: str
    speeds: tuple[Speed, ...]
    pickling: Pickling
    blas: tuple[Blas, ...]
    engine: DiagnosedEngine
    workers: int
    line: str
    why: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as dictionaries, lists, strings and numbers, under the names of the attributes."""
        return asdict(self)

    def to_json(self, indent: int | None = None) -> str:
        """Return all of it as JSON, under the names of the attributes."""
        import json  # not for whoever diagnoses nothing

        return json.dumps(self.as_dict(), indent=indent, ensure_ascii=False)

    def __str__(self) -> str:
        parts = [self.headline(), self.shares(), self.sample(), "", *self._table(), "", *self.remarks()]
        return "\n".join([*parts, "", f"Use:  {self.line}", f"Why:  {self.why}"])

    def headline(self) -> str:
        """Return in a few words what the function does."""
        if self.engine == "coroutines" and self.kind == "holds the GIL":
            return f"{self.function}: it computes, and holds up the event loop"
        is_mixed = self.kind == "computes without the GIL" and self.waiting > MIXED_SHARE
        return f"{self.function}: {'it waits and computes in turn' if is_mixed else _KINDS[self.kind]}"

    def shares(self) -> str:
        """Return in a sentence what a call does with its time."""
        took = "No call ended" if self.call_seconds is None else f"A call takes {shown_seconds(self.call_seconds)}"
        held = "" if self.held is None else f"; the GIL was held {self.held:.0%} of it"
        if self.kind == "holds the GIL" and self.held is not None and self.held < SEEN_SHARE * self.computing:
            held += ", which misses how often calls let go of it and come back"
        return f"{took}: it waits {self.waiting:.0%} of its time and computes {self.computing:.0%}{held}"

    def sample(self) -> str:
        """Return in a sentence what that was found out from."""
        ended = f"{count(self.calls, 'call')} of {count(self.items, 'item')}"
        failed = f", {self.failed:,} failed" if self.failed else ""
        left = f", {self.unfinished:,} left behind" if self.unfinished else ""
        gil = "" if self.has_gil else " without a GIL"
        where = f"{count(self.cores, 'core')}, Python {self.python}{gil}"
        return f"Found from {ended} in {self.seconds:.1f} s{failed}{left}; {where}"

    def remarks(self) -> list[str]:
        """Return what is to be said beside the table, a sentence each."""
        sizes = self.pickling
        found = [f"Not for processes: {problem}" for problem in sizes.problems]
        if not found and sizes.argument is not None and sizes.result is not None:
            travel = f"{shown_bytes(sizes.argument)} there and {shown_bytes(sizes.result)} back"
            found.append(f"Pickling takes {shown_seconds(sizes.seconds)} a call, {travel}")
        found += [f"BLAS: {blas.name} has {blas.threads} threads (by {blas.source})" for blas in self.blas]
        return [*found, *self.notes]

    def _table(self) -> list[str]:
        rows = [("", "workers", "calls/s", "gain", "memory", "")]
        rows += [cells(speed) for speed in self.speeds]
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        return [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]).rstrip()
            for row in rows
            if self.speeds
        ]


def cells(speed: Speed) -> tuple[str, str, str, str, str, str]:
    """Return a row of the table, as text."""
    memory = "?" if speed.memory is None else f"+{shown_bytes(speed.memory)}"
    how = "measured" if speed.is_measured else "expected"
    return speed.engine, str(speed.workers), _shown_rate(speed.per_second), f"{speed.gain:.1f}x", memory, how


def count(number: int, thing: str) -> str:
    """Return so many of a thing, in words."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def amount(workers: int, engine: DiagnosedEngine) -> str:
    """Return so many workers of an engine, in words."""
    if engine == "loop":
        return "a plain loop"
    one = {"threads": "thread", "processes": "process", "coroutines": "coroutine"}[engine]
    return f"{workers} {one if workers == 1 else engine}"


def shown_seconds(seconds: float) -> str:
    """Return a time with its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def shown_bytes(size: int) -> str:
    """Return a size with its unit."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.0f} kB" if size < 1e6 else f"{size / 1e6:,.1f} MB"


def _shown_rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
