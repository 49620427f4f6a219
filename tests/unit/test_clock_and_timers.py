"""The one clock, the one that tests turn by hand, and the thread that does things when their time has come."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS
from tests.intrusions import Scene, intrude_everywhere
from tests.places import wait_until
from treadle._core import clock as core_clock
from treadle._core.clock import SystemClock
from treadle._sync import timekeeper
from treadle._sync.parker import Parker
from treadle._sync.timekeeper import SWEEP_AT, Timekeeper
from treadle.testing import ManualClock


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


def keeper_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "treadle-timekeeper"]


def note(names: list[str], name: str, _: object) -> None:
    names.append(name)


# The clock


def test_the_machines_monotonic_clock_is_in_use_unless_told_otherwise() -> None:
    assert isinstance(core_clock.in_use(), SystemClock)
    before = time.monotonic()
    assert before <= core_clock.now() <= time.monotonic()


def test_a_manual_clock_stands_still_until_it_is_turned(clock: ManualClock) -> None:
    before = clock.now()
    assert core_clock.now() == before

    clock.advance(0.5)
    clock.advance(0)

    assert core_clock.now() == before + 0.5


def test_a_manual_clock_is_in_use_in_its_block_only() -> None:
    outer, inner = ManualClock(), ManualClock()
    with outer:
        with inner:
            assert core_clock.in_use() is inner
        assert core_clock.in_use() is outer
    assert isinstance(core_clock.in_use(), SystemClock)


def test_a_manual_clock_is_given_back_after_a_failure() -> None:
    with pytest.raises(ValueError, match="bad"), ManualClock():
        raise ValueError("bad")

    assert isinstance(core_clock.in_use(), SystemClock)


@pytest.mark.parametrize("seconds", [-1, -1e-9, math.nan, -math.inf])
def test_no_clock_goes_back(clock: ManualClock, seconds: float) -> None:
    with pytest.raises(treadle.InvalidArgument, match="0 or more"):
        clock.advance(seconds)


def test_a_sleeper_is_woken_when_its_time_has_come_and_not_before(clock: ManualClock) -> None:
    woken: list[str] = []
    with treadle.TaskGroup() as group:
        for name, seconds in (("late", 20), ("early", 10)):
            task = group.submit(treadle.sleep, seconds)
            task.add_done_callback(partial(note, woken, name))
        clock.wait_for_sleepers(2)
        clock.advance(9.99)
        assert len(clock._sleepers) == 2
        clock.advance(0.02)
        wait_until(lambda: woken == ["early"])
        clock.advance(10)

    assert woken == ["early", "late"]


def test_a_jump_wakes_everybody_it_passes(clock: ManualClock) -> None:
    with treadle.TaskGroup() as group:
        tasks = [group.submit(treadle.sleep, 10.0**number) for number in range(6)]
        clock.wait_for_sleepers(6)
        clock.advance(1e9)

    assert all(task.done() and not task.cancelled() for task in tasks)


def test_a_wait_counts_from_the_time_that_its_thread_knew(clock: ManualClock) -> None:
    """The clock may be turned between a look at it and the wait: the wait must not be so much longer."""
    parker = Parker()
    deadline = core_clock.now() + 10
    left = deadline - core_clock.now()
    clock.advance(10)

    assert not core_clock.in_use().wait(parker._permit, left)


def test_a_watchful_wait_counts_from_the_time_that_its_thread_knew_too(clock: ManualClock) -> None:
    """The main thread does not sleep by the clock, it looks now and then."""
    parker = Parker()
    guard = threading.Timer(PATIENCE_SECONDS, parker.wake)
    guard.start()
    left = core_clock.left_until(core_clock.now() + 10)
    clock.advance(10)

    is_woken = parker.wait_watchfully(left)

    guard.cancel()
    guard.join()
    assert not is_woken


def test_whoever_sleeps_when_the_clock_is_taken_away_goes_on_by_the_next() -> None:
    with treadle.TaskGroup() as group:
        with ManualClock() as clock:
            task = group.submit(treadle.sleep, 0.05)
            clock.wait_for_sleepers()
        assert task.result() is None


def test_waiting_for_sleepers_that_do_not_come_fails() -> None:
    with ManualClock(timeout=0.01) as clock, pytest.raises(TimeoutError, match="0 threads sleep by this clock, not 1"):
        clock.wait_for_sleepers()


def test_a_wake_up_ends_a_wait_before_its_time(clock: ManualClock) -> None:
    parker, ended = Parker(), list[bool]()
    thread = threading.Thread(target=lambda: ended.append(parker.wait(1e6)))
    thread.start()
    clock.wait_for_sleepers()
    parker.wake()
    thread.join(PATIENCE_SECONDS)

    assert ended == [True]
    assert clock._sleepers == {}


def test_seconds_a_call_took_are_the_machines(clock: ManualClock) -> None:
    """That is an observation, which nobody turns."""

    def call(item: int) -> int:
        clock.advance(1000)
        return item

    (outcome,) = treadle.map(call, [1]).outcomes()

    assert outcome.seconds < 1000


# A clock that jumps: the machine slept, or was stopped


def test_a_jump_beyond_a_runs_timeout_ends_it(clock: ManualClock) -> None:
    run = treadle.map(treadle.sleep, [1e6], timeout=10)
    clock.wait_for_sleepers()
    clock.advance(1e5)

    with pytest.raises(TimeoutError, match="timeout=10"):
        next(run)
    assert [outcome.status for outcome in run.rest()] == ["cancelled"]


def test_a_jump_beyond_a_groups_timeout_ends_it(clock: ManualClock) -> None:
    with pytest.raises(TimeoutError, match="timeout=10"), treadle.TaskGroup(timeout=10) as group:
        task = group.submit(treadle.sleep, 1e6)
        clock.wait_for_sleepers(2)
        clock.advance(1e5)

    assert task.cancelled()


def test_a_jump_beyond_call_timeout_and_grace_still_gives_grace(clock: ManualClock) -> None:
    """It begins when the call is told, not when it should have been."""
    with treadle.PoolExecutor(1, call_timeout=10, grace=5) as pool:
        task = pool.submit(treadle.sleep, 1e9)
        clock.wait_for_sleepers(2)
        clock.advance(1e6)
        assert isinstance(task.exception(), treadle.CallTimedOut)

    assert pool.stats.abandoned == 0


def test_a_jump_beyond_several_retries_makes_them_one_after_the_other(clock: ManualClock) -> None:
    made: list[float] = []

    def call(item: int) -> int:
        made.append(core_clock.now())
        if len(made) < 3:
            raise ConnectionError
        return item

    with treadle.PoolExecutor(1, retry=treadle.Retry(3, backoff=10, jitter=0)) as pool:
        task = pool.submit(call, 1)
        for number in (1, 2):
            wait_for_retry(pool, number)
            clock.wait_for_sleepers()
            clock.advance(1e6)
        assert task.result() == 1

    assert [round(later - made[0]) for later in made] == [0, 1e6, 2e6]


def wait_for_retry(pool: treadle.PoolExecutor, number: int) -> None:
    wait_until(lambda: pool.stats.retried == number)


def test_a_jump_in_a_shield_lets_the_cancellation_in(clock: ManualClock) -> None:
    felt: list[str] = []

    def call() -> None:
        with treadle.shield(10):
            try:
                treadle.sleep(1e6)
            except treadle.Cancelled:
                felt.append("inside")
                raise

    with treadle.TaskGroup() as group:
        task = group.submit(call)
        clock.wait_for_sleepers()
        group.cancel()
        clock.wait_for_sleepers(2)  # the call still sleeps; the timekeeper waits for the end of its shield
        assert felt == []
        clock.advance(1e4)

    assert (felt, task.cancelled()) == (["inside"], True)


# The timekeeper


def test_things_are_done_in_the_order_of_their_times(clock: ManualClock) -> None:
    done: list[str] = []
    over = threading.Event()
    now = core_clock.now()
    timekeeper.call_at(now + 3, over.set)
    for name, seconds in (("second", 2), ("first", 1), ("also second", 2)):
        timekeeper.call_at(now + seconds, partial(done.append, name))
    clock.wait_for_sleepers()
    clock.advance(10)
    assert over.wait(PATIENCE_SECONDS)

    assert done == ["first", "second", "also second"]


def test_something_earlier_does_not_wait_for_something_later(clock: ManualClock) -> None:
    done = threading.Event()
    late = timekeeper.call_at(core_clock.now() + 1e6, lambda: None)
    clock.wait_for_sleepers()
    timekeeper.call_at(core_clock.now() + 1, done.set)
    clock.advance(1)

    assert done.wait(PATIENCE_SECONDS)
    late.cancel()


def test_a_time_in_the_past_is_at_once(clock: ManualClock) -> None:
    done = threading.Event()
    timekeeper.call_at(core_clock.now() - 1e6, done.set)

    assert done.wait(PATIENCE_SECONDS)


def test_what_was_cancelled_is_not_done(clock: ManualClock) -> None:
    done: list[str] = []
    over = threading.Event()
    cancelled = timekeeper.call_at(core_clock.now() + 1, lambda: done.append("cancelled"))
    timekeeper.call_at(core_clock.now() + 2, over.set)
    cancelled.cancel()
    cancelled.cancel()
    clock.wait_for_sleepers()
    clock.advance(10)
    assert over.wait(PATIENCE_SECONDS)

    assert done == []


def test_the_thread_leaves_when_nothing_is_due_any_more(clock: ManualClock) -> None:
    done = threading.Event()
    timekeeper.call_at(core_clock.now() + 1, done.set)
    (thread,) = keeper_threads()
    clock.wait_for_sleepers()
    clock.advance(1)
    assert done.wait(PATIENCE_SECONDS)
    thread.join(PATIENCE_SECONDS)

    assert not thread.is_alive()
    assert not keeper_threads()


def test_the_thread_leaves_when_the_last_timer_is_cancelled(clock: ManualClock) -> None:
    timer = timekeeper.call_at(core_clock.now() + 1e6, lambda: None)
    (thread,) = keeper_threads()
    timer.cancel()
    thread.join(PATIENCE_SECONDS)

    assert not thread.is_alive()


def test_there_is_one_thread_for_all_and_the_next_one_starts_when_needed(clock: ManualClock) -> None:
    for _ in range(3):
        timers = [timekeeper.call_at(core_clock.now() + number, lambda: None) for number in range(1, 5)]
        assert len(keeper_threads()) == 1
        for timer in timers:
            timer.cancel()
        wait_until(lambda: not keeper_threads())


def test_an_action_that_raises_is_logged_and_stops_no_other(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()
    for kind in (ValueError, KeyboardInterrupt, SystemExit):
        timekeeper.call_at(core_clock.now() + 1, raising(kind))
    timekeeper.call_at(core_clock.now() + 2, over.set)
    clock.wait_for_sleepers()
    clock.advance(2)

    assert over.wait(PATIENCE_SECONDS)
    assert caplog.text.count("something that was run on the side failed") == 3


def raising(kind: type[BaseException]) -> Callable[[], None]:
    def action() -> None:
        raise kind

    return action


def test_an_action_that_may_block_holds_no_other(clock: ManualClock) -> None:
    over, release = threading.Event(), threading.Event()
    timekeeper.call_at(core_clock.now() + 1, lambda: release.wait(PATIENCE_SECONDS), may_block=True)
    timekeeper.call_at(core_clock.now() + 2, over.set)
    clock.wait_for_sleepers()
    clock.advance(2)

    assert over.wait(PATIENCE_SECONDS)
    release.set()


def test_an_action_may_set_the_next_timer(clock: ManualClock) -> None:
    done = threading.Event()
    timekeeper.call_at(core_clock.now() + 1, lambda: timekeeper.call_at(core_clock.now() + 1, done.set))
    clock.wait_for_sleepers()
    clock.advance(1)
    wait_until(lambda: any(when > clock.now() for when, _ in list(clock._sleepers.values())))
    assert not done.is_set()
    clock.advance(1)

    assert done.wait(PATIENCE_SECONDS)


def test_an_action_may_cancel_timers_that_are_due_as_well(clock: ManualClock) -> None:
    done: list[str] = []
    over = threading.Event()
    timers: list[timekeeper.Timer] = []
    timekeeper.call_at(core_clock.now() + 1, lambda: timers[0].cancel())
    timers.append(timekeeper.call_at(core_clock.now() + 1, lambda: done.append("cancelled")))
    timekeeper.call_at(core_clock.now() + 1, over.set)
    clock.wait_for_sleepers()
    clock.advance(1)

    assert over.wait(PATIENCE_SECONDS)
    assert done == []


def test_cancelled_timers_do_not_pile_up(clock: ManualClock) -> None:
    """A deadline for each of a million calls, all of them in time, must cost no memory."""
    keeper = Timekeeper()
    first = keeper.call_at(core_clock.now() + 1, lambda: None)
    for _ in range(100 * SWEEP_AT):
        keeper.call_at(core_clock.now() + 1e6, lambda: None).cancel()
    wait_until(lambda: len(keeper._heap) + len(keeper._arrived) <= 2 * SWEEP_AT)
    first.cancel()

    wait_until(lambda: not (keeper._heap or keeper._arrived))


def test_a_timer_that_is_forgotten_holds_nothing() -> None:
    keeper = Timekeeper()
    timer = keeper.call_at(core_clock.now() + 1e6, lambda: None)
    timer.cancel()

    assert timer.action is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_a_timekeeper_of_its_own() -> None:
    """The thread stayed with the parent."""
    from tests.unit.test_bad_input import _fork_quietly

    stale = timekeeper.call_at(core_clock.now() + 3600, lambda: None)
    read, write = os.pipe()
    pid = _fork_quietly()
    if pid == 0:  # the child
        signal.alarm(int(PATIENCE_SECONDS))
        stale.cancel()
        done = threading.Event()
        timekeeper.call_at(core_clock.now(), done.set)
        done.wait(PATIENCE_SECONDS)
        os.write(write, b"done" if done.is_set() else b"not done")
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    stale.cancel()

    assert os.read(read, 100) == b"done"
    os.close(read)


def timers_upon_timers(waits: bool) -> Scene:
    """Set two timers, and cancel one; a handler that comes upon it does the same, and may wait for what it has set."""
    keeper, done = Timekeeper(), [threading.Event(), threading.Event()]

    def use(event: threading.Event) -> None:
        unwanted = keeper.call_at(core_clock.now() + 1e6, lambda: None)
        keeper.call_at(core_clock.now(), event.set)
        unwanted.cancel()
        assert not waits or event.wait(PATIENCE_SECONDS), "it was never done"

    def check() -> None:
        assert all(event.wait(PATIENCE_SECONDS) for event in done)
        wait_until(lambda: not (keeper._on_duty or keeper._heap or keeper._arrived))

    return Scene(lambda: use(done[0]), lambda: use(done[1]), check)


def test_a_handler_may_set_timers_in_the_middle_of_setting_one() -> None:
    """A garbage collection that finalises a run does so anywhere; a lock here hung the process within minutes."""
    intrude_everywhere(lambda: timers_upon_timers(waits=False), inside=("/treadle/_sync/", "/threading.py"))


def test_a_handler_may_wait_for_its_timers_in_the_middle_of_setting_one() -> None:
    intrude_everywhere(lambda: timers_upon_timers(waits=True), inside=("/treadle/_sync/timekeeper",))


def notes_upon_notes() -> Scene:
    keeper, done = Timekeeper(), [threading.Event(), threading.Event()]

    def check() -> None:
        assert all(event.wait(PATIENCE_SECONDS) for event in done)

    return Scene(lambda: keeper.leave(done[0].set), lambda: keeper.leave(done[1].set), check)


def test_a_finalizer_may_leave_a_note_in_the_middle_of_leaving_one() -> None:
    intrude_everywhere(notes_upon_notes, inside=("/treadle/_sync/timekeeper", "/threading.py"))


def test_a_note_for_which_no_thread_starts_is_seen_to_by_the_next_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a finalizer wants is not lost because the system has no thread in that moment."""
    keeper, done = Timekeeper(), threading.Event()

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not keeper.leave(done.set)
    assert keeper.leave(lambda: None)

    assert done.wait(PATIENCE_SECONDS)


def test_what_was_done_is_held_by_nobody(clock: ManualClock) -> None:
    """A timer that has gone off keeps nothing alive: not its thread, which may sleep for long, nor whoever set it."""

    class Held:
        def act(self) -> None: ...

    held, done = Held(), threading.Event()
    gone = weakref.ref(held)
    timer = timekeeper.call_at(core_clock.now(), held.act)
    late = timekeeper.call_at(core_clock.now() + 1e6, lambda: None)
    timekeeper.call_at(core_clock.now(), done.set)
    assert done.wait(PATIENCE_SECONDS)
    del held
    wait_until(lambda: gone() is None)

    assert timer.action is None
    late.cancel()


def test_without_a_thread_to_be_had_the_timer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one tries again, for itself alone."""
    keeper, done = Timekeeper(), threading.Event()
    refused: list[bool] = []

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            keeper.call_at(core_clock.now(), lambda: refused.append(True))
    keeper.call_at(core_clock.now(), done.set)

    assert done.wait(PATIENCE_SECONDS)
    assert refused == [], "whoever set it was told that it will not be done"
