"""Values on their way to another process and back: each can fail by itself, and says what is to blame.

Plain pickle does what it can, as it is several times as fast. What it cannot do is left to cloudpickle, and so is what
is defined in ``__main__``, which the other process does not have: so no program needs a guard, and a function finds its
globals as they are when it is sent. Where cloudpickle is not installed, or cannot do it, names in ``__main__`` are sent
as such, and a process imports the program to look them up (``process_main``).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from treadle._core.describe import cut_our_frames, describe, describe_error, describe_function, set_cause
from treadle._core.real_time import monotonic
from treadle._core.user_code import call_guarded
from treadle._engines.process_main import NAME, NAME_IN_PROCESSES, find, place_of_program
from treadle._engines.process_wire import NO_ROOM
from treadle.errors import NotPicklable, RemoteError

PROTOCOL = 5
EXTRA = "treadle[processes]"
# Those of the program's names in a pickle that name it, and of these the ones that a process has got by importing it.
_NAMES = frozenset({NAME, NAME_IN_PROCESSES})
_ANY_NAME = b"_main__"
_IMPORTED = NAME_IN_PROCESSES.encode()
# Of these nothing can fail, and a list of them is one pickle.
_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})
_SIZED = frozenset({str, bytes})  # but not if one of them is so large that there may be no room for it
# A pickle above this is not copied into the message, but travels beside it.
_BESIDE_BYTES = 64 * 1024
_MAX_TRIES = 200
_MAX_DEPTH = 8

Buffers = list[pickle.PickleBuffer]
# A pickle and its buffers.
Parcel = tuple[Any, ...]
# An exception in a parcel, if it can be, its ``repr``, and its traceback.
WrappedError = tuple[Parcel | None, str, str]


class RemoteTraceback(Exception):
    """Where in the other process an exception was raised, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def pack(values: list[Any], what: str) -> tuple[list[Any], bool, dict[int, NotPicklable | MemoryError]]:
    """Return ``values`` ready to be sent, whether they are parcels, and why some cannot be, by their place.

    ``what`` names the values in messages.
    """
    kinds = set(map(type, values))
    if kinds <= _PLAIN and (kinds.isdisjoint(_SIZED) or not any(map(_is_large, values))):
        return values, False, {}
    parcels: list[Any] = []
    refused: dict[int, NotPicklable | MemoryError] = {}
    for value in values:
        try:
            parcels.append(wrap(value, what))
        except (NotPicklable, MemoryError) as error:
            refused[len(parcels)] = error
            parcels.append(None)
    return parcels, True, refused


def _is_large(value: Any) -> bool:
    return type(value) in _SIZED and len(value) > _BESIDE_BYTES


def wrap(value: Any, what: str, may_import: bool = True) -> Parcel:
    """Return ``value`` as a parcel.

    Args:
        value: It.
        what: It is, in messages.
        may_import: Whoever receives it can import the program.

    Raises:
        MemoryError: There is no room for it.
        NotPicklable: It is the wrong thing for that.
    """
    parcel, error = call_guarded(_wrap, value, may_import)  # methods of the user's are called, which may do anything
    if parcel is None:
        assert error is not None
        if isinstance(error, MemoryError):
            raise error
        raise _not_picklable(value, what, error, may_import) from error
    return parcel


def _wrap(value: Any, may_import: bool = True) -> Parcel:
    buffers: Buffers = []
    data = _dumps(value, buffers, may_import)
    return (pickle.PickleBuffer(data) if len(data) > _BESIDE_BYTES else data, *buffers)


def unwrap(parcel: Parcel) -> Any:
    """Return the value in ``parcel``; raises whatever its making raises, and ``MemoryError`` if it had no room here."""
    data, *buffers = parcel
    for part in parcel:
        if part is NO_ROOM:
            raise MemoryError("there was no room for it where it was received")
    return pickle.loads(data, buffers=buffers)  # noqa: S301  # it comes from a process of our own


def wrap_error(error: BaseException) -> WrappedError:
    """Return what is to be said of ``error``: itself, if that is possible, its ``repr`` and its traceback."""
    import traceback

    cut_our_frames(error)
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as broken:  # of an exception that cannot even be shown
        text = f"{type(error).__name__}: its traceback cannot be shown: {describe(broken)}\n"
    try:
        parcel = _wrap(error)
    except BaseException:
        parcel = None
    return parcel, describe(error), text


def unwrap_error(wrapped: WrappedError) -> BaseException:
    """Return the exception that ``wrapped`` tells of, or what stands for it, with the text of its traceback."""
    parcel, described, text = wrapped
    error: Any = None
    try:
        error = None if parcel is None else unwrap(parcel)
    except BaseException:
        error = None
    if not issubclass(type(error), BaseException):  # whatever it says that it is
        error = RemoteError(described)
    found: BaseException = error
    set_cause(found, RemoteTraceback(text))
    return found


def _dumps(value: Any, buffers: Buffers, may_import: bool = True) -> bytes:
    data = refusal = None
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=buffers.append)
        _check_contiguous(buffers)
        if _ANY_NAME not in data:
            return data
        if _IMPORTED in data and may_import:  # what was found by importing the program is found so again
            return _with_program(data, buffers)
    except Exception as error:
        data, refusal = None, error
    if (cloudpickle := find_cloudpickle()) is not None:
        by_value: Buffers = []
        try:
            found: bytes = cloudpickle.dumps(value, PROTOCOL, buffer_callback=by_value.append)
        except Exception:
            if data is None or not may_import or place_of_program() is None:
                raise
        else:
            buffers[:] = by_value
            return _with_program(found, buffers) if _IMPORTED in found and may_import else found
    if data is None:
        assert refusal is not None
        raise refusal
    if may_import and place_of_program() is not None:
        return _with_program(data, buffers)
    _refuse_main(value)
    return data


class _WithProgram:
    """A pickle with names in it that are to be looked up in the program."""

    def __init__(self, data: bytes, buffers: Buffers) -> None:
        self._data = data
        self._buffers = buffers

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_with_program, (self._data, self._buffers)


def _with_program(data: bytes, buffers: Buffers) -> bytes:
    """Return ``data`` in another pickle, which has whoever loads it look into the program; it has the same buffers."""
    inner = list(buffers)
    buffers.clear()
    return pickle.dumps(_WithProgram(data, inner), PROTOCOL, buffer_callback=buffers.append)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return find(name) if module in _NAMES else super().find_class(module, name)


def _load_with_program(data: bytes, buffers: list[Any]) -> Any:
    return _Unpickler(io.BytesIO(data), buffers=buffers).load()


def needs_program(parcel: Parcel) -> bool:
    """Tell whether whoever takes something out of ``parcel`` may have to import the program."""
    return _load_with_program.__name__.encode() in bytes(parcel[0])


def _check_contiguous(buffers: Buffers) -> None:
    for buffer in buffers:
        buffer.raw().release()


def find_cloudpickle() -> Any:
    """Return the module; None where the extra is not installed."""
    global _look_again_at
    if monotonic() < _look_again_at:
        return None
    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:
        _look_again_at = monotonic() + LOOK_AGAIN_SECONDS
        return None
    return cloudpickle


# That there is no cloudpickle takes as long to find out as the pickling of many items, and may change at a prompt.
LOOK_AGAIN_SECONDS = 1.0
_look_again_at = 0.0


class _MainRefuser(pickle.Pickler):
    """Pickles for nothing, to find out whether something of ``__main__`` is in it."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, type | FunctionType) and thing.__module__ == NAME:
            raise pickle.PicklingError(f"{thing.__qualname__} is defined in {NAME}")
        return NotImplemented


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


def _refuse_main(value: Any) -> None:
    _MainRefuser(_Nowhere(), PROTOCOL).dump(value)


# What is to blame


def _not_picklable(value: Any, what: str, error: BaseException, may_import: bool) -> NotPicklable:
    found, _ = call_guarded(_find_culprit, value, error, may_import)
    path, culprit, reason = found or ([], value, error)
    where = f"{what} {describe_function(value)}" if callable(value) else what
    for step in path:
        where += step
    about = "" if culprit is value else f" ({describe(culprit)})"
    kind = _needs_extra(culprit) if find_cloudpickle() is None else None
    why = describe_error(reason) if kind is None else f"{kind} need the extra: pip install '{EXTRA}'"
    return NotPicklable(where + about, why)


def _needs_extra(culprit: Any) -> str | None:
    """Return the name of its kind, if it is a function or a class that cannot be found by its name; None: it is not."""
    if not isinstance(culprit, type | FunctionType):
        return None
    things = "classes" if isinstance(culprit, type) else "functions"
    if culprit.__qualname__.endswith("<lambda>"):
        return "lambdas"
    if "<locals>" in culprit.__qualname__:
        return f"{things} that are defined in functions"
    if culprit.__module__ in _NAMES:
        return f"{things} of a program that cannot be imported (a prompt, a notebook, python -c, a __main__.py)"
    return None


def _find_culprit(value: Any, error: BaseException, may_import: bool = True) -> tuple[list[str], Any, BaseException]:
    """Go down into ``value`` as long as a part of it cannot be pickled either."""
    path: list[str] = []
    seen = {id(value)}
    tries = _MAX_TRIES
    while len(path) < _MAX_DEPTH:
        for step, part in _parts(value):
            if tries == 0:
                return path, value, error
            if id(part) in seen or type(part) in _PLAIN:
                continue
            seen.add(id(part))
            tries -= 1
            if (found := _why_not(part, may_import)) is not None:
                path.append(step)
                value, error = part, found
                break
        else:
            break
    return path, value, error


def _why_not(value: Any, may_import: bool) -> BaseException | None:
    try:
        _dumps(value, [], may_import)
    except BaseException as error:
        return error
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what ``value`` is made of, and what leads there."""
    if isinstance(value, dict):
        yield from ((f"[{describe(key)}]", part) for key, part in list(value.items()))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{at}]", part) for at, part in enumerate(list(value)))
    elif isinstance(value, partial):
        yield from (
            (".func", value.func),
            *_numbered("its argument", value.args),
            *_named("its argument", value.keywords),
        )
    elif isinstance(value, MethodType):
        yield from ((".__self__", value.__self__), (".__func__", value.__func__))
    elif isinstance(value, FunctionType):
        if find_cloudpickle() is not None:  # nothing else looks into it
            yield from _parts_of_function(value)
    elif not isinstance(value, type | ModuleType):
        yield from _parts_of_object(value)


def _parts_of_object(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what pickle would take of ``value``, under the names it has there."""
    try:
        reduced = value.__reduce_ex__(PROTOCOL)
    except BaseException:
        reduced = ()
    _, arguments, state, *_ = (*reduced, None, None, None) if isinstance(reduced, tuple) else (None, None, None)
    slots = state[1] if isinstance(state, tuple) and len(state) == 2 else None
    named: dict[str, Any] = {}
    for names in (getattr(value, "__dict__", None), state[0] if slots else state, slots):
        named |= names if isinstance(names, dict) else {}
    named |= {name: getattr(value, name, None) for name in _as_names(getattr(type(value), "__slots__", ()))}
    named["__class__"] = type(value)
    for part in arguments or ():
        yield next((f".{name}" for name, known in named.items() if known is part), ", a part of it"), part
    if isinstance(state, dict | tuple):
        yield from ((f".{name}", part) for name, part in named.items())


def _parts_of_function(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield f", its variable {name!r}", cell.cell_contents
        except ValueError:  # an empty one
            pass
    for name in fn.__code__.co_names:
        if name in fn.__globals__:
            yield f", the global {name!r}", fn.__globals__[name]
    yield from _numbered("its default", fn.__defaults__ or ())
    yield from _named("its default", fn.__kwdefaults__ or {})


def _numbered(what: str, parts: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(f", {what} {at}", part) for at, part in enumerate(parts)]


def _named(what: str, parts: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(f", {what} {name}", part) for name, part in parts.items()]


def _as_names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
