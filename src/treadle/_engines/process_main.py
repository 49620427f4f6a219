"""The program's own functions and classes, where a process finds them again: it imports the program for that.

As ``multiprocessing`` does it: under the name ``__mp_main__``, so that what stands below ``if __name__ == "__main__":``
is left out, and as ``sys.modules["__main__"]`` too. A process does so when the first thing arrives that needs it, and
once. Nothing else of the program is ever run there.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from importlib.machinery import BYTECODE_SUFFIXES, SourcelessFileLoader
from types import ModuleType, TracebackType
from typing import Any

from treadle._core.describe import annotate, describe
from treadle.errors import ProcessRefused

NAME = "__main__"
NAME_IN_PROCESSES = "__mp_main__"
GUARD = "`if __name__ == '__main__':`"

# Where the program is: the name of its module, and its file. Of the two, one is None.
Place = tuple[str | None, str | None]

_place: Place | None = None  # of the program whose calls this process makes; None: this is the program, or it has none
_program: ModuleType | None = None  # once it is imported
_failure: BaseException | None = None  # of that import
_where_it_failed: TracebackType | None = None
_is_importing = False


def place_of_program() -> Place | None:
    """Return where a process can import the program from; None: nowhere.

    That is so at the prompt, in a notebook, for ``python -c`` and standard input; and for the ``__main__`` of a
    package, a folder or an archive: these are all for running, and are seldom guarded.
    """
    if _place is not None:
        return _place
    program = sys.modules.get(NAME)
    spec = getattr(program, "__spec__", None)
    if spec is not None:
        name = str(spec.name)
        return None if name.rpartition(".")[2] == NAME else (name, None)
    path = getattr(program, "__file__", None)
    if not isinstance(path, str) or not os.path.isfile(path):
        return None
    return None, os.path.abspath(path)


def is_guarded() -> bool:
    """Tell whether the program seems to say what is to be done only as it is run, not as it is imported."""
    path = getattr(sys.modules.get(NAME), "__file__", None)
    try:
        with io.open_code(path) as file:  # type: ignore[arg-type]
            text = file.read()
    except (OSError, TypeError, ValueError):
        return False
    return b"__name__" in text and NAME.encode() in text


def set_place(place: Place | None) -> None:
    """Take note, in a process, of where the program is."""
    global _place
    _place = place


def check_not_importing() -> None:
    """Raise where this process imports the program: on whatever thread, processes must not be started then.

    Raises:
        ProcessRefused: They would import it as well, and so on.
    """
    if _is_importing:
        raise ProcessRefused(
            "the program starts processes while it is imported in one", f"move that into a function, or below {GUARD}"
        )


def find(name: str) -> Any:
    """Return what has that (dotted) name in the program, which is imported first if that is still to be done."""
    found: Any = _import_once()
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            where = _describe(_place) if _place is not None else NAME
            hint = f"what stands below {GUARD} is not there; move it out of that, or: pip install 'treadle[processes]'"
            raise AttributeError(f"the program ({where}) has no {name!r} when it is imported: {hint}") from None
    return found


def _import_once() -> ModuleType:
    global _program, _failure, _where_it_failed
    if _failure is not None:
        raise _failure.with_traceback(_where_it_failed)
    if _program is not None or _place is None:
        return _program or sys.modules[NAME]
    where = _describe(_place)
    try:
        _program = _import(*_place)
    except (SystemExit, KeyboardInterrupt) as error:  # as a failure of the call, it would end whoever waits for that
        _failure = ProcessRefused(
            f"the program ({where}) ended as it was imported in a process: {describe(error)}",
            f"move what is to be done only when it is run below {GUARD}",
        )
        raise _failure from error
    except BaseException as error:
        annotate(error, f"raised as a process imported the program ({where}): is all that it does below {GUARD}?")
        _failure, _where_it_failed = error, error.__traceback__
        raise
    return _program


def _import(name: str | None, path: str | None) -> ModuleType:
    global _is_importing
    if name is not None:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        program = importlib.util.module_from_spec(spec)
        code = spec.loader.get_code(name)  # type: ignore[attr-defined]  # runpy has found it there as well
    else:
        assert path is not None
        program = ModuleType(NAME_IN_PROCESSES)
        program.__file__ = path
        code = _read(path)
    program.__name__ = NAME_IN_PROCESSES
    before = sys.modules[NAME]
    sys.modules[NAME] = sys.modules[NAME_IN_PROCESSES] = program
    _is_importing = True
    try:
        exec(code, program.__dict__)  # noqa: S102  # it is the program itself
    except BaseException:
        sys.modules[NAME] = before
        del sys.modules[NAME_IN_PROCESSES]
        raise
    finally:
        _is_importing = False
    return program


def _read(path: str) -> Any:
    if path.endswith(tuple(BYTECODE_SUFFIXES)):
        return SourcelessFileLoader(NAME_IN_PROCESSES, path).get_code(NAME_IN_PROCESSES)
    with io.open_code(path) as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def _describe(place: Place) -> str:
    name, path = place
    return f"module {name!r}" if name is not None else str(path)
