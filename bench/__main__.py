"""``python -m bench``: measure, print, and write ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from time import perf_counter

from bench import (
    channel,
    coroutines,
    flow,
    goodbye,
    locks,
    memory,
    overhead,
    periodic,
    policy,
    processes,
    scheduling,
    traversal,
    workers,
)
from bench.benchmark import FULL, QUICK, Benchmark, Check, Effort, Result
from bench.deciding import suite as deciding
from bench.launch import ROOT
from bench.measure import explain
from bench.report import Finding, as_markdown, as_text

PAGE = ROOT / "docs" / "benchmarks.md"
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for theme in (
        *(
            overhead,
            scheduling,
            workers,
            policy,
            processes,
            deciding,
            coroutines,
            locks,
            flow,
            memory,
            goodbye,
            traversal,
            periodic,
            channel,
        ),
    )
    for benchmark in theme.BENCHMARKS
}


def main() -> None:
    """Run the benchmarks that the command line asks for."""
    options = _parser().parse_args()
    if options.list:
        for benchmark in BENCHMARKS.values():
            print(f"{benchmark.name:<16} {benchmark.work}")
        return
    chosen = [
        BENCHMARKS[name]
        for name in options.only or BENCHMARKS
        if options.only or name not in deciding.TUNED_ON.values()
    ]
    logging.getLogger("concurrent.futures").disabled = True  # pebble has 16 workers start one future at once
    began = perf_counter()
    findings = _measure(chosen, QUICK if options.quick else FULL)
    print(f"{perf_counter() - began:.0f} s")
    if not (options.no_write or options.quick or options.only):
        PAGE.write_text(as_markdown(findings), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")
    _leave()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(BENCHMARKS), metavar="NAME", help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under a minute")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and do nothing")
    parser.add_argument(
        "--no-write",
        action="store_true",
        help="leave docs/benchmarks.md alone; --only and --quick do so anyway, it shows full runs only",
    )
    return parser


def _measure(chosen: list[Benchmark], effort: Effort) -> list[Finding]:
    findings = []
    for benchmark in chosen:
        try:
            result = benchmark.run(effort)
        except Exception as error:  # one that breaks must not cost the others
            result = Result([Check("it runs", "to its end", explain(error), is_met=False)], [])
        print(as_text(benchmark, result), flush=True)
        findings.append((benchmark, result))
    return findings


def _leave() -> None:
    """Exit even if a contender hangs in a thread of its own."""
    sys.stdout.flush()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(0)


if __name__ == "__main__":
    main()
