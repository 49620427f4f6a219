"""What is done with calls wherever an executor takes them: take them out of their pickles, make them, pack the answer.

There, on another machine perhaps, may be no Treadle, or another version of it. So nothing here needs any of it: the
functions of this module stand on the standard library (and cloudpickle, where it is), and travel by value.
"""

from __future__ import annotations

import pickle
import sys
import time
import traceback
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any

PROTOCOL = 5
_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})  # of these nothing can fail

# A pickled exception, if it can be, its ``repr``, and its traceback.
Told = tuple[tuple[bytes] | None, str, str]
# What calls came to, as plain values or each in a pickle; is it the latter; what those at these places raised; of what
# and why others cannot be sent back; how many seconds after the first began each ended.
Answer = tuple[list[Any], bool, dict[int, Told], dict[int, tuple[str, str]], list[float]]


def make_calls(
    call: Callable[[Any], Any],
    items: list[Any],
    make_context: Callable[[], Context],
    seconds: float,
    are_cancelled: Callable[[], bool] = bool,
) -> tuple[list[Any], dict[int, BaseException], list[float]]:
    """Call ``call`` with ``items`` one by one, and return results, errors, and times.

    No further one begins after ``seconds``, or when ``are_cancelled()`` says that they are to end: by default never.
    """
    results: list[Any] = []
    errors: dict[int, BaseException] = {}
    ends: list[float] = []
    tell_seconds = _clock()
    began = tell_seconds()
    for at, item in enumerate(items):
        result = None
        try:
            result = make_context().run(call, item)
        except BaseException as error:
            errors[at] = error
        results.append(result)
        ends.append(tell_seconds() - began)
        if ends[-1] >= seconds or are_cancelled():
            break
    return results, errors, ends


def _clock() -> Callable[[], float]:
    """Return the machine's clock; where Treadle is, the one that stand-ins for ``time`` do not touch."""
    home: Any = sys.modules.get("treadle._core.real_time") or time
    clock: Callable[[], float] = home.perf_counter
    return clock


def carry_out(function: bytes | None, is_spread: bool, values: list[Any], is_pickled: bool, seconds: float) -> Answer:
    """Make the calls that arrive here, and return what they came to.

    Args:
        function: In a pickle; None: each item brings one, before its arguments and named arguments.
        is_spread: An item is a tuple of arguments.
        values: The items.
        is_pickled: Each is in a pickle of its own; None where it could not be.
        seconds: After which no further call is begun.
    """
    try:
        fn: Any = None if function is None else _receive(function, "the function")
    except BaseException as error:
        return [None] * len(values), False, dict.fromkeys(range(len(values)), _tell(error)), {}, [0.0] * len(values)

    def call(value: Any) -> Any:
        item = _receive(value, "the call" if fn is None else "the argument") if is_pickled else value
        if fn is None:
            own, arguments, named = item
            return own(*arguments, **named)
        return fn(*item) if is_spread else fn(item)

    results, errors, ends = make_calls(call, values, Context, seconds)
    packed, are_pickles, unpicklable = pack(results)
    refused = {at: (_describe(results[at]), _say(error)) for at, error in unpicklable.items()}
    return packed, are_pickles, {at: _tell(error) for at, error in errors.items()}, refused, ends


def _receive(data: bytes, what: str) -> Any:
    """Return what is in a pickle; an error says what that was to be."""
    try:
        return pickle.loads(data)  # noqa: S301  # whoever sends it runs code here
    except BaseException as error:
        hint = ""
        if isinstance(error, AttributeError) and "__main__" in _say(error):
            hint = ": __main__ is another one there, and what yours defines needs the extra: treadle[processes]"
        _note(error, f"raised where the call was to be made, as it received {what}{hint}")
        raise


def pack(values: list[Any]) -> tuple[list[Any], bool, dict[int, BaseException]]:
    """Return ``values`` ready to travel, whether each is in a pickle of its own, and why some cannot be, by place."""
    if _PLAIN.issuperset(map(type, values)):
        return values, False, {}
    packed: list[Any] = []
    refused: dict[int, BaseException] = {}
    for at, value in enumerate(values):
        try:
            packed.append(in_pickle(value))
        except BaseException as error:
            refused[at] = error
            packed.append(None)
    return packed, True, refused


def in_pickle(value: Any) -> bytes:
    """Return ``value`` in a pickle; what plain pickle cannot do, or would get wrong elsewhere, cloudpickle may."""
    try:
        data = pickle.dumps(value, PROTOCOL)
        if b"__main__" not in data:
            return data
    except Exception:
        if (cloudpickle := find_cloudpickle()) is None:
            raise
    else:
        if (cloudpickle := find_cloudpickle()) is None:
            return data
    found: bytes = cloudpickle.dumps(value, PROTOCOL)
    return found


def function_in_pickle(fn: Any) -> bytes:
    """Return ``fn`` in a pickle: by value, where its module was registered with cloudpickle for that."""
    cloudpickle = find_cloudpickle()
    found: bytes = (cloudpickle or pickle).dumps(fn, PROTOCOL)
    return found


def find_cloudpickle() -> Any:
    """Return the module; None where there is none."""
    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:
        return None
    return cloudpickle


def _tell(error: BaseException) -> Told:
    try:
        text = "".join(traceback.format_exception(type(error), error, _below_us(error)))
    except BaseException:  # of an exception that cannot even be shown
        text = f"{_say(error)}, and its traceback cannot be shown\n"
    try:
        data = (in_pickle(error),)
    except BaseException:
        return None, _describe(error), text
    return data, _describe(error), text


def _below_us(error: BaseException) -> Any:
    """Return the traceback of ``error`` from where the user's code begins."""
    found, ours = error.__traceback__, carry_out.__code__.co_filename
    while found is not None and found.tb_frame.f_code.co_filename == ours:
        found = found.tb_next
    return found


def _describe(value: Any) -> str:
    try:
        text = repr(value)
    except BaseException:
        return f"<{type(value).__name__} whose repr() fails>"
    return text if len(text) <= 120 else f"{text[:117]}..."


def _say(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return f"{type(error).__name__}, whose str() fails"


def _note(error: BaseException, text: str) -> None:
    try:
        error.add_note(f"treadle: {text}")
    except BaseException:  # it refuses notes
        return


# What an executor gets. There is nothing in it but builtins, so it can be made of its pickle wherever it arrives, and
# what cannot be made there is an error of the call: a Dask worker that cannot read a task says so to nobody.
_ERRAND = "__import__('pickle').loads(errand)(*arguments)"
_pickle: bytes | None = None  # of ``carry_out``


def as_errand(*arguments: Any) -> tuple[Any, ...]:
    """Return, as ``__reduce__`` does, what calls ``carry_out`` with ``arguments`` where it arrives."""
    return partial, (eval, _ERRAND, {"errand": _errand(), "arguments": arguments})


def _errand() -> bytes:
    """Return ``carry_out`` in a pickle that needs no Treadle, but for where there is no cloudpickle to make one."""
    global _pickle
    if _pickle is None:
        if (cloudpickle := find_cloudpickle()) is not None:
            cloudpickle.register_pickle_by_value(sys.modules[__name__])
        _pickle = (cloudpickle or pickle).dumps(carry_out, PROTOCOL)
    return _pickle
