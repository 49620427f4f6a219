"""The schedule of a limiter, told the time: what it gives to calls that are on time, late, or come after idle times."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from treadle._sync.lead import MOST_SECONDS, Lead
from treadle._sync.schedule import LATE_SECONDS, Schedule

INTERVAL = 0.01


def pass_late(schedule: Schedule, now: float, late: float) -> float:
    """Let one call pass that has waited, so much later than it was to, and return when it begins."""
    now = max(now, schedule.next + schedule.margin()) + late
    schedule.note_wait(now)
    turn = schedule.take(now, has_waited=True)
    begins = max(now, turn.start)
    schedule.begin(turn, begins)
    return begins


def begin_many(schedule: Schedule, count: int, late: float) -> list[float]:
    """Let many calls pass, each of which has waited; whoever is late calls those whose time has come as well."""
    times = [0.0]
    while len(times) <= count:
        times.append(now := pass_late(schedule, times[-1], late))
        while schedule.is_catching_up() and schedule.due(now):
            schedule.begin(schedule.take(now, has_waited=True), now)
            times.append(now)
    return times[1:]


def exceeded(times: list[float], rate: float, burst: int, late: float = 0.0) -> bool:
    return any(
        end - start + 1 > burst + rate * (times[end] - times[start] + late) + 1e-6
        for start in range(len(times))
        for end in range(start, len(times))
    )


def test_calls_that_are_a_little_late_keep_the_distance() -> None:
    """Each counts from when it begins: two never come closer together than the rate says."""
    seeded = random.Random(3)
    schedule = Schedule(INTERVAL, 1, None)
    now, times = 0.0, []
    for _ in range(200):
        now = pass_late(schedule, now, seeded.choice([0.0, 0.0, 0.0001, 0.0002]))
        times.append(now)

    assert not schedule.is_catching_up()
    assert not exceeded(times, 1 / INTERVAL, 1)
    assert len(times) > 0.96 * times[-1] / INTERVAL


@pytest.mark.parametrize("interval", [0.002, 0.01, 0.2])
def test_calls_that_are_held_up_again_and_again_lose_none_of_the_rate(interval: float) -> None:
    """As beside a thread that computes: whoever waits for the GIL has it after 5 ms."""
    late = max(0.005, interval / 20)
    times = begin_many(Schedule(interval, 1, None), 400, late)

    assert len(times) > 0.97 * (times[-1] - times[0]) / interval
    assert not exceeded(times, 1 / interval, 1, late=LATE_SECONDS)


def test_one_call_that_is_very_late_is_no_reason_to_hurry() -> None:
    schedule = Schedule(INTERVAL, 1, None)
    begin_many(schedule, 20, 0.0)
    at = pass_late(schedule, schedule.next, 5 * INTERVAL)

    assert not schedule.is_catching_up()
    assert schedule.next == pytest.approx(at + INTERVAL)


def test_calls_that_are_on_time_again_keep_the_distance_again() -> None:
    schedule = Schedule(INTERVAL, 1, None)
    begin_many(schedule, 20, 0.005)
    assert schedule.is_catching_up()

    begin_many(schedule, 100, 0.0)

    assert not schedule.is_catching_up()


def test_several_are_due_where_several_are_late() -> None:
    """Whoever comes to look calls them all: each by itself would have to wait for the GIL."""
    schedule = Schedule(INTERVAL, 1, None)
    begin_many(schedule, 20, 0.005)
    begins = schedule.next

    assert schedule.due(begins - 0.001) == 0
    assert schedule.due(begins) == 1
    assert schedule.due(begins + 3.5 * INTERVAL) == 4
    assert schedule.due(begins + 1000) == 1 + LATE_SECONDS / INTERVAL
    assert schedule.seconds_until(3, begins) == pytest.approx(2 * INTERVAL)


def test_what_is_late_by_too_much_is_lost() -> None:
    """A machine that was halted is not to make up for it."""
    schedule = Schedule(INTERVAL, 1, None)
    begin_many(schedule, 20, 0.005)
    late = schedule.next + 3600

    turn = schedule.take(late, has_waited=True)

    assert turn.time == pytest.approx(late - LATE_SECONDS)


def test_idle_time_after_a_late_call_is_not_caught_up_with() -> None:
    """Who comes at once is late with it; who comes later has missed nothing but its burst."""
    for idle, credit in ((0.0, 3.0), (0.5, 3.0), (5.0, 3.0)):
        schedule = Schedule(INTERVAL, 1, None)
        begin_many(schedule, 20, 0.005)
        late = schedule.next + 4 * INTERVAL
        schedule.take(late, has_waited=True)

        turn = schedule.take(late + idle, has_waited=False)

        assert turn.time == pytest.approx(late + idle - credit * INTERVAL, abs=0.0003)


def test_a_burst_is_saved_up_by_idle_time_alone() -> None:
    schedule = Schedule(INTERVAL, 3, None)
    times = [schedule.take(100.0, has_waited=False).time for _ in range(3)]

    assert times == pytest.approx([100.0 - 2 * INTERVAL, 100.0 - INTERVAL, 100.0])
    assert schedule.due(100.0) == 0


def test_calls_that_lost_the_same_time_on_the_way_from_the_gate_put_off_the_next_once() -> None:
    """Added up for each of them, the schedule ran ahead of the clock."""
    schedule = Schedule(INTERVAL, 4, None)
    turns = [schedule.take(100.0, has_waited=False) for _ in range(4)]
    before = schedule.next

    for turn in turns:
        schedule.begin(turn, 100.5)

    assert schedule.next == pytest.approx(before + 0.5)
    assert not exceeded([100.5] * 4 + [schedule.next], 1 / INTERVAL, 4)


def test_where_a_wake_up_takes_as_long_as_the_interval_calls_always_catch_up() -> None:
    times = begin_many(Schedule(0.0001, 1, None), 1000, 0.00006)

    assert len(times) > 0.98 * (times[-1] - times[0]) / 0.0001


def test_a_pause_ends_what_there_was_to_catch_up_with() -> None:
    schedule = Schedule(INTERVAL, 1, None)
    begin_many(schedule, 20, 0.005)
    now = schedule.next + 4 * INTERVAL
    schedule.take(now, has_waited=True)

    schedule.pause(now + 10)

    assert schedule.due(now + 9.9) == 0
    assert schedule.take(now + 10, has_waited=False).time == now + 10
    assert schedule.next == pytest.approx(now + 10 + INTERVAL)


def test_waking_up_early_is_learnt_from_those_who_were_late() -> None:
    lead = Lead(INTERVAL)
    for _ in range(100):
        lead.be_on_time(woken_at=0.0, start=0.0)  # long ago: held up, and no news
    before = lead.seconds
    assert before <= MOST_SECONDS

    for _ in range(100):
        from treadle._core.real_time import monotonic

        lead.be_on_time(woken_at=monotonic() - 0.00001, start=0.0)

    assert lead.seconds <= before


def test_a_schedule_keeps_its_order() -> None:
    """Whatever comes: on time, late, at once, after a pause, the times that calls are given never go back."""
    seeded = random.Random(5)
    for burst in (1, 2, 10):
        schedule, now, times = Schedule(INTERVAL, burst, None), 100.0, []
        for _ in range(500):
            now += seeded.choice([0.0, 0.001, 0.004, 0.02, 0.3])
            if seeded.random() < 0.02:
                schedule.pause(now + 0.1)
            if schedule.due(now):
                has_waited = seeded.random() < 0.5
                if has_waited:
                    schedule.note_wait(now)
                turn = schedule.take(now, has_waited)
                times.append(turn.time)
                schedule.begin(turn, now + seeded.choice([0.0, 0.001]))
        assert all(before <= after for before, after in pairwise(times))
