"""``Lock`` and ``RLock``: what they share with threading's, and the deadlocks that they tell of."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, TypeAlias

import pytest

import treadle
from tests.calls import FOR_EVER_SECONDS
from tests.conftest import PATIENCE_SECONDS
from tests.interrupts import Interrupted
from tests.others import Other, wait_until_it_waits
from tests.places import wait_until
from tests.programs import finish, start_program
from treadle._sync import locks, wait_graph
from treadle._sync.parker import Parker

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


def test_locks_that_one_line_has_made_are_told_apart() -> None:
    first, second = (treadle.Lock() for _ in range(2))
    other, go_on = start_with(second, first)

    with pytest.raises(treadle.Deadlock) as caught, first:
        go_on.set()
        other.wait_until_it_waits()
        second.acquire()
    other.join()

    mine, others = caught.value.threads
    assert re.search(r"holds Lock made at .*:\d+ \(no\. 2\)\n  waits for Lock made at .*:\d+ \(no\. 1\)\n", mine)
    assert re.search(r"holds Lock made at .*:\d+ \(no\. 1\)\n  waits for Lock made at .*:\d+ \(no\. 2\)(\n|$)", others)


def test_three_threads_in_a_circle() -> None:
    three = [treadle.Lock(name) for name in "abc"]
    second, go_second = start_with(three[1], three[2], "second")
    third, go_third = start_with(three[2], three[0], "third")

    with pytest.raises(treadle.Deadlock, match="3 threads") as caught, three[0]:
        for other, go_on in ((second, go_second), (third, go_third)):
            go_on.set()
            other.wait_until_it_waits()
        three[1].acquire()

    assert [re.match(r"thread '(\w+)'", text)[1] for text in caught.value.threads] == ["MainThread", "second", "third"]  # type: ignore[index]
    assert second.join().value == third.join().value == "had both"


def test_a_chain_of_many_threads() -> None:
    """As long as it likes: the search does not go deeper with each."""
    many = [treadle.Lock() for _ in range(200)]
    others = [start_with(*pair) for pair in zip(many[1:], [*many[2:], many[0]], strict=True)]

    with pytest.raises(treadle.Deadlock, match="200 threads"), many[0]:
        for other, go_on in others:
            go_on.set()
            other.wait_until_it_waits()
        many[1].acquire()

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


# Waits that end otherwise


def test_a_cancelled_waiter_leaves_and_takes_nothing_with_it() -> None:
    lock = treadle.Lock()

    with treadle.TaskGroup() as group:
        with lock:
            first, second = group.submit(take, lock), group.submit(take, lock)
            wait_until(lambda: len(wait_graph._waits) == 2)
            first.cancel()
            wait_until(first.done)
        assert second.result() == "taken"

    assert first.cancelled()
    assert lock._line == []


def test_whoever_was_woken_and_gives_up_wakes_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wake-up of one that is cancelled in that moment is not lost."""
    monkeypatch.setattr(locks, "LOOK_UP_SECONDS", FOR_EVER_SECONDS)
    lock = treadle.Lock()
    lock.acquire()
    others = [Other(lambda: take(lock)) for _ in range(2)]
    wait_until(lambda: len(lock._line) == 2)
    first = lock._line[0]
    given_up = treadle.Lock._take
    is_first_gone = threading.Event()

    def give_up_once(self: treadle.Lock) -> bool:
        if self._line and self._line[0] is first and not is_first_gone.is_set() and not self.locked():
            is_first_gone.set()
            raise treadle.Cancelled
        return given_up(self)

    treadle.Lock._take = give_up_once  # type: ignore[method-assign]
    try:
        lock.release()
        ends = sorted(str(other.join().value) for other in others)
    finally:
        treadle.Lock._take = given_up  # type: ignore[method-assign]

    assert ends == ["None", "taken"]


def test_conditions_are_reacquired_in_a_cancelled_call() -> None:
    """Whoever comes back from ``wait`` holds the lock, cancelled or not, and feels it at the next wait."""
    lock = treadle.RLock()
    condition = threading.Condition(lock)  # type: ignore[arg-type]  # typeshed wants threading's own
    waits, seen = threading.Event(), []

    def wait() -> None:
        with condition, condition:
            waits.set()
            condition.wait(PATIENCE_SECONDS)
            seen.append(lock._is_owned())
            treadle.check_cancelled()

    with treadle.TaskGroup() as group:
        task = group.submit(wait)
        assert waits.wait(PATIENCE_SECONDS)
        with condition:
            task.cancel()
            condition.notify()
            wait_until(lambda: bool(lock._line))

    assert seen == [True]
    assert task.cancelled()
    assert not lock.locked()


@each_kind
def test_a_condition_works(make: Callable[[], AnyLock]) -> None:
    condition, items = threading.Condition(make()), list[int]()  # type: ignore[arg-type]  # typeshed wants threading's own

    def get() -> int:
        with condition:
            assert condition.wait_for(lambda: bool(items), PATIENCE_SECONDS)
            return items.pop()

    others = [Other(get) for _ in range(3)]
    for number in range(3):
        with condition:
            items.append(number)
            condition.notify()

    assert sorted(other.join().value for other in others) == [0, 1, 2]
    with pytest.raises(RuntimeError):
        condition.notify()


@each_kind
def test_a_thread_that_has_died_with_the_lock_in_hand(make: Callable[[], AnyLock]) -> None:
    lock = make()
    Other(lock.acquire).join()

    with pytest.raises(treadle.Deadlock, match=r"has ended while it held the R?Lock made at"):
        lock.acquire()
    assert lock.acquire(timeout=0.01) is False


def test_a_thread_that_dies_with_the_lock_in_hand_while_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """They look up every so often, each for itself."""
    monkeypatch.setattr(locks, "LOOK_UP_SECONDS", 0.01)
    lock, die = treadle.Lock(), threading.Event()
    holder = Other(lambda: lock.acquire() and die.wait(PATIENCE_SECONDS))
    wait_until(lock.locked)
    others = [Other(lambda: take(lock)) for _ in range(3)]
    for other in others:
        other.wait_until_it_waits()

    die.set()
    holder.join()

    assert all(isinstance(other.join().error, treadle.Deadlock) for other in others)


def test_a_long_wait_looks_at_the_holder_often_and_for_a_circle_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands may wait, each for the next: if all of them searched all the time, nothing else would be done."""
    looks: list[object] = []
    searches: list[object] = []
    check, check_holder = wait_graph.Wait.check, locks._OwnedLock._check_holder
    monkeypatch.setattr(locks, "LOOK_UP_SECONDS", 0.0001)
    monkeypatch.setattr(locks._OwnedLock, "_check_holder", lambda lock: looks.append(check_holder(lock)))
    monkeypatch.setattr(wait_graph.Wait, "check", lambda wait: searches.append(check(wait)))
    lock = treadle.Lock()

    with lock:
        other = Other(lambda: lock.acquire())
        wait_until(lambda: len(looks) >= 200)
        assert len(searches) <= 10

    other.join()


@each_kind
def test_a_condition_that_cannot_have_its_lock_back_does_not_hide_why(make: Callable[[], AnyLock]) -> None:
    """The block is left by the deadlock, and not by an error of the lock that there is nothing to give back."""
    lock, other = make(), treadle.Lock("other")

    with pytest.raises(treadle.Deadlock), other, lock:
        state = lock._release_save()  # as Condition.wait() does it
        rival, go_on = start_with(lock, other)
        go_on.set()
        rival.wait_until_it_waits()
        lock._acquire_restore(state)

    assert rival.join().value == "had both"


@pytest.mark.parametrize("act", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("make", KINDS)
def test_a_lock_is_not_copied(make: Callable[[], AnyLock], act: Callable[[Any], Any]) -> None:
    """Two that share a half of what they are would keep nobody out."""
    with pytest.raises(TypeError, match=f"a treadle.{make.__name__} cannot be copied or pickled"):
        act(make())


def test_ctrl_c_ends_the_wait_of_the_main_thread() -> None:
    lock, main = treadle.Lock(), threading.main_thread().ident or 0
    release = threading.Event()

    def hold() -> None:
        with lock:
            assert release.wait(PATIENCE_SECONDS)

    holder = Other(hold)
    wait_until(lock.locked)

    def interrupt() -> None:
        wait_until_it_waits(main)
        signal.pthread_kill(main, signal.SIGINT)

    interrupter = Other(interrupt)
    with Interrupted():
        lock.acquire()
    interrupter.join()
    release.set()
    holder.join()

    assert take(lock) == "taken"


# In the middle of it


def test_a_signal_handler_that_waits_for_a_lock_while_its_thread_waits_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its wait stands in the graph in the place of the one it has interrupted, and gives the place back."""
    monkeypatch.setattr(locks, "LOOK_UP_SECONDS", FOR_EVER_SECONDS)
    outer, inner, main = treadle.Lock("outer"), treadle.Lock("inner"), threading.main_thread().ident or 0
    seen: list[str] = []

    def handle(*_: object) -> None:
        with inner:
            seen.append("handler")

    def hold() -> None:
        with outer:
            with inner:
                have.set()
                wait_until_it_waits(main)
                before = wait_graph._waits[main]
                signal.pthread_kill(main, signal.SIGUSR1)
                wait_until(lambda: wait_graph._waits[main] is not before)
            wait_until(lambda: wait_graph._waits.get(main) is before)

    have = threading.Event()
    handler = signal.signal(signal.SIGUSR1, handle)
    try:
        other = Other(hold)
        assert have.wait(PATIENCE_SECONDS)
        with outer:
            seen.append("main")
    finally:
        signal.signal(signal.SIGUSR1, handler)

    assert other.join().error is None
    assert seen == ["handler", "main"]


def test_a_finalizer_that_waits_for_a_lock_in_the_middle_of_a_search() -> None:
    """It runs with the graph's own lock in its thread's hands, and lends it to those it waits for."""
    held, contended = treadle.Lock("held"), treadle.Lock("contended")
    searching, have = threading.Event(), threading.Barrier(3)
    searches: list[int] = []

    class Interrupted:
        """What is waited for; its search is interrupted, as by a finalizer that a garbage collection runs."""

        verb: ClassVar[str] = "holds"

        def holders(self) -> wait_graph.Needs:
            searches.append(len(searches))
            if len(searches) == 1:
                searching.set()
                with held:
                    pass
            return wait_graph.GOES_ON

        def describe(self) -> str:
            return "something"

    def hold() -> str:
        with held:
            have.wait(PATIENCE_SECONDS)
            assert searching.wait(PATIENCE_SECONDS)
            return take(contended)

    def contend() -> None:
        with contended:
            have.wait(PATIENCE_SECONDS)
            holder.wait_until_it_waits()  # which takes the graph's lock

    holder = Other(hold)
    contender = Other(contend)
    have.wait(PATIENCE_SECONDS)
    with wait_graph.Wait(Interrupted(), Parker()) as wait:
        assert wait.find_circle() == []

    assert len(searches) > 1, "it looks again, as much may have changed"
    assert holder.join().value == "taken"
    assert contender.join().error is None


def test_an_interrupt_right_after_it_was_taken_gives_it_back() -> None:
    """Where Ctrl-C comes between taking it and noting so, nobody else would ever get it."""
    for make in KINDS:
        lock: Any = make()
        take_it = lock._try

        def take_and_be_interrupted(blocking: bool, take_it: Callable[[bool], bool] = take_it) -> bool:
            take_it(blocking)
            raise KeyboardInterrupt

        for acquire in (lock.acquire, lock.__enter__):
            lock._try = take_and_be_interrupted
            with pytest.raises(KeyboardInterrupt):
                acquire()
            assert not lock.locked()
            lock._try = take_it
            with lock:
                lock._try = take_and_be_interrupted
                with pytest.raises(KeyboardInterrupt):
                    acquire()
                lock._try = take_it
                assert lock._state()[1] == 1
            assert not lock.locked()


def test_a_block_left_on_another_thread_gives_nothing_back() -> None:
    """As a generator may do it."""
    lock = treadle.Lock()

    def block() -> Iterator[None]:
        with lock:
            yield

    entered = block()
    next(entered)
    assert isinstance(Other(lambda: next(entered, None)).join().error, RuntimeError)

    with pytest.raises(treadle.Deadlock):
        lock.acquire()
    lock.release()
    assert Other(lambda: take(lock)).join().value == "taken"


def test_whoever_has_it_but_stands_in_the_graph_still_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between getting a lock and taking back its wait, a thread looks as if it waited for itself."""
    mine, yours = treadle.Lock("mine"), treadle.Lock("yours")
    has_it, go_on, main = threading.Event(), threading.Event(), threading.main_thread().ident or 0
    take_back = wait_graph.Wait._take_back

    def take_back_late(self: wait_graph.Wait) -> None:
        if self.awaited is yours:
            has_it.set()
            assert go_on.wait(PATIENCE_SECONDS)
        take_back(self)

    monkeypatch.setattr(wait_graph.Wait, "_take_back", take_back_late)
    yours.acquire()
    other, start = start_with(mine, yours)
    start.set()
    other.wait_until_it_waits()
    yours.release()
    assert has_it.wait(PATIENCE_SECONDS)

    def let_it() -> None:
        wait_until_it_waits(main)
        go_on.set()

    helper = Other(let_it)
    with mine:
        assert other.join().value == "had both"
    helper.join()


def test_a_circle_that_is_another_at_the_second_look_is_none() -> None:
    me, looks = threading.get_ident(), [(any, (threading.get_ident(),)), wait_graph.GOES_ON, wait_graph.GOES_ON]

    class Changing:
        verb: ClassVar[str] = "holds"

        def holders(self) -> wait_graph.Needs:
            return looks.pop(0)

        def describe(self) -> str:
            return "something"

    with wait_graph.Wait(Changing(), Parker()) as wait:
        assert wait.find_circle() == []
    assert me not in wait_graph._waits


def test_one_that_was_cancelled_but_has_not_left_yet_is_not_stuck() -> None:
    mine, yours, main = treadle.Lock("mine"), treadle.Lock("yours"), threading.main_thread().ident or 0

    def hold_and_wait() -> None:
        with mine, yours:
            pass

    with treadle.PoolExecutor() as pool, yours:
        task = pool.submit(hold_and_wait)
        wait_until(lambda: bool(wait_graph._waits))
        scope = task._chunk.own_scope()  # type: ignore[union-attr]
        scope.mark("it was cancelled")  # and not woken yet

        def let_it() -> None:
            wait_until_it_waits(main)
            scope.wake()

        helper = Other(let_it)
        with mine:
            helper.join()


def test_a_lock_that_is_held_in_a_forked_child_by_nobody() -> None:
    """Threads do not come along: who waits for one of theirs is told, and what the child holds it holds."""
    program = """
        import os, threading, treadle
        from treadle._sync import locks
        locks.LOOK_UP_SECONDS = 1000.0
        theirs, mine, free = treadle.Lock(), treadle.RLock(), treadle.Lock()
        held, end = threading.Event(), threading.Event()
        def hold():
            with theirs:
                held.set()
                end.wait()
        def wait():
            with mine: pass
        thread = threading.Thread(target=hold); thread.start(); held.wait()
        with mine:
            waiter = threading.Thread(target=wait); waiter.start()
            while not mine._line: pass
            if (child := os.fork()) == 0:
                try:
                    theirs.acquire()
                except treadle.Deadlock as error:
                    assert "has ended while it held" in str(error)
                    theirs._at_fork_reinit()
                    with theirs, free, mine: pass
                    mine.release()
                    got = []
                    mine.acquire()
                    late = threading.Thread(target=lambda: [wait(), got.append(1)]); late.start()
                    while len(mine._line) < 2: pass
                    mine.release()
                    late.join(10)
                    os._exit(0 if got else 3)
                os._exit(4)
            status = os.waitpid(child, 0)[1]
        end.set(); thread.join(); waiter.join()
        print(os.waitstatus_to_exitcode(status))
    """
    assert finish(start_program(program))[:2] == (0, "0\n")


# Many at once


def run_at_once(work: Callable[[random.Random], object], seed: int) -> None:
    """Run four threads with seeds of their own, which take turns as often as can be."""
    print("seed", seed)

    def start(number: int) -> Other:
        own = random.Random(4 * seed + number)
        return Other(lambda: work(own))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        others = [start(number) for number in range(4)]
        for other in others:
            other.thread.join(60)
            assert other.join().error is None, other.error
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("seed", range(3))
def test_no_deadlock_is_made_up(seed: int) -> None:
    """Threads that take locks in one order, or out of order without waiting for ever, never hang in a circle."""
    many: list[AnyLock] = [treadle.Lock() if number % 2 else treadle.RLock() for number in range(5)]

    def work(own: random.Random) -> None:
        for _ in range(500):
            first, second, third = sorted(own.sample(range(5), 3))
            with many[first], many[second]:
                chance = own.random()
                if chance < 0.6:
                    with many[third]:
                        pass
                else:
                    other = many[own.randrange(5)]
                    if other.acquire(False) if chance < 0.8 else other.acquire(timeout=own.random() / 1000):
                        other.release()

    run_at_once(work, seed)

    assert not any(lock.locked() for lock in many)


@pytest.mark.parametrize("seed", range(3))
def test_no_deadlock_goes_unseen(seed: int) -> None:
    """Threads that take locks in any order, and start over when told, all come to their end."""
    many: list[AnyLock] = [treadle.Lock() if number % 2 else treadle.RLock() for number in range(4)]

    def work(own: random.Random) -> None:
        for _ in range(500):
            first, second = own.sample(range(4), 2)
            with contextlib.suppress(treadle.Deadlock), many[first], many[second]:
                pass

    run_at_once(work, seed)

    assert not any(lock.locked() for lock in many)


@each_kind
def test_whoever_tries_again_after_a_deadlock_gets_on(make: Callable[[], AnyLock]) -> None:
    """A thread that was told, and took its first lock again before the others ran, would be told for ever."""
    a, b = make(), make()
    finished: list[bool] = []
    told: list[treadle.Deadlock] = []

    def work(first: AnyLock, second: AnyLock) -> None:
        for _ in range(5):
            while True:
                try:
                    with first:
                        wait_until(lambda: second.locked() or bool(finished))
                        with second:
                            break
                except treadle.Deadlock as error:
                    told.append(error)
        finished.append(True)

    for other in [Other(partial(work, *pair)) for pair in ((a, b), (b, a))]:
        assert other.join().error is None

    assert len(told) < 100, "thousands of times, that is"
