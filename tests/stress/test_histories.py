"""Some of the random histories, always the same ones: ``make fuzz`` looks at others, for as long as one likes."""

from __future__ import annotations

import itertools

import pytest

from tests.stress.histories import ENGINES, FRONTS, run_histories

HISTORIES = 150


@pytest.mark.slow
@pytest.mark.parametrize("front", FRONTS)
def test_histories_keep_the_contract(front: str) -> None:
    assert run_histories(iter(range(HISTORIES)), front=front) == HISTORIES


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_histories_keep_the_contract_on_every_engine(engine: str) -> None:
    seeds = itertools.islice(itertools.count(10_000), HISTORIES // 2)
    assert run_histories(seeds, front="outcomes", engine=engine) == HISTORIES // 2
