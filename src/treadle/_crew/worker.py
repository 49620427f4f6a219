"""A worker: one thread that owns an engine, or its like on an event loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

from treadle._core.cancellation import Scope, here
from treadle._core.chunk import Chunk
from treadle._engines.engine import CallMaker, Engine, EngineBroken, NoRoom
from treadle._sync.parker import Parker, Waker

if TYPE_CHECKING:
    from treadle._crew.crew import Crew


class SharedThread(Protocol):
    """What a worker has in the place of a thread where it shares one with others: a slot on an event loop."""

    name: str

    @property
    def ident(self) -> int | None:
        """The thread, while it is this worker's call that it runs; None: it is at something else."""

    def start(self) -> None:
        """Begin to work. ``RuntimeError``: no thread is to be had."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""

    def is_alive(self) -> bool:
        """Tell whether it works."""

    def held_up(self) -> str | None:
        """Return where the thread is, if something holds it up."""


class Worker:
    """Takes chunks from its crew and has its engine make their calls, until the crew has no more for it.

    ``chunk`` is the worker's own to set. The ``is_`` flags and ``waits`` change under the crew's lock, but for
    ``is_idle`` and ``is_closing``, which the worker sets without it, and ``is_started``.
    """

    __slots__ = (
        *("chunk", "crew", "engine", "free_since", "is_abandoned", "is_closing", "is_idle", "is_on_its_way"),
        *("is_opening", "outer", "parker", "thread", "waits", "waits_for_any"),
    )
    thread: threading.Thread | SharedThread
    parker: Waker

    def __init__(self, crew: Crew, engine: CallMaker) -> None:
        self.crew = crew
        self.engine = engine
        self.chunk: Chunk | None = None
        self.outer: list[Chunk] = []  # whose calls wait for the one in ``chunk``, made on top of them
        self.is_abandoned = False
        self.is_on_its_way = True  # woken or started, and not arrived yet
        self.is_opening = False
        self.is_closing = False  # what its engine has opened
        self.is_idle = False
        self.waits = 0  # of the calls in its hands, one within the other
        self.waits_for_any = 0  # of these, the ones for what any thread might bring
        # When it handed in its last chunk, where a tuner wants to know, or was sent for since.
        self.free_since: float | None = None

    @property
    def is_started(self) -> bool:
        """Whether it runs, or did."""
        return self.thread.ident is not None

    def in_hand(self) -> list[Chunk]:
        """Return the chunks whose calls are being made, the innermost last. May be asked by any thread."""
        chunk = self.chunk
        return [*self.outer, chunk] if chunk is not None else self.outer[:]

    def call_scope(self) -> Scope | None:
        """Return the scope of the call being made here; for this thread."""
        return None if self.chunk is None else self.chunk.own_scope()

    def current_task(self) -> Any:
        """Return the task whose call is being made here; for this thread."""
        return getattr(self.chunk, "task", None)

    def patience(self) -> float:
        """Return how long the call being made here may wait for any other before that is noted."""
        return self.crew.room.patience()

    def note_wait(self, change: int, is_for_any: bool) -> None:
        """Take note that the call being made here waits, or does so no more; for this thread."""
        self.crew.room.note_wait(self, change, is_for_any)


class ThreadWorker(Worker):
    """A worker with a thread of its own, on which its engine makes the calls one after the other."""

    __slots__ = ()
    engine: Engine
    parker: Parker

    def __init__(self, crew: Crew, engine: Engine, name: str) -> None:
        super().__init__(crew, engine)
        self.parker = Parker()
        # A daemon, so that a stuck call cannot hold the interpreter's exit; the register says goodbye instead.
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)

    def _work(self) -> None:
        crew, engine = self.crew, self.engine
        here.seat, here.places = self, crew.places
        if not crew.report_opening(self):
            return
        try:
            engine.open()
        except NoRoom as none:
            crew.report_no_room(self, none.error)
            self._close()
            return
        except BaseException as error:  # the initializer's or the resource's: it ends the run
            crew.report_unopened(self, error)
            self._close()
            return
        chunk: Chunk | None = None
        try:
            while (chunk := crew.exchange(self, chunk)) is not None:
                engine.make_calls(chunk)
        except NoRoom as none:
            crew.report_no_room(self, none.error)
        except EngineBroken as broken:
            crew.report_broken(self, broken.error)
        except BaseException as error:  # of the engine, or thrown into this thread from outside
            crew.report_lost(self, error)
        del crew, engine, chunk
        self._close()
        del self  # a failure's traceback leads to this frame, and must not lead on to the owner that keeps the failure

    def _close(self) -> None:
        error: BaseException | None = None
        self.is_closing = True
        try:
            self.engine.close()
        except BaseException as raised:
            error = raised
        self.crew.report_left(self, error)
