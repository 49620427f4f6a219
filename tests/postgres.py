"""A PostgreSQL server for one test, in a folder of its own, reached over a socket in that folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.calls import PATIENCE_SECONDS
from tests.places import wait_until

USER = "postgres"


@contextmanager
def postgres() -> Iterator[Path]:
    """Start a server and give its folder, for ``PGHOST``; skip the test where there is none, or no user to run it."""
    user = USER if os.geteuid() == 0 else None  # it refuses to run as root
    # Not pytest's folder: that one is closed to others, and its name may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="treadle-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user is not None:
            try:
                shutil.chown(folder, user)
            except LookupError:
                pytest.skip(f"PostgreSQL does not run as root, and there is no user {user!r}")
        options = {"cwd": folder, "user": user, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        initdb = [find("initdb"), "-D", "data", "-U", USER, "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, timeout=60, **options)  # type: ignore[call-overload]
        command = [find("postgres"), "-D", "data", "-k", name, "-F", "-c", "listen_addresses="]
        with subprocess.Popen(command, **options) as server:  # type: ignore[call-overload]
            try:
                pid_file = folder / "data" / "postmaster.pid"  # its last line says "ready" once it is
                wait_until(lambda: pid_file.exists() and pid_file.read_text().split()[-1:] == ["ready"])
                yield folder
            finally:
                server.terminate()
                server.wait(PATIENCE_SECONDS)


def find(program: str) -> str:
    """Return the path of one of PostgreSQL's programs; Debian keeps them out of the way."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / program).exists():
            return str(folder / program)
    found = shutil.which(program)
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    return found
