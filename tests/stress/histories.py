"""Random histories: a front, an engine, options, an input, calls and a consumer, by one seed, held to the contract.

    python -m tests.stress.histories --seconds 60 [--seed N] [--front map] [--engine threads]

A history that breaks the contract, or does not end, is printed with the seed that makes it again. ``make fuzz`` runs
it.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import faulthandler
import gc
import itertools
import math
import random
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import treadle
from treadle.testing import assert_no_leaked_threads

FRONTS = ("map", "outcomes", "async", "traverse", "pipeline", "group", "executor")
ENGINES = ("threads", "processes", "coroutines", "auto", "executor")
# A history whose waits are some milliseconds and that takes so long hangs, however busy the machine is.
HANG_SECONDS = 120
# Calls of these kinds never succeed.
FAILING = ("fails", "leaves")


class Boom(Exception):
    """What calls and inputs raise here."""


@dataclass(frozen=True)
class Work:
    """One item: it says itself what its call is to do, so that it can be sent anywhere."""

    number: int
    kind: str
    seconds: float
    history: int

    @property
    def value(self) -> int:
        """What a call that succeeds returns."""
        return -self.number


# History and number of each call that began, here: not in other processes.
begun: collections.Counter[tuple[int, int]] = collections.Counter()
returned: collections.Counter[tuple[int, int]] = collections.Counter()


def call(work: Work) -> int:
    """Do what ``work`` says."""
    key = (work.history, work.number)
    begun[key] += 1
    if work.kind == "waits":
        treadle.sleep(work.seconds)
    elif work.kind == "is deaf":
        time.sleep(work.seconds)
    elif work.kind == "nests":
        assert sum(treadle.map(abs, range(3), max_workers=2)) == 3
    _end(work)
    returned[key] += 1
    return work.value


async def call_later(work: Work) -> int:
    """As ``call``, awaited."""
    key = (work.history, work.number)
    begun[key] += 1
    if work.kind in ("waits", "is deaf", "nests"):
        await asyncio.sleep(work.seconds)
    _end(work)
    returned[key] += 1
    return work.value


def _end(work: Work) -> None:
    if work.kind == "fails" or (work.kind == "fails once" and begun[(work.history, work.number)] == 1):
        raise Boom(work.number)
    if work.kind == "leaves":
        raise SystemExit(work.number)


@dataclass
class History:
    """What is to happen, as the dice have it, and what did."""

    seed: int
    front: str
    engine: str
    items: list[Work]
    options: dict[str, Any]
    consumer: str
    until: int  # results that the consumer takes before it does what it does
    raises_at: int | None  # items after which the input raises
    taken: list[Work] = field(default_factory=list)
    delivered: list[tuple[int, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    inside: int = 0  # threads in the input

    def source(self) -> Iterator[Work]:
        """Yield the items, and note what the contract says of whoever takes them."""
        for number, work in enumerate(self.items):
            self.inside += 1
            if self.inside != 1:
                self.faults.append("two threads were in the input at once")
            self._check_bound()
            if self.raises_at == number:
                self.inside -= 1
                raise Boom("input")
            self.taken.append(work)
            self.inside -= 1
            yield work

    def _check_bound(self) -> None:
        buffersize = self.options.get("buffersize")
        if buffersize is None or self.front not in ("map", "outcomes"):
            return
        ahead = len(self.taken) - len(self.delivered)
        if ahead > self.options["max_workers"] + buffersize:
            self.faults.append(f"{ahead} items were taken beyond the last result")

    def fault(self, text: str) -> None:
        """Note that the contract was broken."""
        self.faults.append(text)

    def __str__(self) -> str:
        kinds = collections.Counter(work.kind for work in self.items)
        return (
            f"seed {self.seed}: {self.front} on {self.engine}, {len(self.items)} items {dict(kinds)}, "
            f"consumer {self.consumer!r} after {self.until}, input raises at {self.raises_at}, {self.options}"
        )


def make_history(seed: int, front: str | None = None, engine: str | None = None) -> History:
    """Return the history of ``seed``."""
    dice = random.Random(seed)
    fronts = FRONTS if front is None else (front,)
    engines = ENGINES if engine is None else (engine,)
    chosen = dice.choice(fronts)
    found = dice.choice([*engines, engines[0], engines[0]])  # threads more often than the others
    if chosen in ("traverse", "pipeline", "group", "executor") and found in ("executor", "auto"):
        found = "threads"
    many = dice.choice([0, 1, 3, 10, 30, 30, 200])
    usual = dice.choice(["returns", "returns", "waits", "is deaf"])
    rare = [dice.choice(["fails", "fails once", "leaves", "waits", "is deaf", "nests", "returns"]) for _ in range(2)]
    share = dice.choice([0.0, 0.05, 0.3])
    items = [
        Work(number, dice.choice(rare) if dice.random() < share else usual, dice.choice([0.0, 0.001, 0.01]), seed)
        for number in range(many)
    ]
    return History(
        *(seed, chosen, found, items, _random_options(dice, chosen, found)),
        consumer=dice.choice(["reads all", "reads all", "leaves", "closes", "is closed by a thread", "asks for stats"]),
        until=dice.randrange(1, many + 2),  # one of which nothing was read warns
        raises_at=dice.randrange(many + 1) if dice.random() < 0.2 else None,
    )


def _random_options(dice: random.Random, front: str, engine: str) -> dict[str, Any]:
    options: dict[str, Any] = {"max_workers": dice.choice([1, 2, 3, 8]), **_random_policy(dice)}
    if front in ("group", "executor"):
        return options
    options["grace"] = dice.choice([0.05, 10])
    if dice.random() < 0.2:
        options["timeout"] = dice.choice([0.0, 0.005, 30])
    if front != "traverse":
        options["ordered"] = dice.random() < 0.5
        if dice.random() < 0.4:
            options["buffersize"] = dice.randrange(20)
        if dice.random() < 0.3 and not options.keys() & {"retry", "limiter", "hedge", "call_timeout"}:
            options["chunksize"] = dice.choice([1, 2, 7])
    if front in ("map", "outcomes"):
        options["intake"] = dice.choice(["caller", "thread"])
        if engine in ("threads", "processes") and dice.random() < 0.2:
            options["initializer"] = int
    return options


def _random_policy(dice: random.Random) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    if dice.random() < 0.3:
        policy["retry"] = treadle.Retry(3, retry_on=Boom, backoff=dice.choice([0, 0.002]))
    if dice.random() < 0.2:
        policy["limiter"] = treadle.Limiter(max_per_second=5000, burst=20, max_concurrent=dice.choice([None, 2]))
    if dice.random() < 0.2:
        policy["hedge"] = treadle.Hedge(after=0.002)
    if dice.random() < 0.2:
        policy["call_timeout"] = dice.choice([0.003, 5])
        policy["max_abandoned"] = 1000
    return policy


# What happens


def live(history: History) -> None:
    """Let it happen, and note every fault."""
    for counter in (begun, returned):
        counter.clear()
    with assert_no_leaked_threads(HANG_SECONDS / 2):
        {"group": _live_in_group, "executor": _live_in_executor}.get(history.front, _live_as_run)(history)


def _live_as_run(history: History) -> None:
    with ThreadPoolExecutor(4) as others:
        run = _start(history, others)
        seen = weakref.ref(run)
        closer = None
        if history.consumer in ("is closed by a thread", "asks for stats"):
            what = run.close if history.consumer == "is closed by a thread" else lambda: [run.stats for _ in range(50)]
            closer = threading.Thread(target=what)
            closer.start()
        raised: BaseException | None = None
        try:
            if history.front == "async":
                asyncio.run(_read_async(history, run))
            else:
                _read(history, run)
        except BaseException as error:
            raised = error
        _check_raised(history, raised)
        if closer is not None:
            closer.join()
            del what
        if history.consumer == "leaves" and raised is None:
            del run, raised, closer
        else:
            _check_account(history, run, raised)
            raised = None
            del run, closer
        _check_let_go(history, seen)


def _check_let_go(history: History, seen: weakref.ref[Any]) -> None:
    """Note it if the run does not end: threads that hold it for a moment, and circles through errors, are let go."""
    deadline = time.monotonic() + HANG_SECONDS / 4
    while seen() is not None:
        gc.collect()
        if time.monotonic() > deadline:
            history.fault("the run is still alive when nobody holds it")
            return
        time.sleep(0.001)


def _start(history: History, others: Any) -> Any:
    fn = call_later if history.engine == "coroutines" else call
    engine = {"executor": others, "coroutines": None}.get(history.engine, history.engine)
    options = history.options | {"engine": engine}
    if history.front == "traverse":
        options.pop("ordered", None)
        return treadle.traverse(_Children(fn) if fn is call else _LaterChildren(fn), history.source(), **options)
    if history.front == "pipeline":
        stage = {name: option for name, option in options.items() if name != "timeout"}
        flow = treadle.pipeline(history.source()).map(fn, **stage).map(abs, max_workers=2, ordered=options["ordered"])
        return flow.start(timeout=options.get("timeout"))
    if history.front in ("outcomes", "map", "async"):
        return treadle.map(fn, history.source(), **options)
    raise AssertionError(history.front)


class _Children:
    """A visit that finds nothing more, and says what it has come to."""

    def __init__(self, fn: Any) -> None:
        self.fn = fn

    def __call__(self, work: Work) -> list[Work]:
        self.fn(work)
        return []


class _LaterChildren:
    def __init__(self, fn: Any) -> None:
        self.fn = fn

    async def __call__(self, work: Work) -> list[Work]:
        await self.fn(work)
        return []


def _read(history: History, run: Any) -> None:
    stops = history.until if history.consumer in ("leaves", "closes") else None
    results = run.outcomes() if history.front == "outcomes" else run
    for result in itertools.islice(results, stops):
        _note(history, result)
    if history.consumer == "closes":
        run.close()


async def _read_async(history: History, run: Any) -> None:
    stops = history.until if history.consumer in ("leaves", "closes") else None
    count = 0
    if stops != 0:
        async for result in run:
            _note(history, result)
            count += 1
            if count == stops:
                break
    if history.consumer == "closes":
        run.close()


def _note(history: History, result: Any) -> None:
    if history.front == "outcomes":
        _check_outcome(history, result)
        history.delivered.append((result.index, result.value))
    else:
        history.delivered.append((len(history.delivered), result))


# What the contract says of it


def _check_raised(history: History, raised: BaseException | None) -> None:
    if raised is None or isinstance(raised, Boom | SystemExit | TimeoutError):
        return
    if isinstance(raised, treadle.RunClosed | treadle.PipelineClosed) and history.consumer == "is closed by a thread":
        return
    if isinstance(raised, treadle.TooManyAbandoned) and any(work.kind == "is deaf" for work in history.items):
        return
    history.fault(f"it raised {raised!r}")


def _check_account(history: History, run: Any, raised: BaseException | None) -> None:
    if history.front == "pipeline":
        return
    rest = []
    try:
        for outcome in run.rest():
            rest.append(outcome)
    except (Boom, TimeoutError, SystemExit, treadle.TooManyAbandoned):  # the end's own error comes last
        pass
    for outcome in rest:
        _check_outcome(history, outcome)
    stats, taken = run.stats, len(history.taken)
    if history.front == "traverse" and stats.taken == taken - 1:
        taken -= 1  # a root that was looked at, to know whether there is one, and was not its turn yet
    if len(history.delivered) + len(rest) != taken:
        history.fault(f"{taken} taken, {len(history.delivered)} delivered, {len(rest)} left: {raised!r}")
    told = stats.succeeded + stats.failed + stats.timed_out + stats.cancelled + stats.not_started
    if (stats.taken, told) != (taken, taken):
        history.fault(f"{taken} were taken, and stats say {stats}")
    _check_order(history, rest)
    if history.consumer in ("reads all", "asks for stats") and raised is None and taken < len(history.items):
        history.fault(f"it ended after {taken} of {len(history.items)} items")


def _check_order(history: History, rest: list[treadle.Outcome[Work, Any]]) -> None:
    """Note what was delivered twice, never, or out of order."""
    is_ordered, taken = history.options.get("ordered"), history.taken
    if history.front == "outcomes":
        indexes = [index for index, _ in history.delivered]
        if sorted([*indexes, *(outcome.index for outcome in rest)]) != list(range(len(taken))):
            history.fault(f"indexes delivered: {indexes}")
        if is_ordered and indexes != list(range(len(indexes))):
            history.fault(f"not in input order: {indexes}")
    elif history.front in ("map", "async"):
        values = [value for _, value in history.delivered]
        left = {outcome.item.number for outcome in rest}
        if is_ordered and values != [work.value for work in taken][: len(values)]:
            history.fault(f"not the results in input order: {values}")
        if sorted(values) != sorted(work.value for work in taken if work.number not in left):
            history.fault(f"delivered {values}, left {sorted(left)}")


def _check_outcome(history: History, outcome: treadle.Outcome[Work, Any]) -> None:
    work, where = outcome.item, f"item {outcome.index}, {outcome.item.kind}, {outcome!r}"
    key = (work.history, work.number)
    retry, can_see = history.options.get("retry"), history.engine in ("threads", "coroutines", "executor")
    if outcome.index != work.number:
        history.fault(f"another item's index: {where}")
    if (outcome.status == "succeeded") != (outcome.error is None):
        history.fault(f"a success has no error, all else has one: {where}")
    if outcome.status == "succeeded" and history.front != "traverse" and outcome.value != work.value:
        history.fault(f"a wrong value: {where}")
    is_called_once = retry is None and "hedge" not in history.options
    if outcome.status == "succeeded" and (work.kind in FAILING or (work.kind == "fails once" and is_called_once)):
        history.fault(f"it cannot have succeeded: {where}")
    if outcome.status == "failed" and work.kind not in (*FAILING, "fails once"):
        history.fault(f"it cannot have failed: {where}")
    if outcome.status == "timed_out" and "call_timeout" not in history.options:
        history.fault(f"nobody has said how long a call may take: {where}")
    if not can_see:
        return
    most = (3 if retry else 1) * (2 if "hedge" in history.options else 1)
    if begun[key] > most:
        history.fault(f"called {begun[key]} times: {where}")
    if outcome.status == "not_started" and begun[key]:
        history.fault(f"not started, and called {begun[key]} times: {where}")
    # A call may be late, or cancelled, at the step before its first line, or in an executor's own queue.
    if outcome.status in ("succeeded", "failed") and not begun[key]:
        history.fault(f"never called: {where}")


# Tasks


def _live_in_group(history: History) -> None:
    fn = call_later if history.engine == "coroutines" else call
    tasks: list[treadle.Task[Any]] = []
    options = history.options | ({"engine": "processes"} if history.engine == "processes" else {})
    raised: BaseException | None = None
    try:
        with treadle.TaskGroup(on_error="collect", **options) as group:
            tasks += [group.submit(fn, work) for work in history.items]
            if history.consumer == "closes":
                group.cancel()
    except BaseException as error:
        raised = error
    failed = [task for task in tasks if task.done() and not task.cancelled() and task.exception() is not None]
    if bool(failed) != (raised is not None):
        history.fault(f"{len(failed)} tasks failed, and the block raised {raised!r}")
    if raised is not None and not isinstance(raised, BaseExceptionGroup):
        history.fault(f"the block raised {raised!r}")
    _check_tasks(history, tasks)


def _live_in_executor(history: History) -> None:
    fn = call_later if history.engine == "coroutines" else call
    options = history.options | ({"engine": "processes"} if history.engine == "processes" else {})
    with treadle.PoolExecutor(**options) as pool:
        tasks = [pool.submit(fn, work) for work in history.items]
        if history.consumer == "closes":
            pool.shutdown(wait=False, cancel_futures=True)
    _check_tasks(history, tasks)


def _check_tasks(history: History, tasks: list[treadle.Task[Any]]) -> None:
    for work, task in zip(history.items, tasks, strict=True):
        if not task.done():
            history.fault(f"{task!r} has no end")
            continue
        try:
            error = task.exception()
        except CancelledError:
            if history.consumer != "closes":
                history.fault(f"{task!r} was cancelled by nobody")
            continue
        if error is None and task.result() != work.value:
            history.fault(f"{task!r} has another's result")
        if error is None and work.kind in FAILING:
            history.fault(f"{task!r} cannot have succeeded")
        if error is not None and not isinstance(error, Boom | SystemExit | treadle.CallTimedOut):
            history.fault(f"{task!r} failed with {error!r}")


# A night of it


def run_histories(
    seeds: Iterator[int], seconds: float = math.inf, front: str | None = None, engine: str | None = None
) -> int:
    """Let one history after the other happen, and return how many there were.

    Raises:
        AssertionError: One broke the contract; the message has the seed and what went wrong.
    """
    end, count = time.monotonic() + seconds, 0
    for seed in seeds:
        history = make_history(seed, front, engine)
        if seconds != math.inf:  # otherwise a test sees to it
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        if sys.stderr.isatty():
            print(f"\rhistory {count}, seed {seed}", end="", file=sys.stderr, flush=True)
        try:
            live(history)
        finally:
            if seconds != math.inf:
                faulthandler.cancel_dump_traceback_later()
        assert not history.faults, "\n  ".join([str(history), *history.faults[:10]])
        count += 1
        if time.monotonic() >= end:
            break
    return count


def main() -> None:
    """Look for histories that break the contract, for so long."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to look (default: a minute)")
    parser.add_argument("--seed", type=int, help="make this one history, and no other")
    parser.add_argument("--first", type=int, default=random.SystemRandom().randrange(10**8), help="begin at this seed")
    parser.add_argument("--front", choices=FRONTS)
    parser.add_argument("--engine", choices=ENGINES)
    given = parser.parse_args()
    warnings.simplefilter("error")
    seeds = itertools.count(given.first) if given.seed is None else iter([given.seed])
    print(f"from seed {given.first if given.seed is None else given.seed} on", flush=True)
    try:
        count = run_histories(seeds, given.seconds, given.front, given.engine)
    except AssertionError as broken:
        sys.exit(f"\n{broken}\nagain: make fuzz ARGS='--seed ...' with the front and engine that were given")
    print(f"{count} histories, nothing found")


if __name__ == "__main__":
    main()
