"""``Channel``: whatever the order of steps, each item is taken once, the bound holds, and nobody is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import pytest

import treadle
from tests.explore.conftest import Search, at_once
from treadle._core.cancellation import Scope
from treadle._sync.cancelling import entered
from treadle._sync.channel import Channel
from treadle._sync.line import NOTHING_YET, Line, Nothing
from treadle._sync.parker import Parker


class Watched(Channel[int]):
    """Looks at the bound with each item that comes in."""

    def _offer(self, item: int, place: Parker | None = None) -> Literal[Nothing.YET] | None:
        end = super()._offer(item, place)
        assert len(self) <= self.maxsize, "more than it may hold"
        return end


def two_producers_and_two_consumers() -> None:
    channel, got = Watched(1), list[int]()

    def put(numbers: range, end: treadle.Producer[int]) -> None:
        with end:
            for number in numbers:
                end.put(number)

    ends = [channel.producer() for _ in range(2)]
    at_once(
        lambda: put(range(2), ends[0]),
        lambda: put(range(2, 4), ends[1]),
        lambda: got.extend(channel),
        lambda: got.extend(channel),
    )

    assert sorted(got) == [0, 1, 2, 3]
    assert_nobody_is_left_in_line(channel)


def assert_nobody_is_left_in_line(channel: Channel[int]) -> None:
    assert [*channel._getters.waiting, *channel._putters.waiting, *channel._joiners.waiting] == []


def test_each_item_is_taken_once(search: Search) -> None:
    search(two_producers_and_two_consumers)


def one_of_each() -> None:
    channel, got = Watched(1), list[int]()

    def put() -> None:
        for number in range(3):
            channel.put(number)

    at_once(put, lambda: got.extend(channel.get() for _ in range(3)))
    assert got == [0, 1, 2]


def test_the_order_is_kept(search: Search) -> None:
    search(one_of_each)


def test_it_is_found_out_if_one_in_line_for_an_item_does_not_look_again(
    find: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_in_line(channel: Channel[int], place: Parker | None) -> bool:
        with channel._lock:
            if place is not None:
                channel._getters.waiting[place] = None
            return True

    monkeypatch.setattr(Channel, "_stand_in_line_for_item", stand_in_line)

    find(one_of_each)


def test_it_is_found_out_if_one_in_line_for_room_does_not_look_again(
    find: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items are taken without the lock, so room may have come in this moment."""

    def stand_in_line(channel: Channel[int], place: Parker) -> bool:
        channel._putters.waiting[place] = None
        return True

    monkeypatch.setattr(Channel, "_stand_in_line_for_room", stand_in_line)

    find(one_of_each)


def test_it_is_found_out_if_the_bound_is_looked_at_without_the_lock(
    find: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offer(channel: Channel[int], item: int, place: Parker | None = None) -> Literal[Nothing.YET] | None:
        if len(channel._items) >= channel._maxsize and (place is None or channel._stand_in_line_for_room(place)):
            return NOTHING_YET
        with channel._lock:
            channel._getters.call_first()
            channel._unfinished += 1
            channel._items.append(item)
        return None

    monkeypatch.setattr(Channel, "_offer", offer)
    monkeypatch.setattr(Channel, "_has_news_for_getters", lambda channel: bool(channel._items or channel._end))

    find(two_producers_and_two_consumers)


def test_it_is_found_out_if_who_leaves_the_line_calls_nobody(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(line: Line, place: Parker, has_more: Callable[[], bool]) -> None:
        with line._lock:
            line.waiting.pop(place, None)

    monkeypatch.setattr(Line, "leave", leave)

    find(a_consumer_is_cancelled)


def a_consumer_is_cancelled() -> None:
    """It may have been called for the item just before: then the other has to be."""
    channel, scope, got = Watched(1), Scope(), list[int]()

    def cancelled_one() -> None:
        try:
            with entered(scope):
                got.append(channel.get())
        except treadle.Cancelled:
            return
        channel.put(0)  # so there is one for the other in any case

    at_once(
        cancelled_one,
        lambda: got.append(channel.get()),
        lambda: channel.put(1),
        lambda: scope.cancel("it was cancelled"),
    )
    assert sorted(got) in ([1], [0, 1])
    assert len(channel) == 0
    assert_nobody_is_left_in_line(channel)


def test_a_cancelled_consumer_passes_its_wake_up_on(search: Search) -> None:
    search(a_consumer_is_cancelled)


def a_producer_is_cancelled() -> None:
    channel, scope, put = Watched(1), Scope(), [0]
    channel.put(0)

    def cancelled_one() -> None:
        with suppress(treadle.Cancelled), entered(scope):
            channel.put(1)
            put.append(1)

    def other() -> None:
        channel.put(2)
        put.append(2)

    got: list[int] = []

    def take() -> None:
        while 2 not in got:
            got.append(channel.get())

    at_once(cancelled_one, other, take, lambda: scope.cancel("it was cancelled"))
    channel.close()
    got.extend(channel)
    assert sorted(got) == sorted(put), "what was put was taken, and nothing else"


def test_a_cancelled_producer_has_put_its_item_or_not_and_knows_it(search: Search) -> None:
    search(a_producer_is_cancelled)


def a_close_beside_put_and_get() -> None:
    channel, put, got = Watched(1), list[int](), list[int]()

    def produce() -> None:
        with suppress(treadle.ChannelClosed):
            for number in range(3):
                channel.put(number)
                put.append(number)

    at_once(produce, lambda: got.extend(channel), channel.close, lambda: got.extend(channel))
    assert sorted(got) == put
    assert_nobody_is_left_in_line(channel)


def test_what_was_put_before_a_close_is_taken_and_nobody_hangs(search: Search) -> None:
    search(a_close_beside_put_and_get)


def test_it_is_found_out_if_a_close_calls_nobody(find: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    close = Channel._close

    def close_in_silence(channel: Channel[int], error: BaseException | None) -> None:
        called, channel._getters = channel._getters, Line(channel._lock)
        close(channel, error)
        channel._getters = called

    monkeypatch.setattr(Channel, "_close", close_in_silence)

    find(a_close_beside_put_and_get)


def items_that_are_processed() -> None:
    channel, processed = Watched(1), list[int]()

    def work() -> None:
        for item in channel:
            processed.append(item)
            channel.task_done()

    def feed() -> None:
        channel.put(1)
        channel.put(2)
        channel.join()
        assert sorted(processed) == [1, 2]
        channel.close()

    at_once(work, feed, work)


def test_join_waits_until_everything_is_processed(search: Search) -> None:
    search(items_that_are_processed)


def waits_with_timeouts() -> None:
    channel, put, got = Watched(1), list[int](), list[int]()

    def produce(number: int) -> None:
        with suppress(TimeoutError):
            channel.put(number, timeout=1)
            put.append(number)

    def consume() -> None:
        with suppress(TimeoutError):
            got.append(channel.get(timeout=1))

    at_once(lambda: produce(1), consume, lambda: produce(2), consume)
    channel.close()
    assert sorted([*got, *channel]) == sorted(put)
    assert_nobody_is_left_in_line(channel)


def test_who_gives_up_has_put_or_taken_nothing(search: Search) -> None:
    search(waits_with_timeouts, eager_timeouts=True)
