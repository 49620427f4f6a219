"""Short, safe descriptions of other people's objects, for notes, logs and displays.

Every item that people see goes through here: it is cut, has no control characters, and no secrets of URLs.
"""

from __future__ import annotations

import os
import re
import reprlib
import traceback
import unicodedata
from collections.abc import Callable
from typing import Any

from treadle._core.user_code import call_guarded, get_traceback

_NOTE = "treadle: "
_NUMBERED_NOTE = re.compile(r"treadle: (item|task|run) \d+ (of [^:]*):")
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep

# Attributes of these names may be anything, and may not be there to be assigned to.
_get_context = BaseException.__dict__["__context__"].__get__
_set_cause = BaseException.__dict__["__cause__"].__set__
_set_context = BaseException.__dict__["__context__"].__set__
_get_type_name = type.__dict__["__name__"].__get__


MAX_SHOWN_CHARS = 120
# Beyond these at either end nobody looks for secrets: of so long a text, the middle is never shown.
_EDGE_CHARS = 2048

_SECRETS = re.compile(
    # https://user:password@host, and https://token@host: other schemes have names there, as in ssh://git@host
    r"(?P<user>https?://(?![^\s/?#:@'\"]*:)|://[^\s/?#:@'\"]*:)[^\s/?#'\"]+(?=@)"
    # ...?token=secret, and what else goes by such a name wherever it stands
    r"|(?P<name>(?:token|secret|passw(?:or)?d|passphrase|pwd|api[_-]?key|access[_-]?key|signature|credentials?)=)"
    r"(?:'[^']*'|\"[^\"]*\"|[^&\s;#,)'\"]+)"
    # and these, which mean something else elsewhere
    r"|(?P<short>[?&;](?:key|sig|auth|code|session(?:_?id)?|sid)=)[^&\s;#'\"]+",
    re.IGNORECASE,
)
_HIDDEN = "***"


class _Short(reprlib.Repr):
    """As ``reprlib``, without secrets and control characters; what is long is cut before it is put in words."""

    def repr_str(self, thing: str, level: int) -> str:
        return super().repr_str(hide_secrets(_edges(thing)), level)

    def repr_bytes(self, thing: bytes | bytearray, level: int) -> str:  # noqa: ARG002  # the signature is reprlib's
        return shorten(repr(_edges(thing)))

    repr_bytearray = repr_bytes

    def repr_instance(self, thing: Any, level: int) -> str:
        try:
            text = repr(thing)
        except Exception:
            return super().repr_instance(thing, level)
        return shorten(text)


_short = _Short()
_short.maxstring = _short.maxother = MAX_SHOWN_CHARS
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 6


def describe(thing: object) -> str:
    """Return ``repr(thing)``, fit to be shown; raises only Ctrl-C, whatever its ``__repr__`` does."""
    text, error = call_guarded(_short.repr, thing)
    return text if error is None and type(text) is str else f"<{name_of_type(thing)} whose repr() fails>"


def describe_error(error: BaseException) -> str:
    """Return the type of ``error`` and what it says, in one line; raises only Ctrl-C, whatever its ``__str__`` does."""
    text, broken = call_guarded(str, error)
    kind = name_of_type(error)
    if broken is not None:
        return f"{kind}, whose str() fails"
    return f"{kind}: {escape_controls(hide_secrets(text), keep='')}" if text else kind


def name_of_type(thing: object) -> str:
    """Return the name of the type of ``thing``."""
    name: str = _get_type_name(type(thing))
    return name


def shorten(text: str, most: int = MAX_SHOWN_CHARS) -> str:
    """Return ``text`` in one line of at most ``most`` characters, fit to be shown: of a longer one the two ends."""
    text = escape_controls(hide_secrets(_edges(text)), keep="")
    if len(text) <= most:
        return text
    begin = (most - 3) // 2
    return f"{text[:begin]}...{text[len(text) - (most - 3 - begin) :]}"


def hide_secrets(text: str) -> str:
    """Return ``text`` without what looks like a password or a token in a URL."""
    if "=" not in text and "@" not in text:
        return text
    return _SECRETS.sub(lambda found: f"{found['user'] or found['name'] or found['short']}{_HIDDEN}", text)


def escape_controls(text: str, keep: str = "\n\t") -> str:
    """Return ``text`` with escapes in the place of what a terminal would act upon, but for ``keep``."""
    if text.isprintable():
        return text
    return "".join(char if char in keep or not is_control(char) else repr(char)[1:-1] for char in text)


def is_control(char: str) -> bool:
    """Tell whether a terminal acts upon ``char`` rather than shows it: by its category, marks of direction included."""
    return unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")


def _edges(thing: Any) -> Any:
    """Return the two ends of a text or of bytes that are so long that only these are shown."""
    return thing if len(thing) <= 2 * _EDGE_CHARS else thing[:_EDGE_CHARS] + thing[-_EDGE_CHARS:]


def show_own(thing: object, tell: Callable[[], str]) -> str:
    """Return the ``repr`` of an object of ours, with what ``tell`` says of it, if its constructor came that far."""
    try:
        return f"<treadle.{type(thing).__name__} {tell()}>"
    except AttributeError:  # it raised, and a debugger or a test shows what there is
        return object.__repr__(thing)


def count_of(number: int, noun: str) -> str:
    """Return how many there are of something, in words: ``1 call``, ``2,000 calls``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def describe_function(fn: object) -> str:
    """Return the name that a person would call ``fn`` by; raises only Ctrl-C, whatever its attributes do."""
    name, _ = call_guarded(_own_name, fn)
    return name if type(name) is str else name_of_type(fn)


def _own_name(fn: Any) -> Any:
    fn = getattr(fn, "func", fn)
    return getattr(fn, "__name__", type(fn).__name__)


def annotate(error: BaseException, text: str) -> None:
    """Put ``text`` on ``error`` as a note, once; one that names an item takes the place of one of the same run.

    A function may raise the same exception object for many items; it then names the last one, and its
    notes do not pile up. An error that passes through several runs is named by each. One that refuses notes has none.
    """
    call_guarded(_annotate, error, _NOTE + text)


def _annotate(error: BaseException, note: str) -> None:
    notes: object = getattr(error, "__notes__", None)
    if isinstance(notes, list) and (of := _numbered(note)):
        notes[:] = [other for other in notes if _numbered(str(other)) != of]
    elif isinstance(notes, list) and any(type(other) is str and other == note for other in notes):
        return
    error.add_note(note)


def _numbered(note: str) -> str | None:
    """Return of what run a note names an item; None: it names none."""
    found = _NUMBERED_NOTE.match(note)
    return None if found is None else found[2]


def set_cause(error: BaseException, cause: BaseException) -> None:
    """Make ``cause`` the ``__cause__`` of ``error``, as ``raise ... from`` does: also where its class refuses that."""
    _set_cause(error, cause)


def drop_context(error: BaseException, context: BaseException) -> None:
    """Have ``error`` not know any more that ``context`` was being handled when it was raised."""
    seen: set[int] = set()
    while id(error) not in seen and (before := _get_context(error)) is not None:
        if before is context:
            _set_context(error, None)
            return
        seen.add(id(error))
        error = before


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
        step = get_traceback(error)
        traceback.clear_frames(step)
        while step is not None:
            # Until Python 3.12 a frame that was asked for them keeps a copy, which is empty when it is asked again.
            _ = step.tb_frame.f_locals
            step = step.tb_next
        error = _get_context(error)
