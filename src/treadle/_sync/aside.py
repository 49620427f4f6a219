"""Code of the user's that must not hold us, nor run under a lock of ours: it gets a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_logger = logging.getLogger("treadle")


def run_aside(name: str, action: Callable[[], object]) -> None:
    """Run ``action`` on a daemon thread; right here if there is no thread to be had. Its error is logged."""
    thread = threading.Thread(target=guard, args=(action,), name=f"treadle-{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None  # in the wait for the thread, which runs, it may come out in disguise
        guard(action)


def guard(action: Callable[[], object]) -> None:
    """Run ``action``; its error is logged."""
    try:
        action()
    except BaseException:
        _logger.exception("something that was run on the side failed")
