"""Values on their way to another process and back: each can fail by itself, and says what is to blame.

Plain pickle does what it can, as it is several times as fast; what it cannot do, or would do wrongly (a class of
``__main__`` is there by name only, and the other process has another ``__main__``), is left to cloudpickle.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from treadle._core.describe import cut_our_frames, describe, describe_error, describe_function, set_cause
from treadle._core.user_code import call_guarded
from treadle._engines.process_wire import NO_ROOM
from treadle.errors import NotPicklable, RemoteError

PROTOCOL = 5
EXTRA = "treadle[processes]"
_MAIN = b"__main__"
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


def wrap(value: Any, what: str) -> Parcel:
    """Return ``value`` as a parcel.

    Raises:
        MemoryError: There is no room for it.
        NotPicklable: It is the wrong thing for that; ``what`` names it in the message.
    """
    parcel, error = call_guarded(_wrap, value)  # methods of the user's are called, which may do anything
    if parcel is None:
        assert error is not None
        if isinstance(error, MemoryError):
            raise error
        raise _not_picklable(value, what, error) from error
    return parcel


def _wrap(value: Any) -> Parcel:
    buffers: Buffers = []
    data = _dumps(value, buffers)
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


def _dumps(value: Any, buffers: Buffers) -> bytes:
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=buffers.append)
        _check_contiguous(buffers)
        if _MAIN not in data:
            return data
    except Exception:
        if (cloudpickle := find_cloudpickle()) is None:
            raise
    else:
        if (cloudpickle := find_cloudpickle()) is None:
            _refuse_main(value)
            return data
    buffers.clear()
    found: bytes = cloudpickle.dumps(value, PROTOCOL, buffer_callback=buffers.append)
    return found


def _check_contiguous(buffers: Buffers) -> None:
    for buffer in buffers:
        buffer.raw().release()


def find_cloudpickle() -> Any:
    """Return the module; None where the extra is not installed."""
    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:
        return None
    return cloudpickle


class _MainRefuser(pickle.Pickler):
    """Pickles for nothing, to find out whether something of ``__main__`` is in it."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, type | FunctionType) and thing.__module__ == "__main__":
            raise pickle.PicklingError(f"{thing.__qualname__} is defined in __main__")
        return NotImplemented


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


def _refuse_main(value: Any) -> None:
    _MainRefuser(_Nowhere(), PROTOCOL).dump(value)


# What is to blame


def _not_picklable(value: Any, what: str, error: BaseException) -> NotPicklable:
    found, _ = call_guarded(_find_culprit, value, error)
    path, culprit, reason = found or ([], value, error)
    where = f"{what} {describe_function(value)}" if callable(value) else what
    for step in path:
        where += step
    about = "" if culprit is value else f" ({describe(culprit)})"
    hint = ""
    if find_cloudpickle() is None:
        hint = f"; lambdas, inner functions and what is defined in __main__ need the extra: pip install '{EXTRA}'"
    return NotPicklable(where + about, describe_error(reason) + hint)


def _find_culprit(value: Any, error: BaseException) -> tuple[list[str], Any, BaseException]:
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
            if (found := _why_not(part)) is not None:
                path.append(step)
                value, error = part, found
                break
        else:
            break
    return path, value, error


def _why_not(value: Any) -> BaseException | None:
    try:
        _dumps(value, [])
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
