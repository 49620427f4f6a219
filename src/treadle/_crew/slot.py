"""A slot: a worker on an event loop that it shares with others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

from treadle._core.chunk import Chunk
from treadle._crew.worker import Worker
from treadle._engines.engine import AwaitedEngine
from treadle._sync.event_loop import EventLoop, LoopHost
from treadle._sync.line import NOTHING_YET
from treadle._sync.loop_parker import LoopParker

if TYPE_CHECKING:
    from treadle._crew.crew import Crew

# Longer than anybody rests: no timer is set.
FOR_EVER_SECONDS = 1e6

# There may be thousands of slots, all of which the garbage collector visits: what is the same for all they share.
_NONE: list[Chunk] = []  # calls that wait for one made on top of them: a slot has none

Post = Callable[[Callable[[], object]], object]


class SlotTask(asyncio.Task[None]):
    """Whoever cancels all tasks of the loop means calls, and not those who make them.

    While a resource is opened or closed it may be cancelled: that is how ``asyncio.timeout`` works, there.
    """

    is_cancellable = False

    def cancel(self, msg: object = None) -> bool:
        """Cancel what runs in it, where that is the user's."""
        return self.is_cancellable and super().cancel(msg)


class Slot(Worker):
    """Works as a ``ThreadWorker`` does, in a task on the crew's event loop; its calls are tasks of their own.

    It is its own ``thread``, as far as its crew looks.

    Args:
        host: Has the loop.
        context: What its engine is opened in.
        post: The host's.
    """

    __slots__ = ("_home", "_host", "_is_over", "_parent", "_task", "name")
    engine: AwaitedEngine
    parker: LoopParker

    def __init__(
        self, crew: Crew, engine: AwaitedEngine, name: str, host: LoopHost, context: Context, post: Post
    ) -> None:
        super().__init__(crew, engine)
        self.outer = _NONE
        self.name = name
        self.parker = LoopParker(post)
        self._host = host
        self._parent = context
        self._home: EventLoop | None = None
        self._is_over = False

    @property
    def thread(self) -> Slot:  # type: ignore[override]  # read only
        """Itself: what it runs on."""
        return self

    @property
    def is_started(self) -> bool:
        """Whether it runs, or did."""
        return self._home is not None

    @property
    def ident(self) -> int | None:
        """The loop's thread, while it is a call of this one that it runs; None: it is at something else."""
        home = self._home
        if home is None:
            return None
        task = asyncio.current_task(home.loop)
        return home.thread.ident if task is not None and task.get_name() == self.name else None

    def start(self) -> None:
        """Begin to work, on the loop's thread."""
        self._host.start(self._begin)

    def join(self, timeout: float | None = None) -> None:
        """Do nothing: there is nothing to kill, and so nobody waits for it."""

    def is_alive(self) -> bool:
        """Tell whether it still is at a call, or at its end."""
        return self._home is not None and not self._is_over

    def held_up(self) -> str | None:
        """Return where the loop's thread is, if something holds it up."""
        return None if self._home is None else self._home.held_up()

    # On the loop's thread

    def _begin(self, home: EventLoop) -> None:
        home.enter(self)
        self._home = home
        if not self.crew.report_opening(self):  # which sends for the next: so they all begin in one turn of the loop
            home.leave(self)
            return
        context = home.make_context(self._parent, self.crew.places)
        self._task = SlotTask(self._work(home), loop=home.loop, name=self.name, context=context)

    async def _work(self, home: EventLoop) -> None:
        crew, engine = self.crew, self.engine
        try:
            self._task.is_cancellable = True
            await engine.open()
            self._task.is_cancellable = False
        except BaseException as error:  # the initializer's or the resource's: it ends the run
            crew.report_unopened(self, error)
            await self._close(home)
            return
        chunk: Chunk | None = None
        try:
            while (chunk := await self._exchange(chunk)) is not None:
                await engine.make_calls(chunk)
        except BaseException as error:  # of the engine
            crew.report_lost(self, error)
        await self._close(home)

    async def _exchange(self, finished: Chunk | None) -> Chunk | None:
        """See ``Crew.exchange``."""
        crew = self.crew
        seconds = None if crew.idle_seconds > FOR_EVER_SECONDS else crew.idle_seconds
        chunk = crew.exchange_nowait(self, finished)
        while chunk is NOTHING_YET:
            chunk = crew.look_again(self, await self.parker.wait(seconds))
        return chunk

    async def _close(self, home: EventLoop) -> None:
        error: BaseException | None = None
        self.is_closing = True
        try:
            self._task.is_cancellable = True
            await self.engine.close()
        except BaseException as raised:
            error = raised
        self._is_over = True
        try:
            self.crew.report_left(self, error)
        finally:
            home.leave(self)


def slots_on(host: LoopHost, context: Context) -> Callable[[Crew, AwaitedEngine, str], Slot]:
    """Return what makes the slots of a crew."""
    return partial(Slot, host=host, context=context, post=host.post)
