"""A signal handler, or a finalizer, that uses what its own thread is at a step of: it comes between any two lines.

Here it comes at a place of our choice, by a call that the step makes anyway.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

import treadle
from treadle._sync.schedule import Schedule, Turn


class Interrupted(deque[Any]):
    """The items of a channel; what is appended first is so after a handler has run."""

    def __init__(self, handler: Callable[[], object]) -> None:
        super().__init__()
        self.handler: Callable[[], object] | None = handler

    def append(self, item: Any) -> None:
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()
        super().append(item)


def interrupt_a_step(limiter: treadle.Limiter, monkeypatch: pytest.MonkeyPatch, handler: Callable[[], object]) -> None:
    """Have ``handler`` come upon the next thread that enters ``limiter``, at a step under its lock."""
    real, is_first_time = limiter._is_full, [True]

    def is_full(state: Any) -> bool:
        if is_first_time and is_first_time.pop():
            handler()
        return real(state)

    monkeypatch.setattr(limiter, "_is_full", is_full)


def test_a_handler_enters_the_limiter_that_its_thread_is_about_to_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter, inside = treadle.Limiter(max_concurrent=2), []

    def handler() -> None:
        with limiter:
            inside.append("handler")

    interrupt_a_step(limiter, monkeypatch, handler)
    with limiter:
        inside.append("block")

    assert inside == ["handler", "block"]
    assert not limiter._state().holders


def test_a_handler_does_not_stand_in_line_behind_the_step_that_it_has_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limiter, inside = treadle.Limiter(max_concurrent=2), []
    real, is_first_time = Schedule.take, [True]

    def take(schedule: Schedule, *given: Any) -> Turn:
        if is_first_time and is_first_time.pop():
            with limiter:
                inside.append("handler")
        return real(schedule, *given)

    monkeypatch.setattr(Schedule, "take", take)
    with limiter:
        inside.append("block")

    assert inside == ["handler", "block"]
    assert not limiter._state().turns


def test_a_handler_that_would_wait_for_a_place_is_told_that_it_would_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those inside need the lock to leave, which its thread holds."""
    limiter, is_inside, end = treadle.Limiter(max_concurrent=1), threading.Event(), threading.Event()

    def stay_inside() -> None:
        with limiter:
            is_inside.set()
            end.wait()

    def handler() -> None:
        with pytest.raises(treadle.Deadlock, match="signal handler"), limiter:
            pass
        end.set()

    with treadle.TaskGroup() as group:
        group.submit(stay_inside)
        is_inside.wait()
        interrupt_a_step(limiter, monkeypatch, handler)
        with limiter:
            pass

    assert not limiter._state().holders
    assert not limiter._state().line


def test_a_handler_puts_into_the_channel_that_its_thread_puts_into() -> None:
    channel: treadle.Channel[str] = treadle.Channel(4)
    channel._items = Interrupted(lambda: channel.put_nowait("handler"))

    channel.put("block")

    assert [channel.get(), channel.get()] == ["handler", "block"]


def test_a_handler_closes_the_channel_that_its_thread_puts_into() -> None:
    channel: treadle.Channel[str] = treadle.Channel(4)
    channel._items = Interrupted(channel.close)

    channel.put("block")

    assert list(channel) == ["block"]
    with pytest.raises(treadle.ChannelClosed):
        channel.put("too late")


def test_a_handler_that_would_wait_for_the_channel_of_its_thread_is_told() -> None:
    channel: treadle.Channel[str] = treadle.Channel(1)

    def handler() -> None:
        with pytest.raises(treadle.Deadlock, match="signal handler"):
            channel.get()

    channel._items = Interrupted(handler)

    channel.put("block")

    assert channel.get() == "block"
