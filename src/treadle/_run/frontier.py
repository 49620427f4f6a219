"""The frontier of a traversal: what was found and not begun yet, each node once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

from treadle._core.chunk import Chunk
from treadle._core.describe import describe, describe_function
from treadle.errors import WrongType

Node = TypeVar("Node")
Key = Callable[[Any], Hashable] | None
_NONE_LEFT: Any = object()


class Children(list[Node]):
    """What a visit returned. ``by_key`` is what the frontier goes by: the list is the user's, who may change it."""

    __slots__ = ("by_key",)

    def __init__(self, children: Iterable[Node], key: Key) -> None:
        super().__init__(children)
        self.by_key = by_key(self, key)


class Visit(Generic[Node]):
    """Makes one visit, all of it on the worker: a generator's waits and errors, and the key's, are the visit's."""

    def __init__(self, visit: Callable[..., Any], key: Key) -> None:
        self._visit = visit
        self._key = key

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What it is measured as."""
        return self._visit

    def __call__(self, node: Node, *resource: Any) -> Children[Node]:
        return self._children(self._visit(node, *resource))

    async def awaiting(self, node: Node, *resource: Any) -> Children[Node]:
        """Do the same where the function is to be awaited."""
        return self._children(await self._visit(node, *resource))

    def _children(self, found: Iterable[Node] | None) -> Children[Node]:
        name = describe_function(self._visit)
        return Children(check_nodes(f"what {name}() returns", () if found is None else found), self._key)


class Frontier(Iterator[Any]):
    """Hands out each node once; of those that wait, the one nearest to the roots, or with ``depth_first`` the farthest.

    All of it belongs to the feeder's thread, so it needs no lock; other threads only note what was found. A visit is
    open from when its node is handed out until what it found is brought in, and the frontier is at its end when no
    node waits, no visit is open and the roots have ended.
    """

    def __init__(self, roots: Iterator[Any], key: Key, max_depth: int | None, depth_first: bool) -> None:
        self.look_again: Callable[[], object] = _do_nothing  # has the feeder ask ``has_next`` once more
        self._roots: Iterator[Any] | None = roots
        self._key = key
        self._max_depth = max_depth
        self._depth_first = depth_first
        self._seen: set[Hashable] = set()
        self._levels: dict[int, deque[Any]] = {}  # what waits, by rank: the depth, negative where the deepest is first
        self._ranks: list[int] = []  # a heap of the levels
        self._open: dict[int, int] = {}  # depths of the open visits, by the node's index in the run
        self._handed_out = 0
        self._found: deque[tuple[int, list[Children[Any] | None]]] = deque()

    def note_found(self, chunk: Chunk) -> None:
        """Take note of what the visits of ``chunk`` have returned. By any thread, for any chunk repeatedly.

        Only of answers that count: whether a call is made again, or was too late, must be settled.
        """
        self._found.append((chunk.start, chunk.results))

    def note_found_so_far(self, chunks: list[Chunk]) -> None:
        """As ``note_found``, for chunks that are still being worked on; nothing where the last news is not read yet."""
        if not self._found:
            for chunk in chunks:
                self.note_found(chunk)

    def has_next(self) -> bool:
        """Bring in what was found, and tell whether ``next()`` has an answer: a node, or the end."""
        if self._roots is None or self._depth_first:  # a root is a root, also where a visit finds it meanwhile
            self._bring_in()
        if self._is_turn_of_roots() and not self._take_root():
            self.look_again()  # one at a time: there may be no end of roots that were seen already
            return False
        return bool(self._levels or not (self._roots or self._open))

    def __next__(self) -> Any:
        if not self._levels:
            raise StopIteration
        rank = self._ranks[0]
        level = self._levels[rank]
        node = level.pop() if self._depth_first else level.popleft()
        if not level:
            del self._levels[heappop(self._ranks)]
        self._open[self._handed_out] = abs(rank)
        self._handed_out += 1
        return node

    def forget(self) -> None:
        """Let go of everything, at the end of the run."""
        self.look_again = _do_nothing
        self._roots = None
        self._seen, self._levels, self._ranks, self._open = set(), {}, [], {}

    def _bring_in(self) -> None:
        while self._found:
            start, results = self._found.popleft()
            for index, children in enumerate(results, start):
                depth = self._open.pop(index, None)
                if depth is None or children is None:  # brought in before, or failed
                    continue
                if self._max_depth is None or depth < self._max_depth:
                    self._enter(children.by_key, depth + 1)
                children.by_key = {}

    def _is_turn_of_roots(self) -> bool:
        """Tell whether a root is due: breadth-first before all that was found, depth-first when nothing else waits."""
        return self._roots is not None and not self._levels

    def _take_root(self) -> bool:
        """Take one root, if there is another, and tell whether it was not seen before."""
        assert self._roots is not None
        root = next(self._roots, _NONE_LEFT)
        if root is _NONE_LEFT:
            self._roots = None
            return False
        return self._enter(by_key([root], self._key), 0)

    def _enter(self, nodes: dict[Hashable, Any], depth: int) -> bool:
        """Let those of ``nodes`` wait that are new, and tell whether there are any."""
        fresh = [node for mark, node in nodes.items() if mark not in self._seen]
        if not fresh:
            return False
        self._seen.update(nodes)
        rank = -depth if self._depth_first else depth
        level = self._levels.get(rank)
        if level is None:
            level = self._levels[rank] = deque()
            heappush(self._ranks, rank)
        level.extend(reversed(fresh) if self._depth_first else fresh)  # so that the first is handed out first
        return True


def by_key(nodes: Iterable[Any], key: Key) -> dict[Hashable, Any]:
    """Return ``nodes`` by what tells them apart; the first of several counts."""
    found: dict[Hashable, Any] = {}
    for node in nodes:
        mark = node if key is None else key(node)
        try:
            found.setdefault(mark, node)
        except TypeError as error:
            given = f"{describe(mark)} ({type(mark).__name__})"
            if key is None:
                raise WrongType("a node", given, "hashable, unless key= returns what tells it from others") from error
            raise WrongType("what key returns", given, "hashable") from error
    return found


def check_nodes(name: str, thing: Any) -> Iterator[Any]:
    """Return an iterator over ``thing``, unless it is nothing that one would iterate for nodes."""
    if not isinstance(thing, str | bytes):
        try:
            return iter(thing)
        except TypeError:
            pass
    raise WrongType(name, f"{describe(thing)} ({type(thing).__name__})", "an iterable of nodes, such as a list of it")


def _do_nothing() -> None: ...
