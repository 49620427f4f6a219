"""The types that users see, checked by mypy and pyright. Never run: ``assert_type`` speaks to type checkers."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import closing
from io import StringIO
from typing import Any, assert_type

import treadle
from treadle.testing import Standstill, Turnstile, assert_no_leaked_threads, explore


def join(number: int, text: str) -> bytes:
    return f"{number}{text}".encode()


def join_three(number: int, text: str, flag: bool) -> bytes:
    return join(number, text) if flag else b""


def insert(row: str, connection: sqlite3.Connection) -> float:
    return float(connection.execute("SELECT length(?)", (row,)).fetchone()[0])


def insert_pair(row: str, number: int, connection: sqlite3.Connection) -> float:
    return insert(row * number, connection)


def write(line: str, file: StringIO) -> int:
    return file.write(line)


def children(node: str) -> Iterator[str]:
    yield node[1:]


def children_or_none(node: str) -> list[str] | None:
    return [node[1:]] if node else None


def children_by(node: str, file: StringIO) -> list[str]:
    return [file.read(), node]


def a_run_knows_item_and_value() -> None:
    run = treadle.map(len, ["a", "bc"])
    assert_type(run, treadle.Run[str, int])
    assert_type(next(run), int)
    assert_type(list(run), list[int])
    assert_type(run.name, str)
    assert_type(run.close(), None)
    for size in treadle.map(len, ["a"], ordered=False, max_workers=4):
        assert_type(size, int)
    with treadle.map(len, ["a"]) as entered:
        assert_type(entered, treadle.Run[str, int])


def calls_for_what_they_do_return_the_account() -> None:
    async def ask(name: str) -> int:
        return len(name)

    assert_type(treadle.for_each(len, ["a"]), treadle.Stats)
    assert_type(treadle.for_each(ask, ["a"], max_workers=4, on_error="collect"), treadle.Stats)
    assert_type(treadle.for_each(join, [1], ["a"], on_error=note_any_outcome, ordered=True), treadle.Stats)
    assert_type(treadle.for_each(join_three, [1], ["a"], [True], strict=True, timeout=5), treadle.Stats)
    assert_type(treadle.for_each(insert, ["row"], resource=lambda: sqlite3.connect(":memory:")), treadle.Stats)
    assert_type(treadle.for_each(write, ["line"], resource=StringIO), treadle.Stats)
    assert_type(treadle.map(len, ["a"]).wait(), treadle.Stats)
    assert_type(treadle.traverse(children, ["a"]).wait(), treadle.Stats)
    assert_type(treadle.pipeline(["a"]).start().wait(), treadle.PipelineStats)
    assert_type(treadle.pipeline(["a"]).for_each(len, on_error="collect"), treadle.PipelineStats)
    treadle.for_each(len, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    treadle.for_each(len, ["a"], on_error="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def note_any_outcome(outcome: treadle.Outcome[Any, Any]) -> None:
    assert_type(outcome.item, Any)


def calls_in_processes_are_typed_as_on_threads() -> None:
    assert_type(treadle.map(len, ["a"], engine="processes", max_tasks_per_child=10), treadle.Run[str, int])
    assert_type(treadle.map(len, ["a"], engine="auto"), treadle.Run[str, int])
    assert_type(treadle.map(len, ["a"], max_workers="auto"), treadle.Run[str, int])
    assert_type(treadle.PoolExecutor(engine="processes", max_tasks_per_child=1).submit(len, "a"), treadle.Task[int])
    assert_type(treadle.TaskGroup(engine="processes").submit(len, "a"), treadle.Task[int])
    died = treadle.ProcessDied("it exited with status 1", had_ended=False)
    assert_type((died.cause, died.had_ended), tuple[str, bool])
    assert_type(treadle.RemoteError("ValueError()").described, str)
    assert_type(treadle.NotPicklable("the argument", "why").what, str)


def a_diagnosis_is_typed() -> None:
    found = treadle.diagnose(len, ["a"], seconds=1, max_workers=4, max_items=10, repeat=False, resource=None)
    assert_type(found, treadle.Diagnosis)
    assert_type((found.line, found.why, found.workers), tuple[str, str, int])
    assert_type((found.waiting, found.computing, found.held), tuple[float, float, float | None])
    assert_type(found.notes, tuple[str, ...])
    assert_type(found.to_json(indent=2), str)
    assert_type([speed.per_second for speed in found.speeds], list[float])


def calls_by_an_executor_are_typed_as_on_threads(executor: Executor) -> None:
    assert_type(treadle.map(len, ["a"], engine=executor), treadle.Run[str, int])
    assert_type(treadle.TaskGroup(engine=executor).submit(len, "a"), treadle.Task[int])
    with treadle.dask("127.0.0.1:8786", timeout=1.0) as cluster:
        assert_type(cluster, treadle.DaskExecutor)
        assert_type(treadle.map(len, ["a"], engine=cluster), treadle.Run[str, int])
    missing = treadle.MissingExtra("treadle.dask()", "dask", "why")
    assert_type((missing.what, missing.extra, missing.reason), tuple[str, str, str])


def tuples_of_arguments_are_checked() -> None:
    pairs: list[tuple[int, str]] = [(1, "a")]
    rows: list[list[str]] = [["1", "a"]]

    async def ask(number: int, name: str) -> float:
        return float(number)

    assert_type(treadle.starmap(join, pairs, max_workers=4), treadle.Run[tuple[int, str], bytes])
    assert_type(next(treadle.starmap(join, pairs).outcomes()).item, tuple[int, str])
    assert_type(treadle.starmap(ask, pairs), treadle.Run[tuple[int, str], float])
    assert_type(treadle.starmap(join_three, [(1, "a", True)], timeout=5).wait(), treadle.Stats)
    assert_type(treadle.starmap(join_three, rows), treadle.Run[Any, bytes])
    assert_type(treadle.starmap(insert_pair, [("row", 2)], resource=StringIO), treadle.Run[Any, float])
    treadle.starmap(join, pairs, strict=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def an_outcome_knows_item_and_value() -> None:
    run = treadle.map(len, ["a"])
    outcomes = run.outcomes()
    assert_type(outcomes, treadle.Outcomes[str, int])
    outcome = next(outcomes)
    assert_type(outcome, treadle.Outcome[str, int])
    assert_type(outcome.index, int)
    assert_type(outcome.item, str)
    assert_type(outcome.status, treadle.Status)
    assert_type(outcome.value, int | None)
    assert_type(outcome.error, BaseException | None)
    assert_type(outcome.result(), int)
    assert_type(outcome.ok, bool)
    assert_type(run.rest(), Iterator[treadle.Outcome[str, int]])
    for left in run.rest():
        assert_type(left.result(), int)


def a_traversal_knows_its_nodes() -> None:
    traversal = treadle.traverse(
        children, ["a"], key=str.lower, max_depth=3, depth_first=True, max_workers=4, timeout=5
    )
    assert_type(traversal, treadle.Traversal[str])
    assert_type(next(traversal), str)
    assert_type(list(traversal), list[str])
    outcome = next(traversal.outcomes())
    assert_type(outcome, treadle.Outcome[str, list[str]])
    assert_type(outcome.result(), list[str])
    assert_type(traversal.rest(), Iterator[treadle.Outcome[str, list[str]]])
    with treadle.traverse(children_or_none, ["a"]) as entered:
        assert_type(entered, treadle.Traversal[str])


def a_traversal_may_have_a_resource() -> None:
    assert_type(treadle.traverse(children_by, ["a"], resource=StringIO), treadle.Traversal[str])
    assert_type(treadle.traverse(children_by, ["a"], resource=lambda: closing(StringIO())), treadle.Traversal[str])


def an_item_of_two_iterables_is_a_pair() -> None:
    run = treadle.map(join, [1, 2], ["a", "b"], strict=True)
    assert_type(run, treadle.Run[tuple[int, str], bytes])
    assert_type(next(run.outcomes()).item, tuple[int, str])


def of_more_iterables_the_value_is_known() -> None:
    assert_type(treadle.map(join_three, [1], ["a"], [True]), treadle.Run[Any, bytes])


def the_function_may_be_a_class() -> None:
    assert_type(treadle.map(int, ["1"]), treadle.Run[str, int])


def a_resource_is_not_part_of_the_item() -> None:
    def connect() -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(":memory:"))

    def connect_plainly() -> StringIO:
        return StringIO()

    assert_type(treadle.map(insert, ["row"], resource=connect), treadle.Run[str, float])
    assert_type(treadle.map(insert, ["row"], resource=lambda: sqlite3.connect(":memory:")), treadle.Run[str, float])
    assert_type(treadle.map(write, ["line"], resource=connect_plainly), treadle.Run[str, int])
    assert_type(treadle.map(write, ["line"], resource=StringIO, max_workers=2), treadle.Run[str, int])
    renewed = treadle.Resource(connect_plainly, renew_on=(OSError, ValueError), check=StringIO.readable, max_age=60)
    assert_type(treadle.map(write, ["line"], resource=renewed), treadle.Run[str, int])
    assert_type(treadle.Resource(lambda: closing(StringIO()), one_at_a_time=True), treadle.Resource[StringIO])
    assert_type(treadle.map(insert_pair, ["row"], [2], resource=connect), treadle.Run[Any, float])


def stats_are_numbers() -> None:
    stats = treadle.map(len, ["a"]).stats
    assert_type(stats, treadle.Stats)
    assert_type(stats.taken, int)
    assert_type(stats.seconds, float)
    assert_type(stats.decision, str | None)


def progress_is_told_stats() -> None:
    def show(stats: treadle.Stats) -> None:
        assert_type(stats.succeeded, int)

    assert_type(treadle.map(len, ["a"], progress=show, timeout=5, intake="thread"), treadle.Run[str, int])


async def async_for_gives_the_same() -> None:
    assert_type(treadle.map(len, ["a"]).__aiter__(), AsyncIterator[int])
    async for size in treadle.map(len, ["a"]):
        assert_type(size, int)
    async for outcome in treadle.map(len, ["a"]).outcomes():
        assert_type(outcome, treadle.Outcome[str, int])


def errors_have_their_facts(error: treadle.RunClosed, abandoned: treadle.TooManyAbandoned) -> None:
    assert_type(error.run, str)
    assert_type(abandoned.allowed, int)


def ask_database(question: str, database: sqlite3.Connection) -> int:
    return len(question)


def a_task_has_the_type_of_its_result() -> None:
    with treadle.TaskGroup(timeout=5, on_error="collect") as group:
        assert_type(group, treadle.TaskGroup)
        task = group.submit(len, "abc")
        assert_type(task, treadle.Task[int])
        assert_type(task.result(timeout=1), int)
        assert_type(task.exception(), BaseException | None)
    with treadle.PoolExecutor(max_workers=2) as pool:
        assert_type(pool.submit(len, "abc").result(), int)
        assert_type(pool.map(len, ["abc"]), Iterator[int])
    assert_type(treadle.current_task(), treadle.Task[Any] | None)


def submitted_arguments_are_checked(group: treadle.TaskGroup) -> None:
    group.submit(len, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def what_a_worker_has_open_is_the_last_argument(group: treadle.TaskGroup, pool: treadle.PoolExecutor) -> None:
    async def ask_later(question: str, database: sqlite3.Connection) -> bytes:
        return question.encode()

    assert_type(group.submit(ask_database, "why"), treadle.Task[int])
    assert_type(pool.submit(ask_database, "why"), treadle.Task[int])
    assert_type(pool.submit(ask_later, "why"), treadle.Task[bytes])
    group.submit(ask_database)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]


def first_success_returns_what_its_functions_do() -> None:
    def ask() -> str:
        return "answer"

    assert_type(treadle.first_success(ask, ask, timeout=1), str)


def a_pipeline_knows_what_each_stage_passes_on() -> None:
    start = treadle.pipeline(["1", "2"], name="numbers")
    assert_type(start, treadle.Pipeline[str])
    numbers = start.map(int, max_workers=4, on_error=note_outcome)
    assert_type(numbers, treadle.Pipeline[int])
    assert_type(numbers.filter(bool, call_timeout=1), treadle.Pipeline[int])
    assert_type(numbers.flat_map(range), treadle.Pipeline[int])
    assert_type(numbers.batched(10, timeout=1.5), treadle.Pipeline[list[int]])
    assert_type(numbers.map(float).batched(2).for_each(print, max_workers=1, timeout=5), treadle.PipelineStats)
    assert_type(start.map(insert, resource=lambda: sqlite3.connect(":memory:")), treadle.Pipeline[float])
    assert_type(start.for_each(write, resource=StringIO), treadle.PipelineStats)
    for number in numbers:
        assert_type(number, int)
    with numbers.start(timeout=5) as flow:
        assert_type(flow, treadle.Flow[int])
        assert_type(next(flow), int)
    assert_type(numbers.stats.stages[0], treadle.StageStats)
    assert_type(flow.stats.bottleneck, str)


def note_outcome(outcome: treadle.Outcome[str, int]) -> None:
    assert_type(outcome.item, str)


def a_stage_takes_what_the_one_before_passes_on() -> None:
    treadle.pipeline([1]).map(len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    treadle.pipeline([1]).map(str, timeout=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def policies_are_options_of_all() -> None:
    retry, hedge = treadle.Retry(retry_on=(OSError, ValueError)), treadle.Hedge(after="p95")
    limiter = treadle.Limiter(5, burst=2, max_concurrent=3)
    run = treadle.map(len, ["a"], retry=retry, limiter=limiter, hedge=hedge, call_timeout=1)
    assert_type(run, treadle.Run[str, int])
    treadle.TaskGroup(retry=retry, limiter=limiter, hedge=hedge, call_timeout=1)
    treadle.PoolExecutor(retry=retry, limiter=limiter, hedge=hedge, call_timeout=1)
    treadle.TaskGroup(max_workers="auto")
    treadle.PoolExecutor(max_workers="auto")
    treadle.Limiter(throttled=(OSError, KeyError))
    assert_type(treadle.Limiter(throttled=lambda answer: answer == 429).judge(429), bool)
    treadle.Retry(retry_on=lambda error: isinstance(error, OSError))
    with limiter as nothing:
        assert_type(nothing, None)


async def to_thread_returns_what_the_function_does() -> None:
    assert_type(await treadle.to_thread(len, "abc"), int)


def what_runs_in_the_background_has_the_type_of_its_result() -> None:
    def complain(error: BaseException) -> None: ...

    with treadle.every(1.0, lambda: 3, name="check", jitter=0.1, timeout=5, on_error=complain) as monitor:
        assert_type(monitor, treadle.Periodic[int])
        assert_type(monitor.wait_next(timeout=1), treadle.Outcome[None, int])
        assert_type(monitor.last_result, int | None)
        assert_type(monitor.last_error, BaseException | None)
        assert_type((monitor.runs, monitor.failures, monitor.missed, monitor.abandoned), tuple[int, int, int, int])
        assert_type(monitor.stop(), None)


def what_reaches_a_loop_takes_what_the_callback_does() -> None:
    def show(text: str, times: int = 1) -> bool:
        return bool(text * times)

    post = treadle.on_loop(show, via=print, latest=True)
    assert_type(post("text", times=2), None)
    post(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_channel_knows_its_items() -> None:
    channel = treadle.Channel[str](3, name="words")
    assert_type(channel.put("word", timeout=1), None)
    assert_type(channel.get(1.5), str)
    assert_type(channel.get_nowait(), str)
    assert_type(list(channel), list[str])
    assert_type(channel.join(), None)
    with channel.producer() as end:
        assert_type(end, treadle.Producer[str])
        end.put(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for size in treadle.map(len, channel):
        assert_type(size, int)


def a_guarded_value_keeps_its_type() -> None:
    counter = treadle.Guarded(0)
    assert_type(counter, treadle.Guarded[int])
    assert_type(counter.update(lambda value: value + 1), int)
    assert_type(counter.copy(), int)
    with counter as c:
        assert_type(c, treadle.Held[int])
        assert_type(c.value, int)
        c.value += 1
        c.value = "1"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
        assert_type(c.wait_for(lambda value: value > 3, timeout=1), None)
    counter.set("2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def waits_are_typed() -> None:
    treadle.sleep(0.1)
    with treadle.on_cancel(print, "cancelled"), treadle.shield(1.5):
        treadle.check_cancelled()


def locks_are_typed(error: treadle.Deadlock) -> None:
    def report(deadlock: treadle.Deadlock) -> None:
        assert_type(deadlock.reason, str)

    lock, again = treadle.Lock(), treadle.RLock(name="stock")
    with lock as is_had, again:
        assert_type(is_had, bool)
    assert_type(lock.acquire(timeout=1.5), bool)
    assert_type(again.acquire(False), bool)
    assert_type(lock.release(), None)
    assert_type(lock.locked(), bool)
    with treadle.watch_locks(report) as nothing:
        assert_type(nothing, None)
    assert_type(error.threads, tuple[str, ...])
    treadle.Lock("stock", 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_tools_are_typed() -> None:
    turnstile = Turnstile(timeout=1.0)
    with turnstile(0) as passed, assert_no_leaked_threads() as _:
        assert_type(passed, None)

    assert_type(explore(lambda: 1, schedules=2, modules=["json", treadle], eager_timeouts=True, seed=1), int)
    assert issubclass(Standstill, AssertionError)


def an_unknown_option_is_an_error() -> None:
    treadle.map(len, ["a"], max_worker=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    treadle.map(len, ["a"], intake="feeder")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def a_run_can_be_declared(make: Callable[[], treadle.Run[str, int]]) -> Iterator[int]:
    return make()
