"""``Lock`` and ``RLock``: what they share with threading's, and the deadlocks that they tell of."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS
from tests.others import Other
from treadle._sync import wait_graph

AnyLock: TypeAlias = treadle.Lock | treadle.RLock
KINDS = [treadle.Lock, treadle.RLock]
each_kind = pytest.mark.parametrize("make", KINDS)


@pytest.fixture(autouse=True)
def _graph_is_empty_after() -> Iterator[None]:
    yield
    assert not wait_graph._waits


def take_both(first: AnyLock, second: AnyLock, have_first: threading.Event, go_on: threading.Event) -> str:
    with first:
        have_first.set()
        assert go_on.wait(PATIENCE_SECONDS)
        with second:
            return "had both"


def start_with(first: AnyLock, second: AnyLock, name: str = "other") -> tuple[Other, threading.Event]:
    """Start a thread that holds ``first`` when this returns, and takes ``second`` when the event is set."""
    have_first, go_on = threading.Event(), threading.Event()
    other = Other(lambda: take_both(first, second, have_first, go_on), name)
    assert have_first.wait(PATIENCE_SECONDS)
    return other, go_on


# As threading's


@each_kind
def test_one_thread_at_a_time(make: Callable[[], AnyLock]) -> None:
    lock, numbers = make(), [0]

    def count() -> None:
        for _ in range(1000):
            with lock:
                numbers[0] = int(numbers[0]) + 1

    for other in [Other(count) for _ in range(4)]:
        assert other.join().error is None

    assert numbers == [4000]
    assert not lock.locked()


@each_kind
def test_it_is_taken_and_given_back(make: Callable[[], AnyLock]) -> None:
    lock = make()

    assert not lock.locked()
    assert lock.acquire() is True
    assert lock.locked()
    assert Other(lambda: lock.acquire(blocking=False)).join().value is False
    assert Other(lambda: lock.acquire(timeout=0.01)).join().value is False
    lock.release()
    assert not lock.locked()


@each_kind
def test_only_its_owner_gives_it_back(make: Callable[[], AnyLock]) -> None:
    lock = make()
    with pytest.raises(RuntimeError):
        lock.release()
    lock.acquire()

    assert isinstance(Other(lock.release).join().error, RuntimeError)

    assert lock.locked()
    assert Other(lambda: lock.acquire(blocking=False)).join().value is False
    lock.release()
    assert Other(lambda: take(lock)).join().value == "taken"


def take(lock: AnyLock) -> str:
    with lock:
        return "taken"


def test_an_rlock_is_free_when_given_back_as_often_as_taken() -> None:
    lock = treadle.RLock()

    with lock:
        assert lock.acquire()
        with lock:
            pass
        lock.release()
        assert lock.locked()
        assert Other(lambda: lock.acquire(blocking=False)).join().value is False

    assert not lock.locked()


@each_kind
@pytest.mark.parametrize(("blocking", "timeout"), [(False, 1), (True, -2), (True, float("nan")), (True, 1e300)])
def test_bad_timeouts_are_refused(make: Callable[[], AnyLock], blocking: bool, timeout: float) -> None:
    with pytest.raises(treadle.InvalidArgument, match="timeout"):
        make().acquire(blocking, timeout)


@each_kind
def test_a_name_is_a_string(make: Callable[..., AnyLock]) -> None:
    with pytest.raises(treadle.WrongType, match="name"):
        make(name=3)

    assert "'stock'" in repr(make(name="stock"))
    assert f"{__file__}:" in repr(make())


# Deadlocks


@pytest.mark.parametrize(("make_a", "make_b"), [(a, b) for a in KINDS for b in KINDS])
def test_two_threads_that_wait_for_each_other(make_a: Callable[[], AnyLock], make_b: Callable[[], AnyLock]) -> None:
    """The last to arrive is told; the other goes on."""
    a, b = make_a(), make_b()
    other, go_on = start_with(b, a)

    with pytest.raises(treadle.Deadlock), a:
        go_on.set()
        other.wait_until_it_waits()
        b.acquire()

    assert other.join().value == "had both"
    assert not a.locked()
    assert not b.locked()


def test_the_message_names_all_that_matters() -> None:
    a, b = treadle.Lock("stock"), treadle.RLock()
    other, go_on = start_with(b, a, name="packer")

    with pytest.raises(treadle.Deadlock) as caught, a:
        go_on.set()
        other.wait_until_it_waits()
        b.acquire()
    other.join()

    error = caught.value
    mine, others = error.threads
    assert re.search(r"thread 'MainThread'\n  holds Lock 'stock' made at .*test_locks\.py:\d+\n", mine)
    assert re.search(r"\n  waits for RLock made at .*test_locks\.py:\d+\n", mine)
    assert "b.acquire()" in mine
    assert "thread 'packer'" in others
    assert "waits for Lock 'stock'" in others
    assert "in take_both" in others or "without a GIL" in others
    assert str(error) == "\n".join([error.reason, mine, others])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_three_threads_in_a_circle() -> None:
    locks = [treadle.Lock(name) for name in "abc"]
    second, go_second = start_with(locks[1], locks[2], "second")
    third, go_third = start_with(locks[2], locks[0], "third")

    with pytest.raises(treadle.Deadlock, match="3 threads") as caught, locks[0]:
        for other, go_on in ((second, go_second), (third, go_third)):
            go_on.set()
            other.wait_until_it_waits()
        locks[1].acquire()

    assert [re.match(r"thread '(\w+)'", text)[1] for text in caught.value.threads] == ["MainThread", "second", "third"]  # type: ignore[index]
    assert second.join().value == third.join().value == "had both"


def test_a_chain_of_many_threads() -> None:
    """As long as it likes: the search does not go deeper with each."""
    locks = [treadle.Lock() for _ in range(200)]
    others = [start_with(*pair) for pair in zip(locks[1:], [*locks[2:], locks[0]], strict=True)]

    with pytest.raises(treadle.Deadlock, match="200 threads"), locks[0]:
        for other, go_on in others:
            go_on.set()
            other.wait_until_it_waits()
        locks[1].acquire()

    assert all(other.join().value == "had both" for other, _ in others)


def test_a_lock_taken_twice_by_one_thread() -> None:
    lock = treadle.Lock("till")

    with lock, pytest.raises(treadle.Deadlock, match="holds the Lock 'till' made at .* already; an RLock can"):
        lock.acquire()

    assert not lock.locked()
    with lock:
        assert lock.acquire(blocking=False) is False
        assert lock.acquire(timeout=0.01) is False
    assert Other(lambda: take(lock)).join().value == "taken"


def test_a_wait_with_a_timeout_is_no_part_of_a_deadlock() -> None:
    """It ends by itself, on either side."""
    a, b = treadle.Lock(), treadle.Lock()
    other, go_on = start_with(b, a)

    with a:
        go_on.set()
        other.wait_until_it_waits()
        assert b.acquire(timeout=0.01) is False

    assert other.join().value == "had both"
