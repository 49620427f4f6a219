"""Starting the scripts of ``bench.child``, each in a fresh process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHILD_LIMIT_SECONDS = 30.0
# From the moment one call is stuck: time for the others, and for the caller to fall asleep in its wait.
BEFORE_INTERRUPT_SECONDS = 0.3


class ChildError(Exception):
    """A child process did not report; the message is the last line it wrote to standard error."""


class StillThere(ChildError):
    """A child process had to be killed."""


def run_child(script: str, *args: object) -> dict[str, float]:
    """Run ``python -m bench.child script args`` and return its report, with ``exited_at`` added.

    Times called ``..._at`` are readings of ``time.monotonic()``, which processes of one machine share.
    """
    with _started(script, *args) as child:
        return _read_report(child)


def interrupt_child(script: str, *args: object) -> dict[str, float]:
    """Run a script as ``run_child`` does, press Ctrl-C once it says ``stuck``, and add ``interrupted_at``."""
    with _started(script, *args) as child:
        assert child.stdout is not None
        if child.stdout.readline().strip() != "stuck":
            raise ChildError("it ended before its calls were stuck")
        time.sleep(BEFORE_INTERRUPT_SECONDS)
        interrupted_at = time.monotonic()
        child.send_signal(signal.SIGINT)
        return {**_read_report(child), "interrupted_at": interrupted_at}


@contextmanager
def _started(script: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.child", script, *(str(arg) for arg in args)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = threading.Timer(CHILD_LIMIT_SECONDS, child.kill)
    limit.start()
    try:
        yield child
    finally:
        limit.cancel()
        child.kill()  # does nothing to one that has exited
        child.communicate()


def _read_report(child: subprocess.Popen[str]) -> dict[str, float]:
    output, errors = child.communicate()
    exited_at = time.monotonic()
    if child.returncode == -signal.SIGKILL:
        raise StillThere(f"still there after {CHILD_LIMIT_SECONDS:.0f} s")
    lines = output.strip().splitlines()
    if not lines:
        said = errors.strip().splitlines() or [f"exit code {child.returncode}"]
        raise ChildError(said[-1])
    report: dict[str, float] = json.loads(lines[-1])
    return {**report, "exited_at": exited_at}
