"""Many short runs with random options, failures and goodbyes, also while threads switch all the time.

Seeded; the seed is printed, and ``TREADLE_SEED`` sets it.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import treadle

SEED = int(os.environ.get("TREADLE_SEED", random.SystemRandom().randrange(10**6)))


class Boom(Exception):
    """What calls and inputs raise here."""


@pytest.fixture(params=[False, True], ids=["usual", "switching"])
def _switching(request: pytest.FixtureRequest) -> Iterator[None]:
    before = sys.getswitchinterval()
    if request.param:
        sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def random_options(dice: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_workers": dice.choice([1, 2, 3, 8]),
        "ordered": dice.random() < 0.5,
        "intake": dice.choice(["caller", "thread"]),
        "grace": 10,
    }
    if dice.random() < 0.5:
        options["buffersize"] = dice.randrange(30)
    if dice.random() < 0.5:
        options["chunksize"] = dice.choice([1, 2, 7, 50])
    return options


def random_call(dice: random.Random, items: int) -> Any:
    failing = {dice.randrange(items) for _ in range(dice.choice([0, 0, 1, 3]))}
    slow = {dice.randrange(items) for _ in range(dice.choice([0, 2, 5]))}

    def call(item: int) -> int:
        if item in slow:
            threading.Event().wait(0.002)
        if item in failing:
            raise Boom(item)
        return item

    return call


def random_input(dice: random.Random, items: int) -> Iterator[int]:
    breaks_at = dice.randrange(items * 3)
    for item in range(items):
        if item == breaks_at:
            raise Boom("input")
        yield item


@pytest.mark.slow
@pytest.mark.usefixtures("_switching")
def test_every_item_has_one_outcome_whatever_happens() -> None:
    print(f"TREADLE_SEED={SEED}")
    for turn in range(400):
        dice = random.Random(SEED + turn)
        items = dice.choice([1, 5, 40, 300])
        run = treadle.map(random_call(dice, items), random_input(dice, items), **random_options(dice))
        counted = Counted(run, dice)
        assert counted.missing() == [], f"seed {SEED + turn}"
        assert counted.doubled() == [], f"seed {SEED + turn}"


class Counted:
    """Which items a run delivered, and which were left in the rest."""

    def __init__(self, run: treadle.Run[int, int], dice: random.Random) -> None:
        seen: list[int] = []
        iterator = run.outcomes() if dice.random() < 0.3 else None
        try:
            for thing in iterator if iterator is not None else run:
                seen.append(thing.item if isinstance(thing, treadle.Outcome) else thing)
                if dice.random() < 0.01:
                    break
        except Boom:
            pass
        run.close()
        seen += [outcome.item for outcome in run.rest()]
        self._seen = seen
        self._taken = run.stats.taken

    def missing(self) -> list[int]:
        return sorted(set(range(self._taken)) - set(self._seen))

    def doubled(self) -> list[int]:
        return sorted({item for item in self._seen if self._seen.count(item) > 1})


@pytest.mark.slow
@pytest.mark.usefixtures("_switching")
def test_tiny_and_slow_calls_mixed_lose_nothing() -> None:
    print(f"TREADLE_SEED={SEED}")
    dice = random.Random(SEED)
    slow = {dice.randrange(20_000) for _ in range(60)}

    def call(item: int) -> int:
        if item in slow:
            threading.Event().wait(0.001)
        return item

    for ordered in (True, False):
        results = list(treadle.map(call, range(20_000), max_workers=8, ordered=ordered))
        assert sorted(results) == list(range(20_000)), f"seed {SEED}"


@pytest.mark.slow
def test_memory_stays_flat_over_a_long_stream() -> None:
    """One stuck item must not make the account of millions behind it grow."""
    release = threading.Event()

    def call(item: int) -> int:
        if item == 0:
            release.wait(60)
        return item

    run = treadle.map(call, range(300_000), ordered=False, max_workers=4)
    most = 0
    for count, _ in enumerate(run, start=1):
        most = max(most, len(run._course.ledger.chunks))
        if count == 299_000:
            release.set()
    assert count == 300_000
    assert most < 1000
