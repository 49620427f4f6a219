"""``treadle.traverse``: its bounds, its ends, and what its visits are held to. The contract is that of ``map``."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen

import pytest

import treadle
from tests.calls import Nap
from tests.conftest import PATIENCE_SECONDS, Gate
from tests.places import wait_until
from tests.programs import finish, start_program
from tests.unit.test_traverse import numbers_below
from treadle.testing import ManualClock

LIMIT = 10.0
GRACE = 2.0
RETRY = treadle.Retry(max_attempts=2, backoff=0)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


# Bounded


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("depth_first", [True, False])
def test_a_stalled_consumer_stops_the_visits(ordered: bool, depth_first: bool) -> None:
    """An endless tree: it must not run ahead of its consumer."""
    visits: list[int] = []

    def visit(node: int) -> list[int]:
        visits.append(node)
        return [2 * node, 2 * node + 1]

    options: Any = {"max_workers": 2, "buffersize": 3, "ordered": ordered, "depth_first": depth_first}
    with treadle.traverse(visit, [1], **options) as traversal:
        for number in range(300):
            next(traversal)
            assert traversal.stats.taken <= number + 1 + 5
            assert len(visits) <= number + 1 + 5


def test_visits_go_on_while_the_consumer_does_something_else(gate: Gate) -> None:
    """What was found is begun as soon as there is a worker for it, not when somebody asks for results."""

    def visit(node: int) -> list[int]:
        if node > 2:
            gate.hold()
        return numbers_below(7)(node)

    with treadle.traverse(visit, [0], max_workers=4, chunksize=1):
        gate.wait_for_arrivals(4)
        gate.open()


def test_one_worker_and_no_buffer_are_enough() -> None:
    """One node at a time: the feeder must not wait for what the consumer holds, nor the other way round."""
    assert list(treadle.traverse(numbers_below(500), [0], max_workers=1, buffersize=0)) == list(range(500))


def test_children_enter_while_the_neighbour_in_their_chunk_is_slow(gate: Gate) -> None:
    """Or a visit that hangs would hold back what others have found."""
    ready = Gate()
    child_began = threading.Event()

    def visit(node: str) -> list[str]:
        if node == "slow":
            gate.hold()
        if node == "child":
            child_began.set()
        return ["child"] if node == "quick" else []

    with treadle.traverse(
        visit, ["quick", "slow"], max_workers=2, chunksize=2, initializer=ready.hold, ordered=False
    ) as traversal:
        wait_until(lambda: traversal.stats.taken == 2)  # before a worker can take the first alone
        ready.open()
        visited: list[str] = []
        consumer = threading.Thread(target=lambda: visited.extend(traversal))
        consumer.start()
        assert child_began.wait(PATIENCE_SECONDS)
        gate.open()
        consumer.join(PATIENCE_SECONDS)

    assert Counter(visited) == {"quick": 1, "slow": 1, "child": 1}


def test_what_is_found_so_far_is_told_once_until_it_is_read(gate: Gate) -> None:
    """A consumer that waits for a slow visit looks again and again, while the feeder has no room."""

    def visit(node: int) -> list[int]:
        if node == 1:
            gate.hold()
        return [node + 10]

    with treadle.traverse(visit, count(), max_workers=1, chunksize=4, buffersize=4) as traversal:
        gate.wait_for_arrivals()
        course: Any = traversal._course
        for _ in range(100):
            course.hurry()

        assert len(course._frontier._found) <= 2


# Retries, time-outs and twins: the children of the answer that counts


def test_a_retried_visit_enters_its_children_once() -> None:
    attempts: Counter[int] = Counter()

    def visit(node: int) -> Iterator[int]:
        attempts[node] += 1
        yield from numbers_below(7)(node)
        if attempts[node] == 1:
            yield 1000  # of an attempt that fails
            raise OSError("busy")

    traversal = treadle.traverse(visit, [0], retry=RETRY)

    assert sorted(traversal) == list(range(7))
    assert set(attempts.values()) == {2}
    assert traversal.stats.retried == 7


def test_an_attempt_that_is_still_being_judged_is_not_found_so_far() -> None:
    """A consumer looks for what hangs just when it is not known yet whether a visit is made again."""
    attempts: Counter[str] = Counter()

    def visit(node: str) -> list[str]:
        attempts[node] += 1
        if attempts[node] == 1:
            raise OSError("busy")
        return ["child"] if node == "root" else []

    def is_wanted(error: BaseException) -> bool:
        course.hurry()
        wait_until(lambda: not course._frontier._found)
        return True

    retry = treadle.Retry(max_attempts=2, backoff=0, retry_on=is_wanted)
    ready = Gate()
    with treadle.traverse(visit, ["root"], retry=retry, initializer=ready.hold) as traversal:
        course: Any = traversal._course
        ready.open()

        assert list(traversal) == ["root", "child"]


def test_what_a_visit_returns_that_was_left_behind_does_not_enter(clock: ManualClock, gate: Gate) -> None:
    threads: list[threading.Thread] = []
    others_may_end = threading.Event()

    def visit(node: str) -> list[str]:
        if node == "stuck":
            threads.append(threading.current_thread())
            gate.hold()
            return ["too late"]
        if node == "other":
            assert others_may_end.wait(PATIENCE_SECONDS)
            return ["in time"]
        return []

    options: Any = {"call_timeout": LIMIT, "grace": GRACE, "max_workers": 1}
    with treadle.traverse(visit, ["stuck", "other"], **options) as traversal:
        gate.wait_for_arrivals()
        outcomes = traversal.outcomes()
        clock.wait_for_sleepers()
        clock.advance(LIMIT)
        wait_until(lambda: all(chunk.is_cancelled for chunk in traversal._course.crew.chunks_in_hand()))
        clock.advance(GRACE)
        first = next(outcomes)
        gate.open()
        threads[0].join(PATIENCE_SECONDS)
        others_may_end.set()
        rest = list(outcomes)

    assert (first.item, first.status, first.abandoned) == ("stuck", "timed_out", True)
    assert [(o.item, o.value) for o in rest] == [("other", ["in time"]), ("in time", [])]


def test_of_two_twins_the_children_of_the_faster_one_enter(clock: ManualClock, gate: Gate) -> None:
    calls: Counter[str] = Counter()

    def visit(node: str) -> list[str]:
        calls[node] += 1
        if node == "root" and calls[node] == 1:
            gate.hold()
            return ["of the slower"]
        if node == "of the faster":
            gate.open()
        return ["of the faster"] if node == "root" else []

    with treadle.traverse(visit, ["root"], hedge=treadle.Hedge(after=LIMIT, max_extra=1), max_workers=2) as traversal:
        gate.wait_for_arrivals()
        clock.wait_for_sleepers()
        clock.advance(LIMIT)
        assert list(traversal) == ["root", "of the faster"]

    assert calls == {"root": 2, "of the faster": 1}


def test_a_limiter_holds_the_visits() -> None:
    most = treadle.Limiter(max_concurrent=1)
    now, peak = Counter[str](), Counter[str]()

    def visit(node: int) -> list[int]:
        now["in"] += 1
        peak["in"] = max(peak["in"], now["in"])
        children = numbers_below(50)(node)
        now["in"] -= 1
        return children

    assert sorted(treadle.traverse(visit, [0], limiter=most)) == list(range(50))
    assert peak["in"] == 1


def test_each_worker_has_a_resource_of_its_own() -> None:
    opened: list[Connection] = []

    class Connection:
        def __init__(self) -> None:
            opened.append(self)
            self.is_closed = False

        def children(self, node: int) -> list[int]:
            assert not self.is_closed
            return numbers_below(100)(node)

        def close(self) -> None:
            self.is_closed = True

    def visit(node: int, connection: Connection) -> list[int]:
        return connection.children(node)

    assert sorted(treadle.traverse(visit, [0], resource=Connection, max_workers=3)) == list(range(100))
    assert 1 <= len(opened) <= 3
    assert all(connection.is_closed for connection in opened)


# The end


def test_close_in_the_midst_leaves_an_exact_account(gate: Gate) -> None:
    nap = Nap()

    def visit(node: int) -> list[int]:
        if node > 2:
            nap()
        return numbers_below(1000)(node)

    traversal = treadle.traverse(visit, [0], max_workers=2, buffersize=4, chunksize=1)
    delivered = [next(traversal) for _ in range(3)]
    nap.wait_until_begun(2)
    wait_until(lambda: traversal.stats.taken == 7)
    traversal.close()
    rest = list(traversal.rest())

    assert set(delivered) == {0, 1, 2}
    assert [o.index for o in rest] == [3, 4, 5, 6]
    assert {o.item for o in rest} == {3, 4, 5, 6}
    assert Counter(o.status for o in rest) == {"cancelled": 2, "not_started": 2}
    stats = traversal.stats
    assert (stats.taken, stats.succeeded, stats.cancelled, stats.not_started) == (7, 3, 2, 2)
    with pytest.raises(treadle.RunClosed):
        next(traversal)


def test_a_consumer_that_leaves_its_loop_ends_the_traversal() -> None:
    """The test's own end waits until no thread of it is left."""
    for node in treadle.traverse(lambda node: [2 * node, 2 * node + 1], [1]):
        if node == 100:
            break


def test_the_outcomes_go_on_past_failures() -> None:
    def visit(node: int) -> list[int]:
        if node % 2:
            raise ValueError(node)
        return numbers_below(31)(node)

    outcomes = list(treadle.traverse(visit, [0]).outcomes())

    assert {o.item: o.status for o in outcomes} == {
        **dict.fromkeys([0, 2, 6, 14, 30], "succeeded"),
        **dict.fromkeys([1, 5, 13, 29], "failed"),
    }


def test_the_timeout_of_the_whole_ends_it(clock: ManualClock) -> None:
    nap = Nap()

    def visit(node: int) -> list[int]:
        return [1, 2] if node == 0 else [nap()]  # type: ignore[list-item]

    traversal = treadle.traverse(visit, [0], timeout=LIMIT, max_workers=2, chunksize=1)
    assert next(traversal) == 0
    nap.wait_until_begun(2)
    clock.advance(LIMIT)
    with pytest.raises(TimeoutError, match="did not end within timeout"):
        next(traversal)

    assert [(o.item, o.status) for o in traversal.rest()] == [(1, "cancelled"), (2, "cancelled")]


@pytest.mark.parametrize("ending", ["cancelled", "timed out"])
def test_an_end_that_comes_while_nothing_is_open_is_not_taken_for_that_of_the_nodes(ending: str, gate: Gate) -> None:
    """Everything taken was delivered, the next node waits, and the feeder leaves as the run stops: more is missing."""
    traversal = treadle.traverse(lambda node: [node + 1], [0])
    course: Any = traversal._course
    has_next, course.intake.has_next = course.intake.has_next, lambda: course.ledger.taken < 1 and has_next()
    while course.ledger.taken > course.ledger.consumed:
        assert next(traversal) == course.ledger.consumed
        course.ledger.settle_batch()
    assert traversal._delivery.step(stalled=False) is None  # what was delivered is out of the account
    with course.crew.lock:
        course.stop(treadle.Cancelled("no more") if ending == "cancelled" else course.timeout_error())
    feeder = course.intake._feeder
    feeder.join(PATIENCE_SECONDS)

    with pytest.raises(treadle.Cancelled if ending == "cancelled" else TimeoutError):
        next(traversal)


def test_a_group_that_is_cancelled_around_it_cancels_it() -> None:
    nap, ends = Nap(), []

    def visit(node: int) -> list[int]:
        return [1, 2, 3] if node == 0 else [nap()]  # type: ignore[list-item]

    def crawl() -> None:
        traversal = treadle.traverse(visit, [0], max_workers=3, chunksize=1)
        try:
            list(traversal)
        finally:
            ends.append(Counter(outcome.status for outcome in traversal.rest()))

    with treadle.TaskGroup() as group:
        task = group.submit(crawl)
        nap.wait_until_begun(3)
        group.cancel()

    assert task.cancelled()
    assert nap.cancelled == 3
    assert ends == [Counter(cancelled=3)]


def test_traversals_nest() -> None:
    """A visit may traverse: by a crew of its own, however few workers there are."""

    def visit(node: int) -> list[int]:
        inside = list(treadle.traverse(numbers_below(5), [0], max_workers=1))
        assert inside == [0, 1, 2, 3, 4]
        return numbers_below(20)(node)

    assert sorted(treadle.traverse(visit, [0], max_workers=2)) == list(range(20))


def test_async_for_too() -> None:
    async def crawl() -> list[int]:
        return [node async for node in treadle.traverse(numbers_below(100), [0])]

    assert sorted(asyncio.run(crawl())) == list(range(100))


def test_what_is_over_holds_no_node() -> None:
    class Node:
        def __init__(self, number: int) -> None:
            self.number = number

    def visit(node: Node) -> list[Node]:
        return [Node(child) for child in numbers_below(20)(node.number)]

    traversal = treadle.traverse(visit, [Node(0)])
    nodes = [weakref.ref(node) for node in traversal]
    gc.collect()

    assert len(nodes) == 20
    assert [node for node in nodes if node() is not None] == []


def test_progress_is_told() -> None:
    told: list[treadle.Stats] = []

    assert len(list(treadle.traverse(numbers_below(10), [0], progress=told.append))) == 10
    wait_until(lambda: bool(told) and told[-1].succeeded == 10)


def test_ctrl_c_ends_it_and_the_account_is_exact() -> None:
    process = start_program(
        """
        import threading, treadle

        all_four = threading.Barrier(4, action=lambda: print("ready", flush=True))

        def visit(node):
            if node > 2:
                all_four.wait()
                treadle.sleep(3600)
            return [2 * node + 1, 2 * node + 2]

        traversal = treadle.traverse(visit, [0], max_workers=4, chunksize=1)
        nodes = []
        try:
            for node in traversal:
                nodes.append(node)
        except KeyboardInterrupt:
            rest = list(traversal.rest())
            cancelled = [outcome for outcome in rest if outcome.status == "cancelled"]
            print(traversal.stats.taken, len(nodes) + len(rest), len(cancelled))
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)

    assert (status, out, err) == (0, "7 7 4\n", "")


# Under load


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_with_failures_and_retries_come_out_as_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    size = 2000
    graph = {node: [chance.randrange(size) for _ in range(chance.randrange(4))] for node in range(size)}
    broken = {node for node in graph if chance.random() < 0.05}
    flaky = {node for node in graph if chance.random() < 0.1} - broken
    attempts: Counter[int] = Counter()

    def visit(node: int) -> Iterator[int]:
        attempts[node] += 1
        yield from graph[node]
        if node in broken or (node in flaky and attempts[node] == 1):
            raise OSError(node)

    options: Any = chance.choice([{}, {"retry": RETRY}])
    if not options:
        broken, flaky = broken | flaky, set()
    roots = [chance.randrange(size) for _ in range(5)]
    traversal = treadle.traverse(visit, roots, ordered=chance.random() < 0.5, max_workers=8, **options)
    statuses = {outcome.item: outcome.status for outcome in traversal.outcomes()}

    expected, waiting = set(roots), list(roots)
    while waiting:
        node = waiting.pop()
        fresh = set() if node in broken else set(graph[node]) - expected
        expected |= fresh
        waiting += fresh
    assert statuses == {node: "failed" if node in broken else "succeeded" for node in expected}, f"seed {seed}"
    assert traversal.stats.taken == len(expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_whenever_it_is_closed_each_node_taken_has_one_outcome(seed: int) -> None:
    chance = random.Random(seed)
    close_at = chance.randrange(400)
    is_time = threading.Event()

    def visit(node: int) -> list[int]:
        if node == close_at:
            is_time.set()
        return [3 * node + 1, node // 2, 3 * node + 2, 3 * node + 3]

    def close() -> None:
        assert is_time.wait(PATIENCE_SECONDS)
        traversal.close()

    options: Any = {"max_workers": chance.choice([1, 2, 8]), "chunksize": chance.choice([None, 1, 3])}
    delivered: list[Any] = []
    with treadle.traverse(visit, [0], ordered=chance.random() < 0.5, **options) as traversal:
        closer = threading.Thread(target=close)
        closer.start()
        delivered += traversal.outcomes()
        closer.join()
        delivered += traversal.rest()

    stats = traversal.stats
    assert sorted(o.index for o in delivered) == list(range(stats.taken)), f"seed {seed}"
    assert len({o.item for o in delivered}) == stats.taken
    assert stats.succeeded + stats.cancelled + stats.not_started == stats.taken
    known = {0}.union(*(o.value for o in delivered if o.status == "succeeded"))
    assert {o.item for o in delivered} <= known


# On processes


def binary_children(node: int) -> Iterator[int]:
    yield from numbers_below(50)(node)


def test_visits_may_be_made_in_processes() -> None:
    """The children come back with their keys, which the parent's set goes by."""
    traversal = treadle.traverse(binary_children, [0], key=str, engine="processes", max_workers=2)

    assert {o.item: o.value for o in traversal.outcomes()} == {node: numbers_below(50)(node) for node in range(50)}


# A real site


class Site(BaseHTTPRequestHandler):
    """Thirty pages, each with links to others, to itself, and to one that is missing."""

    def do_GET(self) -> None:
        number = int(self.path.rpartition("/")[2] or 0)
        links = [*numbers_below(30)(number), number, 0, 404] if number < 30 else []
        body = "".join(f'<a href="/page/{link}">' for link in links).encode()
        self.send_response(200 if number < 30 else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def test_a_site_is_crawled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")

    def links(url: str) -> Iterator[str]:
        with urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            page = answer.read().decode()
        for part in page.split('href="')[1:]:
            yield urljoin(url, part.partition('"')[0])

    with Server(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        start = f"http://127.0.0.1:{server.server_port}/page/"
        outcomes = list(treadle.traverse(links, [f"{start}0"], max_workers=8).outcomes())
        server.shutdown()
        thread.join()

    assert Counter(o.status for o in outcomes) == {"succeeded": 30, "failed": 1}
    assert {o.item for o in outcomes} == {f"{start}{number}" for number in [*range(30), 404]}
    assert [getattr(o.error, "code", None) for o in outcomes if o.error] == [404]
    for outcome in outcomes:
        if isinstance(outcome.error, OSError):
            outcome.error.close()  # type: ignore[attr-defined]
