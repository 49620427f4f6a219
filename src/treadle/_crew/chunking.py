"""How many items a worker takes in one go, and how far the intake may run ahead.

A hand-over between threads costs tens of microseconds, so tiny calls are taken many at a time; a call of a
millisecond gains nothing from company, and would only delay it. But for where workers are so many that their
hand-overs, with a GIL, would take more of the time than there is.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from treadle._core.chunk import Chunk
from treadle._core.gil import is_gil_enabled
from treadle._core.user_code import call_guarded, get_traceback

MAX_CHUNK_ITEMS = 2048
# What the items and results of one chunk may weigh, as far as sys.getsizeof() sees it.
MAX_CHUNK_BYTES = 256 * 1024
CHUNKS_AHEAD = 8
# Of what a failure weighed, so much goes on to count with each chunk after it that has none: a few failures among many
# small results may hold far more than these, above all while each waits for another attempt.
STILL_HEAVY = 255 / 256
# Of a traceback, whose variables are weighed.
MAX_FRAMES = 20
# Of the time there is for hand-overs, with a GIL; more calls go together where they would take more of it.
HAND_OVER_SHARE = 0.1
# So many chunks for each worker have been made by the time that chunks are as large.
CHUNKS_MADE = 4
# So many calls have to be tiny before one goes by that; who is wrong about it keeps workers away from work.
TRUSTED_CALLS = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """What it costs to hand calls over, in terms of how many to hand over.

    Attributes:
        chunk_seconds: The work in a chunk should take so long.
        worth_sharing_seconds: Less work than this is not worth sending another worker for.
        tiny_call_seconds: Below this, a call costs less than sharing it: on a GIL no second worker makes it faster.
        joined_seconds: Where the user gave a size, several chunks of it are handed over as one, while their work takes
            no longer than this. Only for engines that see to the size themselves (``CallPlan.chunksize``).
        hand_over_seconds: For so long a hand-over is in the way of others, as all want the GIL.
        short_call_seconds: Below this, calls go together where their hand-overs would take too much of it. What a call
            takes grows as they do, so this is far above what it takes by itself.
    """

    chunk_seconds: float
    worth_sharing_seconds: float
    tiny_call_seconds: float
    joined_seconds: float = 0.0
    hand_over_seconds: float = 0.0
    short_call_seconds: float = 0.0


ON_THREADS = Pace(0.001, 100e-6, 5e-6, hand_over_seconds=25e-6, short_call_seconds=0.020)
# A second slot makes nothing faster that does not wait.
ON_A_LOOP = Pace(0.001, 50e-6, 20e-6)
# A hand-over costs more there, and a GIL each process has for itself.
IN_PROCESSES = Pace(0.010, 0.001, 0.0, 0.003)
# The way to a cluster and back takes milliseconds.
BY_AN_EXECUTOR = Pace(0.050, 0.005, 0.0)


class ChunkSizer:
    """Finds the chunk size by the chunks that were done: doubling, toward ``pace.chunk_seconds`` a chunk.

    Workers report to it at once and without a lock: each field is a plain value whose latest writer wins,
    and every value is a safe one.

    Args:
        max_workers: Of the crew.
        chunksize: A size to keep to, where the user gave one.
        buffersize: The items that may wait beyond the workers', where the user gave a number: it then also
            caps the chunks, so that one worker cannot take them all.
        pace: Of the engine.
        lead: Chunks that may wait for each worker, where the user gave no ``buffersize``.
        may_join: Chunks of a given size may be joined, where the pace says so: their calls need not come one by one.
    """

    is_learning = True  # from chunks that are done

    def __init__(
        self,
        max_workers: int,
        chunksize: int | None,
        buffersize: int | None,
        pace: Pace = ON_THREADS,
        lead: int = 1,
        may_join: bool = True,
    ) -> None:
        self.pace = pace
        self._may_join = may_join
        self._lead = lead
        self.given = chunksize
        self._buffersize = buffersize
        self.resize(max_workers)
        self._adaptive = 1
        self._seen = 0  # calls since one last knew nothing
        self._made = 0  # in all
        self._failure = 0  # bytes that a failure held, at most, lately
        self.was_ever_large = (chunksize or 1) > 1
        self.mean: float | None = None  # seconds a call, lately; None: not known (any more)

    def resize(self, max_workers: int) -> None:
        """Go by another number of workers from now on."""
        self._max_workers = max_workers
        buffersize = self._buffersize
        fair_share = MAX_CHUNK_ITEMS if buffersize is None else (max_workers + buffersize) // (2 * max_workers)
        self._largest = max(1, min(MAX_CHUNK_ITEMS, fair_share))

    @property
    def size(self) -> int:
        """Items for the next chunk."""
        given, mean = self.given, self.mean
        if given is None:
            return self._adaptive
        if not self._may_join or mean is None:
            return given
        joined = min(self._adaptive, int(self.pace.joined_seconds / max(mean, 1e-9)))
        return max(1, joined // given) * given

    def limit(self, active: int) -> int:
        """Return how many items may be taken beyond the last result consumed, ``active`` workers being busy.

        ``max_workers + buffersize``, where ``buffersize`` is by default ``max_workers * lead`` chunks; it grows only
        while calls are short, and what they return and what their failures hold is small.
        """
        if self._buffersize is not None:
            return self._max_workers + self._buffersize
        least = self._max_workers * self._lead * (self.given or 1)
        if self._adaptive == 1:
            return self._max_workers + least
        return self._max_workers + max(least, self._adaptive * max(CHUNKS_AHEAD, 2 * active))

    def observe(self, chunk: Chunk) -> None:
        """Learn from a chunk whose calls are made."""
        if chunk.begun is None or chunk.ended is None or not chunk.results:
            return
        self.mean = mean = (chunk.ended - chunk.begun) / len(chunk.results)
        self._seen += len(chunk.results)
        self._made += len(chunk.results)
        if chunk.failures:
            self._failure = max(self._failure, _weigh_failure(chunk.failures[max(chunk.failures)]))
        elif self._failure:
            self._failure = int(self._failure * STILL_HEAVY)
        size = min(2 * self._adaptive, self._fitting(mean), self._largest)
        if size > 1:
            last = len(chunk.results) - 1  # not items[-1]: a thief may be shortening the list right now
            weight = _weigh(chunk.items[last]) + _weigh(chunk.results[last]) + self._failure
            size = max(1, min(size, MAX_CHUNK_BYTES // weight))
            self.was_ever_large = self.was_ever_large or size > 1
        self._adaptive = max(1, size)

    def _fitting(self, mean: float) -> int:
        """Return how many calls of so many seconds make a chunk."""
        pace = self.pace
        if mean * MAX_CHUNK_ITEMS <= pace.chunk_seconds:
            return MAX_CHUNK_ITEMS
        fitting = int(pace.chunk_seconds / mean)
        if mean > pace.short_call_seconds:
            return fitting
        # Many workers hand over often. Where many such calls were made, there are many to come: what is left of the
        # last chunks is soon shared out.
        often = self._max_workers * pace.hand_over_seconds / HAND_OVER_SHARE
        return max(fitting, min(int(often / mean), self._made // (CHUNKS_MADE * self._max_workers)))

    def forget(self) -> None:
        """Take what comes for slow, until enough calls have shown the contrary."""
        self.mean = None
        self._seen = 0

    def is_worth_sharing(self, calls: int, gil: bool) -> bool:
        """Tell whether ``calls`` that wait are worth another worker."""
        mean = self.mean
        if mean is None or self._seen < TRUSTED_CALLS:
            return calls > 0
        pace = self.pace
        return mean * calls >= pace.worth_sharing_seconds and not (gil and mean < pace.tiny_call_seconds)


def _weigh_failure(error: BaseException) -> int:
    """Return what the variables weigh in the frames that ``error`` went through: they live as long as it does.

    Without a GIL, to read the variables of a frame that may be running, in another thread that raised the same object,
    can crash the interpreter: there a failure is taken for a heavy one.
    """
    if not is_gil_enabled():
        return MAX_CHUNK_BYTES
    weight, step = 0, get_traceback(error)
    for _ in range(MAX_FRAMES):
        if step is None:
            break
        weight += sum(map(_weigh, list(step.tb_frame.f_locals.values())))
        step = step.tb_next
    return weight


def _weigh(thing: object) -> int:
    size, error = call_guarded(sys.getsizeof, thing)
    return size if size is not None and error is None else MAX_CHUNK_BYTES  # a broken __sizeof__ of the user's
