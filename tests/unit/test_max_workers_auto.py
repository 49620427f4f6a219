"""``max_workers="auto"``: crews that have more workers, or fewer, while they work, and what they remember."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

import treadle
from tests.calls import Meter
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until
from treadle._crew import lessons
from treadle._crew.controller import START_WORKERS, Knee
from treadle._crew.crew import Crew
from treadle._crew.rounds import Lesson, Round
from treadle._crew.subject import Subject, subject_of
from treadle._crew.tuner import Tuner


@pytest.fixture(autouse=True)
def _nothing_learnt() -> Iterator[None]:
    lessons._lessons.clear()
    yield
    lessons._lessons.clear()


class Told(Knee):
    """A controller that says what it was told to."""

    def note(self, *what: Any) -> None: ...
    def note_throttled(self, now: float) -> None: ...

    def set(self, crew: Crew, workers: int) -> None:
        """Say another number, and have it followed."""
        self.workers = workers
        assert crew.tuner is not None
        crew.tuner.follow()


def crew_of(owner: Any) -> Crew:
    crew = owner._course.crew if hasattr(owner, "_course") else owner._book.crew
    assert isinstance(crew, Crew)
    return crew


def test_more_workers_take_what_waits(gate: Gate) -> None:
    with treadle.map(gate.hold, range(8), max_workers=1, buffersize=7) as run:
        gate.wait_for_arrivals(1)
        crew_of(run).resize(3)
        gate.wait_for_arrivals(2)
        gate.open()

        assert list(run) == list(range(8))


@pytest.mark.parametrize("intake", ["caller", "thread"])
def test_more_workers_have_more_items_taken(gate: Gate, intake: Any) -> None:
    """Also where whoever takes them waits for a result that is long in coming."""
    with treadle.map(gate.hold, count(), max_workers=2, intake=intake) as run:
        consumer = threading.Thread(target=next, args=(run,))
        consumer.start()
        gate.wait_for_arrivals(2)
        told = Told(2)
        crew_of(run).tune(told)
        told.set(crew_of(run), 6)
        gate.wait_for_arrivals(4)
        wait_until(lambda: run.stats.taken == 12)
        gate.open()
        consumer.join()


def test_a_bound_that_was_given_goes_by_the_number_of_the_moment(gate: Gate) -> None:
    with treadle.map(gate.hold, count(), max_workers=2, buffersize=3, intake="thread") as run:
        gate.wait_for_arrivals(2)
        wait_until(lambda: run.stats.taken == 5)
        told = Told(2)
        crew_of(run).tune(told)
        told.set(crew_of(run), 4)
        wait_until(lambda: run.stats.taken == 7)
        gate.open()


def test_those_at_work_who_are_too_many_leave_after_their_call(gate: Gate) -> None:
    overlap, after = Meter(), threading.Event()

    def call(item: int) -> int:
        if item < 4:
            gate.hold()
        else:
            after.wait()
            with overlap:
                time.sleep(0)
        return item

    with treadle.map(call, range(200), max_workers=4, buffersize=196) as run:
        gate.wait_for_arrivals(4)
        crew = crew_of(run)
        crew.resize(1)
        gate.open()
        wait_until(lambda: len(crew.workers) == 1)
        after.set()

        assert list(run) == list(range(200))
        assert overlap.most == 1


def test_idle_ones_that_are_too_many_leave_at_once(gate: Gate) -> None:
    with treadle.TaskGroup(max_workers=4) as group:
        tasks = [group.submit(gate.hold) for _ in range(4)]
        gate.wait_for_arrivals(4)
        gate.open()
        for task in tasks:
            task.result()
        crew = crew_of(group)
        wait_until(lambda: len(crew._idle) == 4)
        crew.resize(1)
        wait_until(lambda: len(crew.workers) == 1)

        assert group.submit(abs, -1).result() == 1


def test_tasks_that_wait_for_tasks_end_whatever_the_number_becomes(gate: Gate) -> None:
    """What is awaited has room, also where all workers that there may be are blocked."""

    def wait_for_another(depth: int) -> int:
        gate.hold()
        return 0 if depth == 0 else 1 + pool.submit(wait_for_another, depth - 1).result(timeout=PATIENCE_SECONDS)

    with treadle.PoolExecutor(max_workers=6) as pool:
        tasks = [pool.submit(wait_for_another, 3) for _ in range(6)]
        gate.wait_for_arrivals(6)
        crew_of(pool).resize(1)
        gate.open()

        assert [task.result(timeout=PATIENCE_SECONDS) for task in tasks] == [3] * 6


def test_the_number_may_change_at_any_moment() -> None:
    """A race of everything with everything: each item has one outcome, and nobody sleeps beside work."""
    with treadle.map(lambda item: item, range(20_000), max_workers=8, ordered=False) as run:
        crew, told, results = crew_of(run), Told(8), []
        crew.tune(told)
        for number, result in enumerate(run):
            results.append(result)
            if number % 50 == 0:
                told.set(crew, 1 + number // 50 % 9)

    assert sorted(results) == list(range(20_000))


def test_where_the_system_has_no_more_threads_it_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, count(1)

    def start_some(thread: threading.Thread) -> None:
        if "worker" in thread.name and next(started) > 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    barrier = threading.Barrier(2)
    with treadle.map(lambda _: barrier.wait(), range(40), max_workers="auto", name="worker") as run:
        assert len(list(run)) == 40
        crew = crew_of(run)
        assert crew.max_workers == 2
        assert crew.tuner is not None
        crew.tuner.follow()
        assert crew.tuner.knee.most == 2


# One controller after another


class Diary(Told):
    """One that keeps what it is told."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.rounds: list[Round] = []
        self.throttled = 0

    def note(self, done: Round, *_: Any) -> None:
        self.rounds.append(done)

    def note_throttled(self, _: float) -> None:
        self.throttled += 1


def test_a_worker_does_not_stumble_over_a_controller_that_has_just_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops it may come between any two steps of a worker: here, each time that one has looked."""
    tuners: dict[Crew, Tuner | None] = {}

    def look_and_stop(crew: Crew) -> Tuner | None:
        tuner = tuners[crew]
        tuners[crew] = None
        return tuner

    monkeypatch.setattr(Crew, "tuner", property(look_and_stop, tuners.__setitem__), raising=False)
    with treadle.TaskGroup(max_workers=1) as group:
        for number in range(10):
            tuners[crew_of(group)] = Tuner(crew_of(group), Told(1))
            assert group.submit(abs, -number).result() == number


def test_who_comes_late_tells_nothing_to_one_that_was_stopped() -> None:
    """By then somebody else may be telling it things."""
    diary = Diary(1)
    with treadle.map(abs, [1]) as run:
        tuner = Tuner(crew_of(run), diary)
        passing_on = tuner._passing_on

        class Late:
            """Is stopped between the look whether that has happened, and what follows from it."""

            def acquire(self, blocking: bool) -> bool:
                tuner._passing_on = passing_on
                tuner.stop()
                tuner._passing_on = self  # type: ignore[assignment]
                return passing_on.acquire(blocking)

            def release(self) -> None:
                passing_on.release()

        tuner._passing_on = Late()  # type: ignore[assignment]
        tuner.note_throttled()

    assert diary.throttled == 0


def test_what_began_before_there_was_a_controller_is_not_told(gate: Gate) -> None:
    """It says nothing of the present number, and nobody knows its processor time."""
    with treadle.TaskGroup(max_workers=1) as group:
        crew = crew_of(group)
        first, second = Diary(1), Diary(1)
        task = group.submit(gate.hold)
        gate.wait_for_arrivals(1)
        crew.tune(first)
        gate.open()
        task.result()
        group.submit(abs, -1).result()
        wait_until(lambda: len(first.rounds) == 1)
        crew.stop_tuning()
        began = time.perf_counter()
        crew.tune(second)
        group.submit(abs, -1).result()
        wait_until(lambda: len(second.rounds) == 1)

    assert second.rounds[0].began >= began
    assert all(done.cores < PATIENCE_SECONDS for done in first.rounds)


def test_who_has_nothing_to_do_is_not_slow(gate: Gate) -> None:
    """An input that pauses says nothing of the number of workers: not while it does, nor when it goes on."""
    with treadle.TaskGroup(max_workers=2) as group:
        crew, diary = crew_of(group), Diary(2)
        crew.tune(diary)
        tuner = crew.tuner
        assert tuner is not None
        for _ in range(2):
            group.submit(gate.hold)
        gate.wait_for_arrivals(2)
        gate.open()
        wait_until(lambda: len(crew._idle) == 2)
        assert list(tuner._open_since()) == []

        goes_on = time.perf_counter()
        group.submit(abs, -1).result()
        wait_until(lambda: len(diary.rounds) == 3)
        assert diary.rounds[-1].began >= goes_on


# What people see


def test_the_stats_say_how_many_and_why() -> None:
    with treadle.map(abs, [-1], max_workers="auto") as run:
        assert list(run) == [1]

        assert run.stats.decision == f"threads; {START_WORKERS} workers, to begin with"


def _subject(fn: Any, limiter: treadle.Limiter | None = None) -> Subject:
    """What a run of ``fn`` with ``max_workers="auto"`` alone learns about."""
    subject = subject_of(fn, limiter, "threads", None, None, ())
    assert subject is not None
    return subject


def test_the_next_run_of_the_same_function_begins_where_the_last_one_ended() -> None:
    def call(item: int) -> int:
        return item

    lessons.remember(_subject(call), Lesson(3, is_settled=True))
    with treadle.map(call, range(10), max_workers="auto") as run:
        assert crew_of(run).max_workers == 3
        list(run)
        crew = crew_of(run)
        assert crew.tuner is not None
        assert crew.tuner.knee.workers == 3
        assert "as at the last time" in str(run.stats.decision)
    with treadle.map(call, range(10), max_workers="auto", limiter=treadle.Limiter(throttled=OSError)) as run:
        assert crew_of(run).max_workers == START_WORKERS, "behind a limiter it is another matter"
        list(run)


def test_what_a_run_has_learnt_is_kept(gate: Gate) -> None:
    def call(item: int) -> int:
        if item == 0:
            raise OSError("busy")
        if item == 1:  # so that the run does not end before this is known
            gate.hold()
        return item

    limiter = treadle.Limiter(throttled=OSError)
    with treadle.map(call, [0, 1], max_workers="auto", chunksize=1, limiter=limiter) as first:
        outcomes = first.outcomes()
        assert next(outcomes).status == "failed"
        wait_until(lambda: crew_of(first).max_workers < START_WORKERS)
        gate.open()
        list(outcomes)

    with treadle.map(call, [2], max_workers="auto", limiter=limiter) as run:
        assert crew_of(run).max_workers == int(0.7 * START_WORKERS)
        list(run.outcomes())


def test_lessons_hold_neither_function_nor_limiter() -> None:
    class Caller:
        def __call__(self, item: int) -> int:
            return item

    limiter, caller = treadle.Limiter(throttled=OSError), Caller()
    lessons.remember(_subject(caller, limiter), Lesson(3, is_settled=True))
    gone: list[weakref.ref[Any]] = [weakref.ref(limiter), weakref.ref(caller)]
    del limiter, caller
    gc.collect()

    assert [reference() for reference in gone] == [None, None]


def test_lessons_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "MAX_LESSONS", 3)
    for number in range(10):
        lessons.remember(Subject(number), Lesson(number, is_settled=True))

    assert [subject.key for subject in lessons._lessons] == [7, 8, 9]


def test_what_stands_for_a_function_is_that_function() -> None:
    """The stages of a pipeline and visits wrap what they are given."""

    def visit(node: int) -> list[int]:
        return []

    lessons.remember(_subject(visit), Lesson(3, is_settled=True))
    with treadle.traverse(visit, [1], max_workers="auto") as traversal:
        assert crew_of(traversal).max_workers == 3
        list(traversal)
    with treadle.pipeline([1]).flat_map(visit, max_workers="auto").start() as flow:
        assert flow.stats.stages[0].max_workers == 3
        assert list(flow) == []


def test_a_group_and_an_executor_learn_from_their_first_function() -> None:
    lessons.remember(_subject(abs), Lesson(3, is_settled=True))
    with treadle.TaskGroup(max_workers="auto") as group:
        group.submit(abs, -1)
        assert crew_of(group).max_workers == 3
        assert group.stats.decision == "threads; 3 workers, as at the last time"
    with treadle.PoolExecutor(max_workers="auto", engine="threads") as pool:
        assert pool.submit(abs, -1).result() == 1
        assert crew_of(pool).max_workers == 3


def test_coroutines_may_be_many_more() -> None:
    async def call(item: int) -> int:
        await asyncio.sleep(0)
        return item

    with treadle.map(call, range(300), max_workers="auto") as run:
        crew = crew_of(run)
        assert crew.tuner is not None
        assert crew.tuner.knee.most > 1000
        assert list(run) == list(range(300))


@pytest.mark.parametrize(
    "make", [lambda n: treadle.map(abs, [1], max_workers=n), treadle.TaskGroup, treadle.PoolExecutor]
)
def test_another_word_is_refused(make: Any) -> None:
    with pytest.raises(treadle.InvalidArgument, match="max_workers must be a whole number, or 'auto', not 'many'"):
        make("many")
