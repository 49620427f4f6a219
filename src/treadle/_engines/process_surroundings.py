"""What a process has in common with the program whose calls it makes: path, arguments, environment and folder."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any

from treadle._engines.process_main import check_not_importing, place_of_program, set_place
from treadle.errors import ProcessRefused

# Processes that start processes that start processes ... do so by mistake, and there would soon be thousands.
MAX_DEPTH = 6

_logger = logging.getLogger("treadle")
_depth = 0  # of this one: 0 is the program


def surroundings() -> dict[str, Any]:
    """Return what a process is to have in common with this one.

    Raises:
        ProcessRefused: This one is too many levels down already, or imports the program.
    """
    check_not_importing()
    if _depth >= MAX_DEPTH:
        what = f"processes start processes, {MAX_DEPTH} levels deep"
        raise ProcessRefused(what, "does a module start them when it is imported?")
    return {
        "depth": _depth + 1,
        "path": import_path(),
        "argv": list(getattr(sys, "argv", ())),  # there is none where Python is embedded
        "environ": environment(),
        "folder": _folder(),
        "program": place_of_program(),
    }


def environment() -> dict[str, str]:
    """Return the environment variables, which other threads may be changing."""
    found: dict[str, str] = {}
    for name in list(os.environ):
        with suppress(KeyError):
            found[name] = os.environ[name]
    return found


def import_path() -> list[Any]:
    """Return ``sys.path`` such that it leads to the same modules from whatever folder.

    A relative entry means the folder that it meant when something was first imported from there; the empty one goes
    with the folder, and brings what was imported from where that was before.
    """
    path: list[Any] = [_absolute(entry) for entry in list(sys.path)]
    return path + [folder for folder in _left_folders() if folder not in path] if "" in path else path


def _absolute(entry: Any) -> Any:
    if not isinstance(entry, str) or not entry or os.path.isabs(entry):
        return entry
    known = getattr(sys.path_importer_cache.get(entry), "path", None)
    if isinstance(known, str) and os.path.isabs(known):
        return known
    try:
        return os.path.abspath(entry)
    except OSError:  # the folder was removed
        return entry


def _left_folders() -> list[str]:
    """Return the folders from which modules that are no part of a package were imported."""
    found: dict[str, None] = {}
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        origin = getattr(spec, "origin", None)
        if "." in name or not getattr(spec, "has_location", False) or not isinstance(origin, str):
            continue
        folder = os.path.dirname(origin)
        found[os.path.dirname(folder) if getattr(spec, "submodule_search_locations", None) else folder] = None
    return list(found)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def enter(around: dict[str, Any]) -> None:
    """Have the surroundings that ``around`` tells of; what cannot be had is no reason not to make calls."""
    global _depth
    _depth = around["depth"]
    sys.path[:] = around["path"]
    sys.argv[:] = around["argv"]
    wanted: dict[str, str] = around["environ"]
    for name in set(environment()) - set(wanted):
        with suppress(KeyError, OSError):
            del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            with suppress(OSError, ValueError):  # a name that no variable can be given, but that it may come with
                os.environ[name] = value
    _go_to(around["folder"])
    set_place(around["program"])
    # What folders held when the keeper was started. ``importlib.invalidate_caches`` would import a dozen modules first.
    sys.path_importer_cache.clear()


def _go_to(folder: str | None) -> None:
    reason: object = "that of the program was removed"
    if folder is not None:
        try:
            os.chdir(folder)
        except OSError as error:
            reason = error
        else:
            return
    if (here := _folder()) != folder:
        _logger.warning("calls in processes are made in the folder %s: %s", here, reason)
