"""A display for tests that open windows, without anybody seeing them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 20.0


@contextmanager
def virtual_display() -> Iterator[str | None]:
    """Start an X server that shows nothing, and yield the name of its display; None where there is none to start.

    Needs Debian's package xvfb.
    """
    program = shutil.which("Xvfb")
    if program is None:
        yield None
        return
    command = [program, "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    # A session of its own, so that Ctrl-C in the terminal does not end it before the tests.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as server:
        try:
            assert server.stdout is not None
            number = server.stdout.readline().strip()  # once it is ready; empty if it could not start
            yield f":{number}" if number else None
        finally:
            server.terminate()
            try:
                server.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
