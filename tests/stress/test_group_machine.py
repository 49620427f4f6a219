"""Groups, cancellation, time and failures in every order that hypothesis comes up with.

No task may be lost, no failure be raised twice or never or for nothing, no thread be left, and nothing may hang.
What goes on is in ``group_world``, whether it was right in ``group_account``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.stress.group_account import find_faults, has_failed
from tests.stress.group_world import (
    Block,
    Boom,
    Crash,
    Entry,
    Gate,
    Options,
    Script,
    Stuck,
    World,
    fail,
    hold,
    open_inside,
    read,
    sleep,
    spread,
    succeed,
)
from treadle import sleep as sleep_in_body
from treadle._sync import timekeeper
from treadle.errors import Cancelled
from treadle.testing import assert_no_leaked_threads

MOST_BLOCKS = 6
MOST_TASKS = 30

OPTIONS = st.builds(
    Options,
    on_error=st.sampled_from(["cancel", "collect"]),
    max_workers=st.integers(1, 4),
    timeout=st.sampled_from([None, None, 5.0]),
    grace=st.sampled_from([None, None, None, 1.0]),
    max_attempts=st.sampled_from([1, 3]),
    call_timeout=st.sampled_from([None, None, None, 2.0]),
)
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0])
WAYS = st.sampled_from(["result", "exception"])
ANY = st.integers(0, 100)  # which of those there are
PLAIN = st.one_of(
    st.builds(succeed),
    st.builds(fail, st.sampled_from([1, 2, 3])),
    st.builds(fail, st.sampled_from([1, 2, 3])),
    st.builds(sleep, SECONDS, shielded=st.just(False)),
)


class GroupMachine(RuleBasedStateMachine):
    """Moves a world. What a rule does depends on what was decided before, not on what threads have done since."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.tasks: list[Entry] = []
        self.open: list[Block] = []  # not told to leave
        self.ends_by_cancelling = False
        self._around = ExitStack()
        self._around.enter_context(self.world.clock)
        self._around.enter_context(_leaking_no_threads())

    @initialize(options=OPTIONS, scripts=st.lists(PLAIN, min_size=1, max_size=4), by_cancelling=st.booleans())
    def begin(self, options: Options, scripts: list[Script], by_cancelling: bool) -> None:
        self.ends_by_cancelling = by_cancelling
        self.open.append(self.world.open_root(options))
        self.submit(0, scripts, from_body=False)

    # Blocks

    @precondition(lambda self: len(self.world.blocks) < MOST_BLOCKS)
    @rule(options=OPTIONS)
    def open_another(self, options: Options) -> None:
        self.open.append(self.world.open_root(options))

    @precondition(lambda self: self.open and len(self.world.blocks) < MOST_BLOCKS)
    @rule(which=ANY, options=OPTIONS, hushes=st.booleans())
    def open_in_body(self, which: int, options: Options, hushes: bool) -> None:
        outer = self._block(which)
        inner = self.world.open_block(options, outer, hushes)
        self.open.append(inner)
        outer.tell(inner.live_inside, inner.skip)

    @precondition(lambda self: self.open and len(self.world.blocks) < MOST_BLOCKS)
    @rule(which=ANY, options=OPTIONS, hushes=st.booleans())
    def open_in_task(self, which: int, options: Options, hushes: bool) -> None:
        entry = self._entry(which, open_inside())
        entry.child = self.world.open_block(options, entry, hushes)
        self.open.append(entry.child)
        entry.submit()

    @precondition(lambda self: self.open)
    @rule(which=ANY)
    def leave(self, which: int) -> None:
        block = self._block(which)
        self.open.remove(block)
        block.leave()

    @precondition(lambda self: self.open)
    @rule(which=ANY, error=st.sampled_from([Boom, Crash]))
    def fail_in_body(self, which: int, error: type[BaseException]) -> None:
        block = self._block(which)
        self.open.remove(block)

        def raise_it() -> None:
            raise error(f"in the body of {block.name}")

        block.tell(raise_it)

    @precondition(lambda self: self.open)
    @rule(which=ANY, seconds=SECONDS)
    def sleep_in_body(self, which: int, seconds: float) -> None:
        self._block(which).tell(partial(sleep_in_body, seconds))

    @precondition(lambda self: self.open)
    @rule(which=ANY, from_body=st.booleans())
    def cancel_group(self, which: int, from_body: bool) -> None:
        block = self._block(which)
        if from_body:
            block.tell(block.cancel)
            return
        block.cancel()
        self._expect_felt(block)

    # Tasks

    @precondition(lambda self: self.open and len(self.tasks) < MOST_TASKS)
    @rule(which=ANY, scripts=st.lists(PLAIN, min_size=1, max_size=4), from_body=st.booleans())
    def submit_some(self, which: int, scripts: list[Script], from_body: bool) -> None:
        self.submit(which, scripts, from_body)

    def submit(self, which: int, scripts: list[Script], from_body: bool) -> None:
        for script in scripts:
            self._submit(self._entry(which, script), from_body)

    @precondition(lambda self: self.open and len(self.tasks) < MOST_TASKS)
    @rule(which=ANY, heeds=st.booleans(), then=st.sampled_from(["return", "fail", "check", "raise Cancelled"]))
    def submit_waiting(self, which: int, heeds: bool, then: str) -> None:
        gate = Gate()
        self.world.gates.append(gate)
        if not heeds:
            self.world.stubborn.append(gate)
        self._submit(self._entry(which, hold(gate, heeds, then)), from_body=False)

    @precondition(lambda self: self.open and len(self.tasks) < MOST_TASKS)
    @rule(which=ANY, scripts=st.lists(PLAIN, min_size=1, max_size=3), reads=st.booleans())
    def submit_spreading(self, which: int, scripts: list[Script], reads: bool) -> None:
        self._submit(self._entry(which, spread(scripts, reads)), from_body=False)

    @precondition(lambda self: self.tasks and len(self.tasks) < MOST_TASKS)
    @rule(which=ANY, way=WAYS)
    def submit_reading(self, which: int, way: str) -> None:
        target = self._task(which)
        self._submit(self._keep(Entry(self._name(), target.block, read(target, way))), from_body=False)

    @precondition(lambda self: self.open and not self.ends_by_cancelling and len(self.tasks) < MOST_TASKS)
    @rule(which=ANY, seconds=SECONDS)
    def submit_shielded(self, which: int, seconds: float) -> None:
        self._submit(self._entry(which, sleep(seconds, shielded=True)), from_body=True)

    @precondition(lambda self: self.world.gates)
    @rule(which=ANY)
    def open_gate(self, which: int) -> None:
        gates = self.world.gates
        gates[which % len(gates)].open()

    @precondition(lambda self: self.tasks)
    @rule(which=ANY)
    def cancel_task(self, which: int) -> None:
        entry = self._task(which)
        if (task := entry.task) is not None:
            entry.was_cancelled = True
            assert not task.cancel() or task.cancelled(), f"cancel() said so, and it is {task!r}"

    @precondition(lambda self: self.tasks)
    @rule(which=ANY, way=WAYS)
    def read_early(self, which: int, way: str) -> None:
        for task in [self._task(which + further) for further in range(4)]:
            try:
                task.read(way, timeout=0)
            except (Exception, BaseExceptionGroup, Cancelled, Crash):  # all that a task may come to here
                pass

    @precondition(lambda self: self.tasks)
    @rule(which=ANY, way=WAYS, hushes=st.booleans())
    def read_in_body(self, which: int, way: str, hushes: bool) -> None:
        entry = self._task(which)

        def read_it() -> None:
            try:
                entry.read(way)
            except Exception:
                if not hushes:
                    raise

        entry.block.tell(read_it)

    # Time

    @rule(seconds=SECONDS)
    def advance(self, seconds: float) -> None:
        clock = self.world.clock
        clock.advance(seconds)
        for block in self.open:
            timeout, entered_at = block.options.timeout, block.entered_at
            if timeout is not None and entered_at is not None and clock.now() >= entered_at + timeout:
                self._expect_felt(block)

    # What must happen soon, whatever comes next

    @invariant()
    def failures_are_felt(self) -> None:
        for block in self.open:
            if block.options.on_error == "cancel" and has_failed(block):
                self._expect_felt(block)

    @invariant()
    def cancellations_are_heeded(self) -> None:
        for block in self.world.blocks:
            if block.has_felt or block.body_error is not None:
                for entry in [entry for entry in list(block.entries) if entry.script.heeds]:
                    self.world.expect(
                        entry.finished, f"{entry.name} of {block.name} does not heed that it was cancelled"
                    )

    # The end

    def teardown(self) -> None:
        try:
            with self._around:
                self._finish()
            self._settle_account()
        except BaseException as error:
            error.add_note(str(self.world))
            raise
        finally:
            for gate in self.world.gates:
                gate.open()

    def _finish(self) -> None:
        if self.ends_by_cancelling:
            self.world.finish_by_cancelling()
        else:
            self.world.finish_by_waiting()
        self.world.release_rest()

    def _settle_account(self) -> None:
        faults = find_faults(self.world)
        assert not faults, "\n".join(faults)

    # Choosing

    def _block(self, which: int) -> Block:
        return self.open[which % len(self.open)]

    def _task(self, which: int) -> Entry:
        return self.tasks[which % len(self.tasks)]

    def _name(self) -> str:
        return f"t{len(self.tasks)}"

    def _entry(self, which: int, script: Script) -> Entry:
        return self._keep(Entry(self._name(), self._block(which), script))

    def _keep(self, entry: Entry) -> Entry:
        self.tasks.append(entry)
        note(f"{entry.name} in {entry.block.name}")
        return entry

    # What must happen in time

    def _submit(self, entry: Entry, from_body: bool) -> None:
        if from_body:
            entry.block.tell(entry.submit)
            return
        has_room = self._has_room(entry.block)
        entry.submit()
        if has_room:
            self.world.expect(entry.stirred, f"{entry.name} of {entry.block.name} did not begin, and there was room")

    def _has_room(self, block: Block) -> bool:
        """Tell whether there is a worker to be had for a task submitted now, whatever else goes on."""
        entries = [entry for entry in self.tasks if entry.block is block]
        if any(entry.script.kind == "spread" for entry in entries):
            return False
        unfinished = [entry for entry in entries if not (entry.stirred.is_set() and _is_done(entry))]
        return len(unfinished) - 1 < block.options.max_workers

    def _expect_felt(self, block: Block) -> None:
        """Have the cancellation of ``block`` reach it and all blocks inside."""
        for inner in self.world.blocks:
            if inner.entered.is_set() and _is_inside(inner, block) and not inner.is_leaving:
                self.world.expect(inner.felt, f"{inner.name} does not know that {block.name} was cancelled")


def _is_done(entry: Entry) -> bool:
    return entry.refused is not None or (entry.task is not None and entry.task.done())


def _is_inside(block: Block | None, outer: Block) -> bool:
    while block is not None and block is not outer:
        block = block.outer.block if isinstance(block.outer, Entry) else block.outer
    return block is not None


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What groups log while they wait, with stacks, would be most of the work here."""
    monkeypatch.setattr(logging.getLogger("treadle"), "disabled", True)


@contextmanager
def _leaking_no_threads() -> Iterator[None]:
    try:
        with assert_no_leaked_threads():
            yield
    except AssertionError as error:
        timers = [timer.action for _, _, timer in timekeeper._present()._heap if not timer.is_cancelled]
        raise Stuck(f"{error}\ntimers that are set: {timers}") from None


def explore(examples: int, steps: int, seeded: bool) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis has no types here
        GroupMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=seeded,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )


def test_groups_lose_nothing_whatever_happens() -> None:
    """The same examples every time, so that a failure here is one of the change that was made."""
    explore(examples=200, steps=25, seeded=True)


@pytest.mark.slow
def test_groups_lose_nothing_whatever_happens_for_long() -> None:
    """Other examples every time; hypothesis prints how to see the one that failed again."""
    explore(examples=300, steps=40, seeded=False)
