"""Ends calls by force, where their engines can: those that were asked to end, and do not."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from treadle._core import clock
from treadle._core.chunk import Chunk
from treadle._core.real_time import perf_counter
from treadle._crew.worker import Worker
from treadle._sync import timekeeper
from treadle._sync.timekeeper import Timer

if TYPE_CHECKING:
    from treadle._crew.crew import Crew

# How long to wait for workers whose calls were killed, which takes the system some milliseconds.
KILL_SECONDS = 0.04


class Force:
    """Kills the calls of a crew that were asked to end, ``grace`` seconds later, unless they have ended by then."""

    def __init__(self, crew: Crew, grace: float) -> None:
        self._crew = crew
        self._grace = grace
        self._timers: dict[Chunk, Timer] = {}

    def expect_end(self, worker: Worker, chunk: Chunk) -> None:
        """Take note that the call in the hands of ``worker`` was asked to end. Under the crew's lock."""
        if worker.engine.is_killable and chunk not in self._timers:
            when = clock.now() + self._grace
            with suppress(RuntimeError, MemoryError):  # no thread to be had: whoever seals kills it
                self._timers[chunk] = timekeeper.call_at(when, partial(self._kill_deaf, worker, chunk))

    def note_ended(self, chunk: Chunk) -> None:
        """Take note that a call has ended, or was given up: its timer would keep it alive. Under the crew's lock."""
        if (timer := self._timers.pop(chunk, None)) is not None:
            timer.cancel()

    def _kill_deaf(self, worker: Worker, chunk: Chunk) -> None:
        crew = self._crew
        with crew.lock:
            self._timers.pop(chunk, None)
            if worker in crew.workers and worker.chunk is chunk and worker.engine.is_killable:
                worker.engine.kill()

    def end_all(self) -> None:
        """Kill what still runs, and wait a moment until the workers have come back. Without the crew's lock."""
        crew = self._crew
        with crew.lock:
            busy = [worker for worker in crew.workers if worker.is_opening or worker.in_hand()]
            killed = [worker for worker in busy if worker.engine.is_killable]
            for worker in killed:
                worker.engine.kill()
        deadline = perf_counter() + KILL_SECONDS
        for worker in killed:
            worker.thread.join(max(0.0, deadline - perf_counter()))
