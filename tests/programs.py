"""Run a small program as a user would, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Generator
from pathlib import Path

TIMEOUT_SECONDS = 60.0
TREADLE = [sys.executable, "-m", "treadle"]

# Python looks for signals between two bytecodes: one that comes after the last look before a long wait is seen when
# that ends. (Treadle's own waits look up.)
WAIT_FOR_CTRL_C = """
def wait_for_ctrl_c():
    import time
    while True:
        time.sleep(0.01)
"""


def start_program(source: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start ``source`` as a program."""
    return start([sys.executable, "-u", "-c", textwrap.dedent(source)], cwd)


def start_treadle(*arguments: str, cwd: Path | None = None, stdin: int | None = None) -> subprocess.Popen[str]:
    """Start the ``treadle`` command."""
    return start([*TREADLE, *arguments], cwd, stdin)


def start(
    command: list[str], cwd: Path | None = None, stdin: int | None = None, is_measured: bool = False
) -> subprocess.Popen[str]:
    """Start a command, its output in pipes.

    Only one that is sent no signals may have its coverage measured: up to Python 3.11, what measures takes a lock in
    Python, and one that Ctrl-C leaves taken holds the program for ever.
    """
    return subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(is_measured),
        # Whatever started the tests may ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def environment(is_measured: bool = False) -> dict[str, str]:
    """Return the environment of a program, with or without what has its coverage measured."""
    inherited = {name: value for name, value in os.environ.items() if is_measured or not name.startswith("COVERAGE_")}
    return {**inherited, "PYTHONFAULTHANDLER": "1"}


def lines_of(process: subprocess.Popen[str], errors: bool = False) -> Generator[str, None, None]:
    """Yield what it writes, to one stream, line by line; one that does not end, and what it has forked, is ended."""
    stream = process.stderr if errors else process.stdout
    assert stream is not None
    timer = threading.Timer(TIMEOUT_SECONDS, _end, args=(process,))
    timer.name = "treadle-test-timer"
    timer.start()
    try:
        yield from iter(stream.readline, "")  # not from the stream itself: that would be closed with this
    finally:
        timer.cancel()
        timer.join()


def _end(process: subprocess.Popen[str]) -> None:
    subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
    process.kill()


def finish(process: subprocess.Popen[str], text: str | None = None) -> tuple[int, str, str]:
    """Wait for the end, and return exit status, output and errors."""
    with process:
        try:
            out, err = process.communicate(text, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"the program did not end\n{out}\n{err}") from None
    return process.returncode, out, err


def run_treadle(*arguments: str, cwd: Path | None = None, text: str | None = None) -> tuple[int, str, str]:
    """Run the ``treadle`` command to its end."""
    return finish(start([*TREADLE, *arguments], cwd, subprocess.PIPE, is_measured=True), text or "")
