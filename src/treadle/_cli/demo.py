"""``treadle demo``: the lesson about threads on one screen, on real work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import treadle
from treadle._cli.demo_server import MAX_LATENCY_SECONDS, MIN_LATENCY_SECONDS, content_of
from treadle._core.gil import is_gil_enabled

FILES = 200
SAMPLE = 20
DOWNLOAD_WORKERS = 32
SUMS = 8
SUM_BELOW = 1_000_000
# Less than this much faster is no gain worth the name.
GAIN = 1.3


@click.command()
def demo() -> None:
    """Show what threads gain, and where they gain nothing, on real work (about 5 seconds).

    Downloads 200 files from a web server on this machine that answers as slowly as a distant one, first one
    after another, then many at a time; then does the same with a function that computes. Every byte that
    arrives is compared with what the server should have sent.
    """
    console = Console()
    console.print("[bold]Treadle[/]: you write a plain function, it makes the calls many at a time.\n")
    with _server() as port:
        waiting = _show_downloads(console, port)
    computing = _show_sums(console)
    _conclude(console, waiting, computing)


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
    together, bodies = _timed(
        lambda: list(treadle.map(download, names, max_workers=DOWNLOAD_WORKERS, progress=True, name="download"))
    )
    size = _verify(names, bodies)
    table = _table()
    table.add_row("  for name in names: download(name)", f"{alone:.1f} s", f"{SAMPLE} took {seconds:.1f} s")
    table.add_row(
        f"  treadle.map(download, names, max_workers={DOWNLOAD_WORKERS})", f"{together:.1f} s", _times(alone / together)
    )
    console.print(table)
    console.print(f"   all {FILES} files are right, byte for byte: {size / 1e6:.1f} MB compared\n")
    return alone / together


def _show_sums(console: Console) -> float:
    workers = min(4, os.cpu_count() or 1)
    limits = [SUM_BELOW + number for number in range(SUMS)]
    console.print(f"[bold]2. Work that computes[/]: {SUMS} sums of squares in pure Python, on {os.cpu_count()} cores")
    alone, expected = _timed(lambda: [sum_of_squares(limit) for limit in limits])
    together, sums = _timed(lambda: list(treadle.map(sum_of_squares, limits, max_workers=workers)))
    if sums != expected:
        raise click.ClickException("the sums differ: this must not happen, please report it")
    table = _table()
    table.add_row("  for limit in limits: sum_of_squares(limit)", f"{alone:.2f} s", "")
    table.add_row(
        f"  treadle.map(sum_of_squares, limits, max_workers={workers})", f"{together:.2f} s", _times(alone / together)
    )
    console.print(table)
    console.print(f"   all {SUMS} sums agree\n")
    return alone / together


def sum_of_squares(limit: int) -> int:
    """Return the sum of the squares below ``limit``, slowly."""
    total = 0
    for number in range(limit):
        total += number * number
    return total


def _conclude(console: Console, waiting: float, computing: float) -> None:
    console.print(
        f"[bold]Why[/]: a download waits, and {DOWNLOAD_WORKERS} threads wait at the same time: "
        f"{waiting:.0f} x as fast."
    )
    if is_gil_enabled():
        verdict = "no gain" if computing < GAIN else "no gain but the noise of this machine"
        console.print(
            "The sums compute, and Python's global interpreter lock (GIL) lets one thread\n"
            f"compute at a time: {computing:.1f} x as fast, which is {verdict}. Work that computes wants\n"
            "processes, or a Python without a GIL."
        )
    elif computing >= GAIN:
        console.print(
            f"The sums gained too, {computing:.1f} x: this Python has no GIL, so threads compute side by side."
        )
    else:
        console.print(
            f"The sums gained nothing ({computing:.1f} x), although this Python has no GIL:\ntoo few cores were free."
        )


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _verify(names: list[str], bodies: list[bytes]) -> int:
    """Compare every byte with what the server should have sent, and return how many there are."""
    for name, body in zip(names, bodies, strict=True):
        if body != content_of(name):
            raise click.ClickException(f"{name} came wrong: this must not happen, please report it")
    return sum(map(len, bodies))


def _table() -> Table:
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    return table


def _times(factor: float) -> str:
    return f"{factor:.1f} x as fast"


@contextmanager
def _server() -> Iterator[int]:
    """Run the demo's web server, and yield its port."""
    command = [sys.executable, "-m", "treadle._cli.demo_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise click.ClickException("the demo's web server did not start")
            yield int(port)
        finally:
            process.stdin.close()  # its sign to end
