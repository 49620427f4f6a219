"""``Lock``, ``RLock``, ``Guarded``: no deadlock is missed or made up, and nobody forgotten, in any order of steps."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

import treadle
from tests.explore.conftest import Search, at_once
from treadle._core.cancellation import Scope
from treadle._sync import wait_graph
from treadle._sync.cancelling import entered
from treadle._sync.locks import _OwnedLock, _Waiter
from treadle._sync.wait_graph import Wait


def take_in_turn(*locks: treadle.Lock | treadle.RLock) -> bool:
    """Take one after the other, and give all back; tell whether that went well, and was no deadlock."""
    taken: list[treadle.Lock | treadle.RLock] = []
    try:
        for lock in locks:
            lock.acquire()
            taken.append(lock)
    except treadle.Deadlock:
        return False
    finally:
        for lock in reversed(taken):
            lock.release()
    return True


def three_for_one_lock() -> None:
    lock, inside = treadle.Lock(), list[int]()

    def enter(number: int) -> None:
        with lock:
            inside.append(number)
            assert inside == [number], "one at a time"
            inside.remove(number)

    at_once(*(lambda number=number: enter(number) for number in range(3)))

    assert not lock.locked()
    assert lock._line == []


def three_for_one_reentrant_lock() -> None:
    lock, inside = treadle.RLock(), list[int]()

    def enter(number: int) -> None:
        with lock, lock:
            inside.append(number)
            assert inside == [number], "one at a time"
            inside.remove(number)

    at_once(*(lambda number=number: enter(number) for number in range(3)))

    assert not lock.locked()
    assert lock._line == []


@pytest.mark.parametrize("scenario", [three_for_one_lock, three_for_one_reentrant_lock])
def test_a_lock_is_held_by_one_and_passed_on_to_all(search: Search, scenario: object) -> None:
    """And nobody of them is told of a deadlock, as there is none."""
    search(scenario)


def test_it_is_found_out_if_one_in_line_does_not_try_again(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(lock: _OwnedLock, timeout: float | None, is_cancellable: bool = True) -> bool:
        while not lock._take():
            waiter = _Waiter()
            lock._line.append(waiter)
            waiter.wait()
            lock._line.remove(waiter)
        return True

    monkeypatch.setattr(_OwnedLock, "_wait", wait)
    monkeypatch.setattr(treadle.Lock, "_wait", wait)

    find(three_for_one_lock)


def test_it_is_found_out_if_a_lock_is_given_back_in_silence(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes next is a look at the holder, a second later; so it is the time that is looked at."""
    monkeypatch.setattr(_OwnedLock, "_wake_next", lambda _: None)
    monkeypatch.setattr("treadle._sync.locks.LOOK_UP_SECONDS", threading.TIMEOUT_MAX)

    find(three_for_one_lock)


def an_embrace() -> None:
    left, right = treadle.Lock(), treadle.RLock()
    ends: list[bool] = []
    at_once(lambda: ends.append(take_in_turn(left, right)), lambda: ends.append(take_in_turn(right, left)))

    assert any(ends), "at most one is told: the others go on"
    assert not left.locked()
    assert not right.locked()
    assert wait_graph._waits == {}


def test_in_an_embrace_one_is_told_and_nobody_hangs(search: Search) -> None:
    search(an_embrace)


def a_circle_of_three() -> None:
    one, two, three = locks = [treadle.Lock() for _ in range(3)]
    ends: list[bool] = []
    at_once(
        lambda: ends.append(take_in_turn(one, two)),
        lambda: ends.append(take_in_turn(two, three)),
        lambda: ends.append(take_in_turn(three, one)),
    )

    assert ends.count(False) <= 1, "at most one is told: the others go on"
    assert not any(lock.locked() for lock in locks)


def test_in_a_circle_of_three_one_is_told_and_nobody_hangs(search: Search) -> None:
    search(a_circle_of_three)


def test_it_is_found_out_if_waits_are_published_after_the_look(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that arrive at once then do not see each other."""

    def find_circle(wait: Wait) -> list[Wait]:
        circle = wait_graph._stuck_with(wait)
        wait_graph._waits[wait.ident] = wait
        return circle

    monkeypatch.setattr(Wait, "find_circle", find_circle)
    monkeypatch.setattr("treadle._sync.locks.LOOK_UP_SECONDS", threading.TIMEOUT_MAX)

    find(an_embrace)


def the_same_order() -> None:
    """Nobody can deadlock here, so nobody may be told so: the wait before may still be in the graph."""
    first, second = treadle.Lock(), treadle.Lock()
    ends: list[bool] = []

    def take() -> None:
        ends.append(take_in_turn(first))
        ends.append(take_in_turn(first, second))
        ends.append(take_in_turn(second))

    at_once(take, take)
    assert all(ends), "a deadlock that is none"


def test_no_deadlock_is_made_up(search: Search) -> None:
    search(the_same_order)


def locks_handed_round() -> None:
    """Each takes two of three, in the one order that is safe."""
    one, two, three = (treadle.Lock() for _ in range(3))
    ends: list[bool] = []
    at_once(
        lambda: ends.append(take_in_turn(one, two)),
        lambda: ends.append(take_in_turn(two, three)),
        lambda: ends.append(take_in_turn(one, three)),
    )
    assert all(ends), "a deadlock that is none"


def test_no_deadlock_is_made_up_among_three(search: Search) -> None:
    search(locks_handed_round)


def one_after_the_other_both_ways() -> None:
    """A takes left and gives it back before it takes right, B the other way round: facts from two moments lie."""
    left, right = treadle.Lock(), treadle.Lock()
    ends: list[bool] = []

    def take(first: treadle.Lock, second: treadle.Lock) -> None:
        for lock in (first, second, first):
            ends.append(take_in_turn(lock))

    at_once(lambda: take(left, right), lambda: take(right, left), lambda: take(left, right))
    assert all(ends), "a deadlock that is none"


def test_facts_from_two_moments_make_no_deadlock(search: Search) -> None:
    search(one_after_the_other_both_ways)


def a_wait_that_is_cancelled_in_line() -> None:
    lock, scope, entries = treadle.Lock(), Scope(), list[str]()

    def cancelled_one() -> None:
        with suppress(treadle.Cancelled), entered(scope), lock:
            entries.append("the cancelled one")

    def other() -> None:
        with lock:
            entries.append("another")

    at_once(other, cancelled_one, lambda: scope.cancel("it was cancelled"), other)

    assert entries.count("another") == 2
    assert not lock.locked()
    assert lock._line == []
    assert wait_graph._waits == {}


def test_a_cancelled_waiter_for_a_lock_passes_its_wake_up_on(search: Search) -> None:
    search(a_wait_that_is_cancelled_in_line)


def a_wait_with_a_timeout() -> None:
    lock, entries = treadle.Lock(), list[bool]()

    def hasty() -> None:
        if lock.acquire(timeout=1.0):
            entries.append(True)
            lock.release()

    def other() -> None:
        with lock:
            entries.append(True)

    at_once(other, hasty, other)
    assert len(entries) >= 2
    assert not lock.locked()
    assert lock._line == []


def test_one_that_gives_up_passes_its_wake_up_on(search: Search) -> None:
    search(a_wait_with_a_timeout, eager_timeouts=True)


def a_task_awaited_under_its_lock() -> None:
    """The task wants the lock that whoever waits for it holds: a deadlock through ``result()``."""
    lock, told = treadle.Lock(), list[bool]()

    def call() -> None:
        told.append(not take_in_turn(lock))

    with treadle.TaskGroup(max_workers=1) as group, lock:
        task = group.submit(call)
        try:
            task.result()
        except treadle.Deadlock:
            told.append(True)

    assert told.count(True) == 1, "exactly one of the two is told"


def test_a_deadlock_through_a_task_is_told_to_one(search: Search) -> None:
    search(a_task_awaited_under_its_lock)


def a_guarded_counter() -> None:
    counter = treadle.Guarded(0)

    def increment() -> None:
        with counter as held:
            held.value += 1

    at_once(increment, lambda: counter.update(lambda value: value + 1), increment)
    assert counter.copy() == 3


def a_guarded_hand_over() -> None:
    box = treadle.Guarded[list[int]]([])
    got: list[int] = []

    def get() -> None:
        with box as held:
            held.wait_for(bool)
            got.append(held.value.pop())

    def put(number: int) -> None:
        with box as held:
            held.value.append(number)

    at_once(get, lambda: put(1), get, lambda: put(2))
    assert sorted(got) == [1, 2]


def a_guarded_value_that_is_awaited() -> None:
    number = treadle.Guarded(0)
    at_once(lambda: number.wait_for(lambda value: value > 1), lambda: number.set(2), lambda: number.set(3))


@pytest.mark.parametrize("scenario", [a_guarded_counter, a_guarded_hand_over, a_guarded_value_that_is_awaited])
def test_what_is_guarded_is_changed_by_one_at_a_time(search: Search, scenario: object) -> None:
    search(scenario)
