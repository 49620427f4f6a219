"""The log, for threads that must go on whatever a handler of the user's does."""

from __future__ import annotations

import logging
import traceback
from functools import partial

from treadle._core.user_code import call_guarded, get_traceback

_logger = logging.getLogger("treadle")

LEVELS_TO_CALLER = 3  # of frames, for the place that a record names


def tell(level: int, message: str, *args: object, error: BaseException | None = None) -> None:
    """Log ``message % args``, with the traceback of ``error``.

    What a handler or a filter raises is printed to standard error, as ``logging`` does with what it catches itself,
    and harms nobody else. Only what interrupts the main thread goes through.
    """
    # Not ``exc_info=error``: logging then asks for its truth, which an exception may refuse, or deny.
    exc_info = None if error is None else (type(error), error, get_traceback(error))
    log = partial(_logger.log, exc_info=exc_info, stacklevel=LEVELS_TO_CALLER)
    _, failure = call_guarded(log, level, message, *args)
    if failure is not None:
        call_guarded(traceback.print_exception, failure)  # there may be no standard error
