"""Answers that mean "slow down" and come again and again: the gate pauses, and no item pays for it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

import treadle
from tests.places import PLACES, Calls
from treadle._sync.brake import JITTER, LEAST_PAUSE_SECONDS, MOST_PAUSE_SECONDS, MOST_RAMP_SECONDS, Brake
from treadle.testing import ManualClock

FAST = 0.001


class Busy(Exception):
    """What a server says that has enough to do."""


class Window:
    """A server that answers so many requests in each window of so many seconds, by the clock that the test turns."""

    def __init__(self, clock: ManualClock, seconds: float, most: int) -> None:
        self._now, self._start, self._seconds, self._most = clock.now, clock.now(), seconds, most
        self._lock = threading.Lock()
        self.asked: Counter[int] = Counter()

    def ask(self, item: int) -> int:
        window = int((self._now() - self._start) / self._seconds)
        with self._lock:
            self.asked[window] += 1
            if self.asked[window] > self._most:
                raise Busy
        return item

    async def ask_async(self, item: int) -> int:
        return self.ask(item)


@contextmanager
def flying(clock: ManualClock, step: float = 0.02) -> Iterator[None]:
    """Turn the clock on and on while the block runs: whatever waits by it gets there."""
    is_over = threading.Event()

    def turn() -> None:
        while not is_over.is_set():
            clock.advance(step)
            time.sleep(0)

    thread = threading.Thread(target=turn, name="time-flies")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


# The brake, told the time


def refuse_until(brake: Brake, end: float) -> list[tuple[float, float]]:
    """Have the brake hear of refusals only, each of a call that begins as soon as it may; return its pauses."""
    now, pauses = 0.0, []
    while now < end:
        brake.note_pass(now)
        now += FAST
        until = brake.note_throttled(now, FAST)
        if until > now:
            pauses.append((now, until - now))
            now = until
        else:
            now += 0.1
    return pauses


@pytest.mark.parametrize("drawn", [0.0, 0.5, 1.0])
def test_pauses_grow_while_nothing_succeeds(monkeypatch: pytest.MonkeyPatch, drawn: float) -> None:
    monkeypatch.setattr("treadle._sync.brake.random.random", lambda: drawn)
    share = 1 + JITTER * (2 * drawn - 1)

    pauses = refuse_until(Brake(Busy), 600)

    lengths = [length for _, length in pauses]
    assert lengths[0] == pytest.approx(LEAST_PAUSE_SECONDS * share)
    assert all(after >= before - 1e-9 for before, after in pairwise(lengths))
    assert lengths[-1] == pytest.approx(MOST_PAUSE_SECONDS * share)
    assert all(length <= max(0.3, 0.63 * at) for at, length in pauses), "never longer than nothing has succeeded"
    assert len(pauses) < 40


def test_pauses_differ_so_that_those_who_were_refused_together_do_not_come_back_together() -> None:
    assert len({tuple(refuse_until(Brake(Busy), 10)) for _ in range(5)}) == 5


def test_a_first_refusal_cuts_the_rate_and_pauses_nothing() -> None:
    """Where the server still answers others, a lower rate is what is asked for."""
    brake = Brake(Busy)
    for number in range(100):
        brake.note_pass(number / 100)

    assert brake.note_throttled(1.0, FAST) == -math.inf
    assert brake.rate(1.0) < 100


def test_a_success_in_between_makes_the_next_refusal_a_first_one() -> None:
    brake = Brake(Busy)
    brake.note_pass(0.0)
    brake.note_throttled(1.0, FAST)
    brake.note_success(1.5, FAST)

    assert brake.note_throttled(2.0, FAST) == -math.inf
    assert brake.note_throttled(3.0, FAST) > 3.0


def test_calls_that_had_begun_before_are_no_news() -> None:
    """Neither what they were refused, nor that one of them has succeeded after all."""
    brake = Brake(Busy)
    brake.note_pass(0.0)
    brake.note_throttled(1.0, FAST)

    assert brake.note_throttled(2.0, 1.5) == -math.inf
    brake.note_success(2.5, 2.0)
    assert brake.note_throttled(9.0, FAST) > 9.0


def test_after_a_pause_calls_come_back_to_the_rate_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle._sync.brake.random.random", lambda: 0.5)
    brake = Brake(Busy)
    for number in range(100):
        brake.note_pass(number / 100)
    brake.note_throttled(1.0, FAST)
    until = brake.note_throttled(3.0, FAST)
    rate, length = brake.rate(until), until - 3.0
    times, now = [], until
    while now < until + 2 * length:
        times.append(now)
        now += brake.interval(now)

    passed = sum(moment < until + length for moment in times)
    assert times[1] - times[0] > 3 / rate, "not at once"
    assert passed == pytest.approx(rate * length / 2, rel=0.2)
    assert brake.interval(until + length) == pytest.approx(1 / brake.rate(until + length))


def test_the_way_back_takes_no_longer_than_it_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle._sync.brake.random.random", lambda: 0.5)
    brake = Brake(Busy)
    brake.note_pass(0.0)
    until = refuse_until(brake, 500)[-1]
    end = sum(until) + MOST_RAMP_SECONDS

    assert brake.interval(end) == 1 / brake.rate(end)


# Items


@pytest.mark.parametrize("engine", ["threads", "coroutines"])
@pytest.mark.parametrize("place", PLACES)
def test_a_window_that_is_used_up_costs_no_item_its_attempts(place: str, engine: Any, clock: ManualClock) -> None:
    """A server allows 60 in each 20 s and says no more: 21 to 30 of 100 failed in the first window."""
    server = Window(clock, 20, 60)
    fn: Callable[[int], Any] = server.ask if engine == "threads" else server.ask_async
    limiter = treadle.Limiter(throttled=Busy)

    with flying(clock):
        ends = Calls(
            place, fn, range(100), max_workers=8, engine=engine, limiter=limiter, retry=treadle.Retry(retry_on=Busy)
        ).ends()

    assert Counter(end.status for end in ends) == {"succeeded": 100}
    assert sorted(server.asked)[-1] <= 2, "in the second window, or a little later if the clock ran away"
    assert server.asked.total() < 300


@pytest.mark.parametrize("place", PLACES)
def test_what_is_refused_need_not_be_worth_a_retry_otherwise(place: str) -> None:
    """It is about the rate, and not about the item: what the item's failures are worth is another matter."""
    answers: Iterator[Any] = iter([Busy(), Busy(), Busy(), "fine"])

    def call(item: int) -> Any:
        answer = next(answers)
        if isinstance(answer, Busy):
            raise answer
        return answer

    retry = treadle.Retry(1, retry_on=OSError)
    (end,) = Calls(place, call, [0], limiter=treadle.Limiter(throttled=Busy), retry=retry).ends()

    assert (end.status, end.value) == ("succeeded", "fine")
    assert end.attempts in (None, 4)


@pytest.mark.parametrize("place", PLACES)
def test_without_a_retry_a_refusal_is_a_failure(place: str) -> None:
    def call(item: int) -> int:
        raise Busy

    (end,) = Calls(place, call, [0], limiter=treadle.Limiter(throttled=Busy)).ends()

    assert end.status == "failed"
    assert end.attempts in (None, 1)


@pytest.mark.parametrize("place", PLACES)
def test_an_item_that_is_refused_for_longer_than_the_patience_has_failed_and_says_so(
    place: str, clock: ManualClock
) -> None:
    def call(item: int) -> int:
        raise Busy

    limiter = treadle.Limiter(throttled=Busy, patience=30)
    with flying(clock):
        (end,) = Calls(place, call, [0], limiter=limiter, retry=treadle.Retry(2, retry_on=Busy, backoff=0)).ends()

    assert end.status == "failed"
    assert isinstance(end.error, Busy)
    notes = "\n".join(end.error.__notes__)
    assert "for longer than the limiter's patience=30 seconds" in notes
    assert "met a request to slow down, with Busy(), and did not count" in notes
    assert end.attempts is None or end.attempts > 4
    assert len(notes) < 2000, "however often it was refused"


@pytest.mark.parametrize("place", PLACES)
def test_without_patience_each_refusal_counts(place: str) -> None:
    made: list[int] = []

    def call(item: int) -> int:
        made.append(item)
        raise Busy

    limiter = treadle.Limiter(throttled=Busy, patience=0)
    (end,) = Calls(place, call, [0], limiter=limiter, retry=treadle.Retry(3, retry_on=Busy, backoff=0)).ends()

    assert end.status == "failed"
    assert len(made) == 3


def test_a_process_is_refused_as_well() -> None:
    limiter = treadle.Limiter(throttled=Busy, patience=0.3)
    retry = treadle.Retry(1, retry_on=Busy)
    (outcome,) = treadle.map(refuse, [0], engine="processes", max_workers=1, limiter=limiter, retry=retry).outcomes()

    assert outcome.status == "failed"
    assert outcome.attempts > 1


def refuse(item: int) -> int:
    raise Busy


def test_what_is_returned_is_the_result_whatever_it_means() -> None:
    """It may mean "slow down" and be an answer all the same; made again it would be asked for twice."""
    limiter = treadle.Limiter(throttled=lambda answer: answer == 1)

    assert list(treadle.map(abs, [-1, -2], limiter=limiter, retry=treadle.Retry())) == [1, 2]


def test_a_retry_after_is_the_least_pause(clock: ManualClock) -> None:
    answers: Iterator[Any] = iter([Busy(), "fine"])
    asked_at: list[float] = []

    def call(item: int) -> Any:
        asked_at.append(clock.now())
        answer = next(answers)
        if isinstance(answer, Busy):
            raise answer
        return answer

    limiter = treadle.Limiter(throttled=Busy)
    retry = treadle.Retry(1, retry_after=lambda _: 25.0)
    with flying(clock):
        assert list(treadle.map(call, [0], limiter=limiter, retry=retry)) == ["fine"]

    assert asked_at[1] - asked_at[0] >= 25


def test_a_run_that_ends_while_an_item_is_refused_has_its_last_failure() -> None:
    refused = threading.Event()

    def call(item: int) -> int:
        if len(made) > 3:
            refused.set()
        made.append(item)
        raise Busy

    made: list[int] = []
    run = treadle.map(call, [0], limiter=treadle.Limiter(throttled=Busy), retry=treadle.Retry())
    assert refused.wait(30)
    run.close()
    (outcome,) = run.rest()

    assert outcome.status in ("failed", "cancelled")


def test_the_log_tells_of_a_long_pause(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is to wait for minutes in silence."""
    server = Window(clock, 20, 1)

    with caplog.at_level(logging.WARNING, "treadle"), flying(clock):
        limiter = treadle.Limiter(throttled=Busy)
        list(treadle.map(server.ask, range(2), max_workers=1, limiter=limiter, retry=treadle.Retry()))

    assert any("no call passes Limiter(throttled=" in record.getMessage() for record in caplog.records)


# Blocks


def test_a_block_that_is_left_in_good_order_is_a_success(clock: ManualClock) -> None:
    limiter = treadle.Limiter(throttled=Busy)
    brake = limiter._brake
    assert brake is not None

    def be_refused() -> None:
        with pytest.raises(Busy), limiter:
            raise Busy

    with flying(clock):
        be_refused()
        assert brake.is_refused
        with limiter:
            pass
        assert not brake.is_refused


def test_a_block_whose_answer_was_judged_is_what_it_was_judged_to_be(clock: ManualClock) -> None:
    limiter = treadle.Limiter(throttled=lambda answer: answer == 429)
    brake = limiter._brake
    assert brake is not None

    with flying(clock), limiter:
        limiter.judge(429)

    assert brake.is_refused


@pytest.mark.parametrize("given", [-1, math.nan])
def test_patience_is_zero_seconds_or_more(given: float) -> None:
    with pytest.raises(treadle.InvalidArgument, match="patience"):
        treadle.Limiter(throttled=Busy, patience=given)


def test_patience_is_for_what_can_be_refused() -> None:
    with pytest.raises(treadle.InvalidArgument, match="left out where throttled is not given"):
        treadle.Limiter(5, patience=10)


def test_its_repr_tells_of_its_patience() -> None:
    assert repr(treadle.Limiter(throttled=Busy, patience=10)).endswith(", patience=10)")
    assert "patience" not in repr(treadle.Limiter(throttled=Busy))
