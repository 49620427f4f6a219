"""Event loops on threads of their own, which live for as long as somebody uses them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

from treadle._core import register
from treadle._core.cancellation import here
from treadle._core.coroutine import Inside, LoopSeat, put_inside
from treadle._core.gil import is_gil_enabled
from treadle._core.raw import make_rlock
from treadle._core.real_time import monotonic, perf_counter
from treadle._core.stacks import read_stacks, user_part
from treadle._sync.aside import guard

_ASYNCIO = os.path.dirname(asyncio.__file__)

# A loop that has not done for so long what it was asked for is held up.
HELD_UP_SECONDS = 0.1


class EventLoop:
    """One loop on one thread. Steps that others ask for are done in their order.

    It ends as ``asyncio.run`` does: tasks that are left are cancelled, what they raise is reported, and asynchronous
    generators are closed. Nobody waits for its end: its thread is a daemon, as a coroutine may not let go of it.

    Args:
        name: Of its thread.
        may_end: Asked on its thread, when nobody uses it; True: nobody will.
    """

    def __init__(self, name: str, may_end: Callable[[EventLoop], bool]) -> None:
        self.loop = asyncio.new_event_loop()
        with suppress(AttributeError):  # uvloop's goes by a clock of its own
            self.loop.time = monotonic  # type: ignore[method-assign]  # asyncio looks it up in ``time`` each time
        self._template: Context | None = None
        self._may_end = may_end
        self._users: set[object] = set()  # its thread's own
        self._steps: deque[Callable[[], object]] = deque()
        self._asked_at: float | None = None  # when a drain was asked for that has not begun
        self._told: tuple[float, str] | None = None  # of when, and what, ``held_up`` has said
        self._is_over = False
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        register.enroll_for_fork(self)

    def post(self, step: Callable[[], object]) -> None:
        """Have ``step`` done on the loop's thread. Never blocks; ``RuntimeError``: the loop is closed."""
        self._steps.append(step)  # first this, then the look: a drain does it the other way round
        if self._asked_at is None:
            self._asked_at = perf_counter()
            if threading.get_ident() == self.thread.ident:
                self.loop.call_soon(self._drain)
            else:
                self.loop.call_soon_threadsafe(self._drain)

    def make_context(self, parent: Context, places: tuple[Any, ...]) -> Context:
        """Return a copy of ``parent`` for a task that holds ``places``; they are the same each time.

        Thousands of such copies share what is in them.
        """
        if self._template is None:
            self._template = parent.copy()
            put_inside(self._template, Inside(self.loop, None, places))
        return self._template.copy()

    def has_steps(self) -> bool:
        """Tell whether there is anything to do that was asked for."""
        return bool(self._steps)

    def enter(self, user: object) -> None:
        """Keep the loop going, and ``user`` alive, until it leaves. On its thread, as that.

        asyncio holds a task that waits by what it waits for alone. Where that is in a circle with the task, the garbage
        collector would take both, in the middle of what the task does, and on any thread.
        """
        self._users.add(user)

    def leave(self, user: object) -> None:
        """Let the loop end, if nobody else uses it."""
        self._users.discard(user)
        self._end_if_unused()

    def held_up(self) -> str | None:
        """Return where its thread is, if it does not come to do what it is asked for; None: it goes on."""
        asked_at = self._asked_at
        if asked_at is None or perf_counter() - asked_at < HELD_UP_SECONDS:
            return None
        if self._told is None or self._told[0] != asked_at:  # thousands may ask, of the same
            self._told = asked_at, self._place()
        return self._told[1]

    def _place(self) -> str:
        if not is_gil_enabled():
            return "a place that cannot be told without a GIL"
        stack = read_stacks().get(self.thread.ident or 0, [])
        stack = [frame for frame in stack if os.path.dirname(frame.filename) != _ASYNCIO]
        innermost = (user_part(stack) or stack)[-1:]
        return "".join(f"{frame.filename}:{frame.lineno}, in {frame.name}" for frame in innermost) or "an unknown place"

    def close_after_fork(self) -> None:
        """Let it lie for good in a forked child, with what runs on it: all of that is the parent's to end.

        Collected, its coroutines would go through their ``finally`` blocks here as well.
        """
        if threading.get_ident() != self.thread.ident:
            _keep_for_good([self.loop, *asyncio.all_tasks(self.loop)])

    def _drain(self) -> None:
        self._asked_at = None
        while self._steps:
            guard(self._steps.popleft())
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if not self._users and not self._is_over and self._may_end(self):
            self._is_over = True
            self.loop.stop()

    def _run(self) -> None:
        here.seat, here.is_loop = LoopSeat(), True
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop()
            while not self._is_over:
                try:
                    self.loop.run_forever()
                except (SystemExit, KeyboardInterrupt):  # of a task, which has it too: it is no reason to end all
                    continue


class LoopHost:
    """Has an event loop whenever one is needed, one at a time. Those that have ended are followed by another.

    Args:
        name: Of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # Protects what follows, and that nothing is asked of a loop that ends. Reentrant, as a handler may come upon
        # its holder: a loop is taken into use, and its thread is started, by whoever comes first.
        self._lock = make_rlock()
        self._current: EventLoop | None = None
        register.enroll_for_fork(self)

    def close_after_fork(self) -> None:
        """In a forked child, have no loop: it stayed with the parent, of whose threads one may hold the lock."""
        self._lock = make_rlock()
        self._current = None

    def start(self, step: Callable[[EventLoop], object]) -> None:
        """Have ``step`` done on the loop, which is given to it; by then nobody but ``step`` may use the loop.

        Raises:
            RuntimeError: No thread or loop is to be had.
        """
        with self._lock:
            home = self._current or self._make_loop()
            home.post(lambda: step(home))
            if home.thread.ident is None:
                self._start_thread(home)

    def _make_loop(self) -> EventLoop:
        try:
            made = EventLoop(self._name, self._let_go)
        except OSError as error:
            raise RuntimeError(f"no event loop starts: {error}") from error
        if (first := self._current) is not None:  # a handler's
            made.loop.close()
            return first
        self._current = made
        return made

    def _start_thread(self, home: EventLoop) -> None:
        try:
            home.thread.start()
        except BaseException as error:
            if isinstance(error, RuntimeError) and home.thread.ident is not None:  # by a handler
                return
            self._current = None
            if not isinstance(error.__context__ or error, KeyboardInterrupt):  # otherwise it may run
                home.loop.close()
            raise

    def post(self, step: Callable[[], object]) -> None:
        """Have ``step`` done on the loop that is in use, if there is one. Never blocks."""
        if (home := self._current) is not None:
            with suppress(RuntimeError):  # it has just ended
                home.post(step)

    def _let_go(self, home: EventLoop) -> bool:
        with self._lock:
            if home.has_steps():
                return False
            if self._current is home:
                self._current = None
            return True


def _keep_for_good(things: list[object]) -> None:
    """Never let go of ``things``, also not as the interpreter ends: by a circle that no garbage collection sees.

    Without a GIL it sees code objects, and they are kept until that end.
    """
    _kept.append(things)
    things.append(_keep_for_good.__code__.replace(co_consts=(things,)))


_kept: list[object] = []
