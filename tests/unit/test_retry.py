"""``Retry``: which failures are followed by another attempt, when, and what is left of the ones before."""

from __future__ import annotations

import logging
import math
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import PLACES, RESULTS, Calls, wait_until
from treadle._core.retry import find_retry_after
from treadle.testing import ManualClock

DELAY = 10.0
ONCE_AGAIN = treadle.Retry(2, backoff=DELAY, jitter=0)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


class Flaky:
    """Fails the first ``times`` for each item; with ``error(item, attempt)``."""

    def __init__(self, times: int, error: Callable[[Any, int], BaseException] | None = None) -> None:
        self.times = times
        self.calls: Counter[Any] = Counter()
        self.log: list[Any] = []
        self._error = error or (lambda item, attempt: ConnectionError(f"{item}: attempt {attempt}"))

    def __call__(self, item: Any) -> Any:
        self.calls[item] += 1
        self.log.append(item)
        if self.calls[item] <= self.times:
            raise self._error(item, self.calls[item])
        return item


def log_and_return(flaky: Flaky, item: Any) -> Any:
    flaky.log.append(item)
    return item


def wait_until_retried(calls: Calls, times: int) -> None:
    wait_until(lambda: calls.stats.retried == times)


def no_timekeeper() -> bool:
    return not any(thread.name == "treadle-timekeeper" for thread in threading.enumerate())


# What it can be made of


def test_the_defaults_are_three_attempts_with_full_jitter_from_half_a_second() -> None:
    policy = treadle.Retry()

    assert (policy.max_attempts, policy.retry_on, policy.backoff, policy.max_delay) == (3, Exception, 0.5, 60.0)
    assert (policy.jitter, policy.retry_after) == (1.0, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("backoff", -0.1),
        ("backoff", math.nan),
        ("max_delay", -1),
        ("max_delay", math.nan),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", math.nan),
    ],
)
def test_what_is_out_of_bounds_is_refused(option: str, value: Any) -> None:
    with pytest.raises(treadle.InvalidArgument, match=option) as caught:
        treadle.Retry(**{option: value})

    assert not isinstance(caught.value, treadle.WrongType)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_attempts", 1.5),
        ("max_attempts", True),
        ("max_attempts", "3"),
        ("max_attempts", None),
        ("backoff", "1"),
        ("backoff", True),
        ("max_delay", None),
        ("jitter", "full"),
        ("jitter", True),
        ("retry_on", None),
        ("retry_on", ()),
        ("retry_on", int),
        ("retry_on", (ValueError, int)),
        ("retry_on", (ValueError, "x")),
        ("retry_on", "ValueError"),
        ("retry_after", 5),
    ],
)
def test_what_is_of_the_wrong_type_is_refused(option: str, value: Any) -> None:
    with pytest.raises(treadle.WrongType, match=option):
        treadle.Retry(**{option: value})


@pytest.mark.parametrize("given", [3, ValueError, {"max_attempts": 3}])
def test_only_a_retry_is_taken_for_one(given: Any) -> None:
    with pytest.raises(treadle.WrongType, match=r"retry must be a treadle\.Retry, or None"):
        treadle.map(abs, [1], retry=given)
    with pytest.raises(treadle.WrongType, match="retry"):
        treadle.TaskGroup(retry=given)
    with pytest.raises(treadle.WrongType, match="retry"):
        treadle.PoolExecutor(retry=given)


# Which failures


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_call_that_failed_is_made_again(place: str) -> None:
    flaky = Flaky(2)
    with Calls(place, flaky, range(5), retry=treadle.Retry(3, backoff=0)) as calls:
        ends = calls.ends()

    assert sorted(end.value for end in ends) == list(range(5))
    assert {end.status for end in ends} == {"succeeded"}
    assert set(flaky.calls.values()) == {3}
    assert {end.attempts for end in ends} <= {3, None}
    assert (calls.stats.retried, calls.stats.succeeded, calls.stats.failed) == (10, 5, 0)


@pytest.mark.parametrize("place", PLACES)
def test_the_last_attempt_counts(place: str) -> None:
    with Calls(place, Flaky(99), ["x"], retry=treadle.Retry(3, backoff=0)) as calls:
        (end,) = calls.ends()

    assert (end.status, str(end.error)) == ("failed", "x: attempt 3")
    assert end.attempts in (3, None)
    assert (calls.stats.retried, calls.stats.failed) == (2, 1)


@pytest.mark.parametrize("place", PLACES)
def test_one_attempt_is_none_more(place: str) -> None:
    flaky = Flaky(99)
    with Calls(place, flaky, ["x"], retry=treadle.Retry(1)) as calls:
        (end,) = calls.ends()

    assert (end.status, flaky.calls["x"], calls.stats.retried) == ("failed", 1, 0)
    assert not [note for note in end.error.__notes__ if "attempt" in note] if end.error else False


@pytest.mark.parametrize(
    ("retry_on", "attempts"),
    [
        (ConnectionError, 3),
        (OSError, 3),
        (ValueError, 1),
        ((ValueError, OSError), 3),
        ((ValueError, KeyError), 1),
        (lambda error: "attempt 1" in str(error), 2),
        (lambda error: False, 1),
        (lambda error: [error], 3),
    ],
)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_worth_another_attempt_can_be_said(place: str, retry_on: Any, attempts: int) -> None:
    flaky = Flaky(99)
    with Calls(place, flaky, ["x"], retry=treadle.Retry(3, retry_on, backoff=0)) as calls:
        calls.ends()

    assert flaky.calls["x"] == attempts


@pytest.mark.parametrize("place", PLACES)
def test_a_retry_on_that_raises_ends_the_attempts_and_is_told(place: str, caplog: pytest.LogCaptureFixture) -> None:
    """The user's error is the call's, not that of the function that looked at it."""

    def broken(error: BaseException) -> bool:
        raise KeyError("no such thing")

    with Calls(place, Flaky(99), ["x"], retry=treadle.Retry(3, broken, backoff=0), max_workers=1) as calls:
        (end,) = calls.ends()

    assert isinstance(end.error, ConnectionError)
    assert any("the retry policy itself failed: KeyError('no such thing')" in note for note in end.error.__notes__)
    assert "its retry policy failed on ConnectionError" in caplog.text


@pytest.mark.parametrize("place", PLACES)
def test_a_retry_on_that_asks_for_the_account_gets_it(place: str) -> None:
    """It is called without a lock of ours: were there one, this would hang."""
    asked: list[int] = []

    def ask(error: BaseException) -> bool:
        started.wait(PATIENCE_SECONDS)
        asked.append(calls.stats.retried)
        return True

    started = threading.Event()
    with Calls(place, Flaky(1), ["x"], retry=treadle.Retry(2, ask, backoff=0)) as calls:
        started.set()
        (end,) = calls.ends()

    assert (end.value, asked) == ("x", [0])


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_exception_is_not_retried_by_default(place: str, kind: type[BaseException]) -> None:
    flaky = Flaky(99, lambda item, attempt: kind())
    with Calls(place, flaky, ["x"], retry=treadle.Retry(3, backoff=0)) as calls:
        (end,) = calls.ends()

    assert (end.status, flaky.calls["x"]) == ("failed", 1)


# How long


def test_the_delay_doubles_up_to_its_limit_without_jitter() -> None:
    policy = treadle.Retry(9, backoff=0.5, max_delay=5, jitter=0)

    assert [policy.delay(attempt, None) for attempt in range(1, 7)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


@pytest.mark.parametrize("attempt", [64, 65, 2000, 10**9])
def test_the_delay_of_the_thousandth_attempt_can_still_be_said(attempt: int) -> None:
    assert treadle.Retry(10**10, backoff=1, max_delay=60, jitter=0).delay(attempt, None) == 60


@given(
    backoff=st.floats(0, 1e6),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    attempt=st.integers(1, 5000),
    asked=st.none() | st.floats(0, 1e6),
)
def test_a_delay_is_within_its_bounds(
    backoff: float, max_delay: float, jitter: float, attempt: int, asked: float | None
) -> None:
    longest = min(max_delay, backoff * 2.0 ** min(attempt - 1, 64))
    delay = treadle.Retry(backoff=backoff, max_delay=max_delay, jitter=jitter).delay(attempt, asked)

    assert delay >= (asked or 0)
    assert delay <= max(longest, asked or 0)
    assert delay >= longest * (1 - jitter) * (1 - 1e-9)


@pytest.mark.parametrize(("drawn", "delay"), [(0.0, 8.0), (0.5, 6.0), (1.0, 4.0)])
def test_jitter_is_the_share_that_is_random(monkeypatch: pytest.MonkeyPatch, drawn: float, delay: float) -> None:
    monkeypatch.setattr("treadle._core.retry.random.random", lambda: drawn)

    assert treadle.Retry(backoff=2, jitter=0.5).delay(3, None) == delay


@pytest.mark.parametrize(("drawn", "delay"), [(0.0, 8.0), (0.25, 6.0), (1.0, 0.0)])
def test_full_jitter_spreads_over_the_whole_span(monkeypatch: pytest.MonkeyPatch, drawn: float, delay: float) -> None:
    monkeypatch.setattr("treadle._core.retry.random.random", lambda: drawn)

    assert treadle.Retry(backoff=2).delay(3, None) == delay


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_retry_comes_when_its_delay_is_over_and_not_before(place: str, clock: ManualClock) -> None:
    flaky = Flaky(2)
    policy = treadle.Retry(3, backoff=DELAY, jitter=0)
    with Calls(place, flaky, ["x"], retry=policy, max_workers=1) as calls:
        for attempt, delay in ((1, DELAY), (2, 2 * DELAY)):
            wait_until_retried(calls, attempt)
            clock.wait_for_sleepers()
            clock.advance(delay * 0.99)
            clock.wait_for_sleepers()
            assert flaky.calls["x"] == attempt
            clock.advance(delay * 0.01 + 1e-6)
        (end,) = calls.ends()

    assert end.value == "x"


# What a server asks for


class Busy(Exception):
    """An error with headers, as ``urllib`` has them, or with a response that has, as ``requests`` and ``httpx``."""

    def __init__(self, value: object, on_response: bool) -> None:
        super().__init__(value)
        holder = self
        if on_response:
            holder = self.response = type("Response", (), {})()
        holder.headers = {"Retry-After": value}  # type: ignore[attr-defined]  # as above


def date_in(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("on_response", [True, False])
@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("0", 0.0), (7, 7.0), ("7.5", 7.5), (" 7 ", 7.0)])
def test_a_retry_after_in_seconds_is_found(on_response: bool, value: object, seconds: float) -> None:
    assert find_retry_after(Busy(value, on_response)) == seconds


@pytest.mark.parametrize("on_response", [True, False])
@pytest.mark.parametrize("ahead", [100.0, -100.0, 365 * 86400.0])
def test_a_retry_after_as_a_date_is_found(on_response: bool, ahead: float) -> None:
    found = find_retry_after(Busy(date_in(ahead), on_response))

    assert found is not None
    assert ahead - 5 < found <= ahead


def test_a_date_without_a_zone_is_taken_for_utc() -> None:
    stamp = format_datetime(datetime.now(UTC) + timedelta(seconds=100)).replace("+0000", "-0000")

    found = find_retry_after(Busy(stamp, on_response=False))

    assert found is not None
    assert 95 < found <= 100


@pytest.mark.parametrize(
    "value",
    [
        *("soon", "", "nan", "inf", "-inf", "1e999", "9" * 5000, None, b"\xff", object(), [], "Mon, 99 Foo 2024"),
        *("Mon, 01 Jan 99999 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 +99999999999", "\0"),
    ],
)
def test_nonsense_in_a_retry_after_is_none_at_all(value: object) -> None:
    assert find_retry_after(Busy(value, on_response=True)) is None


@given(st.text() | st.binary() | st.floats() | st.integers() | st.none())
def test_no_retry_after_breaks_whoever_reads_it(value: object) -> None:
    found = find_retry_after(Busy(value, on_response=False))

    assert found is None or math.isfinite(found)


def test_what_has_no_headers_has_no_retry_after() -> None:
    error = ValueError()
    assert find_retry_after(error) is None
    error.response = None  # type: ignore[attr-defined]  # as requests has it where there was no answer
    assert find_retry_after(error) is None
    error.headers = "none"  # type: ignore[attr-defined]
    assert find_retry_after(error) is None


def test_the_response_counts_before_the_error_itself() -> None:
    error = Busy("5", on_response=True)
    error.headers = {"Retry-After": "9"}  # type: ignore[attr-defined]

    assert find_retry_after(error) == 5


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ("7", 7.0),
        ("0", None),
        ("-5", None),
        pytest.param(date_in(-100), None, id="past"),
        ("nan", None),
        ("soon", None),
    ],
)
def test_only_a_time_ahead_is_waited_for(value: str, asked: float | None) -> None:
    assert treadle.Retry().asked_delay(Busy(value, on_response=False)) == asked


@pytest.mark.parametrize("value", [str(365 * 86400), date_in(365 * 86400)], ids=["seconds", "date"])
def test_a_retry_after_of_a_year_is_cut_to_max_delay(value: str) -> None:
    """A run must not wait for a year because a server says so."""
    policy = treadle.Retry(max_delay=30)

    assert policy.asked_delay(Busy(value, on_response=True)) == 30
    assert policy.delay(1, 30) == 30


@pytest.mark.parametrize("given", [math.nan, -1, 0, None])
def test_an_own_retry_after_may_have_nothing_to_say(given: float | None) -> None:
    assert treadle.Retry(retry_after=lambda error: given).asked_delay(Busy("5", on_response=True)) is None


def test_an_own_retry_after_is_asked_instead() -> None:
    policy = treadle.Retry(retry_after=lambda error: len(error.args) + 3.0)

    assert policy.asked_delay(Busy("50", on_response=True)) == 4


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("answer", ["soon", KeyError("broken")])
def test_a_retry_after_function_that_fails_ends_the_attempts(place: str, answer: Any) -> None:
    def ask(error: BaseException) -> float:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]  # not a number, on purpose

    with Calls(place, Flaky(99), ["x"], retry=treadle.Retry(3, backoff=0, retry_after=ask)) as calls:
        (end,) = calls.ends()

    assert str(end.error) == "x: attempt 1"
    assert end.error is not None
    assert any("retry policy itself failed" in note for note in end.error.__notes__)


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
@pytest.mark.parametrize("on_response", [True, False])
def test_a_retry_after_is_the_least_delay(place: str, on_response: bool, clock: ManualClock) -> None:
    flaky = Flaky(1, lambda item, attempt: Busy("40", on_response))
    with Calls(place, flaky, ["x"], retry=treadle.Retry(2, backoff=DELAY, jitter=0)) as calls:
        wait_until(lambda: calls.stats.retried == 1)
        clock.wait_for_sleepers()
        clock.advance(39)
        clock.wait_for_sleepers()
        assert flaky.calls["x"] == 1
        clock.advance(1.001)
        (end,) = calls.ends()

    assert end.value == "x"


class _Server(ThreadingHTTPServer):
    """Answers 503 with a ``Retry-After`` once for each path, then 200."""

    daemon_threads = False

    def __init__(self, retry_after: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.retry_after = retry_after
        self.asked: Counter[str] = Counter()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        server.asked[self.path] += 1
        if server.asked[self.path] == 1:
            self.send_response(503)
            self.send_header("Retry-After", server.retry_after)
            body = b"busy"
        else:
            self.send_response(200)
            body = b"hello"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[[str], _Server]]:
    servers: list[_Server] = []
    threads: list[threading.Thread] = []

    def start(retry_after: str) -> _Server:
        server = _Server(retry_after)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append(server)
        threads.append(thread)
        return server

    yield start
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join(PATIENCE_SECONDS)
        server.server_close()


def fetch(address: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=PATIENCE_SECONDS) as answer:
            body = answer.read()
            assert isinstance(body, bytes)
            return body
    except urllib.error.HTTPError as error:
        error.close()
        raise


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_real_servers_retry_after_is_waited_for(
    place: str, form: str, clock: ManualClock, serve: Callable[[str], _Server]
) -> None:
    server = serve("40" if form == "seconds" else date_in(40))
    address = f"http://127.0.0.1:{server.server_address[1]}/page"
    policy = treadle.Retry(2, urllib.error.HTTPError, backoff=0)
    with Calls(place, fetch, [address], retry=policy) as calls:
        wait_until(lambda: calls.stats.retried == 1)
        clock.wait_for_sleepers()
        clock.advance(25)  # a date is as many seconds ahead as the machine's clock says, rounded down
        clock.wait_for_sleepers()
        assert server.asked["/page"] == 1
        clock.advance(15.001)
        (end,) = calls.ends()

    assert (end.status, end.value, server.asked["/page"]) == ("succeeded", b"hello", 2)


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_with_a_limiter_a_retry_after_holds_everybody(place: str, clock: ManualClock) -> None:
    """What one call was told holds for all: the others would only be refused as well."""
    limiter = treadle.Limiter(max_concurrent=1)
    flaky = Flaky(1, lambda item, attempt: Busy("40", on_response=True))

    def call(item: str) -> object:
        return flaky(item) if item == "x" else log_and_return(flaky, item)

    def pass_elsewhere() -> None:
        with limiter:
            flaky.log.append("elsewhere")

    with Calls(place, call, ["x", "y"], max_workers=1, retry=ONCE_AGAIN, limiter=limiter) as calls:
        wait_until(lambda: calls.stats.retried == 1)
        elsewhere = threading.Thread(target=pass_elsewhere)
        elsewhere.start()
        clock.wait_for_sleepers(2)  # the timekeeper, and the first at the gate
        clock.advance(39)
        clock.wait_for_sleepers(2)
        assert flaky.log == ["x"]
        clock.advance(1.001)
        ends = calls.ends()
        elsewhere.join(PATIENCE_SECONDS)

    assert {end.status for end in ends} == {"succeeded"}
    assert sorted(flaky.log) == ["elsewhere", "x", "x", "y"]


# A waiting retry holds no worker


@pytest.mark.parametrize("place", PLACES)
def test_a_retry_that_waits_holds_no_worker(place: str, clock: ManualClock) -> None:
    """With one worker, everybody else's call is made while the first waits for its next."""
    flaky = Flaky(1, lambda item, attempt: ConnectionError())
    items = ["x", "a", "b", "c"]

    def call(item: str) -> object:
        return flaky(item) if item == "x" else log_and_return(flaky, item)

    with Calls(place, call, items, max_workers=1, retry=ONCE_AGAIN) as calls:
        wait_until(lambda: len(flaky.log) == 4)
        wait_until(lambda: calls.stats.running == 0)
        assert flaky.log == items
        clock.wait_for_sleepers()
        clock.advance(DELAY)
        ends = calls.ends()

    assert [end.value for end in ends] == items
    assert flaky.log == [*items, "x"]


def test_in_order_the_result_of_a_retry_comes_at_its_place(clock: ManualClock) -> None:
    flaky = Flaky(1)

    def call(item: int) -> object:
        return flaky(item) if item in (1, 3) else item

    with treadle.map(call, range(6), max_workers=2, buffersize=6, retry=ONCE_AGAIN) as run:
        assert next(run) == 0
        wait_until(lambda: run.stats.retried == 2)
        clock.advance(DELAY)

        assert list(run) == [1, 2, 3, 4, 5]


def test_as_completed_the_result_of_a_retry_comes_last(clock: ManualClock) -> None:
    flaky = Flaky(1)

    def call(item: int) -> int:
        return int(flaky(item)) if item == 0 else item

    with treadle.map(call, range(4), max_workers=2, buffersize=4, ordered=False, retry=ONCE_AGAIN) as run:
        first = [next(run), next(run), next(run)]
        wait_until(lambda: run.stats.retried == 1)
        clock.advance(DELAY)

        assert sorted(first) == [1, 2, 3]
        assert list(run) == [0]


# What is left of the attempts before


@pytest.mark.parametrize("place", PLACES)
def test_the_last_error_tells_of_those_before(place: str, clock: ManualClock) -> None:
    with Calls(place, Flaky(99), ["x"], retry=treadle.Retry(3, backoff=DELAY, jitter=0)) as calls:
        for attempt in (1, 2):
            wait_until_retried(calls, attempt)
            clock.advance(2 * DELAY)
        (end,) = calls.ends()

    assert end.error is not None
    assert [note for note in end.error.__notes__ if "attempt" in note] == [
        "treadle: attempt 1 failed with ConnectionError('x: attempt 1'); the next came 10 s later",
        "treadle: attempt 2 failed with ConnectionError('x: attempt 2'); the next came 20 s later",
    ]
    assert sum("'x'" in note and "attempt" not in note for note in end.error.__notes__) == 1  # which item


@pytest.mark.parametrize("place", PLACES)
def test_one_and_the_same_error_is_not_told_of_itself(place: str) -> None:
    error = ConnectionError("always me")
    with Calls(place, Flaky(99, lambda item, attempt: error), ["x"], retry=treadle.Retry(2, backoff=0)) as calls:
        (end,) = calls.ends()

    assert end.error is error
    assert [note for note in error.__notes__ if "attempt" in note] == [
        "treadle: attempt 1 failed with the same error; the next came 0 s later"
    ]


@pytest.mark.parametrize("place", PLACES)
def test_asking_for_the_error_again_adds_no_note(place: str) -> None:
    with Calls(place, Flaky(99), ["x"], retry=treadle.Retry(2, backoff=0)) as calls:
        (end,) = calls.ends()
        assert end.error is not None
        before = list(end.error.__notes__)
        for task in calls.tasks:
            task.exception()

    assert end.error.__notes__ == before
    assert len(set(before)) == len(before)


# The end comes while a retry waits


def assert_given_up(error: BaseException | None, name: str = "x") -> None:
    """The last error is the outcome, and says that there was to be another attempt."""
    assert isinstance(error, ConnectionError)
    assert str(error) == f"{name}: attempt 1"
    assert any("attempt 1 was the last, as the end came before the next" in note for note in error.__notes__)


@pytest.mark.parametrize("place", ["map", "unordered map", *RESULTS])
def test_a_run_closed_while_a_retry_waits_has_its_last_error(place: str, clock: ManualClock) -> None:
    with Calls(place, Flaky(99), ["x"], retry=ONCE_AGAIN) as calls:
        wait_until(lambda: calls.stats.retried == 1)
        clock.wait_for_sleepers()
        calls.stop()
        (end,) = calls.ends()

        assert (end.status, end.attempts) == ("failed", 1)
        assert_given_up(end.error)
        assert (calls.stats.failed, calls.stats.taken) == (1, 1)
        wait_until(no_timekeeper)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_run_that_fails_while_a_retry_waits_loses_nothing(ordered: bool, clock: ManualClock, gate: Gate) -> None:
    flaky = Flaky(99)

    def call(item: str) -> object:
        if item == "bad":
            gate.hold()
            raise ValueError("bad")
        return flaky(item)

    policy = treadle.Retry(2, ConnectionError, backoff=DELAY, jitter=0)
    run = treadle.map(call, ["x", "bad"], ordered=ordered, retry=policy)
    wait_until(lambda: run.stats.retried == 1)
    clock.wait_for_sleepers()
    gate.open()
    with pytest.raises(ValueError, match="bad"):  # not what was given up for it
        next(run)
    rest = {outcome.item: outcome for outcome in run.rest()}

    assert {item: outcome.status for item, outcome in rest.items()} == {"x": "failed", "bad": "failed"}
    assert_given_up(rest["x"].error)
    assert (run.stats.failed, run.stats.taken) == (2, 2)
    wait_until(no_timekeeper)


def test_a_run_out_of_time_while_a_retry_waits_has_its_last_error(clock: ManualClock) -> None:
    run = treadle.map(Flaky(99), ["x"], timeout=DELAY / 2, retry=ONCE_AGAIN)
    wait_until(lambda: run.stats.retried == 1)
    clock.wait_for_sleepers()
    clock.advance(DELAY / 2)
    outcomes = run.outcomes()
    (outcome,) = [next(outcomes)]
    with pytest.raises(TimeoutError, match=r"timeout=5\.0"):
        next(outcomes)

    assert outcome.status == "failed"
    assert_given_up(outcome.error)


@pytest.mark.parametrize("ordered", [True, False])
def test_results_that_wait_for_a_retry_end_with_the_runs_timeout(ordered: bool, clock: ManualClock) -> None:
    """That is why the result is not there; the error of the attempt before is in the rest."""
    run = treadle.map(Flaky(99), ["x"], timeout=DELAY / 2, ordered=ordered, retry=ONCE_AGAIN)
    wait_until(lambda: run.stats.retried == 1)
    clock.wait_for_sleepers()
    clock.advance(DELAY / 2)
    with pytest.raises(TimeoutError, match=r"timeout=5\.0"):
        next(run)

    (outcome,) = run.rest()
    assert_given_up(outcome.error)


@pytest.mark.parametrize("as_outcomes", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_failure_that_is_not_final_yet_ends_nothing(ordered: bool, as_outcomes: bool, gate: Gate) -> None:
    """Whoever consumes may look at the call between its end and the decision to make it again."""

    def is_worth_it(error: BaseException) -> bool:
        gate.hold()
        return True

    def open_once_somebody_waits() -> None:
        gate.wait_for_arrivals()
        wait_until(lambda: run._course.awaited is not False)
        gate.open()

    run = treadle.map(Flaky(1), ["x"], ordered=ordered, retry=treadle.Retry(2, is_worth_it, backoff=0))
    opener = threading.Thread(target=open_once_somebody_waits)
    opener.start()
    ends = [outcome.value for outcome in run.outcomes()] if as_outcomes else list(run)
    opener.join(PATIENCE_SECONDS)

    assert ends == ["x"]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_failure_that_is_not_final_yet_is_no_outcome_of_a_stalled_run(ordered: bool, gate: Gate) -> None:
    """Where calls hang, the consumer takes over what a chunk has done so far: not what is still to be decided."""

    def is_worth_it(error: BaseException) -> bool:
        gate.hold()
        return True

    run = treadle.map(Flaky(1), ["x"], ordered=ordered, retry=treadle.Retry(2, is_worth_it, backoff=0))
    outcomes = run.outcomes()
    gate.wait_for_arrivals()

    assert outcomes._delivery.step(stalled=True) is None
    gate.open()
    assert [outcome.status for outcome in outcomes] == ["succeeded"]


def test_a_run_dropped_while_a_retry_waits_leaves_nothing(clock: ManualClock) -> None:
    flaky = Flaky(99)
    runs = [treadle.map(flaky, ["x"], retry=ONCE_AGAIN)]
    wait_until(lambda: runs[0].stats.retried == 1)
    clock.wait_for_sleepers()
    with pytest.warns(RuntimeWarning, match="never read"):
        runs.clear()

    wait_until(no_timekeeper)
    assert flaky.calls["x"] == 1


def test_a_group_cancelled_while_a_retry_waits_ends_quietly_and_the_task_has_its_last_error(clock: ManualClock) -> None:
    with treadle.TaskGroup(retry=ONCE_AGAIN) as group:
        task = group.submit(Flaky(99), "x")
        wait_until(lambda: group.stats.retried == 1)
        clock.wait_for_sleepers()
        group.cancel()

    assert_given_up(task.exception())
    wait_until(no_timekeeper)


def test_a_group_that_fails_while_a_retry_waits_tells_both(clock: ManualClock, gate: Gate) -> None:
    def fail() -> None:
        gate.hold()
        raise ValueError("bad")

    policy = treadle.Retry(2, ConnectionError, backoff=DELAY, jitter=0)
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(retry=policy) as group:
        group.submit(Flaky(99), "x")
        group.submit(fail)
        wait_until(lambda: group.stats.retried == 1)
        clock.wait_for_sleepers()
        gate.open()

    assert [type(error) for error in caught.value.exceptions] == [ConnectionError, ValueError]
    assert_given_up(caught.value.exceptions[0])
    wait_until(no_timekeeper)


@pytest.mark.parametrize("place", ["group", "executor"])
def test_a_task_cancelled_while_its_retry_waits_is_cancelled(place: str, clock: ManualClock) -> None:
    """At once: no call of it runs, so nobody has to be asked."""
    flaky = Flaky(99)
    with Calls(place, flaky, ["x", "y"], retry=ONCE_AGAIN, max_workers=1) as calls:
        wait_until(lambda: calls.stats.retried == 2)
        clock.wait_for_sleepers()
        task, other = calls.tasks
        assert task.cancel()
        assert task.cancelled()
        assert not other.done()
        flaky.times = 1
        clock.advance(DELAY)
        ends = calls.ends()

    assert [end.status for end in ends] == ["cancelled", "succeeded"]
    assert flaky.calls == {"x": 1, "y": 2}
    assert (calls.stats.cancelled, calls.stats.succeeded, calls.stats.taken) == (1, 1, 2)


@pytest.mark.parametrize("place", ["group", "executor"])
def test_no_timer_is_left_of_a_task_cancelled_while_its_retry_waits(place: str, clock: ManualClock) -> None:
    with Calls(place, Flaky(99), ["x"], retry=ONCE_AGAIN) as calls:
        wait_until(lambda: calls.stats.retried == 1)
        clock.wait_for_sleepers()
        calls.tasks[0].cancel()
        wait_until(no_timekeeper)


@pytest.mark.parametrize("place", ["group", "executor"])
def test_a_cancelled_call_that_fails_is_not_made_again(place: str) -> None:
    """``on_cancel(socket.close)`` makes it raise what it raises: that is not the network's fault."""
    calls_made, began = list[int](), threading.Event()

    def call(item: int) -> None:
        calls_made.append(item)
        closed = threading.Event()
        with treadle.on_cancel(closed.set):
            began.set()
            assert closed.wait(PATIENCE_SECONDS)
        raise ConnectionError("the socket was closed")

    with Calls(place, call, [0], retry=treadle.Retry(3, backoff=0)) as calls:
        assert began.wait(PATIENCE_SECONDS)
        assert not calls.tasks[0].cancel()
        (end,) = calls.ends()

    assert (end.status, calls_made, calls.stats.retried) == ("failed", [0], 0)


@pytest.mark.parametrize("place", ["group", "executor"])
def test_a_task_cancelled_while_retry_on_is_asked_is_not_made_again(place: str, gate: Gate) -> None:
    """The call has ended and the next is not planned yet: the moment in between."""
    flaky = Flaky(1)

    def is_worth_it(error: BaseException) -> bool:
        gate.hold()
        return True

    with Calls(place, flaky, ["x"], retry=treadle.Retry(2, is_worth_it, backoff=0)) as calls:
        gate.wait_for_arrivals()
        calls.tasks[0].cancel()
        gate.open()
        (end,) = calls.ends()

    assert (end.status, flaky.calls["x"], calls.stats.retried) == ("failed", 1, 0)


def test_an_executor_that_is_shut_down_makes_its_retries_first(clock: ManualClock) -> None:
    """As it finishes everything that was submitted."""
    flaky = Flaky(1)
    pool = treadle.PoolExecutor(retry=ONCE_AGAIN)
    task = pool.submit(flaky, "x")
    wait_until(lambda: pool.stats.retried == 1)
    clock.wait_for_sleepers()
    pool.shutdown(wait=False)
    clock.advance(DELAY)
    pool.shutdown()

    assert task.result() == "x"


def test_an_executor_that_cancels_its_futures_cancels_a_retry_that_waits(clock: ManualClock) -> None:
    pool = treadle.PoolExecutor(retry=ONCE_AGAIN)
    task = pool.submit(Flaky(99), "x")
    wait_until(lambda: pool.stats.retried == 1)
    clock.wait_for_sleepers()
    pool.shutdown(cancel_futures=True)

    assert task.cancelled()
    wait_until(no_timekeeper)


@pytest.mark.parametrize("place", ["map", "unordered map", "group"])
def test_a_retry_due_behind_a_busy_worker_keeps_its_error_if_the_end_comes(
    place: str, clock: ManualClock, gate: Gate
) -> None:
    """It waits in the queue then, no longer with a timer."""
    flaky = Flaky(99)

    def call(item: str) -> object:
        return gate.hold(item) if item == "busy" else flaky(item)

    with Calls(place, call, ["x", "busy"], max_workers=1, retry=ONCE_AGAIN, grace=0) as calls:
        gate.wait_for_arrivals()
        crew = calls.owner._course.crew if calls.is_map else calls.owner._book.crew
        clock.wait_for_sleepers()
        clock.advance(DELAY)
        wait_until(lambda: len(crew._queue) == 1)
        calls.stop()
        waiting, _ = calls.ends()

    assert waiting.status == "failed"
    assert_given_up(waiting.error)
    assert flaky.calls["x"] == 1


# With a time-out


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_call_that_was_too_late_is_made_again(place: str, clock: ManualClock) -> None:
    flaky = Flaky(0)

    def call(item: str) -> object:
        flaky(item)
        if flaky.calls[item] == 1:
            treadle.sleep(1e6)
        return item

    policy = treadle.Retry(2, TimeoutError, backoff=DELAY, jitter=0)
    with Calls(place, call, ["x"], call_timeout=5, retry=policy) as calls:
        clock.wait_for_sleepers(2)
        clock.advance(5)
        wait_until(lambda: calls.stats.retried == 1)
        clock.wait_for_sleepers()
        clock.advance(DELAY)
        (end,) = calls.ends()

    assert (end.status, end.value) == ("succeeded", "x")
    assert end.attempts in (2, None)
    assert (calls.stats.timed_out, calls.stats.abandoned) == (0, 0)


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_a_call_that_was_left_behind_is_made_again(
    place: str, clock: ManualClock, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own worker is stuck, so another makes it; what the first one returns no longer counts."""
    flaky = Flaky(0)

    def call(item: str) -> object:
        flaky(item)
        if flaky.calls[item] == 1:
            gate.hold()
            return "from the stuck one"
        return "from the next"

    policy = treadle.Retry(2, backoff=DELAY, jitter=0)
    with (
        caplog.at_level(logging.WARNING, "treadle"),
        Calls(place, call, ["x"], max_workers=1, call_timeout=5, grace=2, retry=policy) as calls,
    ):
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(5)
        crew = calls.owner._course.crew if calls.is_map else calls.owner._book.crew
        wait_until(lambda: all(chunk.is_cancelled for chunk in crew.chunks_in_hand()))
        clock.advance(2)
        wait_until(lambda: calls.stats.retried == 1)
        clock.wait_for_sleepers()
        gate.open()
        clock.advance(DELAY)
        (end,) = calls.ends()

    assert (end.status, end.value) == ("succeeded", "from the next")
    assert end.attempts in (2, None)
    assert (calls.stats.abandoned, calls.stats.timed_out, calls.stats.succeeded) == (1, 0, 1)


@pytest.mark.parametrize("place", PLACES)
def test_a_call_that_is_always_too_late_says_how_often(place: str, clock: ManualClock) -> None:
    policy = treadle.Retry(2, backoff=0)
    with Calls(place, lambda item: treadle.sleep(1e6), ["x"], call_timeout=5, retry=policy) as calls:
        for attempt in (1, 2):
            clock.wait_for_sleepers(2)
            wait_until_retried(calls, attempt - 1)
            wait_until(lambda: calls.stats.running == 1)
            clock.wait_for_sleepers(2)
            clock.advance(5)
        (end,) = calls.ends()

    assert (end.status, calls.stats.timed_out, calls.stats.retried) == ("timed_out", 1, 1)
    assert isinstance(end.error, treadle.CallTimedOut)
    assert any("attempt 1 failed with CallTimedOut" in note for note in end.error.__notes__)


# With a limiter, and many at once


@pytest.mark.parametrize("place", [*PLACES, *RESULTS])
def test_many_calls_with_many_failures_all_get_there(place: str) -> None:
    """Each item its own number of failures: none is lost, none is called once too often."""
    lock, made = threading.Lock(), Counter[int]()

    def call(item: int) -> int:
        with lock:
            made[item] += 1
            is_bad = made[item] <= item % 4
        if is_bad:
            raise ConnectionError
        return item

    with Calls(place, call, range(200), max_workers=8, retry=treadle.Retry(4, backoff=0.001)) as calls:
        ends = calls.ends()

    assert sorted(end.value for end in ends) == list(range(200))
    assert made == {item: item % 4 + 1 for item in range(200)}
    assert calls.stats.retried == sum(item % 4 for item in range(200))
