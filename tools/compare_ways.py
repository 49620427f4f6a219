"""Print the table of docs/threads-processes-async.md for the interpreter that runs this, on a machine that is idle.

Usage: ``python tools/compare_ways.py [SECONDS]``, for each of the six kinds of calls in examples/three_ways.py.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import treadle

THREADS = (2, 4, 16, 64)
PROCESSES = (1, 2)
HEAD = ("calls", "what they do", "one", *(f"{number}" for number in THREADS), "1 process", "2", "to use")


def row_of(found: treadle.Diagnosis) -> list[str]:
    """Return what was found as the cells of a row."""
    held = "" if found.held is None else f", GIL held {found.held:.0%}"
    does = f"wait {found.waiting:.0%}, compute {found.computing:.0%}{held}"
    basis = "coroutines" if found.engine == "coroutines" else "threads"
    one = f"{found.speeds[0].per_second:,.0f}/s"
    gains = [_gain(found, basis, number) for number in THREADS]
    gains += [_gain(found, "processes", number) for number in PROCESSES]
    line = found.line.removeprefix("treadle.")
    return [f"`{found.function}`", does, f"**{one}**" if found.engine == "loop" else one, *gains, f"`{line}`"]


def _gain(found: treadle.Diagnosis, engine: str, workers: int) -> str:
    for speed in found.speeds:
        if (speed.engine, speed.workers) == (engine, workers):
            gain = f"{speed.gain:.2g}" if speed.gain < 10 else f"{speed.gain:.0f}"
            gain += "" if speed.is_measured else "?"
            return f"**{gain}**" if (engine, workers) == (found.engine, found.workers) else gain
    return ""


def main() -> None:
    """Diagnose, and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    calls = importlib.import_module("three_ways").CALLS
    print("|", " | ".join(HEAD), "|")
    print("|" + "---|" * len(HEAD))
    for function in calls:
        found = treadle.diagnose(function, map(str, range(10_000)), seconds=seconds)
        print("|", " | ".join(row_of(found)), "|", flush=True)
        for note in found.notes:
            print(f"{found.function}: {note}", file=sys.stderr)


if __name__ == "__main__":
    main()
