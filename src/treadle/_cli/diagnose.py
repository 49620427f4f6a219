"""``treadle diagnose``: what a function does with its time, and how its calls are made fastest."""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import treadle
from treadle._cli.functions import load_function
from treadle._cli.input_options import choose_inputs
from treadle._cli.inputs import Entry, InputError
from treadle._cli.map_command import EXIT_BROKEN_PIPE, EXIT_FAILED_ITEMS, EXIT_USAGE, FiniteNumber
from treadle._cli.results import claim_stdout, discard
from treadle._cli.standard_error import EXIT_INTERRUPTED, say, write_beside
from treadle._core.block import contextmanager
from treadle._core.describe import cut_our_frames, escape_controls, hide_secrets
from treadle._core.user_code import call_guarded
from treadle._diagnose.diagnosing import DEFAULT_MAX_ITEMS, DEFAULT_MAX_WORKERS, DEFAULT_SECONDS
from treadle._diagnose.diagnosis import Speed, cells

BAR_CELLS = 16
MAX_WIDTH = 100
WIDTH_WITH_BARS = 76


@click.command()
@click.argument("func")
@click.argument("inputs", nargs=-1)
@click.option("--lines", "line_files", multiple=True, metavar="FILE", help="Each line of FILE is an input.")
@click.option("--json-lines", "json_files", multiple=True, metavar="FILE",
              help="Each line of FILE is an input, as JSON.")  # fmt: skip
@click.option("--seconds", type=FiniteNumber(min=0, min_open=True), default=DEFAULT_SECONDS, show_default=True,
              metavar="SECONDS", help="How long it may take, at most.")  # fmt: skip
@click.option("--max-workers", "-w", type=click.IntRange(min=1), default=DEFAULT_MAX_WORKERS, show_default=True,
              metavar="COUNT", help="Calls at a time, at most.")  # fmt: skip
@click.option("--max-items", type=click.IntRange(min=1), default=DEFAULT_MAX_ITEMS, show_default=True,
              metavar="COUNT", help="Inputs that are used, at most.")  # fmt: skip
@click.option("--once", is_flag=True, help="Call FUNC with each input at most once.")
@click.option("--json", "as_json", is_flag=True, help="Write what was found as JSON.")
def diagnose(
    func: str,
    inputs: tuple[str, ...],
    line_files: tuple[str, ...],
    json_files: tuple[str, ...],
    seconds: float,
    max_workers: int,
    max_items: int,
    once: bool,
    as_json: bool,
) -> None:
    """Find out what FUNC does with its time, and how its calls are made fastest.

    FUNC and INPUT are those of treadle map. FUNC is really called, with all that it does to files, databases and
    servers: on one thread, then on more and more, and in processes (an async one: on an event loop). Inputs are
    used once as long as there are some, and then again: a few are enough, and what is advised is for many of their
    kind. With --once none is used again, and what is advised is for as many as there are.

    \b
    Examples:
      treadle diagnose shop.api:fetch 17 18 19
      treadle diagnose fetch.py:page --lines urls.txt --seconds 20
      treadle diagnose sums.py:factorize --lines numbers.txt --json | jq .line

    The table has the speed and the memory of 1, 2, 4, ... workers: measured with real calls, or expected from
    those. What FUNC prints goes to standard error. With --json the fields are those of treadle.Diagnosis
    (see `help(treadle.Diagnosis)`), and "command", the treadle map to use.

    \b
    Exit status: 0 something was found out, 1 every call failed, 2 the command or an input is wrong,
    130 after Ctrl-C.
    """
    entries = choose_inputs(inputs, line_files, json_files, json_option="--json-lines")
    function = load_function(func)
    try:
        stdout = claim_stdout()
    except OSError:
        raise click.UsageError("standard output is closed, so there is nowhere to write to") from None
    options = {"seconds": seconds, "max_workers": max_workers, "max_items": max_items, "repeat": not once}
    with stdout:
        found = _diagnose(function, entries, options)
        given = [part for option, files in (("--lines", line_files), ("--json", json_files))
                 for file in files for part in (option, file)]  # fmt: skip
        command = command_for(found, func, given or ["-" if inputs == ("-",) else "INPUT..."])
        try:
            _write(found, command, stdout, as_json)
        except BrokenPipeError:
            discard(stdout)
            sys.exit(EXIT_BROKEN_PIPE)
    sys.exit(0)


class _Values:
    """The values of entries; their number can be asked, if that of the entries can be."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = entries

    def __iter__(self) -> Any:
        return map(_value_of, self._entries)

    def __len__(self) -> int:
        return len(self._entries)  # type: ignore[arg-type]  # raises where nobody knows, as it should


def _value_of(entry: Entry) -> Any:
    if entry.problem is not None:
        raise InputError(entry.problem)
    return entry.value


def _diagnose(function: Callable[[Any], Any], entries: Iterable[Entry], options: dict[str, Any]) -> treadle.Diagnosis:
    """Return the diagnosis; leave with a message for whoever reads, if there can be none."""
    console = Console(stderr=True)
    waiting = f"making calls, for {options['seconds']:g} s at most ..."
    try:
        with _status(console, waiting):
            return treadle.diagnose(function, _Values(entries), **options)
    except InputError as error:
        say(f"treadle: {error}")
        sys.exit(EXIT_USAGE)
    except treadle.InvalidArgument as error:
        raise click.UsageError(_in_words(error)) from None
    except KeyboardInterrupt:
        say("treadle: interrupted, and nothing found out")
        sys.exit(EXIT_INTERRUPTED)
    except BaseException as error:  # a call may raise anything
        _show(error)
        sys.exit(EXIT_FAILED_ITEMS)


@contextmanager
def _status(console: Console, text: str) -> Iterator[None]:
    """Show ``text`` on a terminal while the block runs; that it cannot be shown is no reason not to find out more."""
    status = console.status(text)
    if console.is_terminal:
        call_guarded(status.start)
    try:
        yield
    finally:
        call_guarded(status.stop)


def _in_words(error: treadle.InvalidArgument) -> str:
    return "there is no input" if error.args[0] == "items" else str(error)


def _show(error: BaseException) -> None:
    """Show the user's own traceback, from where their code begins."""
    cut_our_frames(error)
    text = hide_secrets("".join(traceback.format_exception(error)))
    write_beside(f"every call failed, the first with:\n{escape_controls(text)}")


def command_for(found: treadle.Diagnosis, func: str, inputs: list[str]) -> str:
    """Return the ``treadle map`` that makes the calls as the line of Python does."""
    engine = ["--engine", "processes" if found.engine == "processes" else "threads"]
    if found.engine == "coroutines":
        engine = []
    words = ["treadle", "map", func, *inputs, *engine, "--max-workers", str(found.workers)]
    return " ".join(word if word == "INPUT..." else shlex.quote(word) for word in words)


def _write(found: treadle.Diagnosis, command: str, stdout: TextIO, as_json: bool) -> None:
    if as_json:
        json.dump({**found.as_dict(), "command": command}, stdout, indent=2, ensure_ascii=False)
        stdout.write("\n")
    else:
        console = Console(file=stdout, highlight=False)
        console.width = min(console.width, MAX_WIDTH)
        with console.capture() as shown:  # it would leave by itself if nobody reads, with a status of its own
            _print(console, found, command)
        stdout.write(shown.get())
    stdout.flush()


def _print(console: Console, found: treadle.Diagnosis, command: str) -> None:
    console.print(Text(found.headline(), style="bold"))
    console.print(Text(found.shares()))
    console.print(Text(found.sample(), style="dim"))
    if found.speeds:
        console.print()
        console.print(_table(found, console.width >= WIDTH_WITH_BARS))
    remarks = found.remarks()
    if remarks:
        console.print()
    for remark in remarks:
        console.print(Padding(Text(remark), (0, 0, 0, 2)))
    console.print()
    advice = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    advice.add_column(style="bold")
    advice.add_column(overflow="fold")
    advice.add_row("In Python", Text(found.line, style="bold green"))
    advice.add_row("In a shell", Text(command, style="green"))
    advice.add_row("Why", Text(found.why))
    console.print(advice)


def _table(found: treadle.Diagnosis, has_bars: bool) -> Table:
    table = Table(box=None, padding=(0, 2 if has_bars else 1, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    for title in ("workers", "calls/s", "gain", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    for _ in range(1 + has_bars):
        table.add_column("", no_wrap=True)
    best = max(speed.per_second for speed in found.speeds)
    before = ""
    for speed in found.speeds:
        is_chosen = (speed.engine, speed.workers) == (found.engine, found.workers)
        engine, *figures, how = cells(speed)
        style = "bold green" if is_chosen else "" if speed.is_measured else "dim"
        bar = [_bar(speed, best)] if has_bars else []
        table.add_row(engine if engine != before else "", *figures, *bar, how, style=style)
        before = engine
    return table


def _bar(speed: Speed, best: float) -> str:
    eighths = round(8 * BAR_CELLS * speed.per_second / best)
    whole, rest = divmod(max(1, eighths), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[rest].strip()
