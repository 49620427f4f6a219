"""The account of a run: every item taken, its chunk, and how far the consumer has got."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from operator import length_hint
from typing import Any

from treadle._core.chunk import Chunk, End
from treadle._crew.muster import snapshot


@dataclass(slots=True)
class Batch:
    """Results of consecutive chunks, handed to the consumer as one iterator, which tells how far it is.

    Attributes:
        chunks: Where they come from; all but the last are delivered to their end.
        iterator: What the consumer iterates.
        size: How many results it had in the beginning.
        begin: How much of the first chunk had been delivered before.
        consumed_before: How many results the consumer had taken before.
        left: What the consumer did not take, once that is settled.
    """

    chunks: list[Chunk]
    iterator: Iterator[Any]
    size: int
    begin: int
    consumed_before: int
    left: list[Any]

    def taken(self) -> int:
        """Return how many of them the consumer has taken."""
        return self.size - length_hint(self.iterator) - len(self.left)


class Ledger:
    """Every item taken from the input is in exactly one chunk here until its outcome was delivered.

    The intake adds chunks, thieves split them, the consumer removes them, and whoever ends the run closes the account:
    all of them under the crew's lock. Workers put what is done into ``done``, without it.
    """

    def __init__(self, ordered: bool) -> None:
        self.chunks: dict[int, Chunk] = {}  # by the index of the first item
        self.taken = 0
        self.consumed = 0
        self.succeeded = 0
        self.failed = 0
        self.timed_out = 0
        self.cancelled = 0
        self.not_started = 0
        self.done: deque[Chunk] = deque()
        self.net: list[Any] = []  # what was just taken, and is in no chunk yet; its taker's alone
        self.batch: Batch | None = None
        self._is_closed = False
        self._ordered = ordered
        self._next = 0
        self._ready: deque[Chunk] = deque()

    def add(self, chunk: Chunk) -> None:
        """Open the account of ``chunk``."""
        self.chunks[chunk.start] = chunk

    def enter(self, chunks: list[Chunk]) -> bool:
        """Open the account of ``chunks``, which have all that is in the net; False: it was closed, and none is called.

        Under the lock. Interrupted by Ctrl-C, it can be done again, with the same chunks or others.
        """
        taken = self.taken + len(self.net)
        self.chunks.update([(chunk.start, chunk) for chunk in chunks])
        # No call from here on, so that no Ctrl-C can part these.
        if self._is_closed:
            self.not_started += taken - self.taken
        self.taken = taken
        self.net = []
        return not self._is_closed

    def count_taken(self) -> None:
        """Count one more item taken, also one that came after the account was closed."""
        self.taken += 1
        if self._is_closed:
            self.not_started += 1

    def done_now(self) -> list[Chunk]:
        """Return what is done and not collected; for any thread."""
        return snapshot(self.done)

    def collect(self) -> bool:
        """Take over what is done, and tell whether there was anything."""
        done = self.done
        if not done:
            return False
        while done:
            chunk = done[0]
            if chunk.end == "running":  # a late one, left behind by a closed account, is not
                self._settle(chunk, "done")
            done.popleft()  # not before it is counted: Ctrl-C may strike in between
        return True

    def _settle(self, chunk: Chunk, end: End) -> None:
        failed = len(chunk.failures) if chunk.failures else 0
        succeeded = len(chunk.results) - failed
        if not (self._ordered or (self._ready and self._ready[-1] is chunk)):
            self._ready.append(chunk)
        late = failed if chunk.trial is not None and chunk.trial.is_timed_out else 0
        # No call from here on, so that no Ctrl-C can part these: a repetition must not count twice.
        chunk.end = end  # first: without a GIL, whoever asks in between must not count it twice
        self.timed_out += late
        self.failed += failed - late
        self.succeeded += succeeded

    def close(self, abandoned: list[Chunk]) -> None:
        """Close the account: what has no result yet never will."""
        self._is_closed = True
        self.collect()
        for chunk in abandoned:
            self._settle(chunk, "abandoned")
        for chunk in self.chunks.values():
            if chunk.end == "running" and chunk.results and len(chunk.results) == len(chunk.items):
                self._settle(chunk, "done")  # a call left behind, which was about to be made again
            open_calls = len(chunk.items) - len(chunk.results)
            running = chunk.count_cut_short()
            self.cancelled += running
            self.not_started += open_calls - running

    def front(self) -> Chunk | None:
        """Return the chunk to deliver from next, or None while there is none."""
        if self._ordered:
            return self.find(self._next)
        return self._ready[0] if self._ready else None

    def find(self, index: int) -> Chunk | None:
        """Return the chunk that begins at ``index``, if there is one.

        Not by ``dict.get()``: without a GIL (in Python 3.13) that waits for a lock which it holds itself, if another
        thread has made the chunk. A run with a feeder took twice as long.
        """
        return self.chunks[index] if index in self.chunks else None  # noqa: SIM401

    def smooth_run(self, most: int) -> list[Chunk]:
        """Return the chunks at the front that are done without a failure, up to about ``most`` results."""
        smooth: list[Chunk] = []
        count, index, waiting = 0, self._next, iter(self._ready)
        while count < most:
            chunk = self.find(index) if self._ordered else next(waiting, None)
            if chunk is None or chunk.end != "done" or chunk.failures:
                break
            if chunk.delivered or not chunk.items or len(chunk.results) != len(chunk.items):
                break  # begun, all stolen, or stopped in the middle
            smooth.append(chunk)
            count += len(chunk.results)
            index += len(chunk.items)
        return smooth

    def retire(self, chunk: Chunk) -> None:
        """Let go of a chunk, all of which was delivered."""
        if self._ordered:
            self._next = chunk.start + len(chunk.items)
        elif self._ready and self._ready[0] is chunk:  # one that never got ready may be delivered at the end
            self._ready.popleft()
        if self.find(chunk.start) is chunk:  # if all of it was stolen, the thief's stands there
            del self.chunks[chunk.start]
        if chunk.failures:
            chunk.forget()

    def forget(self) -> None:
        """Let go of what was not delivered: its owner is gone."""
        chunks, self.chunks = self.chunks, {}
        for chunk in chunks.values():
            chunk.forget()
        self.batch = None
        self._ready.clear()

    def hand_over(self, chunks: list[Chunk], values: list[Any]) -> Iterator[Any]:
        """Return the next undelivered ``values`` of ``chunks`` such that their consumption can be followed."""
        iterator = iter(values)
        self.batch = Batch(chunks, iterator, len(values), chunks[0].delivered, self.consumed, [])
        return iterator

    def settle_batch(self) -> None:
        """Take note of what the consumer took of the last batch. What it did not take is still to be delivered."""
        batch = self.batch
        if batch is None:
            return
        # Ctrl-C may strike between any two lines: each can be done again, with the same result.
        batch.left.extend(batch.iterator)  # in one go: it may be another thread's turn to look
        taken = batch.taken()
        self.consumed = batch.consumed_before + taken
        begin = batch.begin
        for chunk in batch.chunks:
            here = min(taken, len(chunk.items) - begin)
            chunk.delivered = begin + here
            taken -= here
            begin = 0
        self.batch = None

    def ready(self) -> int:
        """Return how many results the consumer has at hand; for the consumer's thread."""
        return 0 if self.batch is None else length_hint(self.batch.iterator)

    def consumed_now(self) -> int:
        """Return how many results the consumer has taken, as seen from another thread.

        The first of a batch is as good as taken when it is handed over: nobody is told when that happens.
        """
        batch = self.batch
        return self.consumed if batch is None else batch.consumed_before + max(1, batch.taken())
