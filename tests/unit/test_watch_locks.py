"""``watch_locks``: plain locks of threading hang as ever, but somebody is told."""

from __future__ import annotations

import copy
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS
from tests.others import Other, wait_until_it_waits
from tests.places import wait_until
from treadle._core.raw import make_rlock

PLAIN = (threading.Lock, threading.RLock)
each_kind = pytest.mark.parametrize("kind", ["Lock", "RLock"])


@pytest.fixture(autouse=True)
def _threading_is_as_before() -> Iterator[None]:
    yield
    assert (threading.Lock, threading.RLock) == PLAIN


class Told:
    """A callback that keeps what it was told, and can be waited for."""

    def __init__(self) -> None:
        self.deadlocks: list[treadle.Deadlock] = []

    def __call__(self, deadlock: treadle.Deadlock) -> None:
        self.deadlocks.append(deadlock)

    def wait(self) -> treadle.Deadlock:
        wait_until(lambda: bool(self.deadlocks))
        return self.deadlocks[0]


class Hung:
    """Two threads that hang with a lock each, until one is let go: plain locks may be released by anybody."""

    def __init__(self, first: Any, second: Any) -> None:
        both = threading.Barrier(2)

        def take(mine: Any, yours: Any) -> None:
            mine.acquire()
            both.wait(PATIENCE_SECONDS)
            yours.acquire()

        self.others = [Other(lambda: take(first, second), "one"), Other(lambda: take(second, first), "two")]
        self.locks = first, second

    def let_go(self) -> None:
        for lock in self.locks:
            lock.release()
        for other in self.others:
            other.join()


@each_kind
def test_locks_made_inside_work_as_ever_inside_and_after(kind: str) -> None:
    with treadle.watch_locks():
        lock = getattr(threading, kind)()
        with lock:
            assert lock.acquire(blocking=False) is (kind == "RLock")
            assert Other(lambda: lock.acquire(timeout=0.01)).join().value is False

    plain = getattr(threading, kind)()
    assert type(plain) in (type(threading.Lock()), type(threading.RLock()))
    if kind == "RLock":
        lock.release()
    with lock:
        assert Other(lambda: lock.acquire(False)).join().value is False
    with pytest.raises((ValueError, OverflowError)):
        lock.acquire(False, 1)
    with pytest.raises(TypeError):
        copy.copy(lock)


def test_two_threads_that_wait_for_each_other_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    told, outer = Told(), Told()
    with treadle.watch_locks(outer), treadle.watch_locks(told):
        locks = threading.Lock(), threading.Lock()

    hung = Hung(*locks)
    deadlock = told.wait()
    wait_until(lambda: bool(caplog.records))

    assert len(deadlock.threads) == 2
    assert all(f"threading.Lock made at {__file__}" in text for text in deadlock.threads)
    assert {"one", "two"} == {text.split("'")[1] for text in deadlock.threads}
    assert outer.deadlocks == told.deadlocks == [deadlock]
    assert [(record.name, record.levelno) for record in caplog.records] == [("treadle", logging.ERROR)]
    assert caplog.records[0].getMessage() == str(deadlock)
    hung.let_go()


def test_who_comes_later_and_waits_behind_is_no_news() -> None:
    told = Told()
    with treadle.watch_locks(told):
        locks = threading.Lock(), threading.Lock()
    hung = Hung(*locks)
    told.wait()

    late = Other(lambda: use(locks[0]))
    late.wait_until_it_waits()

    hung.let_go()
    locks[0].release()  # one of the two ended with it in hand
    late.join()
    assert len(told.deadlocks) == 1


def test_a_plain_lock_in_a_circle_with_a_lock_of_treadles() -> None:
    """Treadle's lock raises in its thread, and the other goes on: nobody hangs, so nobody is told of it."""
    told = Told()
    with treadle.watch_locks(told):
        plain = threading.Lock()
    ours, has_ours, go_on = treadle.Lock("ours"), threading.Event(), threading.Event()

    def take_ours_first() -> None:
        with ours:
            has_ours.set()
            assert go_on.wait(PATIENCE_SECONDS)
            plain.acquire()

    plain.acquire()
    other = Other(take_ours_first)
    assert has_ours.wait(PATIENCE_SECONDS)
    go_on.set()
    other.wait_until_it_waits()
    with pytest.raises(treadle.Deadlock, match="waits for Lock 'ours'"):
        ours.acquire()

    plain.release()
    assert other.join().error is None
    assert told.deadlocks == []


def test_a_lock_taken_twice_by_one_thread() -> None:
    told = Told()
    with treadle.watch_locks(told):
        lock = threading.Lock()
    lock.acquire()

    other = Other(lambda: lock.release() or (lock.acquire(), lock.acquire()))  # type: ignore[func-returns-value]
    wait_until_it_waits(other.thread.ident or 0)
    lock.release()

    other.join()
    assert told.deadlocks == [], "it was released by another thread before: it is a signal"

    with treadle.watch_locks(told):
        lock = threading.Lock()
    other = Other(lambda: [lock.acquire(), lock.acquire()])
    assert "waits for what it holds itself" in told.wait().reason
    lock.release()
    other.join()


def test_a_lock_released_by_another_thread_is_held_by_nobody() -> None:
    """A plain lock used as a signal: waiting for it is no deadlock, whatever it looks like."""
    told = Told()
    with treadle.watch_locks(told):
        signal, lock = threading.Lock(), threading.Lock()
    signal.acquire()
    Other(signal.release).join()

    hung = Hung(signal, lock)
    for other in hung.others:
        other.wait_until_it_waits()

    hung.let_go()
    assert told.deadlocks == []


def use(lock: Any) -> None:
    with lock:
        pass


def made_inside(make: Callable[[], Any]) -> Any:
    with treadle.watch_locks(Told()):
        return make()


@each_kind
def test_conditions_work(kind: str) -> None:
    condition = made_inside(lambda: threading.Condition(getattr(threading, kind)()))
    ready: list[int] = []

    def wait() -> bool:
        with condition:
            return bool(condition.wait_for(lambda: bool(ready), PATIENCE_SECONDS))

    other = Other(wait)
    with condition:
        ready.append(1)
        condition.notify_all()

    assert other.join().value is True


def test_what_the_standard_library_makes_of_them_works() -> None:
    items: queue.Queue[int] = made_inside(lambda: queue.Queue(2))
    other = Other(lambda: [items.get(timeout=PATIENCE_SECONDS) for _ in range(100)])
    for number in range(100):
        items.put(number, timeout=PATIENCE_SECONDS)
    assert other.join().value == list(range(100))

    with made_inside(ThreadPoolExecutor) as pool:
        assert list(pool.map(abs, range(-100, 0))) == list(range(100, 0, -1))

    handler = made_inside(logging.NullHandler)
    with handler.lock or threading.Lock():
        pass
    event = made_inside(threading.Event)
    event.set()
    assert event.wait(PATIENCE_SECONDS)
    barrier = made_inside(lambda: threading.Barrier(2))
    other = Other(barrier.wait)
    barrier.wait(PATIENCE_SECONDS)
    other.join()


def test_a_lock_made_by_the_standard_library_names_who_asked_for_it() -> None:
    items = made_inside(queue.Queue)

    assert "queue.py:" in repr(items.mutex)
    assert f", for {__file__}:" in repr(items.mutex)


def test_treadle_runs_in_the_block_on_plain_locks() -> None:
    """Its own locks are no business of the block's."""
    told = Told()
    with treadle.watch_locks(told):
        assert list(treadle.map(abs, range(-100, 0))) == list(range(100, 0, -1))
        with treadle.TaskGroup() as group:
            tasks = [group.submit(abs, -number) for number in range(100)]
        assert [task.result() for task in tasks] == list(range(100))
        assert type(tasks[0]._condition._lock) is type(make_rlock())  # type: ignore[attr-defined]
    assert told.deadlocks == []


def test_blocks_that_overlap_in_several_threads() -> None:
    """Whichever closes last puts the plain locks back."""
    inside, leave = threading.Event(), threading.Event()

    def hold_open() -> object:
        with treadle.watch_locks():
            inside.set()
            assert leave.wait(PATIENCE_SECONDS)
            return threading.Lock()

    with treadle.watch_locks():
        other = Other(hold_open)
        assert inside.wait(PATIENCE_SECONDS)
    assert threading.Lock is not PLAIN[0]
    leave.set()

    assert "watched" in repr(other.join().value)
    assert threading.Lock is PLAIN[0]


def test_a_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    with treadle.watch_locks(fail):
        locks = threading.Lock(), threading.Lock()
    hung = Hung(*locks)
    wait_until(lambda: bool(caplog.records))
    hung.let_go()

    assert caplog.records[0].exc_info is not None
    assert all(other.error is None for other in hung.others)


def test_a_callback_can_be_called() -> None:
    with pytest.raises(treadle.WrongType, match="callback"), treadle.watch_locks(3):  # type: ignore[arg-type]
        pass


def test_the_call_alone_is_a_mistake_that_is_told() -> None:
    """A tool that reports by its silence must not be silent because it was never switched on."""
    with pytest.warns(RuntimeWarning, match="by itself watches nothing"):
        treadle.watch_locks()

    with pytest.raises(treadle.WrongType, match="callback must be callable"):
        treadle.watch_locks("report")  # type: ignore[arg-type]


def test_a_block_is_entered_once() -> None:
    watch = treadle.watch_locks()

    with watch, pytest.raises(RuntimeError, match="entered once"):
        watch.__enter__()
