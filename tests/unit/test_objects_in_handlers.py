"""A signal handler, or a finalizer, that uses what its own thread is in the middle of: it must not wait for that."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import suppress

import pytest

import treadle
from tests.intrusions import Scene, intrude_everywhere


def refused_or_done(act: Callable[[], object], *others: type[Exception]) -> Callable[[], None]:
    """Return ``act``, which may be told that it came in the middle of a step."""

    def intrude() -> None:
        with suppress(treadle.Deadlock, *others):
            act()

    return intrude


def use_channel(channel: treadle.Channel[int]) -> None:
    with suppress(treadle.ChannelClosed):
        channel.put(1)
        channel.put(2)
        channel.get()
        channel.task_done()
        channel.producer().close()


ACTS: dict[str, Callable[[treadle.Channel[int]], object]] = {
    "put": lambda channel: channel.put_nowait(3),
    "get": lambda channel: channel.get_nowait(),
    "task_done": lambda channel: channel.task_done(),
    "producer": lambda channel: channel.producer(),
    "join": lambda channel: channel.join(timeout=0),
    "close": lambda channel: channel.close(),
}


@pytest.mark.parametrize("act", list(ACTS))
def test_a_channel_does_not_hang_and_stays_in_order(act: str) -> None:
    def prepare() -> Scene:
        channel = treadle.Channel[int](8)
        others = (queue.Empty, TimeoutError, ValueError, treadle.ChannelClosed)

        def check() -> None:
            channel.close()
            while True:  # an item may have been taken by the handler
                try:
                    channel.get(timeout=60)
                except treadle.ChannelClosed:
                    break
            assert len(channel) == 0

        def use() -> None:
            with suppress(ValueError, IndexError):
                use_channel(channel)

        return Scene(
            use if act != "get" else lambda: channel.put(1), refused_or_done(lambda: ACTS[act](channel), *others), check
        )

    intrude_everywhere(prepare)


def test_what_a_handler_closes_in_the_middle_of_a_step_is_closed() -> None:
    """By another thread, as the handler's own cannot go on; whoever waits for an item is told."""

    def prepare() -> Scene:
        channel = treadle.Channel[int](8)

        def check() -> None:
            with suppress(treadle.ChannelClosed):
                channel.get(timeout=60)
                channel.get(timeout=60)
                pytest.fail("it was never closed")

        return Scene(refused_or_done(lambda: channel.put(1), treadle.ChannelClosed), channel.close, check)

    intrude_everywhere(prepare)


@pytest.mark.parametrize("name", ["enter", "pause", "judge"])
def test_a_limiter_does_not_hang_and_lets_all_places_go(name: str) -> None:
    def prepare() -> Scene:
        limiter = treadle.Limiter(1e6, max_concurrent=2, throttled=lambda answer: answer == 429, patience=1)

        def enter() -> None:
            with limiter:
                pass

        acts: dict[str, Callable[[], object]] = {
            "enter": enter,
            "pause": lambda: limiter.pause(1e-6),
            "judge": lambda: limiter.judge(200),
        }

        def check() -> None:
            state = limiter._state()
            assert not any((state.holders, state.line, state.turns, state.called))
            enter()

        return Scene(enter, refused_or_done(acts[name]), check)

    intrude_everywhere(prepare)


def test_a_guarded_value_does_not_hang_and_is_changed_once_for_each_that_was_not_refused() -> None:
    def prepare() -> Scene:
        value, refused = treadle.Guarded(0), [0]

        def add() -> None:
            value.update(lambda count: count + 1)

        def intrude() -> None:
            try:
                add()
            except treadle.Deadlock:
                refused[0] += 1

        def check() -> None:
            assert value.copy() + refused[0] == 2

        return Scene(add, intrude, check)

    intrude_everywhere(prepare)


@pytest.mark.parametrize("kind", [treadle.Lock, treadle.RLock])
def test_a_lock_does_not_hang_and_is_free_in_the_end(kind: Callable[[], treadle.Lock | treadle.RLock]) -> None:
    def prepare() -> Scene:
        lock = kind()

        def use() -> None:
            with lock:
                pass

        def check() -> None:
            assert not lock.locked()

        return Scene(use, refused_or_done(use), check)

    intrude_everywhere(prepare)
