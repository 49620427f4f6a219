"""Where ``treadle map`` has its calls made: ``--engine``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, get_args

import click

import treadle
from treadle._cli import results
from treadle._core.settings import EngineName, EngineOption
from treadle._engines.dask import SCHEME
from treadle.errors import InvalidArgument, MissingExtra

# An async function is awaited without being asked for.
NAMES = [name for name in get_args(EngineName) if name != "coroutines"]


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
def open_engine(engine: str | None) -> Iterator[EngineOption | None]:
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


def call_elsewhere(func: str, function: Callable[[Any], Any], engine: EngineOption) -> Callable[[Any], str]:
    """Return the call of ``function``, which ``func`` names, for where there may be neither Treadle nor its file."""
    if not isinstance(engine, str):
        import cloudpickle  # type: ignore[import-untyped]  # a cluster comes with it

        cloudpickle.register_pickle_by_value(results)
        if func.rpartition(":")[0].endswith(".py"):
            cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
    return partial(results.json_of_call, function)
