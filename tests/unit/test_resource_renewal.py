"""``treadle.Resource``: a broken or old resource is replaced, and does not eat the run."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

import treadle
from treadle._engines import resource as resource_module

RETRY = treadle.Retry(max_attempts=3, retry_on=ConnectionError, backoff=0)


class Connection:
    """Works until it is broken; then it fails at once, as a socket does whose other end is gone."""

    def __init__(self) -> None:
        self.is_broken = False
        self.is_closed = False

    def double(self, number: int) -> int:
        if self.is_broken:
            raise ConnectionError("the connection is closed")
        return 2 * number

    def close(self) -> None:
        self.is_closed = True


class Opener:
    """Opens connections, and keeps them for the test to look at."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []

    def __call__(self) -> Connection:
        self.opened.append(Connection())
        return self.opened[-1]


def double(number: int, connection: Connection) -> int:
    return connection.double(number)


async def double_later(number: int, connection: Connection) -> int:
    return connection.double(number)


def break_at_five(number: int, connection: Connection) -> int:
    """Be the item at which the server closes the connection, each time it is asked."""
    if number == 5:
        connection.is_broken = True
    return connection.double(number)


async def break_at_five_later(number: int, connection: Connection) -> int:
    return break_at_five(number, connection)


class BreaksOnce:
    """Has the server close the connection at the first call with 5."""

    def __init__(self) -> None:
        self.has_broken = False

    def __call__(self, number: int, connection: Connection) -> int:
        if number == 5 and not self.has_broken:
            self.has_broken = connection.is_broken = True
        return connection.double(number)


@pytest.mark.parametrize(
    ("fn", "engine"),
    [(break_at_five, "threads"), (break_at_five, "processes"), (break_at_five, "auto"), (break_at_five_later, None)],
)
@pytest.mark.parametrize("retry", [None, RETRY])
def test_a_broken_resource_costs_no_item(fn: Callable[..., Any], engine: Any, retry: treadle.Retry | None) -> None:
    """A worker whose connection is dead fails at once, and would take most of the items, attempts included."""
    resource = treadle.Resource(Connection, renew_on=ConnectionError)

    run = treadle.map(fn, range(200), resource=resource, retry=retry, engine=engine, max_workers=2)
    outcomes = list(run.outcomes())

    assert [outcome.index for outcome in outcomes if outcome.value != 2 * outcome.item] == [5]
    assert isinstance(outcomes[5].error, ConnectionError)


@pytest.mark.parametrize("fn", [break_at_five, break_at_five_later])
def test_a_failure_on_an_older_resource_is_no_attempt(fn: Callable[..., Any]) -> None:
    """The item is called once on what was open before it came, and then as often as ``retry`` says on what is new."""
    run = treadle.map(
        fn, range(4, 7), resource=treadle.Resource(Connection, renew_on=ConnectionError), retry=RETRY, max_workers=1
    )
    outcomes = list(run.outcomes())

    assert [(outcome.status, outcome.attempts) for outcome in outcomes] == [
        ("succeeded", 1),
        ("failed", 1 + RETRY.max_attempts),
        ("succeeded", 1),
    ]


def test_an_item_is_spared_once_for_each_resource_that_was_open_when_it_came() -> None:
    """Without a bound, an item that breaks each connection it gets would be called for ever."""
    workers, calls, opener = 4, [], Opener()
    all_are_open = threading.Barrier(workers, timeout=30)

    def call(number: int, connection: Connection) -> int:
        if number < workers:
            all_are_open.wait()
            return number
        calls.append(number)
        raise ConnectionError

    resource = treadle.Resource(opener, renew_on=ConnectionError)
    run = treadle.map(call, range(workers + 1), resource=resource, max_workers=workers, ordered=False)
    outcomes = {outcome.item: outcome for outcome in run.outcomes()}

    assert outcomes[workers].status == "failed"
    assert 2 <= len(calls) <= workers + 1
    assert outcomes[workers].attempts == len(calls)


def test_what_is_replaced_is_closed() -> None:
    opener = Opener()
    run = treadle.map(
        break_at_five, range(10), resource=treadle.Resource(opener, renew_on=ConnectionError), max_workers=1
    )

    list(run.outcomes())

    assert len(opener.opened) >= 2  # the last item may be the one that breaks it, once more
    assert all(connection.is_closed for connection in opener.opened)


def test_another_error_leaves_the_resource_alone() -> None:
    opener = Opener()

    def call(number: int, connection: Connection) -> int:
        raise ValueError(number)

    run = treadle.map(call, range(10), resource=treadle.Resource(opener, renew_on=OSError), max_workers=1)

    assert {outcome.attempts for outcome in run.outcomes()} == {1}
    assert len(opener.opened) == 1


def test_beside_retry_a_plain_factory_is_called_again_after_two_failures_in_a_row() -> None:
    """Nobody said which errors mean a broken resource, but the ones worth another attempt may."""
    opener = Opener()

    assert len(list(treadle.map(BreaksOnce(), range(200), resource=opener, retry=RETRY, max_workers=1))) == 200

    assert len(opener.opened) == 2


def test_without_retry_a_plain_factory_is_called_once() -> None:
    opener = Opener()

    run = treadle.map(break_at_five, range(10), resource=opener, max_workers=1)

    assert [outcome.status for outcome in run.outcomes()][5:] == ["failed"] * 5
    assert len(opener.opened) == 1


@pytest.mark.parametrize("retry", [None, treadle.Retry(retry_on=OSError, backoff=0)])
def test_one_that_cannot_be_opened_anew_is_the_failure_of_the_call(retry: treadle.Retry | None) -> None:
    """Only one that cannot be opened at the start ends the run: a server may be back in a moment."""
    answers: list[Connection | OSError] = [Connection(), OSError("the server is starting"), Connection()]

    def connect() -> Connection:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    resource = treadle.Resource(connect, renew_on=ConnectionError)
    run = treadle.map(BreaksOnce(), [4, 5], resource=resource, retry=retry, max_workers=1)
    last = list(run.outcomes())[-1]

    if retry is None:
        assert str(last.error) == "the server is starting"
        assert last.error is not None
        assert "treadle: raised as the resource was opened anew" in last.error.__notes__
    else:
        assert (last.value, last.attempts) == (10, 3)


def test_what_closing_a_broken_one_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Connection):
        def close(self) -> None:
            if self.is_broken:
                raise OSError("not connected")

    breaks = BreaksOnce()

    caplog.set_level(logging.INFO, "treadle")
    run = treadle.map(breaks, range(8), resource=treadle.Resource(Stubborn, renew_on=ConnectionError), max_workers=1)

    assert all(outcome.status == "succeeded" for outcome in run.outcomes())
    assert "closing a resource that is replaced failed: OSError('not connected')" in caplog.text


@pytest.mark.parametrize("fn", [double, double_later])
def test_check_is_asked_about_what_no_call_has_used_for_a_while(
    fn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been closed by the other side meanwhile, and nobody noticed."""
    monkeypatch.setattr(resource_module, "IDLE_SECONDS", -1.0)
    opener, seen = Opener(), []

    def check(connection: Connection) -> bool:
        seen.append(connection)
        return len(seen) != 2

    list(treadle.map(fn, range(4), resource=treadle.Resource(opener, check=check), max_workers=1))

    first, second = opener.opened
    assert seen == [first, first, second, second]
    assert first.is_closed


def test_a_check_that_raises_means_no(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(resource_module, "IDLE_SECONDS", -1.0)
    caplog.set_level(logging.INFO, "treadle")
    opener = Opener()

    def check(connection: Connection) -> bool:
        raise OSError("gone")

    assert list(treadle.map(double, [1, 2], resource=treadle.Resource(opener, check=check), max_workers=1)) == [2, 4]
    assert len(opener.opened) == 3
    assert "its check raised OSError('gone')" in caplog.text


def test_check_is_not_asked_about_what_is_in_use() -> None:
    def check(connection: Connection) -> bool:
        raise AssertionError("asked")

    assert list(treadle.map(double, range(9), resource=treadle.Resource(Connection, check=check), max_workers=1))


@pytest.mark.parametrize("fn", [double, double_later])
def test_an_old_one_is_replaced_before_the_next_call(fn: Callable[..., Any]) -> None:
    opener = Opener()

    assert list(treadle.map(fn, range(3), resource=treadle.Resource(opener, max_age=1e-9), max_workers=1)) == [0, 2, 4]

    assert len(opener.opened) == 4
    assert all(connection.is_closed for connection in opener.opened)


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_one_at_a_time(one_at_a_time: bool) -> None:
    """A factory that is not safe to be called by several threads, as ``boto3.client``."""
    inside, most = [0], [0]
    two_are_inside, count = threading.Event(), threading.Lock()

    def connect() -> Connection:
        with count:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            if inside[0] == 2:
                two_are_inside.set()
        if not one_at_a_time:
            assert two_are_inside.wait(30)
        with count:
            inside[0] -= 1
        return Connection()

    barrier = threading.Barrier(4, timeout=30)
    resource = treadle.Resource(connect, one_at_a_time=one_at_a_time)
    list(treadle.map(lambda item, connection: barrier.wait(), range(4), resource=resource, max_workers=4))

    assert (most[0] == 1) is one_at_a_time


def test_one_at_a_time_on_a_loop() -> None:
    inside = 0

    async def connect() -> Connection:
        nonlocal inside
        assert inside == 0
        inside += 1
        treadle.check_cancelled()
        inside -= 1
        return Connection()

    resource = treadle.Resource(connect, one_at_a_time=True)

    assert list(treadle.map(double_later, range(20), resource=resource, max_workers=5)) == list(range(0, 40, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"renew_on": "OSError"}, "renew_on"),
        ({"renew_on": (OSError, 3)}, "renew_on"),
        ({"renew_on": KeyboardInterrupt}, "a subclass of Exception"),
        ({"check": 3}, "check"),
        ({"max_age": 0}, "more than 0 seconds"),
        ({"max_age": -1}, "max_age"),
        ({"one_at_a_time": 1}, "one_at_a_time"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(treadle.TreadleError, match=message):
        treadle.Resource(Connection, **options)


def test_a_factory_must_be_callable() -> None:
    with pytest.raises(treadle.WrongType, match="factory"):
        treadle.Resource(Connection())  # type: ignore[call-overload]


def test_it_shows_what_it_was_given_and_pickles() -> None:
    resource = treadle.Resource(Connection, renew_on=OSError, max_age=60)

    again = pickle.loads(pickle.dumps(resource))

    assert repr(again) == repr(resource)
    assert "renew_on=<class 'OSError'>" in repr(resource)
    assert "max_age=60" in repr(resource)
    assert again.factory is Connection
