"""Exceptions that refuse every assignment, as frozen dataclasses do: they reach their user as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import treadle
from tests.programs import run_treadle
from treadle._core.block import contextmanager
from treadle.testing import Turnstile, assert_no_leaked_threads, explore


@dataclass(frozen=True)
class Refused(Exception):
    """It has ``__reduce__``, as it could not be made again of its state, which would be assigned to it."""

    code: int

    def __reduce__(self) -> Any:
        return Refused, (self.code,)


def refuse(code: int) -> None:
    raise Refused(code)


async def refuse_later(code: int) -> None:
    await asyncio.sleep(0)
    raise Refused(code)


def refuse_beside(code: int) -> int:
    if code == 3:
        raise Refused(code)
    return code


ENGINES = ["threads", "processes", "auto", "coroutines"]


def function_for(engine: str) -> Any:
    return refuse_later if engine == "coroutines" else refuse


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"retry": treadle.Retry(2, backoff=0)}, {"call_timeout": 60}])
def test_map_raises_it(engine: Any, options: Any) -> None:
    with pytest.raises(Refused) as caught:
        list(treadle.map(function_for(engine), [7], engine=engine, **options))

    assert caught.value.code == 7


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_it_is_the_failure_of_its_item_alone(engine: Any) -> None:
    outcomes = list(treadle.map(refuse_beside, range(8), engine=engine, max_workers=1).outcomes())

    assert [outcome.index for outcome in outcomes if outcome.status == "failed"] == [3]
    assert type(outcomes[3].error) is Refused


@pytest.mark.parametrize("engine", ENGINES)
def test_a_task_has_it(engine: Any) -> None:
    if engine == "auto":
        pytest.skip("executors and groups have no such engine")
    with treadle.PoolExecutor(engine=engine) as pool:
        assert pool.submit(function_for(engine), 7).exception() == Refused(7)
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(engine=engine) as group:
        group.submit(function_for(engine), 7)

    assert caught.value.exceptions == (Refused(7),)


def test_the_input_may_raise_it() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise Refused(7)

    with pytest.raises(Refused):
        list(treadle.map(abs, numbers()))


def test_the_end_of_a_run_that_fails_too_does_not_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What closing has to say would go on it as a note, which it refuses."""

    def fail(_: object) -> None:
        raise OSError("cannot close")

    with pytest.raises(Refused):  # noqa: SIM117  # the patch is for the inner one alone
        with treadle.map(abs, [1]) as run:
            list(run)
            monkeypatch.setattr(treadle.Run, "close", fail)
            raise Refused(7)


BLOCKS = [
    lambda: treadle.shield(1),
    lambda: treadle.on_cancel(print),
    lambda: treadle.Guarded(0),
    lambda: treadle.Lock(),
    lambda: treadle.Limiter(max_concurrent=1),
    lambda: treadle.TaskGroup(on_error="collect"),
    lambda: treadle.PoolExecutor(),
    lambda: treadle.map(abs, [1]),
    lambda: treadle.watch_locks(),
    lambda: Turnstile()(0),
    lambda: assert_no_leaked_threads(),
]


@pytest.mark.parametrize("block", BLOCKS, ids=[str(number) for number in range(len(BLOCKS))])
@pytest.mark.parametrize("inside", ["the caller", "a task"])
def test_it_leaves_blocks_of_ours(block: Any, inside: str) -> None:
    def leave() -> None:
        with block():
            raise Refused(7)

    if inside == "the caller":
        with pytest.raises((Refused, ExceptionGroup)) as caught:
            leave()
        error = caught.value
    else:
        with treadle.PoolExecutor() as pool:
            error = pool.submit(leave).exception()  # type: ignore[assignment]

    assert error == Refused(7) or (isinstance(error, ExceptionGroup) and error.exceptions == (Refused(7),))


def test_an_exploration_raises_it() -> None:
    with pytest.raises(Refused):
        explore(lambda: refuse(7), schedules=2)


def test_the_command_shows_it(tmp_path: Any) -> None:
    (tmp_path / "cold.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Refused(Exception):\n    code: int\n"
        "def refuse(_): raise Refused(7)\n"
    )

    status, out, err = run_treadle("map", "cold.py:refuse", "1", "2", cwd=tmp_path)

    assert status == 1
    assert out.count('"failed"') == 2
    assert "1 failed:" in err
    assert "raise Refused(7)" in err


def test_a_block_of_ours_is_as_those_of_contextlib() -> None:
    """But for the one assignment: what its code raises itself, and a ``StopIteration``, leave it as from there."""
    steps: list[str] = []

    @contextmanager
    def block() -> Iterator[str]:
        try:
            yield "value"
        finally:
            steps.append("left")

    with block() as value:
        assert value == "value"
    with pytest.raises(StopIteration), block():
        raise StopIteration
    assert steps == ["left", "left"]

    @contextmanager
    def broken() -> Iterator[None]:
        try:
            yield
        finally:
            raise OSError

    with pytest.raises(OSError) as caught, broken():
        raise Refused(7)
    assert caught.value.__context__ == Refused(7)

    @block()
    def decorated() -> int:
        return 1

    assert decorated() == decorated() == 1
