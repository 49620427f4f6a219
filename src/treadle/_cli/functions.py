"""Find the function that the user named on the command line."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import click


def load_function(name: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` or ``path/to/file.py:function`` names.

    Raises:
        click.UsageError: There is none; the message says what there is instead.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise click.UsageError(
            f"FUNC must be module:function or path/to/file.py:function, not {name!r}"
            f" (for example math:{name if name.isidentifier() else 'sqrt'})"
        )
    module = _load_module(place)
    try:
        function = attrgetter(attribute)(module)
    except AttributeError:
        raise click.UsageError(f"{place} has no {attribute!r}{_suggest(module, attribute)}") from None
    if not callable(function):
        raise click.UsageError(f"{name} is {type(function).__name__}, which cannot be called")
    result: Callable[..., Any] = function
    return result


def _load_module(place: str) -> ModuleType:
    is_path = place.endswith(".py") or "/" in place
    folder = str(Path(place).resolve().parent) if is_path else str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(_place_behind_the_library(), folder)
    try:
        return _load_file(Path(place)) if is_path else importlib.import_module(place)
    except ModuleNotFoundError as error:
        if is_path or error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise _import_failure(place, error) from error
        raise click.UsageError(f"there is no module {error.name!r} in {folder} or on the Python path") from None
    except click.UsageError:
        raise
    except BaseException as error:  # the user's module may raise anything, SystemExit included
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_failure(place, error) from error


def _place_behind_the_library() -> int:
    """Return where in ``sys.path`` the user's folder goes.

    Behind the standard library: we, other libraries and processes to come import parts of it only when they need them,
    and a ``socket.py`` of the folder would then be run instead. Before what is installed, as the folder is nearer.
    """
    library = Path(os.__file__).parent
    ours = [at for at, place in enumerate(sys.path) if Path(place) in (library, library / "lib-dynload")]
    return max(ours, default=-1) + 1


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise click.UsageError(f"there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _import_failure(place: str, error: BaseException) -> click.UsageError:
    """Show the user's own traceback, from where their code begins."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [at for at, frame in enumerate(frames) if frame.filename == __file__ or "importlib" in frame.filename]
    shown = traceback.format_list(frames[ours[-1] + 1 :] if ours else frames)
    text = "".join(["Traceback (most recent call last):\n", *shown, *traceback.format_exception_only(error)])
    return click.UsageError(f"{place} cannot be imported:\n{text.rstrip()}")


def _suggest(module: ModuleType, attribute: str) -> str:
    names = [name for name, thing in vars(module).items() if callable(thing) and not name.startswith("_")]
    if near := difflib.get_close_matches(attribute, names, n=1):
        return f"; did you mean {near[0]!r}?"
    own = [name for name in names if getattr(getattr(module, name), "__module__", None) == module.__name__]
    return f"; it has {', '.join(sorted(own)[:8])}" if own else ""
