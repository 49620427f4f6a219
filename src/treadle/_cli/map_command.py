"""``treadle map``: a function, many inputs, JSON lines out."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor
from typing import Any, TextIO, cast

import click

import treadle
from treadle._cli.engines import DEFAULT_ENGINE, EngineType, open_engine, suit_engine
from treadle._cli.functions import load_function
from treadle._cli.input_options import choose_inputs
from treadle._cli.inputs import Entry, InputError
from treadle._cli.results import AboveTheBar, JSONCall, TaggedOutput, Writer, claim_stdout, discard
from treadle._cli.signals import Signals
from treadle._cli.standard_error import say
from treadle._core.describe import describe_error, describe_function
from treadle._core.settings import WorkersOption
from treadle.errors import InvalidArgument, MissingExtra, NotPicklable, TooManyAbandoned

EXIT_FAILED_ITEMS = 1
EXIT_USAGE = 2
EXIT_STOPPED = 3
EXIT_BROKEN_PIPE = 141


class WorkersType(click.IntRange):
    """A number of workers, or "auto"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return it, within its bounds."""
        return value if value == "auto" else super().convert(value, param, ctx)


class FiniteNumber(click.FloatRange):
    """A number that is one: click lets nan and inf pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, within its bounds."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


@click.command("map")
@click.argument("func")
@click.argument("inputs", nargs=-1)
@click.option("--lines", "line_files", multiple=True, metavar="FILE", help="Each line of FILE is an input.")
@click.option("--json", "json_files", multiple=True, metavar="FILE", help="Each line of FILE is an input, as JSON.")
@click.option("--key", "key_field", metavar="FIELD", help="With --json: the field that names an input.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, writable=True),
              help="Write the results here: a file that is not there yet, or empty.")  # fmt: skip
@click.option("--append", is_flag=True, help="With --output: add to what is in the file.")
@click.option("--fresh", is_flag=True, help="With --output: empty the file first.")
@click.option("--max-workers", "-w", type=WorkersType(min=1), metavar="COUNT",
              help="Calls at a time (32); auto: as many as bring something, found by measuring.")  # fmt: skip
@click.option("--ordered", is_flag=True, help="Write results in input order, not as they are done.")
@click.option("--call-timeout", type=FiniteNumber(min=0, min_open=True), metavar="SECONDS",
              help="How long one call may take; then its input is timed_out.")  # fmt: skip
@click.option("--max-attempts", type=click.IntRange(min=1), default=1, show_default=True, metavar="COUNT",
              help="Calls for one input, if they fail; later ones wait for longer and longer.")  # fmt: skip
@click.option("--max-per-second", type=FiniteNumber(min=0, min_open=True, max=1e9), metavar="RATE",
              help="Calls that begin in a second, further attempts included.")  # fmt: skip
@click.option("--grace", type=FiniteNumber(min=0), default=0.25, show_default=True, metavar="SECONDS",
              help="How long running calls may take to end after Ctrl-C.")  # fmt: skip
@click.option("--engine", type=EngineType(),
              help=f"What makes the calls ({DEFAULT_ENGINE}); auto: found by measuring.")  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="Show no progress and no summary.")
def map_command(
    func: str,
    inputs: tuple[str, ...],
    line_files: tuple[str, ...],
    json_files: tuple[str, ...],
    key_field: str | None,
    output: str | None,
    append: bool,
    fresh: bool,
    max_workers: WorkersOption | None,
    ordered: bool,
    call_timeout: float | None,
    max_attempts: int,
    max_per_second: float | None,
    grace: float,
    engine: str | None,
    quiet: bool,
) -> None:
    """Call FUNC with each INPUT, many at a time, and write a JSON line for each.

    FUNC is module:function or path/to/file.py:function, plain or async. It gets each INPUT as a string, or with
    --json as what the line says. A lone - reads lines from standard input, each answered as it comes; blank lines
    are skipped.

    \b
    Examples:
      treadle map shop.api:fetch 17 18 19
      treadle map fetch.py:page --lines urls.txt --output pages.jsonl
      tail -f access.log | treadle map logs.py:classify -
      treadle map sums.py:factorize --lines numbers.txt --engine auto

    Results are {"index", "key", "status", "value"} lines on standard output; a line of a failed call has
    "error" instead of "value", and "attempts" where there were several. Everything else goes to standard
    error, also what FUNC prints. A line that is not UTF-8, or no JSON with --json, is a failed call.

    The first Ctrl-C lets running calls end, the second leaves them behind; all that was taken is written either
    way. SIGUSR1 shows what each worker is doing.

    \b
    Exit status: 0 all succeeded, 1 some failed, 2 the command or an input is wrong,
    3 the results cannot be written, 130 after Ctrl-C, 143 after SIGTERM, 141 if nobody reads the results.
    """
    entries = choose_inputs(inputs, line_files, json_files, key_field)
    function = load_function(func)
    signals = Signals()
    with open_engine(engine) as maker, _open_results(output, line_files + json_files, append, fresh) as results:
        tagged = TaggedOutput()
        sys.stdout = cast(TextIO, tagged)  # it has what print() needs
        writer = Writer(_beside_progress(results, quiet))
        call, chosen = suit_engine(JSONCall(function, tagged), func, maker)
        run = _start(
            call,
            entries,
            max_workers=max_workers,
            ordered=ordered,
            intake="thread",
            call_timeout=call_timeout,
            retry=treadle.Retry(max_attempts) if max_attempts > 1 else None,
            limiter=None if max_per_second is None else treadle.Limiter(max_per_second),
            grace=grace,
            engine=chosen,
            progress=not quiet,
            name=describe_function(function),
        )
        if fresh:
            results.truncate(0)  # not before it is known that there is something to do
        signals.end(run, lambda: writer.written)
        code = _write_all(run, writer, results)
        signals.all_is_written()
        run.close()
    if not quiet:
        writer.count_hidden_errors()
        if "auto" in (chosen, max_workers):
            say(f"treadle: decided for {run.stats.decision}")
    sys.exit(code if signals.number is None else 128 + signals.number)


def _start(call: Callable[[Entry], Any], entries: Iterable[Entry], **options: Any) -> treadle.Run[Entry, str]:
    try:
        return treadle.map(call, entries, **options)
    except (InvalidArgument, MissingExtra, NotPicklable) as error:
        raise click.UsageError(str(error)) from None


def _open_results(output: str | None, inputs: tuple[str, ...], append: bool, fresh: bool) -> TextIO:
    if (append or fresh) and output is None:
        raise click.UsageError("--append and --fresh are about the file that --output names")
    if append and fresh:
        raise click.UsageError("--append keeps what is in the file, --fresh does not; give one of them")
    try:
        stdout = claim_stdout()
    except OSError:
        if output is None:
            raise click.UsageError("standard output is closed; write the results to a file with --output") from None
    if output is None:
        return stdout
    if any(os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output) for path in inputs):
        raise click.UsageError(f"{output} is an input too; write the results to another file")
    if not append and not fresh and os.path.isfile(output) and os.path.getsize(output):
        raise click.UsageError(f"{output} is not empty; --append adds to it, --fresh empties it first")
    try:
        # Not "w", which would empty it before the first result is there to take the place of the last.
        results = open(output, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  # the caller closes it
        if append and _ends_within_a_line(output):
            results.write("\n")
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}") from None
    return results


def _ends_within_a_line(path: str) -> bool:
    """Tell whether the last line of a file is not complete: whoever wrote it was killed."""
    if not os.path.isfile(path) or not os.path.getsize(path):
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _beside_progress(results: TextIO, quiet: bool) -> TextIO:
    """Return where to write results: on a terminal that shows a live display, above it."""
    shares_the_screen = results.isatty() and sys.stderr.isatty() and not quiet
    return cast(TextIO, AboveTheBar()) if shares_the_screen else results


def _write_all(run: treadle.Run[Any, str], writer: Writer, results: TextIO) -> int:
    """Write every outcome, whatever ends the run, and return the exit status."""
    try:
        for outcome in run.outcomes():
            writer.write(outcome)
    except InputError as error:
        say(f"treadle: {error}")
        return EXIT_USAGE
    except BrokenPipeError:
        return _give_up(results, EXIT_BROKEN_PIPE)
    except OSError as error:
        say(f"treadle: the results cannot be written: {error.strerror}")
        return _give_up(results, EXIT_STOPPED)
    except (TooManyAbandoned, BrokenExecutor) as error:
        say(f"treadle: the run ended early: {describe_error(error)}")
        return EXIT_FAILED_ITEMS
    return EXIT_FAILED_ITEMS if run.stats.failed or run.stats.timed_out else 0


def _give_up(results: TextIO, code: int) -> int:
    discard(results)
    return code
