"""A display for tests that open windows, without anybody seeing them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def find_tcl() -> dict[str, str]:
    """Return the variables that lead an interpreter to its own Tcl and Tk.

    One that was unpacked elsewhere than it was built for has them beside it, and would take the system's.
    """
    import _tkinter

    found = {}
    for name, version, file in [("tcl", _tkinter.TCL_VERSION, "init.tcl"), ("tk", _tkinter.TK_VERSION, "tk.tcl")]:
        folder = Path(sys.base_prefix, "share", "tcltk", name + version)
        if (folder / file).exists():
            found[f"{name.upper()}_LIBRARY"] = str(folder)
    return found
