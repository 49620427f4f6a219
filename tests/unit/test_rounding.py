"""Ten seconds are over when the clock was turned by 2.7 three times and by 1.9, though such floats may come to less."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add
from random import Random

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate
from treadle._core import clock as core_clock
from treadle._sync.brake import Brake
from treadle._sync.parker import Parker
from treadle.testing import ManualClock, assert_no_leaked_threads


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


STEPS = 2.7, 2.7, 2.7, 1.9
_random = Random(10)
STARTS = [_random.uniform(100, 20_000) for _ in range(10)]


def expect_timeout(wait: Callable[[], object]) -> None:
    with pytest.raises(TimeoutError):
        wait()


def sleep(gate: Gate) -> None:
    treadle.sleep(10)


def shield(gate: Gate) -> None:
    with treadle.TaskGroup() as group:
        begun = threading.Event()
        task = group.submit(shielded, begun)
        assert begun.wait(PATIENCE_SECONDS)
        task.cancel()


def shielded(begun: threading.Event) -> None:
    with treadle.shield(10):
        begun.set()
        treadle.sleep(1e6)


def get_from_channel(gate: Gate) -> None:
    expect_timeout(lambda: treadle.Channel[int](1).get(timeout=10))


def wait_for_guarded(gate: Gate) -> None:
    expect_timeout(lambda: treadle.Guarded(0).wait_for(bool, timeout=10))


def acquire_lock(gate: Gate) -> None:
    lock = treadle.Lock()
    with lock, treadle.PoolExecutor(2) as pool:  # not full: a full one has a timer of its own
        assert pool.submit(lock.acquire, timeout=10).result() is False


def wait_for_task(gate: Gate) -> None:
    with treadle.PoolExecutor(2) as pool:
        task = pool.submit(gate.hold)
        expect_timeout(lambda: task.result(timeout=10))
        gate.open()


def pass_limiter(gate: Gate) -> None:
    limiter = treadle.Limiter(0.1)
    for _ in range(2):
        with limiter:
            pass


def pass_limiter_on_loop(gate: Gate) -> None:
    async def call(item: int) -> int:
        return item

    assert list(treadle.map(call, range(2), limiter=treadle.Limiter(0.1))) == [0, 1]


def pass_paused_limiter(gate: Gate) -> None:
    limiter = treadle.Limiter(max_concurrent=1)
    limiter.pause(10)
    with limiter:
        pass


def end_run(gate: Gate) -> None:
    expect_timeout(lambda: list(treadle.map(treadle.sleep, [1e6], timeout=10)))


def end_call(gate: Gate) -> None:
    (outcome,) = treadle.map(treadle.sleep, [1e6], call_timeout=10).outcomes()
    assert outcome.status == "timed_out"


def end_group(gate: Gate) -> None:
    with pytest.raises(TimeoutError), treadle.TaskGroup(timeout=10) as group:
        group.submit(treadle.sleep, 1e6)


def retry(gate: Gate) -> None:
    made: list[int] = []

    def fail_once(item: int) -> None:
        made.append(item)
        if len(made) == 1:
            raise OSError

    assert list(treadle.map(fail_once, [1], retry=treadle.Retry(2, backoff=10, jitter=0))) == [None]


def hedge(gate: Gate) -> None:
    made: list[int] = []

    def hang_once(item: int) -> None:
        made.append(item)
        if len(made) == 1:
            treadle.sleep(1e6)

    assert list(treadle.map(hang_once, [1], hedge=treadle.Hedge(10, max_extra=1))) == [None]


def tick(gate: Gate) -> None:
    ran = threading.Semaphore(0)
    with treadle.every(10, ran.release):
        for _ in range(2):
            assert ran.acquire(timeout=PATIENCE_SECONDS)


def wait_for_tick(gate: Gate) -> None:
    with treadle.every(10, gate.hold) as periodic:
        expect_timeout(lambda: periodic.wait_next(timeout=10))
        gate.open()


def pass_on_batch(gate: Gate) -> None:
    batches: list[list[int]] = []
    items = treadle.Channel[int](1)

    def note(batch: list[int]) -> None:
        batches.append(batch)
        items.close()

    items.put(1)
    treadle.pipeline(items).batched(5, timeout=10).for_each(note)
    assert batches == [[1]]


WAITS = (
    *(sleep, shield, get_from_channel, wait_for_guarded, acquire_lock, wait_for_task),
    *(pass_limiter, pass_limiter_on_loop, pass_paused_limiter),
    *(end_run, end_call, end_group, retry, hedge),
    *(tick, wait_for_tick, pass_on_batch),
)


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_different_sums_of_the_same_seconds_are_the_same_moment(wait: Callable[[Gate], None]) -> None:
    assert any(reduce(add, STEPS, start) < start + 10 for start in STARTS)
    for start in STARTS:
        gate = Gate()
        with assert_no_leaked_threads(), ManualClock() as clock:
            clock._now = start
            thread = threading.Thread(target=wait, args=(gate,))
            thread.start()
            for seconds in STEPS:
                clock.wait_for_sleepers()
                assert thread.is_alive()
                clock.advance(seconds)
            thread.join(PATIENCE_SECONDS)
            is_stuck = thread.is_alive()
            clock.advance(1e6)
            gate.open()
        assert not is_stuck, f"from {start!r} on"


def test_time_is_as_exact_after_many_steps(clock: ManualClock) -> None:
    """Rounding errors of the steps do not add up."""
    start = clock.now()
    for _ in range(100_000):
        clock.advance(0.1)

    assert clock.now() == start + 10_000


def test_it_begins_at_a_full_second_not_before_the_machines_time() -> None:
    """Sums are then the same on each machine, and what was due before has come."""
    machine = core_clock.now()
    start = ManualClock().now()

    assert start % 1 == 0
    assert start >= machine


@pytest.mark.parametrize("start", [1.0, 1e6, 1e9])
def test_a_moment_that_only_rounding_puts_off_has_come_for_all(start: float, clock: ManualClock) -> None:
    """Or one who looks would go on, and find with the next look that it is too early."""
    clock._now = start
    almost = start + 2 * math.ulp(start)

    assert core_clock.left_until(almost) == 0
    assert core_clock.now() == almost
    assert core_clock.left_until(almost + 1e-5) > 0


def test_a_look_that_moves_the_clock_by_rounding_wakes_who_waits_for_that(clock: ManualClock) -> None:
    end = clock.now() + 10
    parker = Parker()
    with treadle.TaskGroup() as group:
        sleeper = group.submit(clock.wait, parker._permit, 10)
        clock.wait_for_sleepers()
        clock.advance(10 - 1.5e-8)
        assert not sleeper.done()
        assert core_clock.has_come(end - 8e-9)
        assert sleeper.result() is False


# Where the time only counts, and nobody waits for it


def test_the_time_that_a_limiter_does_not_listen_is_over_by_rounding() -> None:
    brake = Brake(OSError)
    brake.note_pass(0.1)
    brake.note_throttled(0.3, 0.0)
    slow = brake.rate(0.3)
    brake.note_pass(0.3)
    brake.note_success(0.3, 0.0)  # otherwise the server is taken to want a pause, not a lower rate
    brake.note_throttled(0.4, 0.0)  # 0.3 + 0.1 is 0.4, 0.1 + 0.2 + 0.1 is not

    assert brake.rate(0.4) < slow
