"""A guarded value: nobody reaches it without its lock, and whoever waits for it to change sees every change."""

from __future__ import annotations

import copy
import operator
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import treadle
from tests.asides import Aside
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.interrupts import interrupt_everywhere
from tests.places import wait_until
from tests.programs import finish, start_program
from treadle.testing import ManualClock


class Boom(Exception):
    """What goes wrong here."""


@pytest.fixture
def switching() -> Iterator[None]:
    """Have threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def waiting(guarded: treadle.Guarded[Any], fn: Callable[..., Any], *args: Any) -> Aside:
    """Call ``fn`` on another thread, and return when it waits for a change."""
    before = len(guarded._waiting)
    aside = Aside(fn, *args)
    wait_until(lambda: len(guarded._waiting) > before and not guarded._lock.locked())
    return aside


def assert_free(guarded: treadle.Guarded[Any]) -> None:
    assert not guarded._lock.locked()
    assert not guarded._waiting
    assert guarded._handle is None


# Reaching the value


def test_a_block_reads_and_changes_the_value() -> None:
    counter = treadle.Guarded(1)

    with counter as c:
        c.value += 1
        assert c.value == 2

    assert counter.copy() == 2
    assert_free(counter)


@pytest.mark.usefixtures("switching")
def test_no_update_is_lost() -> None:
    """Read, call, write: without a lock most of these are lost, on every build."""
    counter = treadle.Guarded(0)

    def count() -> None:
        for _ in range(300):
            with counter as c:
                c.value = int(c.value) + 1
            counter.update(lambda value: int(value) + 1)

    counting = [Aside(count) for _ in range(4)]
    for aside in counting:
        aside.value()

    assert counter.copy() == 2400


def test_one_block_runs_at_a_time(gate: Gate) -> None:
    order = treadle.Guarded[list[str]]([])

    def hold() -> None:
        with order as o:
            gate.hold()
            o.value.append("first")

    holding = Aside(hold)
    gate.wait_for_arrivals()
    updating = Aside(order.update, lambda items: [*items, "second"])
    wait_until(lambda: bool(order._lock._line))
    gate.open()

    holding.value()
    assert updating.value() == ["first", "second"]


def test_update_returns_the_new_value() -> None:
    counter = treadle.Guarded(20)

    assert counter.update(lambda value: value + 1) == 21
    assert counter.copy() == 21


def test_an_update_that_fails_leaves_the_old_value() -> None:
    counter = treadle.Guarded(20)

    with pytest.raises(ZeroDivisionError):
        counter.update(lambda value: value // 0)

    assert counter.copy() == 20
    assert_free(counter)


def test_set_replaces_the_value() -> None:
    text = treadle.Guarded("old")

    text.set("new")

    assert text.copy() == "new"


def test_a_copy_shares_nothing_with_the_value() -> None:
    """One that shares its inner lists would let them be changed without the lock."""
    scores = treadle.Guarded({"Ada": [1]})

    scores.copy()["Ada"].append(2)

    assert scores.copy() == {"Ada": [1]}


def test_a_value_that_cannot_be_copied_leaves_the_lock_free() -> None:
    guarded = treadle.Guarded(threading.Lock())

    with pytest.raises(TypeError):
        guarded.copy()

    assert_free(guarded)


def test_an_exception_leaves_the_block_and_frees_the_lock() -> None:
    counter = treadle.Guarded(0)

    with pytest.raises(Boom), counter as c:
        c.value = 5
        raise Boom

    assert counter.copy() == 5
    assert_free(counter)


@pytest.mark.parametrize("wrong", [None, 5])
def test_what_is_to_be_called_can_be_called(wrong: Any) -> None:
    counter = treadle.Guarded(0)

    with pytest.raises(treadle.WrongType):
        counter.update(wrong)
    with pytest.raises(treadle.WrongType):
        counter.wait_for(wrong)
    with counter as c, pytest.raises(treadle.WrongType):
        c.wait_for(wrong)


# Handles


def test_a_handle_is_dead_after_its_block() -> None:
    counter = treadle.Guarded(0, name="counter")
    with counter as c:
        pass

    def write() -> None:
        c.value = 1

    for use in (lambda: c.value, write, lambda: c.wait_for(bool)):
        with pytest.raises(
            treadle.NotHeld, match="used after its block, without the Lock 'counter' made at .*test_guarded"
        ):
            use()
    assert counter.copy() == 0


def test_a_handle_of_an_earlier_block_is_dead_in_a_later_one() -> None:
    counter = treadle.Guarded(0)
    with counter as earlier:
        pass

    with counter, pytest.raises(treadle.NotHeld):
        earlier.value = 1


def test_a_handle_is_of_no_use_in_another_thread() -> None:
    counter = treadle.Guarded(0)

    with counter as c:
        error = Aside(lambda: c.value).error()

    assert isinstance(error, treadle.NotHeld)
    assert "in a thread that is not in its block" in str(error)


def test_to_enter_twice_in_one_thread_is_a_deadlock_told_at_once() -> None:
    counter = treadle.Guarded(0)

    with counter as c:
        for enter in (counter.copy, lambda: counter.set(1), lambda: counter.wait_for(bool), counter.__enter__):
            with pytest.raises(treadle.Deadlock, match="already; in a block of a Guarded use its handle"):
                enter()
        c.value = 2

    assert counter.copy() == 2
    assert_free(counter)


def test_a_function_that_uses_the_value_it_updates_is_told() -> None:
    counter = treadle.Guarded(0)

    with pytest.raises(treadle.Deadlock):
        counter.update(lambda value: value + counter.copy())

    assert counter.copy() == 0


def test_to_wait_in_its_own_block_is_a_deadlock_whatever_time_there_is() -> None:
    """``wait_for()`` of the handle gives the lock back, that of the value itself cannot."""
    counter = treadle.Guarded(0)

    with counter, pytest.raises(treadle.Deadlock):
        counter.wait_for(lambda _: True, timeout=3600)


@pytest.mark.parametrize("act", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_is_not_copied_with_its_lock(act: Callable[[Any], Any]) -> None:
    """Both would guard the same list with the same lock, and neither would see what the other sets."""
    with pytest.raises(TypeError, match=r"a treadle.Guarded cannot be copied or pickled"):
        act(treadle.Guarded([]))


def test_two_values_taken_in_both_orders_are_a_deadlock_told_to_the_last() -> None:
    one, other = treadle.Guarded(1), treadle.Guarded(2)
    first_inside = threading.Event()

    def first() -> None:
        with one:
            first_inside.set()
            wait_until(other._lock.locked)
            with other:
                pass

    aside = Aside(first)
    assert first_inside.wait(PATIENCE_SECONDS)
    with other:
        wait_until(lambda: bool(other._lock._line))
        with pytest.raises(treadle.Deadlock):
            one.copy()
    aside.value()
    assert_free(one)
    assert_free(other)


def test_repr_waits_for_nothing_and_shows_no_value() -> None:
    guarded = treadle.Guarded("secret", name="vault")

    with guarded as handle:
        assert "secret" not in repr(guarded) + repr(handle)
        assert "Lock 'vault' made at" in repr(guarded)


# Waiting for a change


def test_wait_for_returns_at_once_if_it_is_so() -> None:
    counter = treadle.Guarded(3)

    counter.wait_for(lambda value: value == 3, timeout=0)
    with counter as c:
        c.wait_for(lambda value: value == 3, timeout=0)

    assert_free(counter)


@pytest.mark.parametrize("way", ["block", "update", "set"])
def test_wait_for_sees_each_kind_of_change(way: str) -> None:
    counter = treadle.Guarded([0])
    aside = waiting(counter, counter.wait_for, lambda value: value[0] == 2)

    for number in (1, 2):
        if way == "block":
            with counter as c:
                c.value[0] = number
        elif way == "update":
            counter.update(lambda value, number=number: [number])  # type: ignore[misc]
        else:
            counter.set([number])

    aside.value()
    assert_free(counter)


def test_wait_for_in_a_block_gives_the_lock_back_and_has_it_again_at_the_end() -> None:
    basket = treadle.Guarded[list[str]]([])

    def take() -> str:
        with basket as b:
            b.wait_for(lambda fruit: fruit)
            assert basket._lock.locked()
            return b.value.pop()

    taking = [waiting(basket, take) for _ in range(3)]
    for fruit in ("apple", "pear", "plum"):
        with basket as b:
            b.value.append(fruit)

    assert sorted(aside.value() for aside in taking) == ["apple", "pear", "plum"]
    assert_free(basket)


def test_what_a_block_changed_before_it_waits_is_seen_by_others() -> None:
    """They would wait for each other for ever."""
    turn = treadle.Guarded(0)

    def second() -> None:
        with turn as t:
            t.wait_for(lambda value: value == 1)
            t.value = 2

    aside = waiting(turn, second)
    with turn as t:
        t.value = 1
        t.wait_for(lambda value: value == 2, timeout=PATIENCE_SECONDS)

    aside.value()
    assert_free(turn)


def test_those_who_wait_in_vain_do_not_keep_each_other_awake() -> None:
    looks = treadle.Guarded[list[str]]([])
    seen: list[str] = []

    def never(name: str) -> Callable[[object], bool]:
        return lambda _: seen.append(name) is not None  # type: ignore[func-returns-value]

    def in_block() -> None:
        with looks as handle:
            handle.wait_for(never("inside"))

    asides = [waiting(looks, in_block), waiting(looks, in_block), waiting(looks, looks.wait_for, never("outside"))]
    wait_until(lambda: len(seen) >= 3)
    looks.set([])
    wait_until(lambda: seen.count("inside") >= 4 and seen.count("outside") >= 2)
    for aside in asides:
        aside.cancel()
        assert isinstance(aside.error(), treadle.Cancelled)

    assert len(seen) <= 20, "each change, and each of their ends, is looked at once by each"
    assert_free(looks)


@pytest.mark.parametrize("in_block", [False, True])
def test_a_predicate_that_raises_ends_the_wait(in_block: bool) -> None:
    counter = treadle.Guarded(0)

    def wait() -> None:
        if not in_block:
            counter.wait_for(lambda value: 1 // (1 - value))
            return
        with counter as c:
            c.wait_for(lambda value: value and 1 // (1 - value))

    if not in_block:
        counter.set(1)
        aside = Aside(wait)
    else:
        aside = waiting(counter, wait)
        counter.set(1)

    assert isinstance(aside.error(), ZeroDivisionError)
    assert_free(counter)


@pytest.mark.parametrize("in_block", [False, True])
def test_a_wait_that_is_out_of_time_raises(in_block: bool) -> None:
    counter = treadle.Guarded(0)

    def is_one(value: int) -> bool:
        return value == 1

    def wait() -> int:
        if not in_block:
            counter.wait_for(is_one, 5)
            return -1
        with counter as c:
            try:
                c.wait_for(is_one, 5)
            except TimeoutError:
                c.value = 7  # the lock is held again
                raise
            return -1

    with ManualClock() as clock:
        aside = Aside(wait)
        clock.wait_for_sleepers()
        clock.advance(5)
        error = aside.error()

    assert isinstance(error, TimeoutError)
    assert str(error) == "is_one(value) did not hold in time"
    assert counter.copy() == (7 if in_block else 0)
    assert_free(counter)


def test_the_wait_for_the_lock_counts_in_the_timeout(gate: Gate) -> None:
    counter = treadle.Guarded(0, name="counter")

    def hold() -> None:
        with counter:
            gate.hold()

    holding = Aside(hold)
    gate.wait_for_arrivals()
    with ManualClock() as clock:
        aside = Aside(counter.wait_for, bool, 5)
        clock.wait_for_sleepers()
        clock.advance(5)
        error = aside.error()
    gate.open()

    holding.value()
    assert isinstance(error, TimeoutError)
    assert "was not free in time" in str(error)


@pytest.mark.parametrize("timeout", [-1, "5"])
def test_a_timeout_is_checked(timeout: Any) -> None:
    counter = treadle.Guarded(1)

    with pytest.raises(treadle.InvalidArgument, match="timeout must be"):
        counter.wait_for(bool, timeout)


def test_a_cancelled_wait_in_a_block_has_the_lock_when_it_ends() -> None:
    """What tidies up in the block believes that it holds the lock; so a cancellation does not shorten that wait."""
    counter = treadle.Guarded(0)

    def wait() -> None:
        with counter as c:
            try:
                c.wait_for(lambda value: value == 100)
            finally:
                c.value = int(c.value) + 1

    aside = waiting(counter, wait)
    with counter as c:
        aside.cancel()
        wait_until(lambda: bool(counter._lock._line))
        c.value = 10

    assert isinstance(aside.error(), treadle.Cancelled)
    assert counter.copy() == 11
    assert_free(counter)


def test_a_cancelled_wait_for_the_block_has_nothing(gate: Gate) -> None:
    counter = treadle.Guarded(0)

    def hold() -> None:
        with counter:
            gate.hold()

    holding = Aside(hold)
    gate.wait_for_arrivals()
    updating = Aside(counter.update, lambda value: value + 1)
    wait_until(lambda: bool(counter._lock._line))

    updating.cancel()

    assert isinstance(updating.error(), treadle.Cancelled)
    gate.open()
    holding.value()
    assert counter.copy() == 0
    assert_free(counter)


def test_a_deadlock_over_a_lock_that_is_to_come_back_is_told() -> None:
    """One waits to have it again with ``outer`` held; the other holds it, and waits for ``outer``."""
    outer, counter = treadle.Lock(), treadle.Guarded(0)

    def wait() -> None:
        with outer, counter as c:
            c.wait_for(lambda value: value == 1)

    aside = waiting(counter, wait)
    with counter as c:
        c.value = 1
        aside.cancel()  # now it wants the lock
        wait_until(lambda: bool(counter._lock._line))
        with pytest.raises(treadle.Deadlock):
            outer.acquire()

    assert isinstance(aside.error(), treadle.Cancelled)
    assert_free(counter)


def test_a_block_that_did_not_get_its_lock_back_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = treadle.Guarded(0)

    def refuse(count: int) -> None:
        raise treadle.Deadlock("no")

    monkeypatch.setattr(type(counter._lock), "_acquire_restore", lambda self, count: refuse(count))
    with pytest.raises(treadle.Deadlock), counter as c:
        c.wait_for(bool, timeout=0.001)
    monkeypatch.undo()

    with pytest.raises(treadle.NotHeld):
        c.value = 1
    assert_free(counter)


def test_ctrl_c_ends_a_wait_in_the_main_thread() -> None:
    process = start_program("""
        import threading, treadle
        counter = treadle.Guarded(0)
        def tell():
            while not counter._waiting:
                pass
            print("waiting", flush=True)
        threading.Thread(target=tell).start()
        try:
            with counter as c:
                c.wait_for(lambda value: value == 1)
        except KeyboardInterrupt:
            print("interrupted", counter._lock.locked(), len(counter._waiting))
        print(counter.update(lambda value: value + 1))
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"

    process.send_signal(signal.SIGINT)

    status, out, err = finish(process)
    assert (status, out) == (0, "interrupted False 0\n1\n"), err


def test_an_interrupted_update_is_made_or_not_and_seen_by_those_who_wait() -> None:
    def prepare() -> tuple[Callable[[], object], Callable[[], None]]:
        counter = treadle.Guarded(0)
        aside = waiting(counter, counter.wait_for, lambda value: value == 1)

        def check() -> None:
            assert not counter._lock._is_owned()
            assert counter._handle is None
            if counter._value == 0:
                counter.set(1)
            aside.value()

        return lambda: counter.update(lambda value: value + 1), check

    interrupt_everywhere(prepare)


@pytest.mark.usefixtures("switching")
def test_no_change_is_missed_by_those_who_take_turns() -> None:
    """Each thread waits for its number, and makes it the next one's: one change missed, and all wait for ever."""
    turn, threads, rounds = treadle.Guarded(0), 4, 50

    def play(number: int) -> None:
        for mine in range(number, rounds * threads, threads):
            with turn as t:
                t.wait_for(partial(operator.eq, mine))
                t.value += 1

    playing = [Aside(play, number) for number in range(threads)]
    turn.wait_for(lambda value: value == threads * rounds, timeout=60)

    for aside in playing:
        aside.value()
    assert_free(turn)


def test_the_value_outside_of_a_block_says_where_it_is() -> None:
    """An assignment would otherwise make an attribute that nobody reads."""
    counter: Any = treadle.Guarded(0)

    with pytest.raises(AttributeError, match="in a block"):
        counter.value = 3
    with pytest.raises(AttributeError, match="in a block"):
        counter.value += 1

    assert counter.copy() == 0
