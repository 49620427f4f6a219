"""Where ``treadle map`` has its calls made: ``--engine``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, get_args

import click

import treadle
from treadle._cli import results
from treadle._cli.inputs import Entry
from treadle._cli.results import JSONCall
from treadle._core.block import contextmanager
from treadle._core.coroutine_function import is_coroutine_function
from treadle._core.settings import EngineName, RunEngine
from treadle._engines.dask import SCHEME
from treadle.errors import InvalidArgument, MissingExtra

# An async function is awaited without being asked for.
NAMES = [*(name for name in get_args(EngineName) if name != "coroutines"), "auto"]
# What makes the calls of a plain function if nobody says.
DEFAULT_ENGINE: RunEngine = "threads"


class EngineType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # click 8.1 has none
    """The name of an engine, or the address of a cluster."""

    name = "engine"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002  # click's
        """Return what the help shows."""
        return "|".join([*NAMES, f"{SCHEME}HOST:PORT"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what was given, if there may be such an engine."""
        if value not in NAMES and not str(value).startswith(SCHEME):
            self.fail(f"{value!r} is none of {', '.join(NAMES)} and {SCHEME}HOST:PORT.", param, ctx)
        return value


@contextmanager
def open_engine(engine: str | None) -> Iterator[RunEngine | None]:
    """Yield the engine that ``--engine`` names, connected with its cluster while the block runs, if it is one."""
    if engine is None or not engine.startswith(SCHEME):
        yield engine  # type: ignore[misc]  # EngineType has looked
        return
    try:
        cluster = treadle.dask(engine)
    except (ConnectionError, InvalidArgument, MissingExtra) as error:
        raise click.UsageError(str(error)) from None
    with cluster:
        yield cluster


def suit_engine(call: JSONCall, func: str, engine: RunEngine | None) -> tuple[Callable[[Entry], Any], RunEngine | None]:
    """Return ``call``, of the function that ``func`` names, as ``engine`` makes it, and the engine of the run.

    Raises:
        click.UsageError: The function is to be awaited, which that engine does not do.
    """
    if is_coroutine_function(call.func):
        if engine not in (None, "auto"):
            raise click.UsageError(f"{func} is async: it is awaited, without --engine")
        return call.awaiting, None
    if isinstance(engine, Executor):
        _send_by_value(func, call.func)
    return call, engine or DEFAULT_ENGINE


def _send_by_value(func: str, function: Callable[[Any], Any]) -> None:
    """Have the function go to a cluster as it is, with our part: neither its file nor Treadle may be there."""
    import cloudpickle  # type: ignore[import-untyped]  # a cluster comes with it

    cloudpickle.register_pickle_by_value(results)
    if func.rpartition(":")[0].endswith(".py"):
        cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
