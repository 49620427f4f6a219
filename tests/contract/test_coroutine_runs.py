"""The promises of a run, for coroutine functions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

import treadle
from tests.calls import FileGate
from tests.contract.run_contract import STUCK_SECONDS, RunContract, sleep_and_tell, spin_and_tell


async def sleep_and_tell_awaited(folder: Path) -> None:
    """Sleep for ever, and say in ``folder`` when that begins and how it ends."""
    (folder / "asleep").touch()
    try:
        await asyncio.sleep(STUCK_SECONDS)
    except asyncio.CancelledError:
        (folder / "cancelled").touch()
        raise


async def spin_and_tell_awaited(folder: Path) -> None:
    """Go on until cancelled, take no notice of asyncio's way to say so, and find out by looking."""
    (folder / "asleep").touch()
    while True:
        try:
            treadle.check_cancelled()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass
        except treadle.Cancelled:
            (folder / "cancelled").touch()
            raise


OF_THEIR_OWN: dict[Callable[..., Any], Callable[..., Awaitable[Any]]] = {
    sleep_and_tell: sleep_and_tell_awaited,
    spin_and_tell: spin_and_tell_awaited,
}


def awaited(fn: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return a coroutine function that does on a thread what ``fn`` does, as it may block."""

    @wraps(fn)
    async def call(*arguments: Any) -> Any:
        return await asyncio.to_thread(fn, *arguments)

    return OF_THEIR_OWN.get(fn, call)


class TestRunsOnAnEventLoop(RunContract):
    engine = None
    leaves_stuck_calls_behind = False
    stuck_calls_heed = True  # they wait for a thread

    def map(self, fn: Any, *iterables: Any, **options: Any) -> treadle.Run[Any, Any]:
        return super().map(awaited(fn), *iterables, **options)

    def test_a_slow_tail_after_tiny_calls_is_shared(self, file_gate: FileGate) -> None:
        """Tiny ones that are not taken to a thread, and so many in one chunk."""

        async def call(item: int) -> object:
            return await asyncio.to_thread(file_gate.hold, item) if item >= 3000 else item

        with super().map(call, range(3004), max_workers=2, ordered=False) as run:
            assert len([next(run) for _ in range(3000)]) == 3000
            file_gate.wait_for_arrivals(2)
            file_gate.open()
            assert sorted(run, key=str) == [3000, 3001, 3002, 3003]
