"""An engine that makes calls on its worker's thread, is measured at it, and moves when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from treadle._core.chunk import Chunk
from treadle._core.processor import processor_seconds, seconds_in_line
from treadle._core.real_time import perf_counter
from treadle._engines.engine import Engine


class Guide(Protocol):
    """Whoever decides where calls are made, for all engines of a crew."""

    destination: Callable[[], Engine] | None  # makes the engine to move to; None: they stay, so far

    def note_begun(self, gauge: Gauge) -> None:
        """Take note that a chunk is being made. Called by the worker, as all of these."""

    def note_ended(self, chunk: Chunk) -> None:
        """Take note that ``chunk`` is made; nobody else has seen it yet."""

    def call_off(self, error: BaseException) -> None:
        """Take note that an engine could not move, which remains where it is."""


class Gauge:
    """What the calls of one worker take. It alone writes, whole states at a time; anybody may read.

    Args:
        opening: Seconds that the worker took to get ready.
    """

    def __init__(self, opening: float = 0.0) -> None:
        self.opening = opening
        self._thread = threading.get_native_id()
        self._in_line_before = seconds_in_line(self._thread)
        self._in_line = 0.0  # so far; when the thread has ended, nobody can tell
        # Chunks that are made: calls, seconds, seconds of a processor; then the one in hand, and when it began.
        self._state: tuple[int, float, float, Chunk | None, float, float] = (0, 0.0, 0.0, None, 0.0, 0.0)

    @property
    def is_busy(self) -> bool:
        """Whether a chunk is in hand."""
        return self._state[3] is not None

    def begin(self, chunk: Chunk) -> None:
        """Take note that the calls of ``chunk`` begin."""
        self._state = (*self._state[:3], chunk, perf_counter(), processor_seconds(self._thread))

    def end(self) -> None:
        """Take note that they have ended."""
        self._state = (*self.read(), None, 0.0, 0.0)

    def seconds_in_line(self) -> float:
        """Return how long calls could not go on because others had the processors."""
        self._in_line = max(self._in_line, seconds_in_line(self._thread) - self._in_line_before)
        return self._in_line

    def read(self) -> tuple[int, float, float]:
        """Return how many calls have ended, the seconds that they took so far, and those of a processor."""
        calls, seconds, computing, chunk, begun, cpu = self._state
        if chunk is None:
            return calls, seconds, computing
        with suppress(OSError):  # the thread has just ended
            computing += max(0.0, processor_seconds(self._thread) - cpu)
        return calls + len(chunk.results), seconds + perf_counter() - begun, computing


class MovableEngine:
    """Makes calls by ``here`` until its guide has a destination, and by an engine from there from then on.

    It moves between two chunks, on the worker's thread, and closes what it leaves. If it cannot, it stays.
    """

    def __init__(self, here: Engine, guide: Guide) -> None:
        self._engine = here
        self._guide = guide
        self._gauge: Gauge | None = None
        self._is_open = False
        self._has_moved = False
        self._kills = 0
        self._failure: BaseException | None = None  # of closing what was left

    @property
    def is_killable(self) -> bool:
        """As where calls are made now."""
        return self._engine.is_killable

    def open(self) -> None:
        """Open where calls are to be made now."""
        if self._guide.destination is None or not self._move():
            began = perf_counter()
            self._engine.open()
            self._is_open = True
            self._gauge = Gauge(perf_counter() - began)

    def get_ready(self) -> None:
        """Move, if that is due."""
        if not self._has_moved and self._guide.destination is not None:
            self._move()
        self._engine.get_ready()

    def make_calls(self, chunk: Chunk) -> None:
        """Make the calls of ``chunk``, all in the same place."""
        if chunk.trial is None:  # otherwise its time runs already: whoever holds it to that has asked before
            self.get_ready()
        gauge = self._gauge
        if gauge is None:
            self._engine.make_calls(chunk)
            return
        gauge.begin(chunk)
        self._guide.note_begun(gauge)
        try:
            self._engine.make_calls(chunk)
        finally:
            gauge.end()
            self._guide.note_ended(chunk)

    def _move(self) -> bool:
        make = self._guide.destination
        assert make is not None
        old, new, kills = self._engine, make(), self._kills
        self._engine = new  # from here on it is this one that is killed, and it can be while it opens
        try:
            new.open()
        except BaseException as error:
            self._engine = old
            with suppress(BaseException):
                new.close()
            if self._kills == kills:
                self._guide.call_off(error)
            return False
        self._has_moved, self._gauge = True, None
        if self._is_open:
            try:
                old.close()
            except BaseException as error:  # told in the end, as of any other
                self._failure = error
        return True

    def interrupt(self) -> None:
        """As where calls are made now."""
        self._engine.interrupt()

    def kill(self) -> None:
        """As where calls are made now."""
        self._kills += 1
        self._engine.kill()

    def close(self) -> None:
        """Close what is open; raise also what was raised when it moved."""
        self._engine.close()
        if self._failure is not None:
            raise self._failure
