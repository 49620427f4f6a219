"""The log, for threads that must go on whatever a handler of the user's does."""

from __future__ import annotations

import logging
import threading
import traceback
from contextlib import suppress

_logger = logging.getLogger("treadle")


def tell(level: int, message: str, *args: object, error: BaseException | None = None) -> None:
    """Log ``message % args``, with the traceback of ``error``.

    What a handler or a filter raises is printed to standard error, as ``logging`` does with what it catches itself,
    and harms nobody else. Only Ctrl-C in the main thread goes through.
    """
    try:
        # Not ``exc_info=error``: logging then asks for its truth, which an exception may refuse, or deny.
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        _logger.log(level, message, *args, exc_info=exc_info, stacklevel=2)
    except BaseException as failure:
        if isinstance(failure, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        with suppress(Exception):  # there may be no standard error
            traceback.print_exception(failure)
