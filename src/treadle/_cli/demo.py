"""``treadle demo``: the lesson about threads and processes on one screen, on real work."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
from rich.console import Console

import treadle
from treadle._cli.demo_server import MAX_LATENCY_SECONDS, MIN_LATENCY_SECONDS, content_of
from treadle._cli.demo_work import sum_of_squares
from treadle._core.block import contextmanager
from treadle._core.cores import usable_cores
from treadle._core.gil import is_gil_enabled
from treadle._core.real_time import perf_counter
from treadle._core.settings import RunEngine

FILES = 200
SAMPLE = 20
DOWNLOAD_WORKERS = 32
# About a second in all, beside which the start of processes is little; two, three or four share them evenly.
SUMS = 24
SUM_BELOW = 1_000_000
MAX_SUM_WORKERS = 4
# Less than this much faster is no gain worth the name.
GAIN = 1.3
# So much of what the cores could bring is nearly all of it.
NEARLY = 0.75
COLUMNS = 80
_HAS_GROUPS = hasattr(os, "setpgid")
CODE_COLUMNS = 51


@click.command()
def demo() -> None:
    """Show what threads and processes gain, and where they gain nothing, on real work (about 7 seconds).

    Downloads 200 files from a web server on this machine that answers as slowly as a distant one, first one
    after another, then many at a time. Then calls a function that computes: in a loop, by threads, by processes,
    and by whatever Treadle finds best. All that comes back is compared with what it should be.
    """
    console = Console(highlight=False)
    console.print("[bold]Treadle[/]: you write a plain function, it makes the calls many at a time.\n")
    with _server() as port:
        waiting = _show_downloads(console, port)
    with _advice_kept_off():
        computing = _show_sums(console)
    console.print(f"[bold]Why[/]: a download waits, and {DOWNLOAD_WORKERS} threads wait at once: {_times(waiting)}.")
    _say(console, computing.verdict())


def _show_downloads(console: Console, port: int) -> float:
    names = [f"file-{number:03}.bin" for number in range(FILES)]

    def download(name: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=30) as answer:
            body: bytes = answer.read()
        return body

    console.print(
        f"[bold]1. Work that waits[/]: {FILES} files from a server that answers after "
        f"{MIN_LATENCY_SECONDS * 1000:.0f} to {MAX_LATENCY_SECONDS * 1000:.0f} ms"
    )
    console.print(f"   [dim]one after another: the first {SAMPLE}, the time for all is extrapolated ...[/]")
    seconds, bodies = _timed(lambda: [download(name) for name in names[:SAMPLE]])
    _verify(names[:SAMPLE], bodies)
    alone = seconds * FILES / SAMPLE
    _row(console, "for name in names: download(name)", f"{alone:.1f} s", f"{SAMPLE} took {seconds:.1f} s")
    together, bodies = _timed(
        lambda: list(treadle.map(download, names, max_workers=DOWNLOAD_WORKERS, progress=True, name="download"))
    )
    size = _verify(names, bodies)
    code = f"treadle.map(download, names, max_workers={DOWNLOAD_WORKERS})"
    _row(console, code, f"{together:.1f} s", _times(alone / together))
    console.print(f"   all {FILES} files are right, byte for byte: {size / 1e6:.1f} MB compared\n")
    return alone / together


def _show_sums(console: Console) -> Computing:
    cores = usable_cores()
    workers = max(2, min(MAX_SUM_WORKERS, cores))
    limits = [SUM_BELOW + number for number in range(SUMS)]
    on = "1 core" if cores == 1 else f"{cores} cores"
    console.print(f"[bold]2. Work that computes[/]: {SUMS} sums of squares in pure Python, on {on}")
    alone, expected = _timed(lambda: [sum_of_squares(limit) for limit in limits])
    _row(console, "for limit in limits: sum_of_squares(limit)", f"{alone:.2f} s")
    console.print(f"   [cyan]treadle.map(sum_of_squares, limits, max_workers={workers},[/]")
    engines: list[RunEngine] = ["threads", "processes", "auto"] if hasattr(os, "fork") else ["threads", "auto"]
    gains = {}
    for engine in engines:
        seconds, (sums, decision) = _timed(partial(_sum_by, engine, limits, workers))
        if sums != expected:
            raise click.ClickException("the sums differ: this must not happen, please report it")
        gains[engine] = alone / seconds
        _row(console, f'            engine="{engine}")', f"{seconds:.2f} s", _times(gains[engine]))
    _say(console, f'"auto" has measured the first calls, and decided: {decision}', indent="   ")
    console.print(f"   all {SUMS} sums agree, each time\n")
    return Computing(gains["threads"], gains.get("processes"), workers, cores, is_gil_enabled())


def _sum_by(engine: RunEngine, limits: list[int], workers: int) -> tuple[list[int], str | None]:
    with treadle.map(sum_of_squares, limits, max_workers=workers, engine=engine) as run:
        return list(run), run.stats.decision


@dataclass(frozen=True, slots=True)
class Computing:
    """What came of the work that computes.

    Attributes:
        threads: How many times as fast they were as one call after another.
        processes: The same; None: there are none on this system.
        workers: Threads, and processes.
        cores: That they had.
        has_gil: Whether this Python lets one thread compute at a time.
    """

    threads: float
    processes: float | None
    workers: int
    cores: int
    has_gil: bool

    def verdict(self) -> str:
        """Return what follows, in words."""
        threads = both = f"{self.workers} threads were {_times(self.threads)}"
        if self.processes is not None:
            both += f", {self.workers} processes {_times(self.processes)}"
        if self.cores == 1:
            return f"The sums compute, and on one core nobody gains by that: {both}."
        if self.has_gil:
            worth = "no gain" if self.threads < GAIN else "no gain but the noise of this machine"
            return (
                "The sums compute, and Python's global interpreter lock (GIL) lets one thread compute at a time: "
                f"{threads}, which is {worth}. {self._way_out()}"
            )
        if self.threads < GAIN:
            return f"The sums compute, and this Python has no GIL, but too few cores were free: {both}."
        return f"The sums compute, and this Python has no GIL, so threads do so side by side: {both}."

    def _way_out(self) -> str:
        if self.processes is None:
            return "Processes would help, which Treadle does not have on this system; so would a Python without a GIL."
        cores = min(self.workers, self.cores)
        worth = f"about what {cores} cores are worth"
        if self.processes < NEARLY * cores:
            worth = f"less than {cores} cores are worth, which others may be using"
        return f"{self.workers} processes, each with a GIL of its own, were {_times(self.processes)}: {worth}."


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = perf_counter()
    result = work()
    return perf_counter() - began, result


def _verify(names: list[str], bodies: list[bytes]) -> int:
    """Compare every byte with what the server should have sent, and return how many there are."""
    for name, body in zip(names, bodies, strict=True):
        if body != content_of(name):
            raise click.ClickException(f"{name} came wrong: this must not happen, please report it")
    return sum(map(len, bodies))


def _row(console: Console, code: str, seconds: str, remark: str = "") -> None:
    console.print(f"   [cyan]{code:<{CODE_COLUMNS}}[/] [bold]{seconds:>8}[/]  {remark}".rstrip())


def _say(console: Console, text: str, indent: str = "") -> None:
    """Print ``text`` in lines of our own, whatever the width of the terminal."""
    console.print(textwrap.fill(text, COLUMNS, initial_indent=indent, subsequent_indent=indent), markup=False)


def _times(factor: float) -> str:
    return f"{factor:.1f} x as fast"


@contextmanager
def _advice_kept_off() -> Iterator[None]:
    """Keep off the screen what the log advises on threads that compute: it is what comes next there anyway."""
    logger, silent = logging.getLogger("treadle"), logging.NullHandler()
    logger.addHandler(silent)
    try:
        yield
    finally:
        logger.removeHandler(silent)


@contextmanager
def _server() -> Iterator[int]:
    """Run the demo's web server, and yield its port."""
    command = [sys.executable, "-m", "treadle._cli.demo_server"]
    # In a process group of its own: Ctrl-C at a terminal is ours, and the server ends when we do.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0 if _HAS_GROUPS else None
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise click.ClickException("the demo's web server did not start")
            yield int(port)
        finally:
            process.stdin.close()  # its sign to end
