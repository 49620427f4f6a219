"""``Limiter(throttled=)``: answers that mean "slow down", what they do to the rate, and how it comes back."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import treadle
from tests.conftest import Gate
from tests.places import PLACES, Calls
from treadle._sync.brake import Brake
from treadle.testing import ManualClock


class Busy(Exception):
    """What a server says that has enough to do."""


def enter(limiter: treadle.Limiter) -> bool:
    with limiter:
        return True


def rate_after(passes: int, seconds: float, throttled_at: float) -> Brake:
    """Return a brake that has seen ``passes`` in so many seconds, evenly, and then an answer that asks for less."""
    brake = Brake(Busy)
    for number in range(passes):
        brake.note_pass(number * seconds / passes)
    brake.note_throttled(throttled_at, 0.01)
    return brake


def test_an_answer_cuts_the_rate_to_a_share_of_what_it_has_been() -> None:
    brake = rate_after(passes=50, seconds=0.5, throttled_at=0.5)

    assert brake.rate(0.5) == pytest.approx(70)


def test_without_such_an_answer_there_is_no_limit() -> None:
    assert Brake(Busy).interval(0.0) == 0
    assert Brake(Busy).rate(1e9) == math.inf


def test_answers_to_calls_that_had_begun_before_cut_nothing_more() -> None:
    """A burst of refusals is one piece of news: all of these calls began at the rate that was too high."""
    brake = rate_after(passes=50, seconds=0.5, throttled_at=0.5)

    brake.note_throttled(0.55, 0.01)
    assert brake.rate(0.5) == pytest.approx(70)

    brake.note_throttled(0.7, 1.0)
    assert brake.rate(0.7) < 51
    before = brake.rate(2.0)
    brake.note_throttled(2.0, 1.0)  # within twice the second that a call takes
    assert brake.rate(2.0) == before


def test_the_rate_comes_back_bit_by_bit_and_is_free_in_the_end() -> None:
    brake = rate_after(passes=50, seconds=0.5, throttled_at=0.5)

    assert brake.rate(3.0) == pytest.approx(105)
    assert brake.rate(5.4) == pytest.approx(70 * 1.98)
    assert brake.rate(5.6) == math.inf


def test_a_first_burst_counts_as_what_comes_in_the_time_of_a_call() -> None:
    """Sixteen calls at once are no rate without end; nor are they all that comes in a second."""
    brake = Brake(Busy)
    for _ in range(16):
        brake.note_pass(0.0)
    brake.note_throttled(0.002, 0.010)

    assert brake.rate(0.002) == pytest.approx(0.7 * 1600)


def test_the_rate_just_before_counts_where_a_second_has_only_begun() -> None:
    brake = Brake(Busy)
    for number in range(101):
        brake.note_pass(number / 100)  # the last one opens another second
    brake.note_throttled(1.01, 0.001)

    assert brake.rate(1.01) == pytest.approx(70)


def test_a_limiter_paces_its_calls_after_such_an_answer() -> None:
    with ManualClock() as clock:
        limiter = treadle.Limiter(throttled=Busy)
        for _ in range(10):
            with limiter:
                clock.advance(0.125)
        with pytest.raises(Busy), limiter:
            raise Busy
        with limiter:  # the one before was let through before the rate was cut
            pass
        began, passed = clock.now(), []
        thread = threading.Thread(target=lambda: passed.append(enter(limiter)))
        thread.start()
        while clock.now() - began < 1 / 6:  # it was eight calls a second, and now is less than six
            clock.wait_for_sleepers()
            assert not passed
            clock.advance(0.05)
        thread.join()

    assert passed


@pytest.mark.parametrize("place", PLACES)
def test_what_a_call_returns_or_raises_is_judged(place: str) -> None:
    heard: list[Any] = []

    def call(item: int) -> int:
        if item == 1:
            raise Busy
        return item

    limiter = treadle.Limiter(max_concurrent=1, throttled=lambda answer: heard.append(answer))
    Calls(place, call, [0, 1, 2], limiter=limiter, max_workers=1).ends()

    assert [type(answer) for answer in heard] == [int, Busy, int]


@pytest.mark.parametrize("place", PLACES)
def test_each_attempt_is_judged(place: str) -> None:
    heard: list[Any] = []
    answers: Iterator[Busy | str] = iter([Busy(), "fine"])

    def call(item: int) -> str:
        answer = next(answers)
        if isinstance(answer, Busy):
            raise answer
        return answer

    limiter = treadle.Limiter(max_concurrent=1, throttled=lambda answer: heard.append(answer))
    retry = treadle.Retry(retry_on=Busy, backoff=0)
    (end,) = Calls(place, call, [0], limiter=limiter, retry=retry).ends()

    assert end.status == "succeeded"
    assert [type(answer) for answer in heard] == [Busy, str]


def test_a_call_that_took_too_long_is_judged_by_that(gate: Gate) -> None:
    """Also one that was left behind: many servers only get slower."""
    heard: list[Any] = []
    limiter = treadle.Limiter(max_concurrent=1, throttled=lambda answer: heard.append(answer))

    with treadle.map(gate.hold, [0], limiter=limiter, call_timeout=0.01, grace=0.01) as run:
        assert [outcome.status for outcome in run.outcomes()] == ["timed_out"]
        gate.open()

    assert [type(answer) for answer in heard] == [treadle.CallTimedOut]


def test_a_cancelled_call_is_no_answer() -> None:
    heard: list[Any] = []
    limiter = treadle.Limiter(throttled=lambda answer: heard.append(answer))

    with treadle.TaskGroup(limiter=limiter) as group:
        group.submit(treadle.sleep, 60)
        group.submit(group.cancel)

    assert not any(isinstance(answer, BaseException) for answer in heard)


def test_a_judgement_that_fails_is_logged_once_and_means_no(caplog: pytest.LogCaptureFixture) -> None:
    limiter = treadle.Limiter(max_concurrent=1, throttled=lambda answer: answer.status_code == 429)

    with caplog.at_level(logging.ERROR, "treadle"):
        assert list(treadle.map(abs, [-1, -2], limiter=limiter)) == [1, 2]

    (record,) = caplog.records
    assert "throttled=" in record.getMessage()
    assert "failed on 1" in record.getMessage() or "failed on 2" in record.getMessage()


def test_without_a_classifier_nothing_is_judged() -> None:
    assert treadle.Limiter(max_concurrent=1).judge(Busy()) is False


@pytest.mark.parametrize("given", [429, "429", int, (int,), ()])
def test_throttled_is_a_kind_of_exceptions_or_a_function(given: Any) -> None:
    with pytest.raises(treadle.WrongType, match="throttled must be an exception type, a tuple of them, or a function"):
        treadle.Limiter(throttled=given)
