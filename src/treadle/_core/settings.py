"""The options of a run: one frozen value, checked once, instead of a list in every signature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from treadle._core.describe import describe
from treadle._core.outcome import Stats
from treadle.errors import InvalidArgument, WrongType

# Threads wait, they do not compute, so the number does not follow the cores. It is what the standard
# library allows at most; a crew starts no more of them than its calls keep busy.
DEFAULT_MAX_WORKERS = 32
# Short enough that nobody takes a closing run for a hanging one, long enough for a polite goodbye.
DEFAULT_GRACE_SECONDS = 0.25

Intake = Literal["caller", "thread"]
EngineName = Literal["threads", "processes", "coroutines"]
EngineOption = EngineName | Executor
# What makes many calls of one function can find out which engine suits them.
RunEngine = EngineOption | Literal["auto"]
# A number, or what measuring finds.
WorkersOption = int | Literal["auto"]
Progress = bool | Callable[[Stats], object]


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of ``treadle.map``; see there for what each means."""

    max_workers: int = DEFAULT_MAX_WORKERS
    ordered: bool = True
    buffersize: int | None = None
    chunksize: int | None = None
    timeout: float | None = None
    intake: Intake = "caller"
    progress: Progress = False
    name: str = "map"
    grace: float = DEFAULT_GRACE_SECONDS
    max_abandoned: int = DEFAULT_MAX_WORKERS
    engine: RunEngine = "threads"
    is_tuned: bool = False  # the number of workers is found while calls are made; then it begins with another
    lead: int = 1  # chunks that may wait for each worker, where no buffersize was given

    def __post_init__(self) -> None:
        check_count("max_workers", self.max_workers, least=1)
        check_count("max_abandoned", self.max_abandoned, least=0)
        if self.buffersize is not None:
            check_count("buffersize", self.buffersize, least=0)
        if self.chunksize is not None:
            check_count("chunksize", self.chunksize, least=1)
        if self.timeout is not None:
            check_seconds("timeout", self.timeout)
        check_seconds("grace", self.grace)
        if not isinstance(self.ordered, bool):
            raise WrongType("ordered", describe(self.ordered), "True or False")
        if self.intake not in ("caller", "thread"):
            raise not_among("intake", self.intake, ("caller", "thread"))
        if not isinstance(self.name, str):
            raise WrongType("name", describe(self.name), "a string")
        if not (isinstance(self.progress, bool) or callable(self.progress)):
            raise WrongType("progress", describe(self.progress), "True, False or a function that takes Stats")


def not_among(name: str, given: object, words: tuple[str, ...], or_else: str = "") -> InvalidArgument:
    """Return the error for a word that is none of ``words``, with the one that was probably meant.

    Args:
        name: The argument.
        given: The word.
        words: Those that there are.
        or_else: What else would do.
    """
    known = [*map(repr, words), *filter(None, [or_else])]
    meant = get_close_matches(given, words, 1) if isinstance(given, str) else []
    hint = f"did you mean {meant[0]!r}?" if meant else ""
    expected = f"{'one of ' if len(known) > 3 else ''}{', '.join(known[:-1])} or {known[-1]}"
    return InvalidArgument(name, describe(given), expected, hint)


def check_callable(name: str, thing: object) -> None:
    """Raise unless ``thing`` can be called."""
    if not callable(thing):
        if name in ("resource", "factory"):
            hint = "give a function that opens one: each worker calls it for itself"
        elif isinstance(thing, Iterable) and not isinstance(thing, str):
            hint = "the function comes first"
        else:
            hint = "give the function itself, not what a call of it returns"
        raise WrongType(name, f"{describe(thing)} ({type(thing).__name__})", "callable", hint)


def check_count(name: str, given: Any, least: int) -> None:
    """Raise unless ``given`` is a whole number of at least ``least``."""
    if isinstance(given, bool) or not isinstance(given, int):
        raise WrongType(name, describe(given), "a whole number", _write_number(given, int))
    if given < least:
        raise InvalidArgument(name, str(given), f"at least {least}")


def check_seconds(name: str, given: Any) -> None:
    """Raise unless ``given`` is a number of seconds, 0 or more."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        hint = "give its total_seconds()" if hasattr(given, "total_seconds") else _write_number(given, float)
        raise WrongType(name, describe(given), "a number of seconds", hint)
    if not 0 <= given < 1e300 and given != math.inf:  # also refuses NaN, and what is no float
        raise InvalidArgument(name, describe(given), "0 seconds or more")


def check_rate(name: str, given: Any) -> None:
    """Raise unless ``given`` is a number of calls a second that has a time between them."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise WrongType(name, describe(given), "a number of calls a second", _write_number(given, float))
    if not 1e-300 < given < 1e300:  # also refuses NaN
        raise InvalidArgument(name, str(given), "a finite number above 0")


def _write_number(given: Any, kind: type[float]) -> str:
    """Return what to write instead of something that stands for a number of that ``kind``; empty: nothing."""
    if type(given) not in (str, float):
        return ""
    try:
        number = float(given)
    except ValueError:
        return ""
    if number.is_integer():
        return f"write {int(number)}"
    return f"write {number!r}" if kind is float and math.isfinite(number) else ""


def as_initargs(given: Any) -> tuple[Any, ...]:
    """Return what an initializer is called with.

    Raises:
        WrongType: It is no tuple of arguments, but one of them: a text would be taken apart.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise WrongType("initargs", describe(given), "a tuple of arguments", f"write initargs=({describe(given)},)")
    return tuple(given)
