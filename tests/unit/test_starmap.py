"""``starmap``: as ``map``, but each item is a tuple of arguments."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import treadle


def join(*parts: object) -> str:
    return "-".join(map(str, parts))


async def join_later(*parts: object) -> str:
    return join(*parts)


PAIRS: list[tuple[Any, ...]] = [(1, 2), ("a",), (), ("x", "y", "z")]


@pytest.mark.parametrize("fn", [join, join_later])
def test_each_tuple_is_spread_over_the_parameters(fn: Any) -> None:
    assert list(treadle.starmap(fn, PAIRS)) == ["1-2", "a", "", "x-y-z"]


def test_any_iterable_of_arguments_will_do() -> None:
    def pairs() -> Iterator[Any]:
        yield [1, 2]
        yield "ab"
        yield iter((3, 4))

    assert list(treadle.starmap(join, pairs())) == ["1-2", "a-b", "3-4"]


def test_the_item_of_an_outcome_is_the_tuple() -> None:
    outcomes = list(treadle.starmap(divmod, [(7, 2), (7, 0)]).outcomes())

    assert [(outcome.item, outcome.ok, outcome.value) for outcome in outcomes] == [
        ((7, 2), True, (3, 1)),
        ((7, 0), False, None),
    ]


def test_what_cannot_be_spread_is_the_failure_of_that_item() -> None:
    pairs: list[Any] = [(1, 2), 5]

    with pytest.raises(TypeError, match="after \\* must be an iterable, not int") as caught:
        list(treadle.starmap(join, pairs))

    assert caught.value.__notes__ == [
        "treadle: item 1 of run 'join': 5",
        "treadle: join takes (*parts); starmap spreads each item over these, so it must be a tuple of arguments",
    ]


def test_the_resource_comes_last() -> None:
    assert list(treadle.starmap(join, [(1, 2)], resource=lambda: "resource")) == ["1-2-resource"]


def test_it_works_in_processes_and_over_an_executor() -> None:
    assert list(treadle.starmap(divmod, [(7, 2), (9, 4)], engine="processes", max_workers=1)) == [(3, 1), (2, 1)]
    with ThreadPoolExecutor(1) as pool:
        assert list(treadle.starmap(divmod, [(7, 2), (9, 4)], engine=pool)) == [(3, 1), (2, 1)]


def test_what_is_no_iterable_is_refused() -> None:
    with pytest.raises(treadle.WrongType, match=r"pairs must be iterable, not 5 \(int\)"):
        treadle.starmap(join, 5)  # type: ignore[call-overload]


def test_strict_has_no_meaning_for_one_iterable() -> None:
    with pytest.raises(TypeError, match=r"starmap\(\) got an unexpected keyword argument 'strict'"):
        treadle.starmap(join, PAIRS, strict=True)  # type: ignore[call-overload]
