"""Threads that are greenlets: gevent and eventlet put theirs into ``threading``, and many share one of the system's.

So who is here is asked of ``threading``, and never of ``_thread``, whose ``RLock`` takes all greenlets for one thread.
What Treadle has from ``threading`` as it is imported, such as ``threading.local``, is theirs only if they came first.
"""

from __future__ import annotations

import threading

from treadle.errors import PatchedTooLate

_local = threading.local

ARE_THREADS_GREENLETS = threading.local.__module__ not in ("_thread", "_threading_local")


def check_patched_first() -> None:
    """Raise where threads have been replaced since Treadle was imported: what is each one's own would be everyone's.

    Raises:
        PatchedTooLate: They have.
    """
    if threading.local is not _local:
        raise PatchedTooLate(threading.local.__module__.partition(".")[0])
