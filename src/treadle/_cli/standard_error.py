"""What people read: it goes to standard error, and costs nothing if nobody can read it there."""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130


def say(text: str) -> None:
    """Write a line to standard error, as far as there is one."""
    write_beside(f"{text}\n")


def write_beside(text: str) -> None:
    """Write ``text`` to standard error. A full disk, or a reader that is gone, must not take the results with it."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):  # the latter: it was closed
        return
