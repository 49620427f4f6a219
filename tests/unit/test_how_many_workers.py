"""The controller of the number of workers: simulated against many kinds of servers, and step by step."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.simulation import Server, fixed, heavy_tailed, same, simulate
from treadle._crew.controller import CEILING_SECONDS, HOLD_SECONDS, START_WORKERS, WINDOW_ROUNDS, Knee
from treadle._crew.rounds import Lesson, Round

SECONDS = 20.0
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Case:
    """A kind of work, the best number of workers for it, and how near the controller comes to that."""

    name: str
    make: Callable[[random.Random], Server]
    best: int
    reaches: float


CASES = (
    Case("pure waiting", lambda chance: Server(same()(chance)), 256, 0.95),
    Case("3 places", lambda chance: Server(same()(chance), places=3), 3, 0.97),
    Case("20 places", lambda chance: Server(same()(chance), places=20), 22, 0.95),
    Case("100 places", lambda chance: Server(same()(chance), places=100), 110, 0.93),
    Case("slower beyond 25", lambda chance: Server(same()(chance), knee=25), 25, 0.8),
    Case("refuses beyond 20", lambda chance: Server(same()(chance), refuses_beyond=20), 20, 0.85),
    Case("refuses beyond 60", lambda chance: Server(same()(chance), refuses_beyond=60), 60, 0.8),
    Case("a fifth of it computes", lambda chance: Server(same()(chance), computing=0.2), 8, 0.95),
    Case("all of it computes", lambda chance: Server(same(0.005)(chance), computing=1.0), 1, 0.95),
    Case("heavy tails", lambda chance: Server(heavy_tailed()(chance)), 256, 0.9),
    Case("heavy tails, 20 places", lambda chance: Server(heavy_tailed()(chance), places=20), 22, 0.75),
    Case("heavier tails, 100 places", lambda chance: Server(heavy_tailed(sigma=1.5)(chance), places=100), 110, 0.75),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_comes_near_to_the_best_number(case: Case) -> None:
    """Without being told what the work is like. A fixed number is near to the best for some of these only."""
    for seed in SEEDS:
        reached = simulate(case.make, Knee(cores=2), SECONDS, seed=seed)

        assert reached >= case.reaches * simulate(case.make, fixed(case.best)(), SECONDS, seed=seed), seed


def test_one_worker_to_begin_with_may_be_all_that_it_takes() -> None:
    """There are no fewer to go back to."""
    knee, now = Knee(), 0.0
    knee.begin_with(1)
    now = feed(knee, now, latency=0.1)
    assert knee.workers == 2
    feed(knee, now, latency=0.2, windows=3)

    assert knee.workers == 1


def test_it_finds_out_that_there_are_more_places_than_before() -> None:
    def make(chance: random.Random) -> Server:
        return Server(same()(chance), places=20, grows_at=SECONDS)

    knee = Knee()
    simulate(make, knee, 5 * SECONDS, seed=1)

    assert knee.workers > 50


def test_calls_that_compute_have_few_workers() -> None:
    """More of them would only take turns, and hold up whoever consumes the results."""
    knee = Knee(cores=2)
    simulate(lambda chance: Server(same(0.005)(chance), computing=1.0), knee, SECONDS, seed=1)

    assert knee.workers <= 4


def feed(knee: Knee, now: float, latency: float, windows: int = 1, busy: int | None = None) -> float:
    """Have all workers make calls of so many seconds, one after the other, and return the time at the end."""
    for _ in range(windows * -(-WINDOW_ROUNDS // knee.workers)):
        began, workers = now + 1e-6, knee.workers
        now += latency
        for _ in range(workers):
            if knee.workers == workers:
                knee.note(Round(began, now, 1, workers, workers if busy is None else busy), lambda: ())
    return now


def test_it_doubles_as_long_as_that_brings_more() -> None:
    knee, now = Knee(), 0.0
    seen: list[int] = []
    while not seen or knee.workers != seen[-1]:
        seen.append(knee.workers)
        now = feed(knee, now, 0.1)

    assert seen == [32, 64, 128, 256]
    assert knee.reason == "no more are allowed"


def test_workers_without_work_say_nothing() -> None:
    """What is too slow for them is the input, or the consumer: more workers would have even less to do."""
    knee = Knee()
    feed(knee, 0.0, 0.1, windows=5, busy=8)

    assert knee.workers == START_WORKERS
    assert knee.lesson is None


def test_calls_that_began_before_a_change_say_nothing_of_it() -> None:
    knee = Knee()
    now = feed(knee, 0.0, 0.1)
    workers = knee.workers
    for _ in range(100):
        knee.note(Round(now - 1, now + 1, 1, workers, workers), lambda: ())

    assert knee.workers == workers


def test_a_window_begins_when_the_last_surplus_worker_has_left() -> None:
    """Calls that begin before still wait behind those of the workers that are too many."""
    knee = Knee(lesson=Lesson(8, is_settled=False))
    for number in range(100):
        knee.note(Round(number, number + 1.0, 1, workers=9, busy=9), lambda: ())

    assert knee.workers == 8


def test_calls_that_do_not_end_count_too() -> None:
    """A server that serves some again and again, and lets others wait, is not fast."""
    honest, fooled = Knee(), Knee()
    feed(honest, 0.0, 0.1)
    feed(fooled, 0.0, 0.1)
    for knee, others in ((honest, 16), (fooled, 0)):
        for number in range(32):
            began = 10 + number // 8 * 0.1
            knee.note(Round(began, began + 0.1, 1, 32, 32), lambda others=others: [10.0] * others)  # type: ignore[misc]

    assert fooled.workers == 64
    assert honest.workers < 64


def test_an_answer_that_means_to_slow_down_takes_workers_away_once() -> None:
    knee = Knee(lesson=Lesson(100, is_settled=True))
    knee.note_throttled(1.0)
    knee.note_throttled(1.05)

    assert knee.workers == 70

    knee.note_throttled(1.2)
    assert knee.workers == 49


def test_it_stays_below_where_it_was_told_to_slow_down_for_a_while() -> None:
    knee = Knee(lesson=Lesson(100, is_settled=True))
    knee.note_throttled(0.0)
    most, now = 0, 0.0
    while now < CEILING_SECONDS - HOLD_SECONDS:
        now = feed(knee, now, 0.1)
        most = max(most, knee.workers)
    assert 70 < most <= 95

    while now < 3 * CEILING_SECONDS:
        now = feed(knee, now, 0.1)
        most = max(most, knee.workers)
    assert most > 100


def test_refused_calls_are_no_throughput() -> None:
    """A refusal comes fast, which must not look like a fast server."""
    knee = Knee(lesson=Lesson(16, is_settled=False))
    for number in range(64):
        knee.note(Round(number, number + 0.001, 0, 16, 16), lambda: ())
    knee.note(Round(64.0, 64.001, 1, 16, 16), lambda: ())

    assert knee._latency > 0.001


def test_a_silent_collapse_halves_the_number_once() -> None:
    knee, now = Knee(lesson=Lesson(64, is_settled=True)), 0.0
    now = feed(knee, now, 0.01, windows=3)
    now = feed(knee, now, 1.0, windows=3)
    assert knee.workers == 32
    assert knee.reason == "calls had become much slower"

    now = feed(knee, now, 10.0)  # what it is compared with now
    for latency in (40.0, 40.0, 40.0):
        now = feed(knee, now, latency)
    assert knee.workers >= 32


def test_fewer_that_get_less_far_are_taken_back_after_a_collapse() -> None:
    """Nothing of what became slow was because of them: a machine that is busy with something else, say."""
    knee, now = Knee(lesson=Lesson(64, is_settled=True)), 0.0
    now = feed(knee, now, 0.01, windows=3)
    now = feed(knee, now, 1.0, windows=3)
    assert knee.workers == 32

    feed(knee, now, 1.0)
    assert knee.workers == 64


def test_fewer_remain_after_a_collapse_where_they_get_as_far() -> None:
    knee, now = Knee(lesson=Lesson(64, is_settled=True)), 0.0
    now = feed(knee, now, 0.01, windows=3)
    now = feed(knee, now, 1.0, windows=3)

    feed(knee, now, 0.5)
    assert knee.workers == 32


def test_calls_that_take_longer_than_one_alone_are_first_tried_with_fewer() -> None:
    """More of them might be more than what is asked can bear."""
    knee, crowded = Knee(), Knee()
    for one in (knee, crowded):
        one.note_alone(0.1)
    feed(knee, 0.0, 0.1)
    feed(crowded, 0.0, 0.5)

    assert knee.workers == 2 * START_WORKERS
    assert crowded.workers == START_WORKERS // 2


def test_more_are_tried_after_all_where_fewer_get_less_far() -> None:
    knee = Knee()
    knee.note_alone(0.1)
    now = feed(knee, 0.0, 0.5)
    for _ in range(2):  # half of them, and three quarters
        now = feed(knee, now, 0.5)

    assert knee.workers == 2 * START_WORKERS


def test_nobody_waits_for_the_end_of_calls_that_are_too_slow_already() -> None:
    """A server that has too much to do may take very long for what it was asked."""
    knee = Knee()
    now = feed(knee, 0.0, 0.1)
    assert knee.workers == 2 * START_WORKERS

    began = now + 1e-6
    for late in (0.1, 0.15):  # calls that had begun before, and end now
        knee.note(Round(now - 0.1, now + late, 1, 64, 64), lambda: [began] * 64)
        assert knee.workers == 2 * START_WORKERS, "they may yet end in time"
    knee.note(Round(now - 0.1, now + 0.4, 1, 64, 64), lambda: [began] * 64)

    assert knee.workers < 2 * START_WORKERS


def test_more_are_given_up_where_they_get_less_far_than_it_had_seemed() -> None:
    """The first calls of all had more room than those after them."""
    knee = Knee()
    now = feed(knee, 0.0, 0.1)
    now = feed(knee, now, 2.0)  # with 64
    now = feed(knee, now, 0.15)  # with 16
    assert knee.workers == 24
    now = feed(knee, now, 0.15)
    assert knee.workers == START_WORKERS, "less than what 32 had brought"
    feed(knee, now, 0.4)

    assert knee.workers == 24


def test_there_may_be_no_more_threads() -> None:
    knee, now = Knee(), 0.0
    knee.limit(10)
    for _ in range(10):
        now = feed(knee, now, 0.1)

    assert knee.workers <= 10


def test_the_next_one_begins_where_the_last_one_was() -> None:
    first = Knee(cores=2)
    simulate(lambda chance: Server(same()(chance), places=20), first, 3.0, seed=1)
    lesson = first.lesson
    assert lesson is not None

    second = Knee(lesson=lesson)
    assert second.workers == first.workers

    feed(second, 0.0, 0.05)
    assert second.workers == first.workers, "it holds at first"
