"""Bad input gets a message that says what was wrong, where, and what to do."""

from __future__ import annotations

import os
import threading
import tracemalloc
from typing import Any

import pytest

import treadle
from tests.conftest import Gate
from treadle._core.describe import describe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_workers": 0}, "max_workers must be at least 1, not 0"),
        ({"max_workers": -3}, "max_workers must be at least 1, not -3"),
        ({"max_workers": 2.5}, "max_workers must be a whole number, not 2.5"),
        ({"max_workers": True}, "max_workers must be a whole number, not True"),
        ({"buffersize": -1}, "buffersize must be at least 0, not -1"),
        ({"chunksize": 0}, "chunksize must be at least 1, not 0"),
        ({"timeout": -1}, "timeout must be 0 seconds or more, not -1"),
        ({"timeout": float("nan")}, "timeout must be 0 seconds or more, not nan"),
        ({"timeout": "5"}, "timeout must be a number of seconds, not '5'"),
        ({"grace": -0.1}, "grace must be 0 seconds or more, not -0.1"),
        ({"max_abandoned": -1}, "max_abandoned must be at least 0, not -1"),
        ({"intake": "both"}, "intake must be 'caller' or 'thread', not 'both'"),
        ({"name": 5}, "name must be a string, not 5"),
        ({"progress": "yes"}, "progress must be True, False or a function that takes Stats, not 'yes'"),
        ({"initializer": 5}, "initializer must be callable, not 5"),
        ({"resource": "db"}, "resource must be callable, not 'db'"),
        ({"strict": 1}, "strict must be True or False, not 1"),
    ],
)
def test_an_option_out_of_bounds_is_refused_before_anything_starts(options: dict[str, Any], message: str) -> None:
    before = threading.active_count()

    with pytest.raises(treadle.InvalidArgument) as caught:
        treadle.map(abs, [1], **options)

    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert threading.active_count() == before


def test_what_cannot_be_called_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="fn must be callable, not 5"):
        treadle.map(5, [1])  # type: ignore[call-overload]


def test_what_cannot_be_iterated_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"iterables must be iterable, not 5 \(int\)"):
        treadle.map(abs, 5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"iterables\[1\] must be iterable, not None"):
        treadle.map(pow, [1], None)  # type: ignore[call-overload]


def test_no_iterable_at_all_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        treadle.map(abs)  # type: ignore[call-overload]


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_coroutine_function_is_refused_instead_of_never_awaited(engine: Any) -> None:
    async def fetch(item: int) -> int:
        return item

    with pytest.raises(TypeError, match="fn must be a plain function where .*, not the coroutine function fetch"):
        treadle.map(fetch, [1], engine=engine)


def test_a_closed_run_refuses_to_give_results() -> None:
    run = treadle.map(abs, range(10))
    assert next(run) == 0
    run.close()

    with pytest.raises(treadle.RunClosed, match="run 'abs' was closed"):
        next(run)
    with pytest.raises(treadle.RunClosed):
        list(run)


def test_closing_twice_or_after_the_end_does_nothing() -> None:
    run = treadle.map(abs, range(3))
    assert list(run) == [0, 1, 2]
    run.close()
    run.close()

    assert list(run) == []
    assert list(run.rest()) == []


def test_a_run_that_has_failed_says_so_when_asked_again() -> None:
    run = treadle.map(int, ["x"])
    with pytest.raises(ValueError):
        next(run)

    with pytest.raises(treadle.RunClosed, match="has ended with ValueError"):
        next(run)


def test_too_few_threads_are_made_do_with_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gate: Gate
) -> None:
    start = threading.Thread.start
    started: list[str] = []

    def start_three(thread: threading.Thread) -> None:
        if thread.name.startswith("treadle-"):
            if len(started) == 3:
                raise RuntimeError("can't start new thread")
            started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_three)
    run = treadle.map(gate.hold, range(50), max_workers=10)
    gate.wait_for_arrivals(3)
    gate.open()

    assert list(run) == list(range(50))
    (record,) = caplog.records
    assert (
        record.message == "run 'hold' goes on with 3 workers for now: no further thread starts (can't start new thread)"
    )


def test_no_thread_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    run = treadle.map(abs, range(50))

    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(run)
    assert {outcome.status for outcome in run.rest()} == {"not_started"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_run_is_closed_in_a_forked_child_and_says_so(gate: Gate) -> None:
    """Contract 12. The child has none of the workers; waiting for them would be for ever."""
    run = treadle.map(lambda item: gate.hold(item) if item == 50 else item, range(100), chunksize=10)
    assert next(run) == 0

    read, write = os.pipe()
    pid = _fork_quietly()
    if pid == 0:  # the child
        try:
            next(run)
            answer = "it gave a result"
        except treadle.RunClosed as error:
            answer = str(error)
        except BaseException as error:
            answer = repr(error)
        os.write(write, answer.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    gate.open()

    assert "belongs to the process that was forked" in os.read(read, 1000).decode()
    assert list(run) == list(range(1, 100)), "the parent's run goes on"
    os.close(read)
    os.close(write)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_can_start_runs_of_its_own(gate: Gate) -> None:
    with treadle.map(gate.hold, range(4), max_workers=2):
        gate.wait_for_arrivals(2)
        read, write = os.pipe()
        pid = _fork_quietly()
        if pid == 0:
            os.write(write, repr(list(treadle.map(abs, [-1, -2]))).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        gate.open()

    assert os.read(read, 100) == b"[1, 2]"
    os.close(read)
    os.close(write)


def _fork_quietly() -> int:
    """Fork, though threads run: that is the point here."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def test_an_item_of_many_bytes_is_described_without_putting_all_of_them_in_words() -> None:
    """That would take four times its memory, once more for each failure."""
    items = [bytes(50_000_000), [bytearray(50_000_000)]]
    tracemalloc.start()

    descriptions = [describe(item) for item in items]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1_000_000
    assert all(len(text) < 150 and "..." in text for text in descriptions)
