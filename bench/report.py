"""The results as plain text for the terminal and as Markdown for the documentation."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import treadle
from bench.benchmark import Benchmark, Result, Table
from bench.peers import versions

Finding = tuple[Benchmark, Result]

HEAD = """\
# Benchmarks

Treadle beside its peers, measured by `python -m bench`, which also wrote this page.

- Machine: {machine}
- Python: {python}
- Treadle {version}; peers: {peers}
- Date: {date}

**How to read it.** The machine is shared and noisy: the same code can take half as long again a minute
later. So contenders take turns, round by round, and what is compared are the medians: ratios hold up where
microseconds do not, and even they move by a tenth or so from run to run. A goal is judged by the median;
where the worst round matters, it stands beneath. Peers are used with their defaults, as their own
documentation shows them, with the same number of workers where one is named and otherwise with their own
default (4, where there is none). Several of them also run processes; where nothing is said of processes, this is about
threads.

**How to reproduce it.**

    pip install . joblib mpire pebble streamable pypeln
    python -m bench            # everything, more than an hour; writes this page
    python -m bench --quick    # fewer rounds
    python -m bench --only noop
"""


def as_text(benchmark: Benchmark, result: Result) -> str:
    """Return one result for the terminal."""
    lines = [f"== {benchmark.name}: {benchmark.work}"]
    lines += [f"   {check.verdict:<7} {check.what}: {check.measured} (goal: {check.goal})" for check in result.checks]
    for table in result.tables:
        lines += ["", *(f"   {line}" for line in _columns(table))]
    lines += ["", *(f"   * {note}" for note in result.notes)] if result.notes else []
    return "\n".join(lines) + "\n"


def as_markdown(findings: Sequence[Finding]) -> str:
    """Return the page with all results."""
    parts = [_head(), _summary(findings)]
    for benchmark, result in findings:
        parts.append(f"## {benchmark.name}\n\n{benchmark.work}\n")
        parts += [_markdown_table(table) for table in result.tables]
        if result.notes:
            parts.append("".join(f"- {note}\n" for note in result.notes))
    return "\n".join(parts)


def _head() -> str:
    return HEAD.format(
        machine=_machine(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        version=treadle.__version__,
        peers=", ".join(versions()),
        date=date.today().isoformat(),
    )


def _summary(findings: Sequence[Finding]) -> str:
    rows = [
        (f"[{benchmark.name}](#{benchmark.name})", check.what, check.goal, check.measured, check.verdict)
        for benchmark, result in findings
        for check in result.checks
    ]
    table = Table(("benchmark", "what is measured", "goal", "measured", ""), rows)
    return "## Goals\n\n" + _markdown_table(table, rule="---")


def _markdown_table(table: Table, rule: str = "---:") -> str:
    """Return ``table`` with its first column to the left and the others where ``rule`` puts them."""
    rules = ("---", *(rule for _ in table.columns[1:]))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (table.columns, rules, *table.rows))


def _columns(table: Table) -> list[str]:
    cells = [table.columns, *table.rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(table.columns))]
    lines = []
    for row in cells:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(first)), *others]))
    return lines


def _machine() -> str:
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
