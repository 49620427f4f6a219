"""``Hedge``: a slow call is started a second time, and the first answer counts. The clock is turned by hand."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import PLACES, RESULTS, Calls, wait_until
from treadle._core.hedge import ENOUGH_CALLS
from treadle.testing import ManualClock

SLOW = 10.0
GRACE = 2.0
HEDGE = treadle.Hedge(after=SLOW, max_extra=1)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


class Pair:
    """The first call and its twin: each waits until it is told what to come to."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []
        self.made = 0
        self._lock = threading.Lock()
        self._begun = [threading.Event() for _ in range(4)]
        self._told = [threading.Event() for _ in range(4)]
        self._answers: dict[int, Any] = {}
        self.is_deaf = False

    def __call__(self, item: Any) -> Any:
        with self._lock:
            number, self.made = self.made, self.made + 1
        self._begun[number].set()
        told = self._told[number]
        with treadle.on_cancel(lambda: None if self.is_deaf else told.set()):
            assert told.wait(PATIENCE_SECONDS)
        if number not in self._answers:
            self.cancelled.append(number)
            treadle.check_cancelled()
        answer = self._answers[number]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def wait_for(self, number: int) -> None:
        assert self._begun[number].wait(PATIENCE_SECONDS), f"call {number} never began"

    def tell(self, number: int, answer: Any) -> None:
        self._answers[number] = answer
        self._told[number].set()

    def let_all_go(self) -> None:
        for number, told in enumerate(self._told):
            self._answers.setdefault(number, "let go")
            told.set()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.let_all_go()


def hedged(place: str, pair: Pair, clock: ManualClock, **options: Any) -> Calls:
    """Have a call made, and its twin begun."""
    calls = Calls(place, pair, ["x"], **{"hedge": HEDGE, "grace": GRACE, **options})
    pair.wait_for(0)
    clock.wait_for_sleepers()
    clock.advance(SLOW)
    pair.wait_for(1)
    return calls


def crew_of(calls: Calls) -> Any:
    return calls.owner._course.crew if calls.is_map else calls.owner._book.crew


# What it can be made of


def test_the_defaults_are_one_in_twenty_of_the_slowest() -> None:
    assert treadle.Hedge() == treadle.Hedge(after="p95", max_extra=0.05)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("after", value) for value in (-1, math.nan, "p0", "p100", "p", "95", "pp95", "p-5", "pnan", "", "fast")),
        *(("max_extra", value) for value in (-0.1, 1.1, math.nan)),
    ],
)
def test_what_is_out_of_bounds_is_refused(option: str, value: Any) -> None:
    with pytest.raises(treadle.InvalidArgument, match=option) as caught:
        treadle.Hedge(**{option: value})

    assert not isinstance(caught.value, treadle.WrongType)


@pytest.mark.parametrize(
    ("option", "value"),
    [("after", None), ("after", True), ("after", b"p95"), ("max_extra", "0.05"), ("max_extra", True)],
)
def test_what_is_of_the_wrong_type_is_refused(option: str, value: Any) -> None:
    with pytest.raises(treadle.WrongType, match=option):
        treadle.Hedge(**{option: value})


@pytest.mark.parametrize("given_hedge", [5, "p95", True])
def test_only_a_hedge_is_taken_for_one(given_hedge: Any) -> None:
    with pytest.raises(treadle.WrongType, match=r"hedge must be a treadle\.Hedge, or None"):
        treadle.map(abs, [1], hedge=given_hedge)
    with pytest.raises(treadle.WrongType, match="hedge"):
        treadle.TaskGroup(hedge=given_hedge)
    with pytest.raises(treadle.WrongType, match="hedge"):
        treadle.PoolExecutor(hedge=given_hedge)


# What is slow, and how many


def test_a_percentile_is_not_known_before_enough_calls() -> None:
    hedge = treadle.Hedge(after="p50")

    assert hedge.threshold([1.0] * (ENOUGH_CALLS - 1)) is None
    assert hedge.threshold([1.0] * ENOUGH_CALLS) == 1.0


@given(st.lists(st.floats(0, 1e6), min_size=ENOUGH_CALLS, max_size=200), st.integers(1, 99))
def test_a_percentile_is_longer_than_so_many_of_the_calls(seconds: list[float], percent: int) -> None:
    threshold = treadle.Hedge(after=f"p{percent}").threshold(seconds)

    assert threshold in seconds
    assert sum(each <= threshold for each in seconds) * 100 >= percent * len(seconds)
    assert sum(each < threshold for each in seconds) * 100 < percent * len(seconds)


def test_seconds_need_no_calls_before() -> None:
    assert treadle.Hedge(after=3).threshold([]) == 3.0
    assert treadle.Hedge(after=0).threshold([]) == 0.0


@pytest.mark.parametrize(("begun", "allowed"), [(0, 0), (1, 1), (20, 1), (21, 2), (100, 5), (1000, 50)])
def test_the_extra_calls_are_a_share_of_those_begun(begun: int, allowed: int) -> None:
    assert treadle.Hedge().allowed(begun) == allowed


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_with_a_percentile_nothing_is_hedged_before_enough_calls(place: str, clock: ManualClock, pair: Pair) -> None:
    """What is slow is not known yet, however long it takes."""
    with Calls(place, pair, ["x"], hedge=treadle.Hedge("p50", max_extra=1)) as calls:
        pair.wait_for(0)
        for _ in range(20):
            clock.wait_for_sleepers()
            clock.advance(1000)
        clock.wait_for_sleepers()
        assert pair.made == 1
        pair.tell(0, "answer")
        (end,) = calls.ends()

    assert end.value == "answer"


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_with_a_percentile_the_one_slower_than_its_peers_is_hedged(place: str, clock: ManualClock, pair: Pair) -> None:
    peers = list(range(ENOUGH_CALLS))

    def call(item: Any) -> Any:
        if item == "x":
            return pair(item)
        clock.advance(1.0)
        return item

    with Calls(place, call, [*peers, "x"], max_workers=2, hedge=treadle.Hedge("p95", 1), grace=GRACE) as calls:
        pair.wait_for(0)
        wait_until(lambda: len(crew_of(calls).attempts.seconds) == ENOUGH_CALLS)
        crew = crew_of(calls)
        threshold = max(crew.attempts.seconds) + 1e-6  # both workers turn the clock, so not just a second
        clock.wait_for_sleepers()
        clock.advance(threshold)
        pair.wait_for(1)
        pair.tell(1, "from the twin")
        ends = calls.ends()

    assert [end.value for end in ends if end.value not in peers] == ["from the twin"]
    assert (len(ends), calls.stats.succeeded, calls.stats.taken) == (ENOUGH_CALLS + 1,) * 3


@pytest.mark.parametrize("place", PLACES)
def test_the_extra_calls_are_bounded(place: str, clock: ManualClock, gate: Gate) -> None:
    """When everything is slow, a second call for each would only make it slower."""
    made = Counter[int]()

    def call(item: int) -> object:
        made[item] += 1
        return gate.hold(item)

    with Calls(place, call, range(8), max_workers=20, hedge=treadle.Hedge(SLOW, max_extra=0.25)) as calls:
        gate.wait_for_arrivals(8)
        clock.wait_for_sleepers()
        clock.advance(SLOW)
        gate.wait_for_arrivals(2)
        for _ in range(50):
            clock.wait_for_sleepers()
            clock.advance(SLOW)
        clock.wait_for_sleepers()
        # 8 calls allow 2 extra ones; those 2 count as begun too: 10 allow 3.
        wait_until(lambda: sum(made.values()) == 11)
        gate.open()
        ends = calls.ends()

    assert [end.value for end in ends] == list(range(8))
    assert sum(made.values()) == 11
    assert max(made.values()) == 2


@pytest.mark.parametrize("place", PLACES)
def test_no_extra_calls_are_none(place: str, clock: ManualClock, pair: Pair) -> None:
    with Calls(place, pair, ["x"], hedge=treadle.Hedge(SLOW, max_extra=0)) as calls:
        pair.wait_for(0)
        for _ in range(5):
            clock.wait_for_sleepers()
            clock.advance(10 * SLOW)
        clock.wait_for_sleepers()
        assert pair.made == 1
        pair.tell(0, "answer")
        calls.ends()


@pytest.mark.parametrize("place", PLACES)
def test_a_call_that_is_fast_enough_is_made_once(place: str, clock: ManualClock, pair: Pair) -> None:
    with Calls(place, pair, ["x"], hedge=HEDGE) as calls:
        pair.wait_for(0)
        clock.wait_for_sleepers()
        clock.advance(SLOW * 0.99)
        clock.wait_for_sleepers()
        assert pair.made == 1
        pair.tell(0, "answer")
        (end,) = calls.ends()

    assert (end.value, pair.made) == ("answer", 1)


# Who wins


@pytest.mark.parametrize("winner", [0, 1])
@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_the_first_answer_counts_and_the_other_call_is_cancelled(
    place: str, winner: int, clock: ManualClock, pair: Pair
) -> None:
    """One item, one outcome, whichever it was."""
    with hedged(place, pair, clock) as calls:
        pair.tell(winner, "first")
        ends = calls.ends()

    assert [(end.status, end.value) for end in ends] == [("succeeded", "first")]
    wait_until(lambda: pair.cancelled == [1 - winner])
    stats = calls.stats
    assert (stats.taken, stats.succeeded, stats.cancelled, stats.abandoned, stats.retried) == (1, 1, 0, 0, 0)
    assert ends[0].attempts in (1, None)


@pytest.mark.parametrize("fails_first", [0, 1])
@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_if_one_fails_the_other_ones_answer_counts(
    place: str, fails_first: int, clock: ManualClock, pair: Pair
) -> None:
    with hedged(place, pair, clock) as calls:
        pair.tell(fails_first, ConnectionError("this one"))
        wait_until(lambda: calls.stats.running == 1)
        pair.tell(1 - fails_first, "the other")
        ends = calls.ends()

    assert [(end.status, end.value) for end in ends] == [("succeeded", "the other")]
    assert (calls.stats.succeeded, calls.stats.failed, calls.stats.taken) == (1, 0, 1)
    assert pair.made == 2


@pytest.mark.parametrize("fails_first", [0, 1])
@pytest.mark.parametrize("place", PLACES)
def test_if_both_fail_the_last_error_counts(place: str, fails_first: int, clock: ManualClock, pair: Pair) -> None:
    last = ConnectionError("last")
    with hedged(place, pair, clock) as calls:
        pair.tell(fails_first, ConnectionError("first"))
        wait_until(lambda: calls.stats.running == 1)
        pair.tell(1 - fails_first, last)
        (end,) = calls.ends()

    assert (end.status, end.error) == ("failed", last)
    assert (calls.stats.failed, calls.stats.taken) == (1, 1)
    assert pair.made == 2  # the one left over is not hedged once more


@pytest.mark.parametrize("place", PLACES)
def test_an_answer_before_the_twin_began_is_the_only_call(place: str, clock: ManualClock, pair: Pair) -> None:
    """With one worker the twin waits behind the call that it is to overtake."""
    with Calls(place, pair, ["x"], max_workers=1, hedge=HEDGE) as calls:
        pair.wait_for(0)
        clock.wait_for_sleepers()
        clock.advance(SLOW)
        wait_until(lambda: len(crew_of(calls)._queue) == 1)
        pair.tell(0, "answer")
        (end,) = calls.ends()

    assert (end.value, pair.made, calls.stats.succeeded) == ("answer", 1, 1)


@pytest.mark.parametrize("place", PLACES)
def test_the_twin_comes_before_items_that_wait(place: str, clock: ManualClock, pair: Pair, gate: Gate) -> None:
    """It has waited longer than they have."""
    order: list[str] = []

    def call(item: str) -> Any:
        order.append(item)
        if item == "slow":
            return pair(item)
        return gate.hold(item) if item == "busy" else item

    with Calls(place, call, ["slow", "busy", "last"], max_workers=2, hedge=HEDGE, grace=GRACE) as calls:
        pair.wait_for(0)
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(SLOW)
        wait_until(lambda: len(crew_of(calls)._queue) > 1)
        gate.open()
        pair.wait_for(1)
        pair.tell(1, "twin")
        ends = calls.ends()

    assert sorted(order[:2]) == ["busy", "slow"]
    assert order[2:] == ["slow", "last"]
    assert [end.value for end in ends] == ["twin", "busy", "last"]


# The loser


@pytest.mark.parametrize("loser", [0, 1])
@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_loser_that_heeds_nothing_is_left_behind_after_grace(
    place: str, loser: int, clock: ManualClock, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.is_deaf = True
    with caplog.at_level(logging.WARNING, "treadle"), hedged(place, pair, clock) as calls:
        turner = threading.Thread(target=turn_when_told, args=(clock, calls))
        turner.start()
        pair.tell(1 - loser, "first")
        ends = calls.ends()
        turner.join(PATIENCE_SECONDS)

    assert [(end.status, end.value) for end in ends] == [("succeeded", "first")]
    wait_until(lambda: calls.stats.abandoned == 1)
    wait_until(lambda: caplog.text.count("leaves a thread behind") == 1)


def turn_when_told(clock: ManualClock, calls: Calls) -> None:
    """Turn the clock beyond the grace of a call that was asked to end."""
    crew = crew_of(calls)
    wait_until(lambda: any(chunk.trial.told_at is not None for chunk in crew.chunks_in_hand()))
    with crew.lock:
        assert calls.stats.abandoned == 0
    clock.advance(GRACE)


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_loser_that_is_left_behind_makes_room(place: str, clock: ManualClock, pair: Pair) -> None:
    """For others of the same crew, which goes on."""
    pair.is_deaf = True
    order = threading.Event()

    def call(item: str) -> Any:
        if item == "x":
            return pair(item)
        assert order.wait(PATIENCE_SECONDS)
        return item

    with Calls(place, call, ["x", "y", "z"], max_workers=2, hedge=treadle.Hedge(SLOW, 0.1), grace=GRACE) as calls:
        pair.wait_for(0)
        clock.wait_for_sleepers()
        clock.advance(SLOW)
        wait_until(lambda: pair.made == 2 or bool(crew_of(calls)._queue))
        order.set()
        pair.wait_for(1)
        turner = threading.Thread(target=turn_when_told, args=(clock, calls))
        turner.start()
        pair.tell(1, "twin")
        ends = calls.ends()
        turner.join(PATIENCE_SECONDS)

    assert sorted(end.value for end in ends) == ["twin", "y", "z"]
    wait_until(lambda: calls.stats.abandoned == 1)


@pytest.mark.parametrize("place", PLACES)
def test_what_the_loser_raises_is_of_no_interest(place: str, clock: ManualClock, pair: Pair) -> None:
    """Its socket was shut down under it, say."""
    pair.is_deaf = True
    with hedged(place, pair, clock, retry=treadle.Retry(3, backoff=0)) as calls:
        crew = crew_of(calls)
        loser = crew.chunks_in_hand()[0]
        pair.tell(1, "first")
        wait_until(lambda: loser.is_cancelled)
        pair.tell(0, ConnectionError("shut down"))
        (end,) = calls.ends()

    assert (end.status, end.value) == ("succeeded", "first")
    assert (calls.stats.failed, calls.stats.retried, calls.stats.abandoned, pair.made) == (0, 0, 0, 2)


# The end comes while both run


@pytest.mark.parametrize("grace", [0, GRACE])
@pytest.mark.parametrize("place", ["map", "unordered map", *RESULTS])
def test_a_run_closed_while_both_run_has_one_outcome(place: str, grace: float, clock: ManualClock, pair: Pair) -> None:
    with hedged(place, pair, clock, grace=grace) as calls:
        calls.stop()
        ends = calls.ends()

    assert [end.status for end in ends] == ["cancelled"]
    assert (calls.stats.taken, calls.stats.cancelled) == (1, 1)


@pytest.mark.parametrize("place", ["map", "unordered map", *RESULTS])
def test_a_run_closed_while_both_run_on_leaves_both_behind(place: str, clock: ManualClock, pair: Pair) -> None:
    pair.is_deaf = True
    with hedged(place, pair, clock, grace=0) as calls:
        calls.stop()
        (end,) = calls.ends()

    assert (end.status, end.abandoned) == ("cancelled", True)
    assert (calls.stats.taken, calls.stats.cancelled, calls.stats.abandoned) == (1, 1, 2)


@pytest.mark.parametrize("place", ["group", "executor"])
def test_a_task_cancelled_while_both_run_cancels_both(place: str, clock: ManualClock, pair: Pair) -> None:
    with hedged(place, pair, clock) as calls:
        assert not calls.tasks[0].cancel()
        (end,) = calls.ends()

    assert end.status == "cancelled"
    assert sorted(pair.cancelled) == [0, 1]
    assert (calls.stats.cancelled, calls.stats.taken, calls.stats.abandoned) == (1, 1, 0)


@pytest.mark.parametrize("place", ["group", "executor"])
def test_a_task_cancelled_while_its_twin_waits_is_cancelled(place: str, clock: ManualClock, pair: Pair) -> None:
    with Calls(place, pair, ["x"], max_workers=1, hedge=HEDGE) as calls:
        pair.wait_for(0)
        clock.wait_for_sleepers()
        clock.advance(SLOW)
        wait_until(lambda: len(crew_of(calls)._queue) == 1)
        calls.tasks[0].cancel()
        (end,) = calls.ends()

    assert (end.status, pair.made) == ("cancelled", 1)


def test_a_group_cancelled_while_both_run_ends_quietly(clock: ManualClock, pair: Pair) -> None:
    with hedged("group", pair, clock) as calls:
        calls.owner.cancel()
        (end,) = calls.ends()

    assert (end.status, calls.raised) == ("cancelled", None)
    assert sorted(pair.cancelled) == [0, 1]


@pytest.mark.parametrize("place", ["map", "unordered map"])
def test_an_answer_of_the_twin_within_grace_counts(place: str, clock: ManualClock, pair: Pair) -> None:
    """The run is closed, but its calls have ``grace`` seconds."""
    pair.is_deaf = True
    with hedged(place, pair, clock, grace=1e6) as calls:
        chunks = crew_of(calls).chunks_in_hand()
        closer = threading.Thread(target=calls.owner.close)
        closer.start()
        wait_until(lambda: all(chunk.is_cancelled for chunk in chunks))
        pair.tell(1, "twin")
        wait_until(lambda: calls.stats.running == 1)
        pair.tell(0, "original")
        closer.join(PATIENCE_SECONDS)
        assert not closer.is_alive()
        ends = calls.ends()

    assert [(end.status, end.value) for end in ends] == [("succeeded", "twin")]
    assert (calls.stats.succeeded, calls.stats.taken) == (1, 1)


# All together


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_both_fail_and_the_next_attempt_counts(place: str, clock: ManualClock, pair: Pair) -> None:
    with hedged(place, pair, clock, retry=treadle.Retry(2, backoff=1, jitter=0)) as calls:
        pair.tell(0, ConnectionError("first"))
        wait_until(lambda: calls.stats.running == 1)
        pair.tell(1, ConnectionError("second"))
        wait_until(lambda: calls.stats.retried == 1)
        clock.advance(1)
        pair.wait_for(2)
        pair.tell(2, "third")
        (end,) = calls.ends()

    assert (end.status, end.value, pair.made) == ("succeeded", "third", 3)
    assert end.attempts in (2, None)


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_the_next_attempt_can_be_hedged_as_well(place: str, clock: ManualClock, pair: Pair) -> None:
    with Calls(place, pair, ["x"], hedge=HEDGE, grace=GRACE, retry=treadle.Retry(2, backoff=1, jitter=0)) as calls:
        pair.wait_for(0)
        pair.tell(0, ConnectionError("first"))
        wait_until(lambda: calls.stats.retried == 1)
        clock.advance(1)
        pair.wait_for(1)
        clock.wait_for_sleepers()
        clock.advance(SLOW)
        pair.wait_for(2)
        pair.tell(2, "the twin of the second")
        (end,) = calls.ends()

    assert (end.status, end.value) == ("succeeded", "the twin of the second")
    wait_until(lambda: pair.cancelled == [1])
    assert end.attempts in (2, None)


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_if_the_first_is_too_late_its_twin_still_counts(place: str, clock: ManualClock, pair: Pair) -> None:
    with hedged(place, pair, clock, call_timeout=SLOW * 1.5, retry=treadle.Retry(2, backoff=0)) as calls:
        clock.wait_for_sleepers()
        clock.advance(SLOW * 0.5 + 1e-6)  # the first has its call_timeout behind it, the twin has not
        wait_until(lambda: calls.stats.running == 1)
        assert pair.cancelled == [0]
        pair.tell(1, "twin")
        (end,) = calls.ends()

    assert (end.status, end.value) == ("succeeded", "twin")
    assert (calls.stats.retried, calls.stats.timed_out, pair.made) == (0, 0, 2)


@pytest.mark.parametrize("loser", ["deaf", "heeding"])
@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_if_both_are_too_late_the_next_attempt_counts(place: str, loser: str, clock: ManualClock, pair: Pair) -> None:
    """Whether they end when they are told to, or are left behind: one item, one outcome."""
    pair.is_deaf = loser == "deaf"
    policy = treadle.Retry(2, backoff=1, jitter=0)
    grace = GRACE if pair.is_deaf else 1e6
    with hedged(place, pair, clock, call_timeout=SLOW * 1.5, retry=policy, grace=grace) as calls:
        step_until(clock, lambda: calls.stats.retried == 1)
        step_until(clock, lambda: pair.made == 3)
        pair.tell(2, "third")
        (end,) = calls.ends()

    assert (end.status, end.value) == ("succeeded", "third")
    assert end.attempts in (2, None)
    assert calls.stats.abandoned == (2 if pair.is_deaf else 0)
    assert (calls.stats.succeeded, calls.stats.timed_out, calls.stats.taken) == (1, 0, 1)


def step_until(clock: ManualClock, is_so: Any) -> None:
    """Turn the clock in small steps: several timers come one after the other."""

    def step() -> bool:
        if not is_so():
            clock.advance(0.5)
        return bool(is_so())

    wait_until(step)


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_many_calls_of_all_kinds_have_one_outcome_each(place: str) -> None:
    """By the machine's clock, with everything at once: who wins is left to chance, that each item is there once not."""
    lock, made = threading.Lock(), Counter[int]()

    def call(item: int) -> int:
        with lock:
            made[item] += 1
            number = made[item]
        if item % 7 == 1 and number == 1:
            treadle.sleep(60)  # hedged, or too late
        if item % 5 == 2 and number == 1:
            raise ConnectionError
        return item

    options: dict[str, Any] = {
        "hedge": treadle.Hedge(0.005, max_extra=0.5),
        "retry": treadle.Retry(5, backoff=0.001),
        "call_timeout": 0.1,
        "limiter": treadle.Limiter(max_concurrent=8),
        "grace": PATIENCE_SECONDS,
    }
    with Calls(place, call, range(100), max_workers=10, **options) as calls:
        ends = calls.ends()

    assert sorted(end.value for end in ends) == list(range(100))
    stats = calls.stats
    assert (stats.taken, stats.succeeded, stats.failed + stats.timed_out + stats.cancelled) == (100, 100, 0)
    assert stats.abandoned == 0


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_slow_call_among_tiny_ones_is_hedged_though_a_worker_is_idle(place: str, pair: Pair) -> None:
    """Tiny calls get no second worker on a build with a GIL; the second call for a slow one must."""
    peers = list(range(300))

    def call(item: Any) -> Any:
        return pair(item) if item == "x" else item

    with Calls(place, call, [*peers, "x"], max_workers=2, hedge=treadle.Hedge(0.01, 1)) as calls:
        pair.wait_for(0)
        pair.wait_for(1)
        pair.tell(1, "twin")
        ends = calls.ends()

    assert sum(end.value == "twin" for end in ends) == 1
    assert len(ends) == len(peers) + 1
