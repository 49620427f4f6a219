"""Code of the user's that is called where ours must go on: whatever it does, every item gets its outcome.

Policies, callbacks, a ``repr`` and log handlers may raise what is no ``Exception``, wait on Treadle, be cancelled in
that wait, or come with exceptions that lie about themselves.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import PLACES, RESULTS, Calls, wait_until
from treadle._core.cancellation import here
from treadle._core.describe import annotate, describe, describe_error, describe_function
from treadle._core.raw import is_mine
from treadle._core.tell import tell
from treadle._core.user_code import call_guarded, is_interrupt


class Rude(BaseException):
    """No ``Exception``, and so not what most programs catch."""


RAISED = (Rude, SystemExit, KeyboardInterrupt, GeneratorExit, treadle.Cancelled, StopIteration)


def raising(kind: type[BaseException]) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise kind

    return fail


class Liar(Exception):
    """Whatever one asks it, it raises."""

    def refuse(self, *_: object) -> Any:
        raise Rude

    __eq__ = __bool__ = __repr__ = __str__ = __setattr__ = add_note = with_traceback = refuse
    __hash__ = None  # type: ignore[assignment]
    __class__ = property(refuse)

    def __getattribute__(self, name: str) -> Any:
        raise Rude


def lie(item: object) -> object:
    raise Liar


def refuse_all(item: object) -> object:
    raise ValueError(item)


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("place", PLACES)
def test_a_judgement_may_raise_anything(place: str, kind: type[BaseException]) -> None:
    """The worker died of it, and with it the item's outcome: the run, or the block of the group, never ended."""
    limiter = treadle.Limiter(max_concurrent=2, throttled=raising(kind))

    ends = Calls(place, abs, [-1, -2, -3], max_workers=2, limiter=limiter).ends()

    assert [end.status for end in ends] == ["succeeded"] * 3


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("option", ["retry_on", "retry_after"])
@pytest.mark.parametrize("place", PLACES)
def test_a_retry_policy_may_raise_anything(place: str, option: str, kind: type[BaseException]) -> None:
    retry = treadle.Retry(2, backoff=0, **{option: raising(kind)})  # type: ignore[arg-type]

    (end,) = Calls(place, refuse_all, [1], retry=retry).ends()

    assert end.status == "failed"
    assert isinstance(end.error, ValueError)


@pytest.mark.parametrize("engine", ["threads", "coroutines"])
def test_a_judgement_may_raise_anything_whichever_engine_makes_the_calls(engine: Any) -> None:
    async def answer(item: int) -> int:
        return item

    limiter = treadle.Limiter(throttled=raising(SystemExit))
    fn: Callable[[int], Any] = answer if engine == "coroutines" else abs

    assert list(treadle.map(fn, [1, 2], engine=engine, limiter=limiter)) == [1, 2]


@pytest.mark.parametrize("place", PLACES)
def test_a_judgement_that_waits_is_cancelled_with_the_rest(place: str) -> None:
    """As one does that counts answers in a ``Guarded``: the end of all must not leave a task without its own."""
    counts = treadle.Guarded(0)
    begun = threading.Semaphore(0)

    def count(answer: object) -> bool:
        begun.release()
        counts.update(lambda value: value + 1)
        return False

    with counts, Calls(place, abs, [-1, -2], max_workers=2, limiter=treadle.Limiter(throttled=count)) as calls:
        for _ in calls.items:
            assert begun.acquire(timeout=PATIENCE_SECONDS)
        ending = threading.Thread(target=calls.stop)
        ending.start()
        ending.join(PATIENCE_SECONDS)
        assert not ending.is_alive()

    assert [end.status for end in calls.ends()] == ["succeeded"] * 2


def test_that_a_call_took_too_long_does_not_end_the_waits_of_its_policy() -> None:
    """What is cancelled is the call; whether it is made again is still to be decided."""
    attempts = treadle.Guarded(0)

    def is_wanted(error: BaseException) -> bool:
        treadle.check_cancelled()
        return attempts.update(lambda value: value + 1) < 2

    retry = treadle.Retry(3, retry_on=is_wanted, backoff=0)
    run = treadle.map(lambda _: treadle.sleep(60), [0], retry=retry, call_timeout=0.01, grace=10)
    (outcome,) = run.outcomes()

    assert (outcome.status, outcome.attempts) == ("timed_out", 2)


@pytest.mark.parametrize("asked", [Decimal("0.001"), True, timedelta(seconds=1), float("nan"), -1, "soon"])
def test_what_a_server_asks_for_may_be_any_number_or_none(asked: Any) -> None:
    """It is added to a time by others, where nobody is left to ask what was meant."""
    retry = treadle.Retry(2, backoff=0, retry_after=lambda _: asked)

    (outcome,) = treadle.map(refuse_all, [1], retry=retry, limiter=treadle.Limiter(1e6)).outcomes()

    assert outcome.status == "failed"
    assert isinstance(outcome.error, ValueError)


@pytest.mark.parametrize("options", [{}, {"retry": treadle.Retry(2, backoff=0)}, {"limiter": treadle.Limiter(1e6)}])
@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_an_exception_may_lie_about_itself(place: str, options: dict[str, Any]) -> None:
    calls = Calls(place, lie, [1], max_workers=1, **options)

    (end,) = calls.ends()

    if place in PLACES:
        assert end.status == "failed"
        assert type(end.error) is Liar
    else:
        assert type(calls.raised) is Liar


def test_an_exception_that_lies_comes_back_from_elsewhere(multiprocessing_helpers: None) -> None:
    with ThreadPoolExecutor(1) as executor:
        for engine in (executor, "processes"):
            (outcome,) = treadle.map(lie, [1], engine=engine, max_workers=1).outcomes()
            assert outcome.status == "failed"


def test_a_group_tells_of_exceptions_that_lie() -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(lie, 1)

    assert [type(failure) for failure in caught.value.exceptions] == [Liar]


@pytest.mark.parametrize("kind", RAISED)
def test_a_progress_function_may_raise_anything(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    results: list[int] = []

    def consume() -> None:  # not on the main thread, where Ctrl-C means what it says
        results.extend(treadle.map(abs, [-1, -2], progress=raising(kind)))

    consumer = threading.Thread(target=consume)
    consumer.start()
    consumer.join()

    assert results == [1, 2]
    assert any("the progress function failed" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("kind", RAISED[:2])
def test_a_callback_of_a_task_that_has_ended_is_logged_as_any_other(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    with treadle.PoolExecutor(1) as pool:
        task = pool.submit(abs, -1)
        assert task.result() == 1
        task.add_done_callback(raising(kind))

    (record,) = caplog.records
    assert "a done-callback of task 0" in record.getMessage()


class RudeHandler(logging.Handler):
    """A log handler that fails in a way that ``logging`` does not catch."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())
        raise Rude


@pytest.fixture
def rude_handler() -> Iterator[RudeHandler]:
    handler, logger = RudeHandler(), logging.getLogger("treadle")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


class Unclosable:
    """A resource whose end fails."""

    def close(self) -> None:
        raise Rude


def test_a_log_handler_may_raise_anything(rude_handler: RudeHandler, capsys: pytest.CaptureFixture[str]) -> None:
    """What is said when a worker leaves was said by a thread that had not told anybody yet that it did."""
    run = treadle.map(lambda item, _: item, [1, 2], resource=Unclosable, max_workers=2)

    with pytest.raises(Rude):
        list(run)

    assert any("closing the resource" in text for text in rude_handler.heard)
    assert "Rude" in capsys.readouterr().err


def test_a_worker_that_dies_of_what_cannot_be_described_loses_one_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """``report_lost`` is the last word about an item: there is nobody to catch what it raises."""
    from treadle._engines.inline import InlineEngine

    make_calls = InlineEngine.make_calls

    def fail_once(engine: InlineEngine, chunk: Any) -> None:
        monkeypatch.setattr(InlineEngine, "make_calls", make_calls)
        raise Liar

    monkeypatch.setattr(InlineEngine, "make_calls", fail_once)
    outcomes = list(treadle.map(abs, [-1, -2], max_workers=1, chunksize=1).outcomes())

    assert [outcome.status for outcome in outcomes] == ["failed", "succeeded"]
    assert isinstance(outcomes[0].error, treadle.WorkerLost)


def test_no_note_is_put_on_an_exception_under_a_lock(gate: Gate) -> None:
    """``add_note`` may be the user's, who looks at the run in it."""
    locked: list[bool] = []

    class Noted(Exception):
        def add_note(self, note: str) -> None:
            locked.append(is_mine(run._course.crew.lock))

    def fail() -> None:
        gate.hold()
        raise Noted

    run = treadle.map(lambda item, _: item, [1], resource=fail, max_workers=1)
    gate.open()
    with pytest.raises(Noted):
        list(run)

    assert locked
    assert not any(locked)


def test_a_block_of_a_limiter_gives_its_place_back_whatever_the_judgement_does() -> None:
    limiter = treadle.Limiter(max_concurrent=1, throttled=raising(KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt), limiter:  # on the main thread it may be Ctrl-C
        raise ValueError

    assert not limiter._state().holders
    assert here.places == ()


def test_a_channel_does_not_ask_for_the_truth_of_an_exception() -> None:
    channel: treadle.Channel[int] = treadle.Channel(1)
    first, second = channel.producer(), channel.producer()

    first.close(Liar())
    second.close(ValueError())

    with pytest.raises(treadle.ChannelClosed) as caught:
        channel.get()
    assert type(caught.value.__cause__) is Liar


# The door itself


def test_ctrl_c_on_the_main_thread_goes_through_the_door() -> None:
    for step in (
        lambda: call_guarded(raising(KeyboardInterrupt)),
        lambda: describe(_Shown(KeyboardInterrupt)),
        lambda: tell(logging.ERROR, "%s", _Shown(KeyboardInterrupt)),
    ):
        with pytest.raises(KeyboardInterrupt):
            step()


class _Shown:
    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def __repr__(self) -> str:
        raise self._kind


def test_what_the_handler_of_another_signal_raises_goes_through_as_well() -> None:
    """``sys.exit()`` in a handler of SIGTERM is how programs are ended; it may strike in any code of the user's."""

    def handle(*_: object) -> None:
        raise SystemExit

    def interrupted() -> None:
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(SystemExit):
            call_guarded(interrupted)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert isinstance(call_guarded(raising(SystemExit))[1], SystemExit)  # the code's own is an error of its own


def test_elsewhere_ctrl_c_is_an_exception_like_any_other() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(is_interrupt(KeyboardInterrupt())))
    thread.start()
    thread.join()

    assert found == [False]


def test_whatever_is_described_has_a_description() -> None:
    class Strange(type):
        __name__ = property(raising(Rude))

    class Thing(metaclass=Strange):
        __repr__ = __getattribute__ = raising(Rude)

    assert describe(Thing()) == "<Thing whose repr() fails>"
    assert describe_function(Thing()) == "Thing"
    assert describe_error(Liar()) == "Liar, whose str() fails"
    annotate(Liar(), "it is not raised")


def test_a_run_that_is_closed_while_its_judgement_is_stuck_leaves_it_behind(gate: Gate) -> None:
    run = treadle.map(abs, [-1], limiter=treadle.Limiter(throttled=gate.hold), grace=0)
    gate.wait_for_arrivals()

    run.close()
    (outcome,) = run.rest()

    assert outcome.status in ("succeeded", "cancelled")
    gate.open()
    wait_until(lambda: run.stats.workers == 0)


def test_a_check_of_a_resource_may_raise_anything() -> None:
    """What it raises means that the resource is not approved of, and not that the item has failed."""
    from treadle._engines import resource as module

    pool = treadle.Resource(list, check=raising(Rude))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IDLE_SECONDS", -1.0)
        outcomes = list(treadle.map(lambda item, _: item, [1, 2], resource=pool, max_workers=1).outcomes())

    assert [outcome.status for outcome in outcomes] == ["succeeded"] * 2
