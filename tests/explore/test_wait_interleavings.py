"""What all waits stand on - scopes, parkers, timers - and the limiter, whatever the order of their steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise

import pytest

import treadle
from tests.explore.conftest import Search, at_once
from treadle._core import clock
from treadle._core.cancellation import Registration, Scope
from treadle._core.chunk import Chunk
from treadle._sync import limiter as limiter_module
from treadle._sync import timekeeper
from treadle._sync.cancelling import entered, on_cancel, wait
from treadle._sync.limiter import Limiter
from treadle._sync.parker import Parker
from treadle._sync.places import Place, leave_line, stand_in_line
from treadle._sync.timekeeper import Timekeeper


def a_wake_up_beside_a_wait() -> None:
    parker, items = Parker(), list[int]()

    def get() -> None:
        while not items:
            parker.wait()

    def put() -> None:
        items.append(1)
        parker.wake()

    at_once(get, put, put)


def test_a_wake_up_is_kept_for_a_wait_that_has_not_begun(search: Search) -> None:
    search(a_wake_up_beside_a_wait)


def test_it_is_found_out_if_a_wake_up_is_not_kept(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(parker: Parker, seconds: float | None = None) -> bool:
        parker._permit.acquire(blocking=False)  # "an old one"
        return parker._permit.acquire()

    monkeypatch.setattr(Parker, "wait", wait)

    find(a_wake_up_beside_a_wait)


def a_call_that_asks_while_it_is_cancelled() -> None:
    """The call makes its scope when it first asks; who cancels may look for it in that moment."""
    chunk, parker = Chunk(0, [1], []), Parker()

    def call() -> None:
        with suppress(treadle.Cancelled), chunk.own_scope().waking(parker.wake):
            parker.wait()

    def cancel() -> None:
        if (scope := chunk.mark_cancelled()) is not None:
            scope.cancel("it was cancelled")

    at_once(call, cancel)


def test_a_call_feels_its_cancellation_whenever_it_asks(search: Search) -> None:
    search(a_call_that_asks_while_it_is_cancelled)


def test_it_is_found_out_if_one_looks_for_the_scope_before_the_mark(
    find: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mark_cancelled(chunk: Chunk) -> Scope | None:
        scope = chunk.scope
        chunk.is_cancelled = True
        return scope

    monkeypatch.setattr(Chunk, "mark_cancelled", mark_cancelled)

    find(a_call_that_asks_while_it_is_cancelled)


def test_it_is_found_out_if_the_call_asks_before_it_shows_its_scope(
    find: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own_scope(chunk: Chunk) -> Scope:
        scope = Scope()
        if chunk.is_cancelled:
            scope.flag("it was cancelled")
        chunk.scope = scope
        return scope

    monkeypatch.setattr(Chunk, "own_scope", own_scope)

    find(a_call_that_asks_while_it_is_cancelled)


def a_callback_beside_two_cancellations() -> None:
    scope, runs, left = Scope(), list[int](), list[int]()

    def call() -> None:
        with entered(scope), on_cancel(runs.append, 1):
            pass
        left.extend(runs)

    at_once(call, lambda: scope.cancel("one"), lambda: scope.cancel("another"))

    assert len(runs) <= 1, "it is called at most once"
    assert left == runs, "it has ended when the block is left, and is not called after that"


def test_a_callback_runs_once_and_not_after_its_block(search: Search) -> None:
    search(a_callback_beside_two_cancellations)


def test_it_is_found_out_if_the_end_of_a_callback_is_not_awaited(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registration, "wait_until_over", lambda _: None)

    find(a_callback_beside_two_cancellations)


def a_callback_for_a_block_that_stays() -> None:
    """Whoever adds it, and whoever cancels: one of them runs it."""
    scope, runs = Scope(), list[int]()
    at_once(lambda: scope.add(lambda: runs.append(1)), lambda: scope.cancel("it was cancelled"))
    assert runs == [1]


def test_a_callback_is_not_forgotten(search: Search) -> None:
    search(a_callback_for_a_block_that_stays)


def timers_that_come_and_go() -> None:
    """The thread leaves when there is no timer; the next may come in that moment."""
    done = [Parker(), Parker()]
    for parker in done:
        now = clock.now()
        unwanted = timekeeper.call_at(now + 1000, lambda: None)
        timekeeper.call_at(now, parker.wake)
        parker.wait()
        unwanted.cancel()
        assert clock.now() < now + 1000, "it was late"


def test_a_timer_is_kept_whenever_it_comes(search: Search) -> None:
    search(timers_that_come_and_go)


def timers_from_two_threads() -> None:
    order: list[int] = []
    now, done = clock.now(), [Parker() for _ in range(2)]

    def ask(number: int) -> None:
        def note() -> None:
            order.append(number)
            done[number - 1].wake()

        timekeeper.call_at(now + number, note)
        done[number - 1].wait()

    at_once(lambda: ask(2), lambda: ask(1))
    assert order in ([1, 2], [2, 1])


def test_the_earliest_timer_is_not_kept_waiting_by_a_later_one(search: Search) -> None:
    search(timers_from_two_threads)


def test_it_is_found_out_if_the_timekeeper_leaves_without_a_last_look(
    find: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Timekeeper, "_has_arrivals", lambda _: False)

    find(timers_that_come_and_go)


def test_it_is_found_out_if_the_timekeeper_sleeps_without_a_last_look(
    find: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep_badly(keeper: Timekeeper, parker: Parker) -> None:
        if keeper._heap:
            keeper._sleeps_until = when = keeper._heap[0][0]
            parker.wait(when - clock.now())
            keeper._sleeps_until = -math.inf

    monkeypatch.setattr(Timekeeper, "_sleep", sleep_badly)

    find(timers_that_come_and_go)


def three_at_a_gate_for_one(count: int = 3) -> None:
    limiter, inside = Limiter(max_concurrent=1), list[int]()

    def enter(number: int) -> None:
        with limiter:
            inside.append(number)
            assert inside == [number], "one at a time"
            inside.remove(number)

    at_once(*(lambda number=number: enter(number) for number in range(count)))


def test_a_limiter_lets_no_more_in_and_forgets_nobody(search: Search) -> None:
    search(three_at_a_gate_for_one)


def test_it_is_found_out_if_a_place_is_given_back_in_silence(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "_wake_first", lambda _: None)

    find(three_at_a_gate_for_one)


def test_it_is_found_out_if_a_limiter_looks_without_its_lock(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_place(limiter: Limiter, place: Place) -> bool:
        if limiter._is_full(place.state):
            stand_in_line(place)
            return False
        place.state.lock.release()
        place.state.lock.acquire()
        place.state.holders.add(place)
        leave_line(place)
        return True

    monkeypatch.setattr(Limiter, "_take_place", take_place)

    find(lambda: three_at_a_gate_for_one(2), schedules=20_000)  # one in some 2,000 shows it


def a_waiter_at_the_gate_is_cancelled() -> None:
    limiter, scope, entered_by = Limiter(max_concurrent=1), Scope(), list[str]()

    def cancelled_one() -> None:
        with suppress(treadle.Cancelled), entered(scope), limiter:
            entered_by.append("the cancelled one")

    def other() -> None:
        with limiter:
            entered_by.append("the other")

    at_once(other, cancelled_one, lambda: scope.cancel("it was cancelled"), other)

    assert entered_by.count("the other") == 2
    state = limiter._state()
    assert [*state.holders, *state.line, *state.turns] == []


def test_a_cancelled_waiter_passes_its_wake_up_on(search: Search) -> None:
    search(a_waiter_at_the_gate_is_cancelled)


def test_it_is_found_out_if_it_keeps_its_wake_up(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Limiter._drop

    def drop_in_silence(limiter: Limiter, place: Place) -> None:
        if place.has_passed:
            drop(limiter, place)
            return
        with place.state.lock:
            place.state.turns.pop(place, None)
            place.state.holders.discard(place)
            leave_line(place)

    monkeypatch.setattr(Limiter, "_drop", drop_in_silence)

    find(a_waiter_at_the_gate_is_cancelled)


def calls_at_a_rate() -> None:
    limiter, begun = Limiter(max_per_second=10), list[float]()

    def enter() -> None:
        with limiter:
            begun.append(clock.now())

    at_once(enter, enter, enter)

    begun.sort()
    assert all(later - earlier > 0.099 for earlier, later in pairwise(begun))


def test_a_rate_is_kept_however_late_threads_are(search: Search) -> None:
    search(calls_at_a_rate)


def a_wait_that_is_cancelled() -> None:
    scope, parker = Scope(), Parker()

    def call() -> None:
        with entered(scope), suppress(treadle.Cancelled):
            wait(parker)

    at_once(call, lambda: scope.cancel("it was cancelled"))


def test_a_wait_feels_a_cancellation_that_comes_as_it_begins(search: Search) -> None:
    search(a_wait_that_is_cancelled)


def test_it_is_found_out_if_a_wait_asks_before_it_can_be_woken(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def waking(scope: Scope, wake: Callable[[], object]) -> Iterator[None]:
        scope.check()
        scope._wakers[id(wake)] = wake
        yield
        scope.check()

    monkeypatch.setattr(Scope, "waking", waking)

    find(a_wait_that_is_cancelled)
