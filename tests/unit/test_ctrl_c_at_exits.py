"""Ctrl-C as a block ends: what was taken is given back, whenever it comes."""

from __future__ import annotations

import inspect
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pkgutil import walk_packages
from typing import Any

import pytest

import treadle
import treadle.testing
from tests.interrupts import Interrupted, interrupt_everywhere
from tests.places import wait_until
from treadle._core.cancellation import Scope, current_scope, here
from treadle._core.uninterrupted import is_interruptible, starts_uninterrupted
from treadle._sync.cancelling import entered
from treadle._sync.limiter import Limiter

# Blocks that give nothing back but what an exception of the user's ends as well.
OWE_NOTHING = {"Failures", "DaskExecutor"}
TAKEN = {
    "Lock": treadle.Lock,
    "RLock": treadle.RLock,
    "Guarded": lambda: treadle.Guarded(0),
    "Limiter": lambda: treadle.Limiter(max_concurrent=1),
    "Limiter with a rate": lambda: treadle.Limiter(1e6, burst=1000, max_concurrent=1),
}
each_taken = pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN)


def is_taken(thing: Any) -> bool:
    if isinstance(thing, Limiter):
        return bool(thing._state().holders) or here.places != ()
    if isinstance(thing, treadle.Guarded):
        return thing._lock.locked() or thing._handle is not None
    return bool(thing.locked())


def classes() -> Iterator[type]:
    for module in walk_packages(treadle.__path__, "treadle."):
        if "._cli" in module.name or "_explore" in module.name or module.name.endswith("__main__"):
            continue
        for _, found in inspect.getmembers(__import__(module.name, fromlist=["_"]), inspect.isclass):
            if found.__module__ == module.name:
                yield found


def owing() -> dict[str, Any]:
    """Return the functions of Treadle's that a ``with`` statement or a ``finally`` counts on, by their names."""
    names = ("__exit__", "__aexit__", "release")
    found = {(kind, name): vars(kind).get(name) for kind in classes() for name in names}
    return {
        f"{kind.__name__}.{name}": fn
        for (kind, name), fn in found.items()
        if inspect.isfunction(fn) and kind.__name__ not in OWE_NOTHING and not getattr(kind, "_is_protocol", False)
    }


@pytest.mark.parametrize("name", owing())
def test_what_gives_something_back_starts_uninterrupted(name: str) -> None:
    """Otherwise Ctrl-C may come before its first step, and nobody else will ever make it."""
    assert not is_interruptible(owing()[name].__code__)


@each_taken
def test_an_interrupted_block_leaves_nothing_taken(make: Callable[[], AbstractContextManager[object]]) -> None:
    def prepare() -> tuple[Callable[[], object], Callable[[], None]]:
        thing = make()

        def enter_and_leave() -> None:
            with thing:
                pass

        def check() -> None:
            assert not is_taken(thing)

        return enter_and_leave, check

    interrupt_everywhere(prepare, least=3)  # a lock has few moments


def test_an_interrupted_shield_is_in_force_no_more() -> None:
    def prepare() -> tuple[Callable[[], object], Callable[[], None]]:
        outer = Scope()

        def enter_and_leave() -> None:
            with entered(outer):
                try:
                    with treadle.shield(60):
                        pass
                finally:
                    assert current_scope() is outer

        return enter_and_leave, lambda: None

    interrupt_everywhere(prepare)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGINT to be sent to a process")
@each_taken
def test_a_real_ctrl_c_leaves_nothing_taken(make: Callable[[], AbstractContextManager[object]]) -> None:
    """As above, without a model of when an interpreter looks for signals; a loop of blocks is almost always in one."""
    seeded = random.Random(11)
    for _ in range(25):
        thing, counts = make(), [0]
        wanted = seeded.randrange(1, 200)
        thread = threading.Thread(
            target=interrupt_when, args=(lambda counts=counts, wanted=wanted: counts[0] >= wanted,)
        )
        with Interrupted():
            thread.start()
            while True:
                with thing:
                    counts[0] += 1
        thread.join()
        assert not is_taken(thing)


def interrupt_when(is_so: Callable[[], bool]) -> None:
    wait_until(is_so)
    os.kill(os.getpid(), signal.SIGINT)


def test_a_group_that_is_interrupted_as_its_block_ends_waits_for_its_tasks() -> None:
    """The first step of its end is the one that cancels and waits: without it, tasks would go on by themselves."""
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        try:
            treadle.sleep(60)
        finally:
            ended.set()

    group = treadle.TaskGroup()
    end = group._end
    group._end = raise_once(end)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), group:
        group.submit(work)
        begun.wait()

    assert ended.is_set()


def raise_once(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``fn`` such that Ctrl-C comes before it begins, once."""
    left = [KeyboardInterrupt]

    def call(*arguments: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return fn(*arguments, **named)

    return call


def test_an_executor_that_is_interrupted_as_its_block_ends_is_shut_down() -> None:
    pool = treadle.PoolExecutor(1)
    pool._shut_down = raise_once(pool._shut_down)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), pool:
        task = pool.submit(treadle.sleep, 60)

    assert task.done()
    with pytest.raises(treadle.PoolClosed):
        pool.submit(abs, 1)


def test_a_run_that_is_interrupted_as_its_block_ends_is_over() -> None:
    run = treadle.map(treadle.sleep, [60], grace=10)
    run.close = raise_once(run.close)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), run:
        pass

    wait_until(lambda: run.stats.workers == 0)  # the last is on its way out


def test_a_pipeline_that_is_interrupted_as_its_block_ends_is_over() -> None:
    flow = treadle.pipeline([60]).map(treadle.sleep, grace=10).start()
    flow.close = raise_once(flow.close)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), flow:
        pass

    assert all(stage.workers == 0 for stage in flow.stats.stages)


def test_what_starts_uninterrupted_does_what_it_did() -> None:
    """Also with free variables, which are laid out before the first step, and as a coroutine."""
    word = "free"

    @starts_uninterrupted
    def call(*arguments: int, **named: int) -> tuple[Any, ...]:
        return word, arguments, named

    @starts_uninterrupted
    async def wait() -> str:
        return word

    assert call(1, two=2) == ("free", (1,), {"two": 2})
    assert is_interruptible(raise_once.__code__)
    assert not is_interruptible(call.__code__)
    assert not is_interruptible(wait.__code__)
    with pytest.raises(StopIteration, match="free"):
        wait().send(None)
