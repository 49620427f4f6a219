"""Two threads at one run: who takes its results, who ends it, and who takes its items. The account stays exact."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import treadle
from tests.asides import Aside
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until
from treadle._crew.crew import Crew
from treadle._run import turn as turn_module

REFUSED = "thread .* takes the results of run .* right now, and only one at a time may"


def adds_up(stats: treadle.Stats) -> bool:
    ends = stats.succeeded + stats.failed + stats.timed_out + stats.cancelled + stats.not_started
    return ends == stats.taken


def wait_for_turn(run: treadle.Run[Any, Any]) -> None:
    wait_until(lambda: bool(run._course.turns))


# Who takes results


@pytest.mark.parametrize("first", ["run", "outcomes"])
@pytest.mark.parametrize("second", ["run", "outcomes"])
def test_a_second_consumer_is_refused_whatever_each_of_them_iterates(first: str, second: str, gate: Gate) -> None:
    """Both would be given a part, some of it twice; and each would take the other's wake-ups."""
    run = treadle.map(gate.hold, [1, 2], max_workers=1)
    streams: dict[str, Callable[[], Iterator[Any]]] = {"run": lambda: run, "outcomes": lambda: run.outcomes()}
    consumer = Aside(list, streams[first]())
    wait_for_turn(run)

    with pytest.raises(RuntimeError, match=REFUSED):
        next(streams[second]())
    gate.open()

    assert len(consumer.value()) == 2
    assert run.stats.succeeded == 2


def test_a_thread_is_refused_while_a_coroutine_takes_results(gate: Gate) -> None:
    run = treadle.map(gate.hold, [1, 2], max_workers=1)

    async def consume() -> list[object]:
        return [value async for value in run]

    consumer = Aside(asyncio.run, consume())
    wait_for_turn(run)

    with pytest.raises(RuntimeError, match=REFUSED):
        next(run)
    gate.open()

    assert consumer.value() == [1, 2]


def test_a_second_coroutine_is_refused_on_the_same_thread(gate: Gate) -> None:
    run = treadle.map(gate.hold, [1, 2], max_workers=1)

    async def consume() -> list[object]:
        return [value async for value in run]

    async def consume_twice() -> tuple[object, object]:
        first = asyncio.create_task(consume())
        while not run._course.turns:
            await asyncio.sleep(0)
        second = asyncio.create_task(consume())
        await asyncio.wait([second])
        gate.open()
        return await asyncio.gather(first, second, return_exceptions=True)

    values, error = asyncio.run(consume_twice())

    assert values == [1, 2]
    assert isinstance(error, RuntimeError)
    assert "nor another coroutine" in str(error)


def test_the_input_of_a_run_cannot_take_its_results() -> None:
    runs: list[treadle.Run[int, int]] = []

    def items() -> Iterator[int]:
        yield 1
        yield from range(2, 5)
        with pytest.raises(RuntimeError, match="neither the input of the run"):
            next(runs[0])
        yield 5

    runs.append(treadle.map(abs, items(), max_workers=1, buffersize=0))

    assert list(runs[0]) == [1, 2, 3, 4, 5]


def test_results_may_be_taken_by_one_thread_after_the_other() -> None:
    run = treadle.map(abs, range(100))

    assert [Aside(next, run).value() for _ in range(3)] == [0, 1, 2]
    assert list(run) == list(range(3, 100))


def test_a_second_thread_that_takes_the_rest_is_refused(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_module, "PATIENCE_SECONDS", 0)

    class Item:
        def __repr__(self) -> str:
            gate.hold()
            return "an item"

    def fail(item: object) -> object:
        raise OSError(id(item))

    run = treadle.map(fail, [Item(), 1, 2], max_workers=1, buffersize=2)
    wait_until(lambda: run._course.ledger.done_now() != [])
    run.close()
    consumer = Aside(list, run.rest())
    gate.wait_for_arrivals()

    with pytest.raises(RuntimeError, match=REFUSED):
        next(run.rest())
    gate.open()

    assert [outcome.index for outcome in consumer.value()] == [0, 1, 2]


def test_the_rest_may_be_asked_for_while_its_consumer_is_about_to_leave() -> None:
    """Whoever has closed the run from outside comes in just this moment."""
    inside = threading.Event()

    def call(item: int) -> int:
        inside.set()
        treadle.sleep(1000)
        return item

    run = treadle.map(call, range(3), max_workers=1)
    consumer = Aside(list, run)
    assert inside.wait(PATIENCE_SECONDS)
    wait_for_turn(run)
    run.close()

    assert [outcome.index for outcome in run.rest()] == [0, 1]
    assert isinstance(consumer.error(), treadle.RunClosed)


# Who ends it


def test_items_taken_while_another_thread_closes_the_run_are_in_the_account() -> None:
    """They were in no count, and in no rest: the account had been closed without them."""
    inside, closed = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        inside.set()
        assert closed.wait(PATIENCE_SECONDS)
        yield 1
        yield 2

    def close() -> None:
        assert inside.wait(PATIENCE_SECONDS)
        run.close()
        closed.set()

    run = treadle.map(abs, _one_first(items()), max_workers=1, buffersize=0)
    closer = Aside(close)
    delivered = []
    with pytest.raises(treadle.RunClosed):
        for value in run:
            delivered.append(value)
    closer.value()
    rest = [(outcome.index, outcome.status) for outcome in run.rest()]

    assert delivered == [0]
    assert rest == [(index, "not_started") for index in range(1, run.stats.taken)]
    assert run.stats.taken > 1
    assert adds_up(run.stats)


def _one_first(items: Iterator[int]) -> Iterator[int]:
    """Let one be taken as the run begins, and the others by whoever asks for the second result."""
    yield next(items)
    yield from items


def test_ctrl_c_in_the_input_loses_no_item_that_was_taken() -> None:
    """Those that were taken in the same go were in nobody's hands yet."""

    def items() -> Iterator[int]:
        yield from range(1000)  # more than are taken before the first result was
        raise KeyboardInterrupt

    delivered = []
    run = treadle.map(abs, items(), max_workers=1, chunksize=4)
    with pytest.raises(KeyboardInterrupt):
        for value in run:
            delivered.append(value)

    assert delivered + [outcome.item for outcome in run.rest()] == list(range(1000))
    assert run.stats.taken == 1000
    assert adds_up(run.stats)


def test_a_worker_may_arrive_while_the_crew_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so without a lock, also between two looks at whether one is on its way."""
    sent: dict[int, Any] = {}

    def look(crew: Crew) -> Any:
        return sent.pop(id(crew), None)

    def send(crew: Crew, worker: Any) -> None:
        sent[id(crew)] = worker
        vars(crew)["_on_its_way"] = None  # for workers that are about to leave when this is over

    monkeypatch.setattr(Crew, "_on_its_way", property(look, send), raising=False)
    with treadle.map(abs, range(100), max_workers=2) as run:
        next(run)
        send(run._course.crew, next(iter(run._course.crew.workers)))
