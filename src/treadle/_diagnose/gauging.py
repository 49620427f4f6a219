"""What calls on threads take of a processor, and whether they hold the GIL, as seen from beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from treadle._core.block import contextmanager
from treadle._core.chunk import Chunk
from treadle._core.gil import is_gil_enabled
from treadle._core.processor import seconds_in_line
from treadle._core.real_time import perf_counter
from treadle._core.settings import EngineName
from treadle._crew.chunking import ON_THREADS
from treadle._crew.gauges import Gauges
from treadle._crew.gil_probe import MIN_KNOCKS, Knocks
from treadle._engines.engine import CallPlan, Engine
from treadle._engines.inline import InlineEngine
from treadle._engines.movable import Gauge, MovableEngine
from treadle._run.choosing import EngineChoice, choose_engine
from treadle._sync.aside import start_thread

LOOK_SECONDS = 0.02
# More would not make the share more exact than it has to be.
MAX_KNOCKS = 400


class Onlooker:
    """Looks on while calls are made on threads: what they take of a processor, and whether the GIL is held."""

    destination: Callable[[], Engine] | None = None  # they stay where they are

    def __init__(self) -> None:
        self._gauges = Gauges()
        self._look_at = 0.0
        self._is_over = False
        self._held: float | None = None

    def choose(self, engine: EngineName, plan: CallPlan, name: str, workers: int) -> EngineChoice:
        """Return how calls are made: as always, but on threads with a gauge."""
        if engine != "threads":
            return choose_engine(engine, plan, name, workers)
        return EngineChoice("threads with a gauge", lambda: MovableEngine(InlineEngine(plan), self), ON_THREADS)

    def note_begun(self, gauge: Gauge) -> None:
        """See ``Guide``."""
        self._gauges.add(gauge)

    def note_ended(self, _: Chunk) -> None:
        """See ``Guide``; here, as afterwards the thread is gone, and nobody can tell for how long it stood in line."""
        if (now := perf_counter()) >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._gauges.seconds_in_line()

    def call_off(self, error: BaseException) -> None:
        """See ``Guide``: nothing moves."""

    @property
    def held(self) -> float | None:
        """The share of the time in which the GIL was held; None: not measured."""
        return self._held

    def read(self) -> tuple[float, float]:
        """Return the seconds of calls, without those in line for a processor, and those that they had one."""
        _, _, computing = self._gauges.since()
        return self._gauges.undisturbed_seconds(), computing

    @contextmanager
    def knocking(self, is_wanted: bool) -> Iterator[None]:
        """Knock at the GIL, if that is wanted and there is one, while the block lasts."""
        if not (is_wanted and is_gil_enabled()):
            yield
            return
        thread = threading.Thread(target=self._knock, name="treadle-diagnosis", daemon=True)
        start_thread(thread)
        try:
            yield
        finally:
            self._is_over = True
            thread.join()

    def _knock(self) -> None:
        knocks, thread = Knocks(), threading.get_native_id()
        before = seconds_in_line(thread)
        while not self._is_over and knocks.count < MAX_KNOCKS:
            knocks.add(self._gauges.busy)
        if knocks.count >= MIN_KNOCKS:
            self._held = knocks.share(seconds_in_line(thread) - before)
