"""Contract 8: nesting never deadlocks. Contract 9: context travels, and only one way."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

import treadle

_request: ContextVar[str] = ContextVar("_request", default="none")


def test_a_map_within_a_map_with_one_worker_each() -> None:
    def outer(number: int) -> int:
        return sum(treadle.map(abs, range(number), max_workers=1))

    assert list(treadle.map(outer, range(10), max_workers=1)) == [sum(range(number)) for number in range(10)]


def test_maps_nest_deeply() -> None:
    def dig(depth: int) -> int:
        return depth if depth == 0 else sum(treadle.map(dig, [depth - 1], max_workers=1)) + 1

    assert list(treadle.map(dig, [20], max_workers=1)) == [20]


def test_a_run_may_be_consumed_by_a_call_of_another() -> None:
    inner = treadle.map(abs, range(100), max_workers=1)
    lock = threading.Lock()

    def take(_: int) -> int:
        with lock:
            return next(inner)

    assert sorted(treadle.map(take, range(100), max_workers=4)) == list(range(100))
    inner.close()


@pytest.mark.parametrize("intake", ["caller", "thread"])
def test_calls_see_the_context_of_whoever_called_map(intake: str) -> None:
    token = _request.set("42")
    run = treadle.map(lambda _: _request.get(), range(100), intake=intake)  # type: ignore[call-overload]
    _request.reset(token)

    assert set(run) == {"42"}


@pytest.mark.parametrize("set_before", [False, True])
def test_what_a_call_sets_is_its_own(set_before: bool) -> None:
    """Many tiny calls share chunks; each must still find what the submitter had."""

    def call(item: int) -> str:
        found = _request.get()
        _request.set(f"call {item}")
        return found

    token = _request.set("submitter") if set_before else None
    found = set(treadle.map(call, range(5000)))
    after = _request.get()
    if token is not None:
        _request.reset(token)

    assert found == {"submitter" if set_before else "none"}
    assert after == ("submitter" if set_before else "none")


def test_a_value_equal_to_the_submitters_is_still_another() -> None:
    """An equal list put in its place must not be seen by the next call."""
    holder: ContextVar[list[int]] = ContextVar("holder")
    mine: list[int] = []
    token = holder.set(mine)

    def call(_: int) -> bool:
        is_mine = holder.get() is mine
        holder.set([])
        return is_mine

    assert all(treadle.map(call, range(2000), max_workers=2))
    holder.reset(token)


def test_a_feeders_input_sees_the_context_too() -> None:
    token = _request.set("feeder")
    run = treadle.map(str, (_request.get() for _ in range(3)), intake="thread")
    _request.reset(token)

    assert list(run) == ["feeder"] * 3


def test_what_the_initializer_sets_is_seen_by_its_workers_calls() -> None:
    run = treadle.map(lambda _: _request.get(), range(50), initializer=_request.set, initargs=("initialized",))

    assert set(run) == {"initialized"}
    assert _request.get() == "none"
