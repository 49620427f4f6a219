"""The threads that libraries of linear algebra (BLAS) have of their own, below ours."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_USERS = frozenset({"numpy", "scipy", "torch"})
_MAPS = Path("/proc/self/maps")
# What is in the name of a library's file, and the variables that it goes by, the first before others.
_VARIABLES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "accelerate": ("VECLIB_MAXIMUM_THREADS",),
}


@dataclass(frozen=True, slots=True)
class Blas:
    """A library of linear algebra that is loaded.

    Attributes:
        name: Of the library: ``"openblas"``, ``"mkl"``, ``"blis"``, ``"accelerate"``.
        threads: That it may use for one call.
        variable: The environment variable that says how many, if it is set before the library is loaded.
        source: Where the number comes from: ``"threadpoolctl"``, an environment variable, or ``"the cores"``, of which
            it takes all where nobody says otherwise.
    """

    name: str
    threads: int
    variable: str
    source: str


def find_blas(cores: int) -> tuple[Blas, ...]:
    """Return the libraries of linear algebra that are loaded now.

    Imports nothing but ``threadpoolctl``, which knows best, and where it is not installed goes by names of files and by
    environment variables. ``cores`` are taken by a library that nobody has told otherwise.
    """
    if not _USERS & sys.modules.keys():
        return ()
    found = _ask_threadpoolctl()
    return _look_at_files(cores) if found is None else found


def _ask_threadpoolctl() -> tuple[Blas, ...] | None:
    try:
        import threadpoolctl  # type: ignore[import-not-found,unused-ignore]

        pools: list[dict[str, Any]] = threadpoolctl.threadpool_info()
        return tuple(
            Blas(name := str(pool["internal_api"]), int(pool["num_threads"]), _variables(name)[0], "threadpoolctl")
            for pool in pools
            if pool["user_api"] == "blas"
        )
    except Exception:  # it is not installed, or does not understand what it finds
        return None


def _look_at_files(cores: int) -> tuple[Blas, ...]:
    try:
        files = {line.rsplit("/", 1)[-1].strip() for line in _MAPS.read_text().splitlines() if "/" in line}
    except OSError:  # only Linux shows them
        return ()
    names = [name for name in _VARIABLES if any(name in file.lower() and ".so" in file for file in files)]
    return tuple(Blas(name, *_number(name, cores)) for name in names)


def _number(name: str, cores: int) -> tuple[int, str, str]:
    variables = _variables(name)
    for variable in variables:
        given = os.environ.get(variable, "").partition(",")[0].strip()
        if given.isdigit() and int(given) > 0:
            return int(given), variables[0], variable
    return cores, variables[0], "the cores"


def _variables(name: str) -> tuple[str, ...]:
    return _VARIABLES.get(name.lower(), ("OMP_NUM_THREADS",))
