"""Programs with calls in processes that are themselves started, or behave, in ways that are not usual."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import treadle

# Standard places that are closed


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
@pytest.mark.parametrize("when", ["from the start", "meanwhile"])
def test_what_is_printed_goes_astray_nowhere_when_standard_places_are_closed(
    closed: str, when: str, tmp_path: Path
) -> None:
    """The next descriptors to be opened take these places: ours must not, or we would get what is printed."""
    source = f"""
        import os, sys, treadle
        if {when == "meanwhile"}:
            for fd in {closed!r}:
                os.close(int(fd))
        def call(item):
            os.write(1, b"k" * 100)
            os.write(2, b"k" * 100)
            return item
        pool = treadle.PoolExecutor(engine="processes", max_workers=2)
        results = list(pool.map(call, range(20)))
        for fd in map(int, {closed!r}):
            try:
                os.write(fd, b"k" * 100)
            except OSError:
                pass
        results += pool.map(call, range(20, 40))
        pool.shutdown()
        with open(sys.argv[1], "w") as out:
            print(results == list(range(40)), file=out)
    """
    closing = "".join(f"{fd}>&- " for fd in closed) if when == "from the start" else ""

    command = f'exec "$0" -c "$1" "$2" {closing}'
    subprocess.run(
        ["sh", "-c", command, sys.executable, textwrap.dedent(source), tmp_path / "out"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=30,
        check=True,
    )

    assert (tmp_path / "out").read_text() == "True\n"


# Calls that fork, and return twice


def test_a_copy_that_a_call_forks_and_that_returns_as_well_answers_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Two answers to one portion would be taken for those to two."""

    def call(item: int) -> int:
        if item == 1 and (pid := os.fork()):
            os.waitpid(pid, 0)
        return os.getpid()

    pids = list(treadle.map(call, range(5), engine="processes", max_workers=1))

    assert len(set(pids)) == 1
    assert "has returned in the copy too" in capfd.readouterr().err
