"""Short, safe descriptions of other people's objects, for notes, logs and displays."""

from __future__ import annotations

import os
import re
import reprlib
import traceback
from collections.abc import Callable
from typing import Any

from treadle._core.user_code import call_guarded, get_traceback

_NOTE = "treadle: "
_NUMBERED_NOTE = re.compile(r"treadle: (item|task) \d+ (of [^:]*):")
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep

# Attributes of these names may be anything, and may not be there to be assigned to.
_get_context = BaseException.__dict__["__context__"].__get__
_set_cause = BaseException.__dict__["__cause__"].__set__
_get_type_name = type.__dict__["__name__"].__get__


class _Short(reprlib.Repr):
    """As ``reprlib``, but long bytes are cut before they are put in words, which takes four times their memory."""

    def repr_bytes(self, thing: bytes | bytearray, level: int) -> str:
        edge = self.maxother // 2
        return self.repr_instance(thing if len(thing) <= 2 * edge else thing[:edge] + thing[-edge:], level)

    repr_bytearray = repr_bytes


_short = _Short()
_short.maxstring = _short.maxother = 120
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 6


def describe(thing: object) -> str:
    """Return ``repr(thing)``, shortened; raises only Ctrl-C, whatever its ``__repr__`` does."""
    text, error = call_guarded(_short.repr, thing)
    return text if error is None and type(text) is str else f"<{name_of_type(thing)} whose repr() fails>"


def describe_error(error: BaseException) -> str:
    """Return the type of ``error`` and what it says, in one line; raises only Ctrl-C, whatever its ``__str__`` does."""
    text, broken = call_guarded(str, error)
    kind = name_of_type(error)
    if broken is not None:
        return f"{kind}, whose str() fails"
    return f"{kind}: {text}" if text else kind


def name_of_type(thing: object) -> str:
    """Return the name of the type of ``thing``."""
    name: str = _get_type_name(type(thing))
    return name


def show_own(thing: object, tell: Callable[[], str]) -> str:
    """Return the ``repr`` of an object of ours, with what ``tell`` says of it, if its constructor came that far."""
    try:
        return f"<treadle.{type(thing).__name__} {tell()}>"
    except AttributeError:  # it raised, and a debugger or a test shows what there is
        return object.__repr__(thing)


def describe_function(fn: object) -> str:
    """Return the name that a person would call ``fn`` by; raises only Ctrl-C, whatever its attributes do."""
    name, _ = call_guarded(_own_name, fn)
    return name if type(name) is str else name_of_type(fn)


def _own_name(fn: Any) -> Any:
    fn = getattr(fn, "func", fn)
    return getattr(fn, "__name__", type(fn).__name__)


def annotate(error: BaseException, text: str) -> None:
    """Put ``text`` on ``error`` as a note; one that names an item takes the place of one of the same run.

    A function may raise the same exception object for many items; it then names the last one, and its
    notes do not pile up. An error that passes through several runs is named by each. One that refuses notes has none.
    """
    call_guarded(_annotate, error, _NOTE + text)


def _annotate(error: BaseException, note: str) -> None:
    notes: object = getattr(error, "__notes__", None)
    if isinstance(notes, list) and (of := _numbered(note)):
        notes[:] = [other for other in notes if _numbered(str(other)) != of]
    error.add_note(note)


def _numbered(note: str) -> str | None:
    """Return of what run a note names an item; None: it names none."""
    found = _NUMBERED_NOTE.match(note)
    return None if found is None else found[2]


def set_cause(error: BaseException, cause: BaseException) -> None:
    """Make ``cause`` the ``__cause__`` of ``error``, as ``raise ... from`` does: also where its class refuses that."""
    _set_cause(error, cause)


def cut_our_frames(error: BaseException) -> None:
    """Let the traceback of ``error`` start in the user's code.

    Our frames say nothing to the user, and hold the chunk: kept, they would close a circle through it. Called
    by the consumer, not where the error was caught: a function may raise one object in many threads, and
    without a GIL the interpreter crashes where they all replace its traceback.
    """
    steps = get_traceback(error)
    while steps is not None and steps.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        steps = steps.tb_next
    BaseException.with_traceback(error, steps)  # an assignment would ask the class, which may refuse


def clear_variables(error: BaseException) -> None:
    """Let go of the variables in the frames that ``error``, and what it followed, went through; its text stays."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(get_traceback(error))
        error = _get_context(error)
