"""An engine whose calls pass the limiter, and are watched."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from treadle._core import clock
from treadle._core.cancellation import here
from treadle._core.chunk import Chunk
from treadle._core.coroutine import go_inside, inside
from treadle._engines.engine import AwaitedEngine, Engine
from treadle.errors import Cancelled

if TYPE_CHECKING:
    from treadle._crew.watch import Watch
    from treadle._sync.limiter import Limiter


def police(engine: Any, limiter: Limiter | None, watch: Watch) -> Any:
    """Return an engine of the same kind as ``engine``, whose calls it makes, which holds them to their policy."""
    kind = PolicedAwaitedEngine if iscoroutinefunction(engine.make_calls) else PolicedEngine
    return kind(engine, limiter, watch)


class PolicedEngine:
    """Makes calls by another engine, one at a time, each after it has passed the limiter."""

    def __init__(self, engine: Engine, limiter: Limiter | None, watch: Watch) -> None:
        self._engine = engine
        self._limiter = limiter
        self._gate: AbstractContextManager[Any] = nullcontext() if limiter is None else limiter
        self._watch = watch
        self.open = engine.open
        self.get_ready = engine.get_ready
        self.interrupt = engine.interrupt
        self.kill = engine.kill
        self.close = engine.close

    @property
    def is_killable(self) -> bool:
        """As the engine's."""
        return self._engine.is_killable

    def make_calls(self, chunk: Chunk) -> None:
        """Make the call, unless it was cancelled while it waited for its turn."""
        trial = chunk.trial
        assert trial is not None
        before, here.places = here.places, trial.places
        try:
            if chunk.todo:
                self._engine.get_ready()
            with self._gate:
                if self._limiter is not None:
                    self._limiter._leave_judgement()
                if chunk.todo:
                    trial.begun = clock.now()
                    self._watch.note_begun(trial.begun)
                    self._engine.make_calls(chunk)
        except Cancelled:  # by the gate: what a call raises, the engine records
            pass
        finally:
            here.places = before


class PolicedAwaitedEngine:
    """As ``PolicedEngine``, on an event loop."""

    def __init__(self, engine: AwaitedEngine, limiter: Limiter | None, watch: Watch) -> None:
        self._engine = engine
        self._limiter = limiter
        self._gate: AbstractAsyncContextManager[Any, bool | None] = nullcontext() if limiter is None else limiter
        self._watch = watch
        self.open = engine.open
        self.interrupt = engine.interrupt
        self.kill = engine.kill
        self.close = engine.close

    @property
    def is_killable(self) -> bool:
        """As the engine's."""
        return self._engine.is_killable

    async def make_calls(self, chunk: Chunk) -> None:
        """Make the call, unless it was cancelled while it waited for its turn."""
        trial, before = chunk.trial, inside()
        assert trial is not None
        assert before is not None
        go_inside(before.at(chunk, trial.places))  # whoever cancels the call ends its wait at the gate
        try:
            async with self._gate:
                if self._limiter is not None:
                    self._limiter._leave_judgement()
                if chunk.todo:
                    trial.begun = clock.now()
                    self._watch.note_begun(trial.begun)
                    await self._engine.make_calls(chunk)
        except Cancelled:
            pass
        finally:
            go_inside(before)
