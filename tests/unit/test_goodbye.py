"""Contract 5: stuck calls never hold you - not at a failure, a close, a timeout, Ctrl-C, or exit.

The calls here are stuck until the test lets them go, or for ever: whoever goes on meanwhile was not held. How soon that
is, is in bench/.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator

import pytest

import treadle
from tests.conftest import Gate
from tests.places import wait_until
from tests.programs import finish, start_program
from treadle._core.gil import is_gil_enabled
from treadle.testing import ManualClock


def test_a_failure_is_raised_while_another_call_is_stuck(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    def call(item: int) -> None:
        if item == 0:
            gate.hold()
            return
        gate.wait_for_arrivals()
        raise ValueError("failed beside a stuck call")

    run = treadle.map(call, [0, 1], max_workers=2, name="stuck")
    with pytest.raises(ValueError, match="beside a stuck call"):
        next(run)

    assert gate.holding() == 1
    assert run.stats.abandoned == run.stats.cancelled == 1
    left, failed = run.rest()
    assert (left.status, left.abandoned, type(left.error)) == ("cancelled", True, treadle.CallCancelled)
    assert failed.status == "failed"
    assert "run 'stuck' leaves a thread behind: the call for item 0 (0) still runs" in caplog.text


def test_close_leaves_a_stuck_call_behind(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    with treadle.map(gate.hold, range(10), max_workers=2):
        gate.wait_for_arrivals(2)

    assert gate.holding() == 2
    assert caplog.text.count("leaves a thread behind") == 2


def test_a_call_that_ends_within_the_grace_is_not_left_behind(gate: Gate) -> None:
    run = treadle.map(gate.hold, [1], grace=60)
    gate.wait_for_arrivals()
    opener = threading.Timer(0.05, gate.open)
    opener.start()

    run.close()

    assert [outcome.status for outcome in run.rest()] == ["succeeded"]
    assert run.stats.abandoned == 0


def test_a_late_result_of_a_call_left_behind_changes_nothing(gate: Gate) -> None:
    """Each item has one outcome, and it was told already."""
    run = treadle.map(gate.hold, [1], grace=0)
    gate.wait_for_arrivals()
    run.close()
    before = run.stats
    worker = next(thread for thread in threading.enumerate() if thread.name.startswith("treadle-hold"))

    gate.open()
    worker.join(10)

    after = run.stats
    assert (before.cancelled, before.succeeded) == (after.cancelled, after.succeeded) == (1, 0)
    assert [outcome.status for outcome in run.rest()] == ["cancelled"]


def test_a_late_failure_of_a_call_left_behind_changes_nothing(gate: Gate) -> None:
    def call(_: int) -> None:
        gate.hold()
        raise ValueError("too late")

    run = treadle.map(call, [1], grace=0)
    gate.wait_for_arrivals()
    run.close()
    worker = next(thread for thread in threading.enumerate() if thread.name.startswith("treadle-call"))

    gate.open()
    worker.join(10)

    assert [outcome.status for outcome in run.rest()] == ["cancelled"]
    assert run.stats.failed == 0


def test_timeout_is_the_standard_librarys(gate: Gate) -> None:
    """It counts from the call of map, and is raised for a result that is not there in time."""

    def call(item: int) -> int:
        if item == 1:
            gate.hold()
        return item

    run = treadle.map(call, range(5), timeout=0.2, max_workers=1)

    assert next(run) == 0
    with pytest.raises(TimeoutError, match="timeout=0.2"):
        next(run)
    statuses = [outcome.status for outcome in run.rest()]
    assert statuses[0] == "cancelled"
    assert set(statuses[1:]) <= {"not_started"}


def test_results_that_are_there_come_even_after_the_timeout() -> None:
    with ManualClock() as clock:
        run = treadle.map(abs, range(5), timeout=60, max_workers=1)
        wait_until(lambda: run.stats.succeeded >= 2)
        clock.advance(61)

        assert next(run) == 0
        assert next(run) == 1


def test_no_call_begins_after_the_timeout_even_if_nobody_asks(gate: Gate) -> None:
    begun: list[int] = []

    def call(item: int) -> None:
        begun.append(item)
        gate.hold()

    run = treadle.map(call, range(4), timeout=0.05, max_workers=1, buffersize=3)
    gate.wait_for_arrivals()
    threading.Event().wait(0.1)
    gate.open()
    with pytest.raises(TimeoutError):
        list(run)

    assert begun == [0]


def test_outcomes_tell_everything_before_the_timeout_is_raised(gate: Gate) -> None:
    outcomes = treadle.map(gate.hold, range(5), timeout=0.1, max_workers=1, buffersize=2).outcomes()
    seen: list[str] = []

    with pytest.raises(TimeoutError):
        seen.extend(outcome.status for outcome in outcomes)

    assert seen == ["cancelled", "not_started", "not_started"]


@pytest.mark.parametrize("ordered", [True, False])
def test_outcomes_of_a_run_closed_midway_come_to_their_end(gate: Gate, ordered: bool) -> None:
    """Also those of items that no worker has seen, which are in no particular order then."""
    run = treadle.map(gate.hold, range(6), max_workers=2, buffersize=4, ordered=ordered, grace=0)
    gate.wait_for_arrivals(2)
    run.close()

    outcomes = list(run.outcomes())

    taken = run.stats.taken  # a busy machine may make the intake pause before the sixth
    assert sorted(outcome.index for outcome in outcomes) == list(range(taken))
    assert sorted(outcome.status for outcome in outcomes) == ["cancelled"] * 2 + ["not_started"] * (taken - 2)


def test_a_resource_that_takes_for_ever_to_open_holds_nobody(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    run = treadle.map(lambda item, _: item, [1], resource=gate.hold, timeout=0.1, name="opening")
    gate.wait_for_arrivals()

    with pytest.raises(TimeoutError):
        next(run)
    assert "run 'opening' leaves treadle-opening-0 behind, still getting ready" in caplog.text


def test_too_many_left_behind_are_an_error(gate: Gate) -> None:
    run = treadle.map(gate.hold, range(3), max_workers=3, max_abandoned=2)
    gate.wait_for_arrivals(3)

    with pytest.raises(treadle.TooManyAbandoned, match="3 stuck calls behind, more than max_abandoned=2"):
        run.close()
    assert len(list(run.rest())) == 3


def test_too_many_left_behind_are_told_beside_the_failure(gate: Gate) -> None:
    def call(item: int) -> None:
        if item < 2:
            gate.hold()
            return
        gate.wait_for_arrivals(2)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first") as caught:
        list(treadle.map(call, range(3), max_workers=3, max_abandoned=1))
    assert any("max_abandoned=1" in note for note in caught.value.__notes__)


def test_dropping_the_run_ends_it(gate: Gate) -> None:
    """As ``break`` does: no further call begins."""
    begun: list[int] = []

    def call(item: int) -> int:
        begun.append(item)
        return item if item == 0 else gate.hold(item)  # type: ignore[return-value]

    for _ in treadle.map(call, range(100), max_workers=1):
        break
    gate.open()

    for thread in threading.enumerate():
        if thread.name.startswith("treadle-call"):
            thread.join(10)
    assert begun in ([0], [0, 1])


def test_a_feeder_that_is_stuck_in_its_input_holds_nobody(gate: Gate) -> None:
    def items() -> Iterator[int]:
        yield 1
        gate.hold()
        yield 2

    run = treadle.map(abs, items(), intake="thread")
    assert next(run) == 1
    gate.wait_for_arrivals()
    run.close()

    assert gate.holding() == 1


def test_dump_shows_a_call_left_behind(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    run = treadle.map(gate.hold, ["stuck"], grace=0, name="dumped")
    gate.wait_for_arrivals()
    run.close()

    treadle.dump()

    text = capsys.readouterr().err
    assert "item 0 ('stuck')" in text
    assert "left behind" in text
    assert (", in hold" in text) == is_gil_enabled()


def test_exit_does_not_wait_for_stuck_calls() -> None:
    process = start_program("""
        import threading, treadle
        def call(item):
            if item == 0: threading.Event().wait()
            raise ValueError("failed beside a stuck call")
        list(treadle.map(call, [0, 1], max_workers=2))
    """)
    code, _, err = finish(process)

    assert code == 1
    assert "ValueError: failed beside a stuck call" in err
    assert "treadle: item 1 of run 'call': 1" in err


def test_exit_with_a_run_that_nobody_closed_says_what_it_leaves() -> None:
    process = start_program("""
        import threading, treadle
        begun = threading.Event()
        def call(item):
            begun.set()
            threading.Event().wait()
        run = treadle.map(call, ["x"])
        begun.wait()
    """)
    code, _, err = finish(process)

    assert code == 0
    assert "the call for item 0 ('x') still runs" in err


CTRL_C = """
    import json, sys, threading, treadle
    stuck = threading.Semaphore(0)
    def call(item):
        if item >= 2:
            stuck.release()
            threading.Event().wait()
        return item
    run = treadle.map(call, range(100), max_workers=4, buffersize=10)
    delivered = []
    try:
        for result in run:
            delivered.append(result)
            if len(delivered) == 2:
                for _ in range(4):
                    stuck.acquire()
                print("ready", flush=True)
    except KeyboardInterrupt:
        rest = [(o.index, o.status) for o in run.rest()]
        print(json.dumps([delivered, rest, run.stats.taken]), flush=True)
"""


def test_ctrl_c_reaches_the_caller_and_the_account_is_exact() -> None:
    process = start_program(CTRL_C)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)

    delivered, rest, taken = json.loads(out)
    assert code == 0, err
    assert [*delivered, *(index for index, _ in rest)] == list(range(taken))
    assert [status for _, status in rest] == ["cancelled"] * 4 + ["not_started"] * (taken - 6)


def test_ctrl_c_while_a_slow_input_is_advanced_keeps_the_items_taken() -> None:
    process = start_program("""
        import json, time, treadle
        def items():
            yield from range(5)
            print("ready", flush=True)
            while True:
                time.sleep(0.01)  # a signal that comes a moment before one sleep ends the next
        try:
            run = None
            run = treadle.map(abs, items(), max_workers=1, buffersize=4)
            list(run)
        except KeyboardInterrupt:
            rest = [o.status for o in run.rest()]
            print(json.dumps([len(rest), run.stats.taken]))
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)

    assert code == 0, err
    # Results may have been delivered before; what matters is that the rest ends where the input did.
    rest, taken = json.loads(out)
    assert taken == 5
    assert rest <= 5


def test_abandoned_threads_are_logged_not_printed_by_the_library(caplog: pytest.LogCaptureFixture) -> None:
    assert logging.getLogger("treadle").handlers == []
