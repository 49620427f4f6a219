"""``treadle.traverse``: which nodes are visited, in which order, and what is told of them."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import treadle
from tests.conftest import PATIENCE_SECONDS, Gate
from treadle._core.chunk import Chunk
from treadle._run.frontier import Children, Frontier

Graph = dict[Any, list[Any]]

_request: ContextVar[str] = ContextVar("_request", default="none")


def numbers_below(end: int) -> Callable[[int], list[int]]:
    """Return a visit of the binary tree of the numbers below ``end``."""
    return lambda node: [child for child in (2 * node + 1, 2 * node + 2) if child < end]


def visited_one_by_one(graph: Graph, roots: Iterable[Any]) -> list[Any]:
    """Return the nodes in the order of a plain breadth-first search."""
    waiting = deque(dict.fromkeys(roots))
    seen, visited = set(waiting), []
    while waiting:
        visited.append(node := waiting.popleft())
        fresh = [child for child in dict.fromkeys(graph[node]) if child not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return visited


# Each node once


def test_what_two_visits_find_at_once_is_visited_once() -> None:
    """A diamond: neither finder ends before both have found the same node."""
    both = threading.Barrier(2)
    visits: list[str] = []

    def visit(node: str) -> list[str]:
        visits.append(node)
        if node == "top":
            return ["left", "right"]
        if node == "bottom":
            return []
        both.wait(PATIENCE_SECONDS)
        return ["bottom"]

    traversal = treadle.traverse(visit, ["top"])

    assert set(traversal) == {"top", "left", "right", "bottom"}
    assert Counter(visits) == {"top": 1, "left": 1, "right": 1, "bottom": 1}
    assert traversal.stats.taken == traversal.stats.succeeded == 4


def test_a_circle_ends() -> None:
    graph = {"a": ["b"], "b": ["c", "b"], "c": ["a"]}

    assert list(treadle.traverse(graph.__getitem__, ["a"])) == ["a", "b", "c"]


def test_roots_that_are_the_same_are_visited_once() -> None:
    assert list(treadle.traverse(lambda _: (), ["a", "b", "a", "a", "c", "b"])) == ["a", "b", "c"]


def test_roots_that_were_seen_are_passed_over_without_further_news() -> None:
    assert list(treadle.traverse(lambda _: (), ["a"] * 1000 + ["b"])) == ["a", "b"]


def test_a_root_that_was_found_before_is_not_visited_again() -> None:
    assert list(treadle.traverse({1: [2], 2: []}.get, [1, 2], depth_first=True)) == [1, 2]


def test_a_root_that_is_found_meanwhile_has_depth_0(gate: Gate) -> None:
    """As far as its own children go: they are 1 deep, and not 2."""

    def roots() -> Iterator[str]:
        yield "a"
        gate.hold()
        yield "b"

    graph = {"a": ["b"], "b": ["c"], "c": ["d"]}
    with treadle.traverse(graph.__getitem__, roots(), max_depth=1) as traversal:
        first = next(traversal)  # its visit has ended, and found the second root
        gate.open()

        assert [first, *traversal] == ["a", "b", "c"]


def test_a_child_that_is_named_twice_is_visited_once() -> None:
    traversal = treadle.traverse(lambda node: ["b", "b"] if node == "a" else [], ["a"])

    assert [(o.item, o.value) for o in traversal.outcomes()] == [("a", ["b", "b"]), ("b", [])]


def test_without_roots_there_is_nothing_to_visit() -> None:
    nothing: list[str] = []
    traversal = treadle.traverse(lambda node: [node], nothing)

    assert list(traversal) == []
    assert traversal.stats.taken == 0


def test_the_key_tells_nodes_apart() -> None:
    links = {"a?x": ["b", "a?y", "b?z"], "b": ["a?w"]}

    traversal = treadle.traverse(links.__getitem__, ["a?x"], key=lambda url: url.partition("?")[0])

    assert [(o.item, o.value) for o in traversal.outcomes()] == [("a?x", ["b", "a?y", "b?z"]), ("b", ["a?w"])]


def test_with_a_key_nodes_need_not_be_hashable() -> None:
    pages: Iterator[Any] = treadle.traverse(
        lambda page: [{"id": child} for child in numbers_below(7)(page["id"])], [{"id": 0}], key=lambda page: page["id"]
    )

    assert sorted(page["id"] for page in pages) == list(range(7))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 19), max_size=6), min_size=20, max_size=20),
    st.lists(st.integers(0, 19), max_size=4),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([None, 1, 5]),
    st.booleans(),
    st.booleans(),
)
def test_any_graph_is_visited_as_a_plain_search_visits_it(
    links: list[list[int]], roots: list[int], workers: int, chunksize: int | None, ordered: bool, depth_first: bool
) -> None:
    graph = dict(enumerate(links))
    options: Any = {"max_workers": workers, "chunksize": chunksize, "ordered": ordered, "depth_first": depth_first}
    outcomes = list(treadle.traverse(graph.__getitem__, roots, **options).outcomes())

    expected = visited_one_by_one(graph, roots)
    assert sorted(o.item for o in outcomes) == sorted(expected)
    assert {o.item: o.value for o in outcomes} == {node: graph[node] for node in expected}
    assert sorted(o.index for o in outcomes) == list(range(len(expected)))
    if ordered and workers == 1 and not depth_first:
        assert [o.item for o in outcomes] == expected


# The order


def test_breadth_first_begins_the_nearest() -> None:
    order: list[int] = []

    def visit(node: int) -> list[int]:
        order.append(node)
        return numbers_below(31)(node)

    assert list(treadle.traverse(visit, [0], max_workers=1)) == list(range(31))
    assert order == list(range(31))


def test_the_late_child_of_a_near_node_passes_the_early_one_of_a_far_node() -> None:
    """The order is that of the depth, and not of who was found first."""
    frontier = Frontier(iter(["slow", "quick"]), None, None, depth_first=False)

    def taken() -> list[str]:
        nodes = []
        while frontier.has_next():
            nodes.append(next(frontier))
        return nodes

    def end_visit(index: int, *children: str) -> None:
        chunk = Chunk(index)
        chunk.results.append(Children(children, None))
        frontier.note_found(chunk)

    assert taken() == ["slow", "quick"]
    end_visit(1, "middle")
    assert taken() == ["middle"]
    end_visit(2, "far")
    end_visit(0, "near")
    assert taken() == ["near", "far"]


def test_depth_first_begins_the_deepest() -> None:
    order = list(treadle.traverse(numbers_below(15), [0], max_workers=1, buffersize=0, depth_first=True))

    assert order == [0, 1, 3, 7, 8, 4, 9, 10, 2, 5, 11, 12, 6, 13, 14]


def test_depth_first_takes_a_root_when_nothing_else_waits() -> None:
    graph = {1: [2], 2: [], 3: [4], 4: []}

    assert list(treadle.traverse(graph.__getitem__, [1, 3], max_workers=1, buffersize=0, depth_first=True)) == [
        *(1, 2),
        *(3, 4),
    ]


def test_ordered_means_in_the_order_in_which_they_were_begun(gate: Gate) -> None:
    def visit(node: int) -> list[int]:
        if node == 1:
            gate.hold()
        return numbers_below(3)(node)

    with treadle.traverse(visit, [0], max_workers=3) as traversal:
        assert next(traversal) == 0
        gate.wait_for_arrivals()
        gate.open()
        assert list(traversal) == [1, 2]


def test_unordered_means_as_they_complete(gate: Gate) -> None:
    def visit(node: int) -> list[int]:
        if node == 1:
            gate.hold()
        return numbers_below(7)(node)

    with treadle.traverse(visit, [0], max_workers=3, ordered=False) as traversal:
        first = [next(traversal) for _ in range(4)]
        gate.open()

        assert first[:2] == [0, 2]
        assert sorted(first) == [0, 2, 5, 6]
        assert next(traversal) == 1


@pytest.mark.parametrize(("depth", "expected"), [(0, 1), (1, 3), (2, 7), (9, 31)])
def test_max_depth_is_how_far_from_the_roots_nodes_are_visited(depth: int, expected: int) -> None:
    outcomes = list(treadle.traverse(numbers_below(31), [0], max_depth=depth).outcomes())

    assert {o.item: o.value for o in outcomes} == {node: numbers_below(31)(node) for node in range(expected)}


def test_max_depth_counts_from_each_root() -> None:
    assert sorted(treadle.traverse(lambda node: [node + 1], [10, 20], max_depth=2)) == [10, 11, 12, 20, 21, 22]


def test_what_is_too_deep_may_still_be_found_nearer() -> None:
    graph = {"a": ["b"], "b": ["c"], "c": ["d"], "x": ["c"], "d": []}

    visited = treadle.traverse(graph.__getitem__, ["a", "x"], max_depth=1, max_workers=1)

    assert list(visited) == ["a", "x", "b", "c"]


# What a visit returns


def test_children_may_be_yielded_in_the_worker() -> None:
    threads: set[int] = set()

    def visit(node: int) -> Iterator[int]:
        for child in numbers_below(7)(node):
            threads.add(threading.get_ident())
            yield child

    assert sorted(treadle.traverse(visit, [0])) == list(range(7))
    assert threading.get_ident() not in threads


def test_none_is_no_children() -> None:
    assert [o.value for o in treadle.traverse(lambda _: None, ["a"]).outcomes()] == [[]]


@pytest.mark.parametrize("given", ["b", b"b", 5, Path("b")])
def test_what_is_no_list_of_nodes_is_a_failure_of_the_visit(given: Any) -> None:
    def visit(node: str) -> Any:
        return given if node == "a" else []

    a, x = treadle.traverse(visit, ["a", "x"]).outcomes()

    assert (a.status, x.status) == ("failed", "succeeded")
    assert isinstance(a.error, treadle.WrongType)
    assert "what visit() returns must be an iterable of nodes, such as a list of it" in str(a.error)


def test_the_children_are_a_list_of_ones_own() -> None:
    """Whoever changes it changes nothing of what is visited."""
    with treadle.traverse(numbers_below(7), [0], max_workers=1, buffersize=0) as traversal:
        visited = []
        for outcome in traversal.outcomes():
            visited.append(outcome.item)
            assert isinstance(outcome.value, list)
            assert pickle.loads(pickle.dumps(outcome.value)) == copy.deepcopy(outcome.value) == outcome.value
            outcome.value.clear()

    assert visited == list(range(7))


# What fails


def test_a_failed_visit_is_raised_and_ends_the_traversal() -> None:
    def visit(node: int) -> list[int]:
        if node == 2:
            raise ValueError("bad")
        return numbers_below(100)(node)

    traversal = treadle.traverse(visit, [0], max_workers=1, name="tree")
    assert [next(traversal), next(traversal)] == [0, 1]
    with pytest.raises(ValueError, match="bad") as caught:
        next(traversal)

    assert caught.value.__notes__ == ["treadle: item 2 of run 'tree': 2"]
    rest = list(traversal.rest())
    assert (rest[0].index, rest[0].item, rest[0].status) == (2, 2, "failed")
    assert traversal.stats.taken == 2 + len(rest) < 100


def test_what_a_visit_found_before_it_failed_is_not_visited() -> None:
    """Children enter when the visit has succeeded, all or none."""

    def visit(node: str) -> Iterator[str]:
        if node == "a":
            yield "b"
            raise OSError("the connection is gone")

    outcomes = list(treadle.traverse(visit, ["a", "x"]).outcomes())

    assert [(o.item, o.status, o.value) for o in outcomes] == [("a", "failed", None), ("x", "succeeded", [])]


def test_what_the_key_raises_for_a_child_is_a_failure_of_the_visit() -> None:
    def key(node: Any) -> Any:
        return node["id"]

    outcomes = list(treadle.traverse(lambda _: [{"id": 2}, {}], [{"id": 1}], key=key).outcomes())

    assert [o.status for o in outcomes] == ["failed"]
    assert isinstance(outcomes[0].error, KeyError)


def test_what_the_key_raises_for_a_root_comes_after_the_visits_before_it() -> None:
    traversal = treadle.traverse(lambda _: [], [4, 2, 0, 1], key=lambda node: 8 // node)

    assert [next(traversal), next(traversal)] == [4, 2]
    with pytest.raises(ZeroDivisionError):
        next(traversal)


def test_nodes_that_cannot_be_hashed_ask_for_a_key() -> None:
    with pytest.raises(treadle.WrongType, match=r"a node must be hashable, unless key= returns what tells it"):
        list(treadle.traverse(lambda _: [], [["a"]]))
    with pytest.raises(treadle.WrongType, match=r"a node must be hashable, .* not \['b'\] \(list\)"):
        list(treadle.traverse(lambda _: [["b"]], ["a"]))  # type: ignore[list-item]
    with pytest.raises(treadle.WrongType, match=r"what key returns must be hashable, not \[\] \(list\)"):
        list(treadle.traverse(lambda _: [], ["a"], key=lambda _: []))  # type: ignore[arg-type, return-value]


# The roots


def test_an_error_of_the_roots_comes_after_the_visits_before_it() -> None:
    def roots() -> Iterator[int]:
        yield 100
        yield 200
        raise OSError("the disk is gone")

    traversal = treadle.traverse(numbers_below(1), roots())

    assert [next(traversal), next(traversal)] == [100, 200]
    with pytest.raises(OSError, match="the disk is gone"):
        next(traversal)


def test_roots_without_end_are_fine_depth_first() -> None:
    """But for those that were begun before, each has its child visited before the next root is taken."""

    def visit(node: float) -> list[float]:
        return [node + 0.5] if node % 1 == 0 else []

    with treadle.traverse(visit, count(0.0), depth_first=True, max_workers=4, buffersize=8) as traversal:
        visited = [next(traversal) for _ in range(500)]

    assert sum(node % 1 == 0.5 for node in visited) >= 250 - (4 + 8)


def test_results_flow_while_the_roots_block(gate: Gate) -> None:
    def roots() -> Iterator[str]:
        yield "a"
        gate.hold()
        yield "b"

    with treadle.traverse(lambda _: [], roots()) as traversal:
        assert next(traversal) == "a"
        gate.open()
        assert list(traversal) == ["b"]


def test_roots_that_are_seen_for_ever_do_not_hold_the_end() -> None:
    """The feeder looks up between any two of them; the test's own end waits for its thread."""
    traversal = treadle.traverse(lambda _: [], repeat("a"))
    assert next(traversal) == "a"
    traversal.close()


def test_roots_are_advanced_by_one_thread() -> None:
    threads: set[int] = set()

    def roots() -> Iterator[int]:
        for node in range(500):
            threads.add(threading.get_ident())
            yield node

    assert list(treadle.traverse(lambda _: [], roots())) == list(range(500))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_visits_and_roots_see_the_context_of_the_caller() -> None:
    seen: list[str] = []

    def visit(node: str) -> list[str]:
        seen.append(_request.get())
        _request.set("changed")
        return ["b"] if node == "a" else []

    def roots() -> Iterator[str]:
        seen.append(_request.get())
        yield "a"

    token = _request.set("mine")
    try:
        assert list(treadle.traverse(visit, roots())) == ["a", "b"]
    finally:
        _request.reset(token)
    assert seen == ["mine"] * 3


# Arguments


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None, []), {}, "visit must be callable"),
        ((abs, 5), {}, "roots must be an iterable of nodes"),
        ((abs, "http://example.org"), {}, "roots must be an iterable of nodes, such as a list of it"),
        ((abs, []), {"key": 5}, "key must be callable"),
        ((abs, []), {"max_depth": 1.5}, "max_depth must be a whole number"),
        ((abs, []), {"max_depth": -1}, "max_depth must be at least 0"),
        ((abs, []), {"depth_first": 1}, "depth_first must be True or False"),
        ((abs, []), {"max_workers": 0}, "max_workers must be at least 1"),
    ],
)
def test_arguments_are_checked_at_once(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(treadle.InvalidArgument, match=message):
        treadle.traverse(*arguments, **options)


def test_a_coroutine_function_is_refused_where_visits_are_made_on_threads() -> None:
    async def visit(node: str) -> list[str]:
        return [node]

    with pytest.raises(treadle.WrongType, match="visit must be a plain function"):
        treadle.traverse(visit, ["a"], engine="threads")


@pytest.mark.parametrize("option", ["intake", "strict", "max_worker"])
def test_an_option_that_does_not_exist_is_refused_by_name(option: str) -> None:
    with pytest.raises(TypeError, match=rf"traverse\(\) got an unexpected keyword argument '{option}'"):
        treadle.traverse(abs, [], **{option: None})  # type: ignore[call-overload]


# Large ones


@pytest.mark.parametrize("options", [{}, {"max_workers": 1}, {"depth_first": True}])
def test_a_long_chain_needs_no_recursion(options: dict[str, Any]) -> None:
    length = 3000
    traversal = treadle.traverse(lambda node: [node + 1] if node + 1 < length else [], [0], **options)

    assert sum(1 for _ in traversal) == length


@pytest.mark.slow
def test_a_very_long_chain_too() -> None:
    length = 30_000
    traversal = treadle.traverse(lambda node: [node + 1] if node + 1 < length else [], [0], max_workers=2)

    assert sum(1 for _ in traversal) == length


@pytest.mark.parametrize("depth_first", [False, True])
def test_a_node_may_have_a_hundred_thousand_children(depth_first: bool) -> None:
    traversal = treadle.traverse(lambda node: range(1, 100_001) if node == 0 else (), [0], depth_first=depth_first)

    assert sum(traversal) == sum(range(100_001))
    frontier = traversal._course._frontier  # type: ignore[attr-defined]
    assert not frontier._seen, "kept although it is over"


# Real ones


def test_a_tree_of_folders_with_a_link_to_itself(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file.txt").write_text(name, encoding="utf-8")
    (tmp_path / "a" / "b" / "again").symlink_to(tmp_path, target_is_directory=True)

    def subfolders(folder: Path) -> Iterator[Path]:
        with os.scandir(folder) as entries:
            yield from (Path(entry.path) for entry in entries if entry.is_dir())

    folders = list(treadle.traverse(subfolders, [tmp_path], key=Path.resolve))

    assert {folder.relative_to(tmp_path).as_posix() for folder in folders} == {".", "a", "e", "a/b", "a/d", "a/b/c"}
