"""Interpreters of their own in this process, from Python 3.14 on."""

from __future__ import annotations

import concurrent.futures
import sys
from concurrent.futures import Executor
from typing import Any

import pytest

# Where they are missing: not whatever else may go wrong with them.
needs_interpreters = pytest.mark.skipif(sys.version_info < (3, 14), reason="from Python 3.14 on")


def interpreter_pool(workers: int) -> Executor:
    """Return an ``InterpreterPoolExecutor`` whose interpreters find our tests: each has a path of its own."""
    futures: Any = concurrent.futures
    find_tests = f"import sys; sys.path[:] = {sys.path!r}"
    pool: Executor = futures.InterpreterPoolExecutor(workers, initializer=exec, initargs=(find_tests,))
    return pool
