"""The explorer finds races that stress does not, tells how to see them again, and leaves nothing behind."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import pytest

import treadle
from treadle.testing import ManualClock, Standstill, explore


def at_once(*actions: Callable[[], object]) -> None:
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def increment(self) -> None:
        self.value += 1


def lost_update() -> None:
    counter = Counter()
    at_once(counter.increment, counter.increment)
    assert counter.value == 2, "an update was lost"


def lost_wake_up() -> None:
    """It looks, and then waits: what came in between is not felt."""
    ready, items = threading.Condition(), deque[int]()

    def get() -> None:
        if not items:
            with ready:
                ready.wait()

    def put() -> None:
        items.append(1)
        with ready:
            ready.notify()

    at_once(get, put)


def overfull_deque() -> None:
    items = deque[int]()

    def put() -> None:
        if len(items) < 1:
            items.append(1)

    at_once(put, put)
    assert len(items) == 1, "there is room for one"


def embrace() -> None:
    left, right = threading.Lock(), threading.RLock()

    def take(first: object, second: object) -> None:
        with first, second:  # type: ignore[attr-defined]
            pass

    at_once(lambda: take(left, right), lambda: take(right, left))


def error_in_a_thread() -> None:
    """Only if the second comes first."""
    order: list[int] = []

    def come(number: int) -> None:
        order.append(number)
        if order == [2]:
            raise LookupError("the second was first")

    at_once(lambda: come(1), lambda: come(2))


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        (lost_update, AssertionError),
        (lost_wake_up, Standstill),
        (overfull_deque, AssertionError),
        (embrace, Standstill),
        (error_in_a_thread, LookupError),
    ],
)
def test_a_race_is_found_and_can_be_seen_again(scenario: Callable[[], None], error: type[Exception]) -> None:
    with pytest.raises(error) as found:
        explore(scenario, schedules=500)
    story, hint = found.value.__notes__[-2:]
    replay = hint.partition("replay='")[2].rstrip("')")

    with pytest.raises(error) as again:
        explore(scenario, replay=replay)

    assert again.value.__notes__[-2:] == [story, hint]


def test_threads_that_have_ended_keep_their_identifier_for_the_schedule() -> None:
    """The system gives it to the next thread, or does not, as it comes: the same seed would not find the same."""

    def one_after_the_other() -> None:
        found: list[int] = []
        for _ in range(5):
            at_once(lambda: found.append(threading.get_ident()))
        assert len(set(found)) == 5, "an identifier was given twice"

    explore(one_after_the_other, schedules=5, seed=1)


def test_the_same_seed_finds_the_same() -> None:
    stories = set()
    for _ in range(3):
        with pytest.raises(AssertionError) as found:
            explore(lost_update, seed=7)
        stories.add(tuple(found.value.__notes__))

    assert len(stories) == 1


def test_a_standstill_shows_where_each_thread_stands() -> None:
    with pytest.raises(Standstill) as found:
        explore(embrace, schedules=500)

    text = str(found.value)
    assert text.count("with first, second:") == 2
    assert "thread.join()" in text


def test_the_story_tells_where_threads_were_switched() -> None:
    with pytest.raises(AssertionError) as found:
        explore(lost_update, schedules=500)

    assert "is preempted at test_explore.py:" in found.value.__notes__[-2]


def correct_queue() -> None:
    items: queue.Queue[int] = queue.Queue(maxsize=1)
    got: list[int] = []

    def put() -> None:
        for number in range(3):
            items.put(number)

    def get() -> None:
        got.extend(items.get(timeout=5) for _ in range(3))

    at_once(put, get)
    assert got == [0, 1, 2]


def correct_simple_queue() -> None:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    at_once(lambda: items.put(1), lambda: items.get())
    assert items.empty()


def correct_condition() -> None:
    ready, items = threading.Condition(), deque[int]()

    def get() -> None:
        with ready:
            assert ready.wait_for(lambda: items, timeout=60)

    def put() -> None:
        with ready:
            items.append(1)
            ready.notify()

    at_once(get, put)


def correct_barrier() -> None:
    barrier, passed = threading.Barrier(2), threading.Semaphore(0)

    def meet() -> None:
        barrier.wait()
        passed.release()

    at_once(meet, meet)
    assert passed.acquire(blocking=False)
    assert passed.acquire(blocking=False)
    assert not passed.acquire(blocking=False)


def correct_event() -> None:
    event = threading.Event()
    at_once(event.set, event.wait)


def correct_sleeps() -> None:
    """A year that takes no time: the shorter sleep ends first."""
    order: list[float] = []

    def sleep(seconds: float) -> None:
        began = time.monotonic()
        time.sleep(seconds)
        assert seconds <= time.monotonic() - began < seconds + 1
        order.append(seconds)

    at_once(lambda: sleep(2e7), lambda: sleep(1e7))
    assert order == [1e7, 2e7]


def correct_timeouts() -> None:
    lock, thread = threading.Lock(), threading.Thread(target=time.sleep, args=(10,))
    assert lock.acquire(timeout=1)
    assert not lock.acquire(timeout=1)
    assert not lock.acquire(blocking=False)
    thread.start()
    thread.join(timeout=1)
    assert thread.is_alive()
    thread.join()
    assert not thread.is_alive()
    with pytest.raises(RuntimeError):
        thread.start()


def correct_executor() -> None:
    with treadle.PoolExecutor(max_workers=2) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]


def correct_manual_clock() -> None:
    with ManualClock() as clock, treadle.TaskGroup() as group:
        group.submit(treadle.sleep, 3600)
        clock.wait_for_sleepers()
        clock.advance(3600)


def daemon_that_never_ends() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def daemon_that_polls() -> None:
    def poll() -> None:
        while True:
            time.sleep(1)

    threading.Thread(target=poll, daemon=True).start()


@pytest.mark.parametrize(
    "scenario",
    [
        *(correct_queue, correct_simple_queue, correct_condition, correct_barrier, correct_event, correct_sleeps),
        *(correct_timeouts, correct_executor, correct_manual_clock, daemon_that_never_ends, daemon_that_polls),
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_what_is_right_is_not_complained_of(scenario: Callable[[], None]) -> None:
    assert explore(scenario, schedules=60) >= 1


def test_interleavings_differ() -> None:
    assert explore(correct_queue, schedules=100) > 50


def late_or_not() -> None:
    event = threading.Event()
    at_once(event.set, lambda: assert_in_time(event))


def assert_in_time(event: threading.Event) -> None:
    assert event.wait(1000), "it came too late"


def test_a_timeout_may_come_first_if_asked_for() -> None:
    explore(late_or_not)

    with pytest.raises(AssertionError, match="too late"):
        explore(late_or_not, eager_timeouts=True)


def test_what_is_left_out_is_switched_at_its_locks_only() -> None:
    explore(lost_update, modules=["queue"])

    with pytest.raises(AssertionError, match="lost"):
        explore(lost_update, modules=[sys.modules[__name__]])


def test_what_spins_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle._explore.scheduler.MAX_STEPS", 2000)
    flag: list[int] = []

    def spin() -> None:
        while not flag:
            pass

    with pytest.raises(AssertionError, match="no end"):
        explore(spin)


def test_a_wait_for_something_unknown_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle._explore.explore.STUCK_SECONDS", 0.2)
    older = threading.Lock()
    older.acquire()

    def wait() -> None:
        with older:
            pass

    try:
        with pytest.raises(AssertionError, match=r"takes no step(.|\n)*with older"):
            explore(wait)
    finally:
        older.release()


def test_an_exploration_within_another_is_refused() -> None:
    with pytest.raises(RuntimeError, match="one exploration at a time"):
        explore(lambda: explore(lost_update))


def test_everything_is_as_before_when_it_is_over() -> None:
    def all_of_it() -> tuple[object, ...]:
        return (threading.Lock, threading.RLock, threading.Thread.start, time.sleep, time.monotonic, sys.gettrace())

    before = all_of_it()
    with suppress(AssertionError):
        explore(lost_update)
    explore(correct_queue, schedules=3)

    assert (
        threading.Lock,
        threading.RLock,
        threading.Thread.start,
        time.sleep,
        time.monotonic,
        sys.gettrace(),
    ) == before
    at_once(lambda: treadle.sleep(0.001))


def test_other_threads_do_not_notice() -> None:
    stop, laps = threading.Event(), []

    def run() -> None:
        while not stop.is_set():
            with threading.Lock():
                laps.append(time.monotonic())

    other = threading.Thread(target=run)
    other.start()
    try:
        explore(correct_queue, schedules=20)
    finally:
        stop.set()
        other.join()

    assert laps == sorted(laps)
    assert abs(laps[-1] - time.monotonic()) < 3600


@pytest.mark.parametrize("replay", ["", "1/2", "1/2/x", "1/2/3/4"])
def test_a_replay_that_is_no_note_is_refused(replay: str) -> None:
    with pytest.raises(treadle.errors.InvalidArgument, match="replay"):
        explore(lost_update, replay=replay)


def test_numbers_have_bounds() -> None:
    with pytest.raises(treadle.errors.InvalidArgument):
        explore(lost_update, schedules=0)
    with pytest.raises(treadle.errors.InvalidArgument):
        explore(lost_update, preemptions=-1)


def test_a_module_that_does_not_exist_is_no_success() -> None:
    """Nothing of it was run, so nothing could be found."""
    with pytest.raises(treadle.InvalidArgument, match="modules must be a module that is imported.*no_such_module"):
        explore(lambda: None, modules=["no_such_module"], schedules=2)
