"""``treadle.diagnose``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from treadle._core.describe import describe
from treadle._core.option_names import suggesting
from treadle._core.settings import check_callable, check_count, check_seconds
from treadle._diagnose.diagnosis import Diagnosis
from treadle._run.choosing import engine_for
from treadle.errors import InvalidArgument, WrongType

DEFAULT_SECONDS = 8.0
# More at once are a burden to whoever is asked.
DEFAULT_MAX_WORKERS = 64
DEFAULT_MAX_ITEMS = 10_000


@suggesting
def diagnose(
    fn: Callable[..., Any],
    items: Iterable[Any],
    *,
    seconds: float = DEFAULT_SECONDS,
    max_workers: int = DEFAULT_MAX_WORKERS,
    max_items: int = DEFAULT_MAX_ITEMS,
    repeat: bool = True,
    resource: Callable[[], Any] | None = None,
) -> Diagnosis:
    """Find out what ``fn`` does with its time, and how its calls are made fastest, by making some of them.

    Calls ``fn`` with items, for real, with all that it does to files, databases and servers: on one thread, then on
    more and more, and in processes (a coroutine function: on an event loop). As long as there are items, each is
    called once; when they end, those there were are called again, in turn, and what is advised is for many more of
    their kind. With ``repeat=False`` nothing more is measured then, the rest is what is to be expected, and what is
    advised is for as many as there were. The table says which is which.

    The thread that calls ``diagnose`` takes the items, as they are needed, so an endless iterable is fine. Ctrl-C and
    a cancellation end it as they end a run. Results are not kept.

    Args:
        fn: As for ``map``: any callable, or a coroutine function.
        items: Its arguments, one for each call.
        seconds: For all of it, at most; it ends sooner where calls are short. A call that has not ended by then is left
            behind, as in a run (killed, if it is in a process), and reported. What the iterable of items takes for
            itself comes on top.
        max_workers: At a time at most; 64 unless given. For the sake of who is asked.
        max_items: That are taken at most.
        repeat: Whether an item may be called more than once; the items are a sample then, and else all there are.
        resource: As in ``map``.

    Returns:
        What was found, with the line of Python to use; ``print()`` it.

    Raises:
        InvalidArgument: An option is outside its bounds, or there is no item.
        WrongType: An argument is not what it must be.
        BaseException: What the first call raised, if all of the first ones fail; what ``items`` or ``resource`` raises.

    Example:
        >>> import time, treadle
        >>> found = treadle.diagnose(time.sleep, [0.01] * 50, seconds=2, max_workers=4)
        >>> found.kind
        'waits'
        >>> found.line  # doctest: +SKIP
        'treadle.map(sleep, items, max_workers=4)'
    """
    from treadle._diagnose.examination import Examination  # not for whoever diagnoses nothing
    from treadle._diagnose.supply import Supply

    check_callable("fn", fn)
    engine_for(None, fn, "fn")
    check_seconds("seconds", seconds)
    if not 0 < seconds < math.inf:
        raise InvalidArgument("seconds", describe(seconds), "more than 0 seconds, and an end")
    check_count("max_workers", max_workers, least=1)
    check_count("max_items", max_items, least=1)
    try:
        iterator = iter(items)
    except TypeError:
        raise WrongType("items", f"{describe(items)} ({type(items).__name__})", "iterable") from None
    supply = Supply(iterator, max_items, repeat)
    return Examination(fn, supply, _length_of(items), seconds, max_workers, resource).diagnosis()


def _length_of(items: Iterable[Any]) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]  # those without raise
    except Exception:
        return None
