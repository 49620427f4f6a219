"""A small world of groups and tasks that is moved from outside, and notes all that happens in it.

The state machine beside this file decides what happens; ``group_account`` tells whether what came of it is right.
"""

from __future__ import annotations

import math
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import treadle
from treadle.errors import Cancelled, GroupClosed, TooManyAbandoned
from treadle.testing import ManualClock

LIMIT_SECONDS = 15.0
TURN_SECONDS = 0.002  # that threads have, by the real clock, between two turns of the other


@dataclass(frozen=True)
class Script:
    """What a task does. One that ``heeds`` ends as soon as it is cancelled, and otherwise holds its worker."""

    kind: str
    play: Callable[[Entry], object]
    heeds: bool = False


class Stuck(BaseException):
    """Something did not happen in time. Not an ``Exception``: nobody wants to see it made smaller, 15 s a step."""


class Boom(Exception):
    """What tasks and bodies fail with; each is raised once."""


class Crash(BaseException):
    """What a body fails with that is not an ``Exception``, as Ctrl-C is not."""


def await_event(event: threading.Event, what: str) -> None:
    """Wait for ``event``, or say what did not happen, with the stacks of all other threads."""
    if event.wait(LIMIT_SECONDS):
        return
    frames = sys._current_frames()
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    stacks = [(thread.name, traceback.format_stack(frames.get(thread.ident or 0))[-8:]) for thread in others]
    raise Stuck("\n".join([what, *(f"\n{name}\n{''.join(stack)}" for name, stack in stacks)]))


class Gate:
    """Holds whoever waits at it, until it is opened."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_open = False
        self._waiting: list[threading.Event] = []

    def enter(self, wake: threading.Event) -> None:
        """Have ``wake`` set when the gate is opened, or now if it is."""
        with self._lock:
            self._waiting.append(wake)
            if self._is_open:
                wake.set()

    def open(self) -> None:
        with self._lock:
            self._is_open = True
            for wake in self._waiting:
                wake.set()


@dataclass(eq=False)
class CallNote:
    """One call that a group made of a task's function."""

    is_over: bool = False
    value: object = None
    error: BaseException | None = None


@dataclass(eq=False)
class Entry:
    """A task, from the wish to submit it."""

    name: str
    block: Block
    script: Script
    task: treadle.Task[object] | None = None
    refused: BaseException | None = None
    was_refused_early: bool = False
    submitted_at: float = 0.0
    done_at: float = math.inf
    calls: list[CallNote] = field(default_factory=list)
    was_cancelled: bool = False
    is_told: bool = False  # somebody was given its error
    is_told_early: bool = False  # before its group was told to end
    child: Block | None = None
    stirred: threading.Event = field(default_factory=threading.Event)  # a call has begun, or the task is done
    finished: threading.Event = field(default_factory=threading.Event)  # the task is done, or was refused

    def __str__(self) -> str:
        task = self.task or self.refused
        return f"{self.name}: {self.script.kind}, {task!r}, cancelled: {self.was_cancelled}, {self.calls}"

    def call(self) -> object:
        """Be called by the group."""
        note = CallNote()
        self.calls.append(note)
        self.stirred.set()
        try:
            self.script.play(self)
            note.value = (self.name, len(self.calls))
        except BaseException as error:
            note.error = error
            raise
        finally:
            note.is_over = True
        return note.value

    def submit(self) -> None:
        """Submit it to its group; a group that has ended may refuse."""
        block = self.block
        was_open = block.entered.is_set()
        self.submitted_at = block.world.clock.now()
        try:
            self.task = block.group.submit(self.call)
        except BaseException as error:
            self.refused, self.was_refused_early = error, not was_open
            block.refused.append(self)
            self._end()
            if isinstance(error, GroupClosed | TooManyAbandoned):
                return
            raise
        block.entries.append(self)
        self.task.add_done_callback(lambda _: self._end())

    def _end(self) -> None:
        self.done_at = self.block.world.clock.now()
        self.stirred.set()
        self.finished.set()
        if self.child is not None:
            self.child.skip()

    def read(self, way: str, timeout: float | None = None) -> None:
        """Ask for the result or the exception, and raise what that raises."""
        if (task := self.task) is None:
            return
        try:
            if way == "result":
                task.result(timeout)
            elif task.exception(timeout) is not None:
                self._note_told()
        except BaseException as error:
            is_its_own = any(call.error is error for call in self.calls)
            if is_its_own or isinstance(error, treadle.CallTimedOut | TooManyAbandoned):
                self._note_told()
            raise

    def _note_told(self) -> None:
        self.is_told = True
        self.is_told_early = self.is_told_early or not self.block.is_leaving


@dataclass(frozen=True)
class Options:
    """Those of a group."""

    on_error: Any = "cancel"
    max_workers: int = 2
    timeout: float | None = None
    grace: float | None = None
    max_attempts: int = 1
    call_timeout: float | None = None

    @property
    def may_abandon(self) -> bool:
        return self.grace is not None or self.call_timeout is not None

    def open(self, name: str) -> treadle.TaskGroup:
        retry = treadle.Retry(max_attempts=self.max_attempts, retry_on=Boom, backoff=1, jitter=0)
        return treadle.TaskGroup(
            *(self.max_workers, self.timeout, name, self.grace),
            on_error=self.on_error,
            call_timeout=self.call_timeout,
            retry=retry if self.max_attempts > 1 else None,
        )


class Block:
    """The block of a group, on a thread that takes commands."""

    def __init__(self, world: World, name: str, options: Options, outer: Block | Entry | None, hushes: bool) -> None:
        self.world = world
        self.name = name
        self.options = options
        self.outer = outer  # in whose body, or in whose call, it is opened
        self.hushes = hushes  # the failures of this block go no further
        self.group = options.open(name)
        self.entries: list[Entry] = []
        self.refused: list[Entry] = []
        self.was_cancelled = False
        self.is_leaving = False
        self.has_felt = False  # that it was cancelled
        self.is_doomed = False  # when its body ended, the block around it had felt that already
        self.entered_at: float | None = None  # a moment before: its timeout ends no earlier than counted from here
        self.left_at = 0.0
        self.body_error: BaseException | None = None
        self.raised: BaseException | None = None
        self.undone: list[Entry] = []  # when the block was left
        self.most_holding = 0
        self.entered = threading.Event()
        self.felt = threading.Event()  # it was cancelled, or its body has ended
        self.over = threading.Event()
        self._holding = 0
        self._lock = threading.Lock()  # protects the next two, and whether it is decided that it will be entered
        self._commands: queue.SimpleQueue[tuple[Callable[[], object] | None, Callable[[], object]]] | None
        self._commands = queue.SimpleQueue()
        self._is_decided = False

    def __str__(self) -> str:
        where = self.outer.name if self.outer is not None else "a thread of its own"
        state = "over" if self.over.is_set() else "leaving" if self.is_leaving else "open"
        lines = [f"{self.name} in {where}, {state}, cancelled: {self.was_cancelled}, {self.options}"]
        lines += [f"{name}={error!r}" for name, error in vars(self).items() if isinstance(error, BaseException)]
        return "\n    ".join([*lines, *map(str, [*self.entries, *self.refused])])

    # From outside

    def tell(self, command: Callable[[], object] | None, skip: Callable[[], object] = lambda: None) -> None:
        """Have the body do ``command``, or leave for None; ``skip`` is called instead if it has ended."""
        with self._lock:
            commands = self._commands
            if commands is not None:
                commands.put((command, skip))
                return
        skip()

    def leave(self) -> None:
        self.is_leaving = True
        self.tell(None)

    def cancel(self) -> None:
        self.was_cancelled = True
        self.group.cancel()

    def skip(self) -> None:
        """Take note that it will never be entered, unless it is, or was."""
        if self._decide():
            self._end()

    # On its thread

    def live(self) -> None:
        """Enter, obey until told to leave, and note how it ends."""
        if not self._decide():
            return
        now = self.world.clock.now()
        try:
            with self.group:
                self.entered_at = now
                self.entered.set()
                try:
                    with treadle.on_cancel(self._feel):
                        self._obey()
                except BaseException as error:
                    self.body_error = error
                    raise
                finally:
                    self.is_leaving = True
                    self.is_doomed = isinstance(self.outer, Block) and self.outer.has_felt
                    self.felt.set()
        except BaseException as error:
            self.raised = error
        self.left_at = self.world.clock.now()
        self.undone = [entry for entry in list(self.entries) if entry.task is None or not entry.task.done()]
        self._end()

    def live_inside(self) -> None:
        """Live, and pass on what is raised."""
        self.live()
        error = self.raised
        if error is not None and not (self.hushes and isinstance(error, Exception)):
            raise error

    def _feel(self) -> None:
        self.has_felt = True
        self.felt.set()

    def _decide(self) -> bool:
        with self._lock:
            was_decided, self._is_decided = self._is_decided, True
            return not was_decided

    def _obey(self) -> None:
        commands = self._commands
        assert commands is not None
        while True:
            command, _ = commands.get()
            if command is None:
                return
            command()

    def _end(self) -> None:
        with self._lock:
            commands, self._commands = self._commands, None
        assert commands is not None
        while not commands.empty():
            commands.get()[1]()
        self.entered.set()
        self.felt.set()
        self.over.set()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Count a call that holds a worker in a wait which is none of Treadle's."""
        with self._lock:
            self._holding += 1
            self.most_holding = max(self.most_holding, self._holding)
        try:
            yield
        finally:
            with self._lock:
                self._holding -= 1


class World:
    """All blocks, and the clock that they go by."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.blocks: list[Block] = []
        self.threads: list[threading.Thread] = []
        self.gates: list[Gate] = []
        self.stubborn: list[Gate] = []  # those at which a call waits without heeding a cancellation
        self.unasked: list[Cancelled] = []  # what calls raised of their own accord, asked or not

    def __str__(self) -> str:
        return "\n".join(str(block) for block in self.blocks)

    def expect(self, event: threading.Event, what: str) -> None:
        """Wait for ``event``, or say what did not happen, and how things stand."""
        try:
            await_event(event, what)
        except Stuck as error:
            error.add_note(str(self))
            raise

    def open_block(self, options: Options, outer: Block | Entry | None = None, hushes: bool = False) -> Block:
        block = Block(self, f"g{len(self.blocks)}", options, outer, hushes)
        self.blocks.append(block)
        return block

    def open_root(self, options: Options) -> Block:
        """Open a group on a thread of its own, and wait until it was entered."""
        block = self.open_block(options)
        thread = threading.Thread(target=block.live, name=f"body of {block.name}", daemon=True)
        self.threads.append(thread)
        thread.start()
        self.expect(block.entered, f"{block.name} was not entered")
        return block

    def finish_by_cancelling(self) -> None:
        """End it all by cancelling: nothing that heeds a cancellation is released, and no time goes by."""
        for block in self.blocks:
            if block.outer is None:
                block.cancel()
        for gate in self.stubborn:
            gate.open()
        self._leave_all()
        for block in self.blocks:
            self.expect(block.over, f"{block.name} did not end though it was cancelled")

    def finish_by_waiting(self) -> None:
        """End it all by itself: every gate opens, time goes by, nothing is cancelled."""
        for gate in self.gates:
            gate.open()
        self._leave_all()
        self._turn_clock_until(lambda: all(block.over.is_set() for block in self.blocks))
        for block in self.blocks:
            self.expect(block.over, f"{block.name} did not end though nothing held it")

    def release_rest(self) -> None:
        """Let the calls go that were left behind, and see everything end."""
        for gate in self.gates:
            gate.open()
        calls = [call for block in self.blocks for entry in block.entries for call in entry.calls]
        self._turn_clock_until(lambda: all(call.is_over for call in calls))
        for thread in self.threads:
            thread.join(LIMIT_SECONDS)

    def _turn_clock_until(self, is_over: Callable[[], bool]) -> None:
        """Turn the clock in steps, as each step may let something begin that waits for the next."""
        pause = threading.Event()
        for _ in range(int(LIMIT_SECONDS / TURN_SECONDS)):
            if is_over():
                return
            self.clock.advance(0.5)
            pause.wait(TURN_SECONDS)

    def _leave_all(self) -> None:
        for block in self.blocks:
            if not block.is_leaving:
                block.leave()


# What tasks do


def succeed() -> Script:
    return Script("succeed", lambda _: None)


def fail(times: int) -> Script:
    """Raise in the first calls."""

    def script(entry: Entry) -> None:
        if len(entry.calls) <= times:
            raise Boom(f"{entry.name}, call {len(entry.calls)}")

    return Script("fail", script)


def hold(gate: Gate, heeds: bool, then: str) -> Script:
    """Wait at a gate: until it opens or, heeding cancellation, until that comes."""

    def script(entry: Entry) -> None:
        wake = threading.Event()
        gate.enter(wake)
        with entry.block.holding():
            if heeds:
                with treadle.on_cancel(wake.set):
                    await_event(wake, f"{entry.name} was neither released nor cancelled")
                treadle.check_cancelled()
            else:
                await_event(wake, f"{entry.name} was not released")
        if then == "fail":
            raise Boom(f"{entry.name}, call {len(entry.calls)}")
        if then == "check":
            treadle.check_cancelled()
        elif then == "raise Cancelled":
            error = Cancelled("late, asked or not")
            entry.block.world.unasked.append(error)
            raise error

    return Script("hold", script, heeds)


def sleep(seconds: float, shielded: bool) -> Script:
    def script(entry: Entry) -> None:
        if not shielded:
            treadle.sleep(seconds)
            return
        with treadle.shield(seconds / 2):
            treadle.sleep(seconds)

    return Script("sleep", script, heeds=not shielded)


def spread(scripts: list[Script], reads: bool) -> Script:
    """Submit siblings, and wait for what comes of them."""

    def script(entry: Entry) -> None:
        siblings = [Entry(f"{entry.name}.{at}", entry.block, script) for at, script in enumerate(scripts)]
        for sibling in siblings:
            sibling.submit()
        for sibling in siblings:
            if reads:
                sibling.read("result")

    return Script("spread", script)


def read(target: Entry, way: str) -> Script:
    """Wait for an earlier task of the same group."""
    return Script("read", lambda _: target.read(way))


def open_inside() -> Script:
    """Open the entry's ``child``, a group."""

    def script(entry: Entry) -> None:
        assert entry.child is not None
        entry.child.live_inside()

    return Script("open_inside", script)
