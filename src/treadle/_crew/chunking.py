"""How many items a worker takes in one go, and how far the intake may run ahead.

A hand-over between threads costs tens of microseconds, so tiny calls are taken many at a time; a call of a
millisecond gains nothing from company, and would only delay it.
"""

from __future__ import annotations

import sys

from treadle._core.chunk import Chunk

CHUNK_SECONDS = 0.001
MAX_CHUNK_ITEMS = 2048
# What the items and results of one chunk may weigh, as far as sys.getsizeof() sees it.
MAX_CHUNK_BYTES = 256 * 1024
CHUNKS_AHEAD = 8
# Below this, a call costs less than sharing it: on a GIL no second worker would make it faster.
TINY_CALL_SECONDS = 5e-6
# Less work than this is not worth waking another worker for.
WORTH_SHARING_SECONDS = 100e-6
# So many calls have to be tiny before one goes by that; who is wrong about it keeps workers away from work.
TRUSTED_CALLS = 8


class ChunkSizer:
    """Finds the chunk size by the chunks that were done: doubling, toward ``CHUNK_SECONDS`` a chunk.

    Workers report to it at once and without a lock: each field is a plain value whose latest writer wins,
    and every value is a safe one.

    Args:
        max_workers: Of the crew.
        chunksize: A size to keep to, where the user gave one.
        buffersize: The items that may wait beyond the workers', where the user gave a number: it then also
            caps the chunks, so that one worker cannot take them all.
    """

    is_learning = True  # from chunks that are done

    def __init__(self, max_workers: int, chunksize: int | None, buffersize: int | None) -> None:
        self._max_workers = max_workers
        self._chunksize = chunksize
        self._buffersize = buffersize
        fair_share = MAX_CHUNK_ITEMS if buffersize is None else (max_workers + buffersize) // (2 * max_workers)
        self._largest = max(1, min(MAX_CHUNK_ITEMS, fair_share))
        self._adaptive = 1
        self._seen = 0  # calls since one last knew nothing
        self.was_ever_large = (chunksize or 1) > 1
        self.mean: float | None = None  # seconds a call, lately; None: not known (any more)

    @property
    def size(self) -> int:
        """Items for the next chunk."""
        return self._chunksize or self._adaptive

    def limit(self, active: int) -> int:
        """Return how many items may be taken beyond the last result consumed, ``active`` workers being busy.

        ``max_workers + buffersize``, where ``buffersize`` is by default ``max_workers`` chunks; it grows only
        while calls are tiny and what they return is small.
        """
        if self._buffersize is not None:
            return self._max_workers + self._buffersize
        least = self._max_workers * (self._chunksize or 1)
        if self._adaptive == 1:
            return self._max_workers + least
        return self._max_workers + max(least, self._adaptive * max(CHUNKS_AHEAD, 2 * active))

    def observe(self, chunk: Chunk) -> None:
        """Learn from a chunk whose calls are made."""
        if chunk.begun is None or chunk.ended is None or not chunk.results:
            return
        self.mean = mean = (chunk.ended - chunk.begun) / len(chunk.results)
        self._seen += len(chunk.results)
        fitting = int(CHUNK_SECONDS / mean) if mean * MAX_CHUNK_ITEMS > CHUNK_SECONDS else MAX_CHUNK_ITEMS
        size = min(2 * self._adaptive, fitting, self._largest)
        if size > 1:
            last = len(chunk.results) - 1  # not items[-1]: a thief may be shortening the list right now
            weight = _weigh(chunk.items[last]) + _weigh(chunk.results[last])
            size = max(1, min(size, MAX_CHUNK_BYTES // weight))
            self.was_ever_large = self.was_ever_large or size > 1
        self._adaptive = max(1, size)

    def forget(self) -> None:
        """Take what comes for slow, until enough calls have shown the contrary."""
        self.mean = None
        self._seen = 0

    def is_worth_sharing(self, calls: int, gil: bool) -> bool:
        """Tell whether ``calls`` that wait are worth another worker."""
        mean = self.mean
        if mean is None or self._seen < TRUSTED_CALLS:
            return calls > 0
        return mean * calls >= WORTH_SHARING_SECONDS and not (gil and mean < TINY_CALL_SECONDS)


def _weigh(thing: object) -> int:
    try:
        return sys.getsizeof(thing)
    except BaseException:  # a broken __sizeof__ of the user's: take it for something large
        return MAX_CHUNK_BYTES
