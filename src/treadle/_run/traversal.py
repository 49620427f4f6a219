"""``treadle.traverse``: a run that feeds itself, as each call may find more work."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from operator import attrgetter
from typing import Any, Generic, TypeVar, Unpack, overload

from treadle._core.chunk import Chunk
from treadle._core.coroutine_function import CoroutineFunction
from treadle._core.describe import describe
from treadle._core.option_names import check_names, suggesting
from treadle._core.settings import Settings, check_callable, check_count
from treadle._crew.policy import Policy
from treadle._engines.engine import CallPlan
from treadle._run.choosing import EngineChoice
from treadle._run.course import Course
from treadle._run.frontier import Frontier, Visit, check_nodes
from treadle._run.mapping import start_run
from treadle._run.options import RunOptions, prepare
from treadle._run.run import Calls
from treadle._run.unread import Unread
from treadle.errors import InvalidArgument

Node = TypeVar("Node")
Resource = TypeVar("Resource")


class Traversal(Calls[Node, Node, list[Node]], Generic[Node]):
    """The visits of one ``treadle.traverse``: an iterator over the visited nodes, and the account of what happened.

    It is what ``Run`` is for ``treadle.map``, with the same ``outcomes()``, ``rest()``, ``stats`` and ``close()``.

    Example:
        >>> import treadle
        >>> links = {"a": ["b", "c"], "b": ["c", "a"], "c": []}
        >>> with treadle.traverse(links.get, ["a"]) as traversal:
        ...     {outcome.item: outcome.value for outcome in traversal.outcomes()}
        {'a': ['b', 'c'], 'b': ['c', 'a'], 'c': []}
        >>> traversal.stats.succeeded
        3
    """


class TraversalCourse(Course):
    """The course of a run whose calls find its items: what is settled goes to the frontier as well."""

    deliverables = attrgetter("items")

    def __init__(
        self, settings: Settings, policy: Policy, plan: CallPlan, choice: EngineChoice, items: Frontier
    ) -> None:
        super().__init__(settings, policy, plan, choice, items)
        self._frontier = items
        self.intake.has_next = items.has_next
        items.look_again = self.intake.wake
        self.on_end.append(items.forget)

    def note_done(self, chunk: Chunk) -> None:
        """Have the children enter: what comes here is final, whichever attempt it is from."""
        self._frontier.note_found(chunk)
        self.intake.wake()
        super().note_done(chunk)

    note_succeeded = note_done

    def hurry(self) -> None:
        """Have the children enter also of visits that share a chunk with one that turned out slow."""
        self._frontier.note_found_so_far([chunk for chunk in self.crew.chunks_in_hand() if chunk.trial is None])
        self.intake.wake()
        super().hurry()


@overload
def traverse(
    visit: CoroutineFunction[[Node], Iterable[Node] | None],
    roots: Iterable[Node],
    /,
    *,
    key: Callable[[Node], Hashable] | None = None,
    max_depth: int | None = None,
    depth_first: bool = False,
    **options: Unpack[RunOptions],
) -> Traversal[Node]: ...
@overload
def traverse(
    visit: CoroutineFunction[[Node, Any], Iterable[Node] | None],
    roots: Iterable[Node],
    /,
    *,
    key: Callable[[Node], Hashable] | None = None,
    max_depth: int | None = None,
    depth_first: bool = False,
    resource: Callable[[], Any],
    **options: Unpack[RunOptions],
) -> Traversal[Node]: ...
@overload
def traverse(
    visit: Callable[[Node], Iterable[Node] | None],
    roots: Iterable[Node],
    /,
    *,
    key: Callable[[Node], Hashable] | None = None,
    max_depth: int | None = None,
    depth_first: bool = False,
    **options: Unpack[RunOptions],
) -> Traversal[Node]: ...
@overload
def traverse(
    visit: Callable[[Node, Resource], Iterable[Node] | None],
    roots: Iterable[Node],
    /,
    *,
    key: Callable[[Node], Hashable] | None = None,
    max_depth: int | None = None,
    depth_first: bool = False,
    resource: Callable[[], AbstractContextManager[Resource]],
    **options: Unpack[RunOptions],
) -> Traversal[Node]: ...
@overload
def traverse(
    visit: Callable[[Node, Resource], Iterable[Node] | None],
    roots: Iterable[Node],
    /,
    *,
    key: Callable[[Node], Hashable] | None = None,
    max_depth: int | None = None,
    depth_first: bool = False,
    resource: Callable[[], Resource],
    **options: Unpack[RunOptions],
) -> Traversal[Node]: ...
@suggesting
def traverse(
    visit: Callable[..., Any],
    roots: Iterable[Any],
    /,
    *,
    key: Callable[[Any], Hashable] | None = None,
    max_depth: int | None = None,
    depth_first: bool = False,
    resource: Callable[[], Any] | None = None,
    **options: Unpack[RunOptions],
) -> Traversal[Any]:
    """Call ``visit`` with each of ``roots`` and with whatever the visits find, many at a time, each node once.

    ``visit(node)`` returns its children, or yields them, or returns None if there are none. Iterate the traversal
    for the nodes as they have been visited, in the order in which they were begun, or its ``outcomes()`` for one
    ``Outcome`` per node, whose value is the list of its children: all that the visit found, also those known before.

    Nodes are begun in order of their depth (roots have depth 0), as far as that is known: while visits overlap, a
    child may be begun before a slower sibling of its parent has ended. The children of a node enter once, when its
    visit has succeeded: those of a visit that failed, took too long or is made again do not. Cycles end, as nodes are
    visited once.

    No more than ``max_workers + buffersize`` nodes are taken beyond the last one consumed, so a stalled consumer
    stops the visits. What cannot be bounded is the memory for what was found: every key, and every node that waits.
    Each node taken gets exactly one outcome; a node that still waits when the traversal ends early was not taken, and
    only the outcome of whoever found it tells of it.

    Args:
        visit: Called on worker threads; safe to call from several at once.
        roots: Advanced by one thread, which is not the consumer's. Breadth-first, children wait until all roots were
            taken, so roots without an end need ``depth_first``. An exception of it is raised after the visits
            before it, and what these found is not visited.
        key: Returns what tells a node from others; the node itself unless given. Called on the worker, for each
            child, and for each root on the thread that takes it. What it raises for a child is a failure of the visit.
        max_depth: Nodes farther from the roots than this are not visited, 0 means the roots alone. A node counts
            as far as whoever found it first, plus one.
        depth_first: Of the nodes that wait, begin with the deepest, and of these with the one found last.
        resource: As for ``map``.
        options: Those of ``treadle.map``, with the same meaning: ``max_workers``, ``ordered``, ``buffersize``,
            ``chunksize``, ``call_timeout``, ``timeout``, ``retry``, ``limiter``, ``hedge``, ``engine``,
            ``max_tasks_per_child``, ``initializer``, ``initargs``, ``progress``, ``name``, ``grace``,
            ``max_abandoned``.

    Raises:
        InvalidArgument: An option is outside its bounds.
        WrongType: An argument is not what it must be, such as a function or an iterable.

    Example:
        >>> import treadle
        >>> def divisors(number):
        ...     for divisor in range(2, number):
        ...         if number % divisor == 0:
        ...             yield divisor
        >>> list(treadle.traverse(divisors, [12], max_workers=1))
        [12, 2, 3, 4, 6]
    """
    check_names(traverse, visit, options, RunOptions)
    recipe = prepare(visit, role="visit", resource=resource, intake="thread", **options)
    if key is not None:
        check_callable("key", key)
    if max_depth is not None:
        check_count("max_depth", max_depth, least=0)
    if not isinstance(depth_first, bool):
        raise InvalidArgument("depth_first", describe(depth_first), "True or False")
    frontier = Frontier(check_nodes("roots", roots), key, max_depth, depth_first)
    call: Visit[Any] = Visit(visit, key)
    plan = replace(recipe.plan, fn=call.awaiting if recipe.settings.engine == "coroutines" else call)
    unread = Unread(f"traversal {recipe.settings.name!r}", "iterate it, or call its wait()")
    return start_run(Traversal, replace(recipe, plan=plan), frontier, unread=unread, make_course=TraversalCourse)
