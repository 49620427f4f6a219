"""What a run promises whichever engine makes its calls: each engine's tests inherit this suite."""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import treadle
from tests.calls import FileGate
from tests.conftest import PATIENCE_SECONDS
from tests.contract.engine_contract import Resource
from tests.places import make_late, wait_until
from treadle.testing import ManualClock

STUCK_SECONDS = 1000.0
LIMIT = 10.0  # by a clock that a test turns
GRACE = 2.0


def square(number: int) -> int:
    """Return the number times itself."""
    return number * number


def fail_on_sevens(number: int) -> int:
    """Raise for each seventh number."""
    if number % 7 == 3:
        raise ValueError("a seven", number)
    return number


def sleep_and_tell(folder: Path) -> None:
    """Sleep for ever, in Treadle's way, and say in ``folder`` when that begins and how it ends."""
    (folder / "asleep").touch()
    try:
        treadle.sleep(STUCK_SECONDS)
    except treadle.Cancelled:
        (folder / "cancelled").touch()
        raise


def spin_and_tell(folder: Path) -> None:
    """Go on until cancelled, and say so in ``folder``."""
    (folder / "asleep").touch()
    while True:
        try:
            treadle.check_cancelled()
        except treadle.Cancelled:
            (folder / "cancelled").touch()
            raise


def sum_of_squares(number: int, engine: Any) -> int:
    """Return the sum of the squares below ``number``, by a run of its own."""
    return sum(treadle.map(square, range(number), engine=engine, max_workers=1))


class RunContract:
    """Inherit, and name the engine."""

    engine: Any
    leaves_stuck_calls_behind = True
    stuck_calls_heed = False  # that they are cancelled: then they are left all the time they need
    hears_cancellation = True  # a call can look whether it was asked to end
    has_own_workers = False  # which cannot be got ready for a run
    takes_back_what_waits = True  # behind a slow call, where it was sent along with that
    engine_within: Any = None  # for a run within a call; the same unless given

    def map(self, fn: Any, *iterables: Any, **options: Any) -> treadle.Run[Any, Any]:
        run: treadle.Run[Any, Any] = treadle.map(fn, *iterables, engine=self.engine, **options)
        return run

    @pytest.fixture
    def file_gate(self, tmp_path: Path) -> Iterator[FileGate]:
        gate = FileGate(tmp_path)
        yield gate
        gate.open()  # whoever was left behind in it

    # Results

    def test_results_come_in_the_order_of_the_input(self) -> None:
        assert list(self.map(square, range(3000))) == [number * number for number in range(3000)]

    def test_one_result_per_item_whatever_the_chunks(self) -> None:
        for chunksize in (1, 7, 1000):
            run = self.map(square, range(2000), chunksize=chunksize, ordered=False)
            assert sorted(run) == [number * number for number in range(2000)]

    def test_unordered_results_overtake_a_slow_one(self, file_gate: FileGate) -> None:
        def call(item: int) -> object:
            return file_gate.hold(item) if item == 0 else item

        with self.map(call, range(5), ordered=False, max_workers=2) as run:
            assert sorted(next(run) for _ in range(4)) == [1, 2, 3, 4]
            file_gate.open()
            assert next(run) == 0

    def test_several_inputs_are_several_arguments(self) -> None:
        assert list(self.map(pow, [2, 3], [5, 2])) == [32, 9]

    def test_lambdas_and_closures_will_do(self) -> None:
        base = 10

        assert list(self.map(lambda number: base + number, range(3))) == [10, 11, 12]

    # Bounds

    def test_the_input_is_taken_no_further_than_the_bound(self) -> None:
        taken = itertools.count()

        with self.map(operator.neg, (next(taken) for _ in itertools.count()), max_workers=2, buffersize=3) as run:
            assert next(run) == 0
            wait_until(lambda: run.stats.taken >= 5)
            assert run.stats.taken <= 2 + 3 + 1

        assert next(taken) <= 7

    def test_an_endless_input_is_fine(self) -> None:
        with self.map(operator.neg, itertools.count()) as run:
            assert [next(run) for _ in range(5000)] == [-number for number in range(5000)]

    # The account

    def test_each_item_has_one_outcome_with_its_item_and_index(self) -> None:
        outcomes = list(self.map(fail_on_sevens, range(1000)).outcomes())

        assert [(outcome.index, outcome.item) for outcome in outcomes] == [(at, at) for at in range(1000)]
        for outcome in outcomes:
            if outcome.item % 7 == 3:
                assert outcome.status == "failed"
                assert (type(outcome.error), outcome.error and outcome.error.args) == (
                    ValueError,
                    ("a seven", outcome.item),
                )
            else:
                assert (outcome.status, outcome.value) == ("succeeded", outcome.item)

    def test_a_failure_reaches_the_consumer_as_it_is_and_names_its_item(self) -> None:
        run = self.map(fail_on_sevens, [1, 2, 3, 4], max_workers=1)

        with pytest.raises(ValueError, match="a seven") as caught:
            list(run)

        assert caught.value.args == ("a seven", 3)
        assert caught.value.__notes__ == ["treadle: item 2 of run 'fail_on_sevens': 3"]
        rest = list(run.rest())
        assert [outcome.index for outcome in rest] == [2, 3][: len(rest)]
        assert rest[0].status == "failed"

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_whatever_a_call_raises_is_its_items_outcome(self, kind: type[BaseException]) -> None:
        def explode(_: int) -> None:
            raise kind

        (outcome,) = self.map(explode, [1]).outcomes()

        assert type(outcome.error) is kind

    def test_a_failure_does_not_wait_for_a_stuck_call(self, file_gate: FileGate) -> None:
        def call(item: str) -> object:
            if item == "stuck":
                return file_gate.hold()
            file_gate.wait_for_arrivals()
            raise ValueError(item)

        run = self.map(call, ["fails", "stuck"], max_workers=2, max_abandoned=2)
        with pytest.raises(ValueError, match="fails"):
            list(run)

        assert [outcome.status for outcome in run.rest()] == ["failed", "cancelled"]
        assert run.stats.abandoned == int(self.leaves_stuck_calls_behind)

    # The end

    def test_close_does_not_wait_for_a_stuck_call(self, file_gate: FileGate) -> None:
        run = self.map(file_gate.hold, range(4), max_workers=2, max_abandoned=2)
        file_gate.wait_for_arrivals(2)

        run.close()

        rest = list(run.rest())
        assert [outcome.status for outcome in rest[:2]] == ["cancelled", "cancelled"]
        assert {outcome.status for outcome in rest[2:]} <= {"not_started"}
        assert [outcome.abandoned for outcome in rest[:2]] == [self.leaves_stuck_calls_behind] * 2

    @pytest.mark.parametrize("call", [sleep_and_tell, spin_and_tell])
    def test_a_call_that_looks_ends_when_the_run_is_closed(self, call: Any, tmp_path: Path) -> None:
        if not self.hears_cancellation:
            pytest.skip("nobody can tell the call")
        run = self.map(call, [tmp_path], grace=PATIENCE_SECONDS / 4)  # for as long its timer lives on
        wait_until((tmp_path / "asleep").exists)

        run.close()

        (outcome,) = run.rest()
        assert (outcome.status, outcome.abandoned) == ("cancelled", False)
        assert (tmp_path / "cancelled").exists()

    def test_a_run_that_takes_too_long_ends(self, file_gate: FileGate) -> None:
        run = self.map(file_gate.hold, range(2), max_workers=1, timeout=0.5)

        with pytest.raises(TimeoutError, match=r"did not end within timeout=0\.5 seconds"):
            next(run)

        assert run.stats.succeeded == 0
        assert [outcome.index for outcome in run.rest()] == list(range(run.stats.taken))

    def test_a_stuck_call_is_timed_out_and_the_next_ones_go_on(self, file_gate: FileGate) -> None:
        def call(item: str) -> object:
            return file_gate.hold() if item == "stuck" else item

        with ManualClock() as clock:
            run = self.map(call, ["a", "stuck", "b", "c"], max_workers=1, call_timeout=LIMIT, grace=GRACE)
            outcomes = run.outcomes()
            first = next(outcomes)
            file_gate.wait_for_arrivals()
            make_late(run, clock, LIMIT, 0.0 if self.stuck_calls_heed else GRACE)
            stuck, *rest = outcomes

        assert [outcome.status for outcome in (first, stuck, *rest)] == [
            "succeeded",
            "timed_out",
            "succeeded",
            "succeeded",
        ]
        assert isinstance(stuck.error, treadle.CallTimedOut)
        assert stuck.abandoned == self.leaves_stuck_calls_behind

    def test_a_call_that_heeds_its_timeout_is_not_killed(self, tmp_path: Path) -> None:
        if not self.hears_cancellation:
            pytest.skip("nobody can tell the call")
        run = self.map(sleep_and_tell, [tmp_path], call_timeout=0.3, grace=PATIENCE_SECONDS)

        (outcome,) = run.outcomes()

        assert (outcome.status, outcome.abandoned) == ("timed_out", False)
        assert (tmp_path / "cancelled").exists()

    def test_a_failed_call_is_made_again(self, tmp_path: Path) -> None:
        marker = tmp_path / "tried"

        def fail_once(item: int) -> int:
            if not marker.exists():
                marker.touch()
                raise ConnectionError
            return item

        retry = treadle.Retry(retry_on=ConnectionError, backoff=0.001)
        (outcome,) = self.map(fail_once, [7], retry=retry).outcomes()

        assert (outcome.value, outcome.attempts) == (7, 2)

    def test_calls_pass_the_limiter(self) -> None:
        limiter = treadle.Limiter(max_concurrent=1)

        assert list(self.map(square, range(20), limiter=limiter)) == [number * number for number in range(20)]

    # What workers have

    def test_each_worker_has_a_resource_closed_before_the_run_is_over(self, tmp_path: Path) -> None:
        if self.has_own_workers:
            pytest.skip("its workers are its own")
        diary = tmp_path / "diary"

        results = list(self.map(lambda item, _: item, range(10), resource=lambda: Resource(diary), max_workers=1))

        assert results == list(range(10))
        assert diary.read_text().split() == ["made", "closed"]

    def test_an_initializer_that_fails_ends_the_run_with_its_error(self) -> None:
        if self.has_own_workers:
            pytest.skip("its workers are its own")

        def refuse() -> None:
            raise ConnectionError("no")

        with pytest.raises(ConnectionError, match="no"):
            list(self.map(square, range(3), initializer=refuse))

    # Nesting

    def test_a_run_within_a_call(self) -> None:
        engine = self.engine_within or self.engine

        def call(number: int) -> int:
            return sum_of_squares(number, engine)

        results = list(self.map(call, range(4), max_workers=2))

        assert results == [sum(square(part) for part in range(number)) for number in range(4)]

    # Many

    def test_a_slow_tail_after_tiny_calls_is_shared(self, file_gate: FileGate) -> None:
        """All of it may be in one chunk; other workers come and take their part."""
        if not self.takes_back_what_waits:
            pytest.skip("what was sent along with a slow call waits for it")

        def call(item: int) -> object:
            return file_gate.hold(item) if item >= 3000 else item

        with self.map(call, range(3004), max_workers=2, ordered=False) as run:
            assert len([next(run) for _ in range(3000)]) == 3000
            file_gate.wait_for_arrivals(2)
            file_gate.open()
            assert sorted(run) == [3000, 3001, 3002, 3003]


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
