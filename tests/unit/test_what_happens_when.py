"""Each answer of docs/what-happens-when.md, as a test; the page names the test behind each answer."""

from __future__ import annotations

import errno
import os
import re
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import treadle
from tests.calls import Nap
from tests.conftest import Gate
from tests.programs import WAIT_FOR_CTRL_C, finish, start_program
from treadle._core.chunk import Chunk
from treadle._engines.inline import InlineEngine
from treadle.testing import ManualClock

PAGE = Path(__file__).parents[2] / "docs" / "what-happens-when.md"
QUESTIONS = ("failure", "timeout", "close", "ctrl_c", "kill", "dead_worker", "full_disk", "stalled_consumer", "nesting")
PLACES = ("map", "task_group", "pool_executor")


def fail() -> None:
    raise ValueError("bad")


def test_each_answer_on_the_page_is_a_test_here() -> None:
    named = re.findall(r"<!-- (test_\w+) -->", PAGE.read_text(encoding="utf-8"))

    wanted = [f"test_{question}_in_{place}" for question in QUESTIONS for place in PLACES]
    assert named[: len(wanted)] == wanted, "what follows is in test_what_happens_elsewhere.py"
    assert all(name in globals() for name in wanted)


# A call fails


def test_failure_in_map() -> None:
    def call(item: int) -> int:
        if item == 2:
            fail()
        return item

    run = treadle.map(call, [0, 1, 2], max_workers=1, name="calls")
    delivered = [next(run), next(run)]
    with pytest.raises(ValueError, match="bad") as caught:
        next(run)

    assert delivered == [0, 1]
    assert caught.value.__notes__ == ["treadle: item 2 of run 'calls': 2"]
    assert [outcome.status for outcome in run.rest()] == ["failed"]


def test_failure_in_task_group(gate: Gate) -> None:
    def fail_later() -> None:
        gate.hold()
        fail()

    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(max_workers=2) as group:
        sleeping, failing = group.submit(treadle.sleep, 3600), group.submit(fail_later)
        waiting = group.submit(abs, -1)  # beyond max_workers
        gate.open()

    assert caught.value.exceptions == (failing.exception(),)
    assert sleeping.cancelled()
    assert waiting.cancelled()


def test_failure_in_pool_executor() -> None:
    with treadle.PoolExecutor(1) as pool:
        failing, fine = pool.submit(fail), pool.submit(abs, -1)

    assert isinstance(failing.exception(), ValueError)
    assert fine.result() == 1


# Time is up


def test_timeout_in_map() -> None:
    nap = Nap()

    def call(seconds: int) -> object:
        return nap() if seconds else None

    with ManualClock() as clock:
        run = treadle.map(call, [0, 3600], call_timeout=10)
        outcomes = run.outcomes()
        assert next(outcomes).status == "succeeded"
        nap.wait_until_begun()
        clock.advance(10)
        assert [outcome.status for outcome in outcomes] == ["timed_out"]

        whole = treadle.map(call, [0, 3600], timeout=10)
        next(whole)
        nap.wait_until_begun()
        clock.advance(10)
        with pytest.raises(TimeoutError, match="timeout=10"):
            next(whole)
        assert [outcome.status for outcome in whole.rest()] == ["cancelled"]


def test_timeout_in_task_group() -> None:
    with pytest.raises(TimeoutError, match="timeout=0.05"), treadle.TaskGroup(timeout=0.05) as group:
        task = group.submit(treadle.sleep, 3600)

    assert task.cancelled()


def test_timeout_in_pool_executor(gate: Gate) -> None:
    with treadle.PoolExecutor(2, call_timeout=0.05) as pool:
        late = pool.submit(treadle.sleep, 3600)
        assert isinstance(late.exception(), treadle.CallTimedOut)

    with treadle.PoolExecutor(2) as pool:
        task = pool.submit(gate.hold, "late")
        with pytest.raises(TimeoutError):
            task.result(timeout=0.01)
        gate.open()
        assert task.result() == "late"


# It is closed


def test_close_in_map(gate: Gate) -> None:
    with treadle.map(gate.hold, range(10), max_workers=2, grace=0) as run:
        gate.wait_for_arrivals(2)

    statuses = [outcome.status for outcome in run.rest()]
    assert statuses[:2] == ["cancelled", "cancelled"]
    assert set(statuses[2:]) == {"not_started"}
    with pytest.raises(treadle.RunClosed):
        next(run)


def test_close_in_task_group() -> None:
    with treadle.TaskGroup(max_workers=1) as group:
        running, waiting = group.submit(treadle.sleep, 3600), group.submit(abs, -1)
        group.cancel()

    assert running.cancelled()
    assert waiting.cancelled()
    with pytest.raises(treadle.GroupClosed):
        group.submit(abs, -1)


def test_close_in_pool_executor(gate: Gate) -> None:
    with treadle.PoolExecutor(1) as pool:
        running = pool.submit(gate.hold, 1)
        gate.wait_for_arrivals()
        waiting = pool.submit(abs, -1)
        pool.shutdown(wait=False, cancel_futures=True)
        gate.open()

    assert (running.result(), waiting.cancelled()) == (1, True)
    with pytest.raises(RuntimeError, match="cannot schedule new futures"):
        pool.submit(abs, -1)


# Ctrl-C


def interrupt(body: str) -> str:
    """Run a program, send it Ctrl-C when it says so, and return what it wrote."""
    process = start_program(
        WAIT_FOR_CTRL_C + "import threading, time\nimport treadle\nstuck = threading.Event()\n" + textwrap.dedent(body)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, out, err = finish(process)
    assert "Traceback" not in err, err
    return out


def test_ctrl_c_in_map() -> None:
    out = interrupt(
        """
        both, interruptible = threading.Barrier(2, lambda: print("ready", flush=True)), threading.Event()
        def call(item):
            interruptible.wait()
            both.wait()
            stuck.wait(60)
        run = treadle.map(call, range(4), max_workers=2)
        try:
            interruptible.set()
            next(run)
        except KeyboardInterrupt:
            print(sorted({outcome.status for outcome in run.rest()}), run.stats.abandoned)
        """
    )

    assert out == "['cancelled', 'not_started'] 2\n"


def test_ctrl_c_in_task_group() -> None:
    out = interrupt(
        """
        try:
            with treadle.TaskGroup() as group:
                task = group.submit(treadle.sleep, 60)
                print("ready", flush=True)
                wait_for_ctrl_c()
        except KeyboardInterrupt:
            print("interrupted", task.cancelled())
        """
    )

    assert out == "interrupted True\n"


def test_ctrl_c_in_pool_executor() -> None:
    out = interrupt(
        """
        try:
            with treadle.PoolExecutor(1) as pool:
                running, waiting = pool.submit(treadle.sleep, 60), pool.submit(abs, -1)
                while not running.running():
                    pass
                print("ready", flush=True)
                wait_for_ctrl_c()
        except KeyboardInterrupt:
            print("interrupted", running.cancelled(), waiting.cancelled())
        """
    )

    assert out == "interrupted True True\n"


# kill -9


def kill(body: str, folder: Path) -> None:
    """Kill a program in the middle of its calls, and look for what it leaves in its folder or as processes."""
    process = start_program(f"import os, time\nimport treadle\nos.chdir({str(folder)!r})\n" + textwrap.dedent(body))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    assert not children.exists() or children.read_text().split() == []
    process.kill()
    status, _, _ = finish(process)
    assert status == -signal.SIGKILL
    assert list(folder.iterdir()) == []


def test_kill_in_map(tmp_path: Path) -> None:
    kill("run = treadle.map(time.sleep, [0, 60])\nnext(run)\nprint('ready')\nnext(run)", tmp_path)


def test_kill_in_task_group(tmp_path: Path) -> None:
    kill("with treadle.TaskGroup() as group:\n group.submit(time.sleep, 60)\n print('ready')", tmp_path)


def test_kill_in_pool_executor(tmp_path: Path) -> None:
    kill("with treadle.PoolExecutor() as pool:\n pool.submit(time.sleep, 60)\n print('ready')", tmp_path)


# A worker dies


@pytest.fixture
def broken_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call is lost with its worker, by something that it did not raise itself."""
    make_calls = InlineEngine.make_calls
    is_broken = [True]

    def break_once(self: InlineEngine, chunk: Chunk) -> None:
        if is_broken:
            is_broken.clear()
            chunk.todo.pop()
            raise RuntimeError("the engine broke")
        make_calls(self, chunk)

    monkeypatch.setattr(InlineEngine, "make_calls", break_once)


@pytest.mark.usefixtures("broken_engine")
def test_dead_worker_in_map() -> None:
    outcomes = list(treadle.map(abs, [-1, -2], max_workers=1).outcomes())

    assert [outcome.status for outcome in outcomes] == ["failed", "succeeded"]
    assert isinstance(outcomes[0].error, treadle.WorkerLost)


@pytest.mark.usefixtures("broken_engine")
def test_dead_worker_in_task_group() -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup(on_error="collect", max_workers=1) as group:
        group.submit(abs, -1)
        fine = group.submit(abs, -2)

    assert [type(error) for error in caught.value.exceptions] == [treadle.WorkerLost]
    assert fine.result() == 2


@pytest.mark.usefixtures("broken_engine")
def test_dead_worker_in_pool_executor() -> None:
    with treadle.PoolExecutor(1) as pool:
        lost, fine = pool.submit(abs, -1), pool.submit(abs, -2)

    assert isinstance(lost.exception(), treadle.WorkerLost)
    assert fine.result() == 2


# The disk is full

needs_full_device = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")


def write_to_a_full_disk(text: str) -> None:
    with open("/dev/full", "w", encoding="utf-8") as file:
        file.write(text)


def no_space_left(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


@needs_full_device
def test_full_disk_in_map() -> None:
    (outcome,) = treadle.map(write_to_a_full_disk, ["text"]).outcomes()

    assert outcome.status == "failed"
    assert no_space_left(outcome.error)


@needs_full_device
def test_full_disk_in_task_group() -> None:
    with pytest.raises(ExceptionGroup) as caught, treadle.TaskGroup() as group:
        group.submit(write_to_a_full_disk, "text")

    assert no_space_left(caught.value.exceptions[0])


@needs_full_device
def test_full_disk_in_pool_executor() -> None:
    with treadle.PoolExecutor() as pool:
        assert no_space_left(pool.submit(write_to_a_full_disk, "text").exception())


# The consumer stalls


def test_stalled_consumer_in_map() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield len(taken)

    with treadle.map(lambda item: item, endless(), max_workers=2, buffersize=3) as run:
        next(run)
        while run.stats.running:
            pass

        assert len(taken) <= 1 + 2 + 3


def test_stalled_consumer_in_task_group() -> None:
    with treadle.TaskGroup(max_workers=2) as group:
        tasks = [group.submit(abs, -number) for number in range(100)]
        while group.stats.succeeded < 100:
            pass

    assert [task.result() for task in tasks] == list(range(100))


def test_stalled_consumer_in_pool_executor() -> None:
    with treadle.PoolExecutor(2) as pool:
        results = pool.map(abs, range(100))
        while pool.stats.succeeded < 100:
            pass

        assert list(results) == list(range(100))


# Nesting


def test_nesting_in_map() -> None:
    def inner(item: int) -> int:
        return sum(treadle.map(abs, range(item), max_workers=2))

    assert list(treadle.map(inner, [3, 4], max_workers=1)) == [3, 6]


def test_nesting_in_task_group() -> None:
    inside: list[treadle.Task[None]] = []

    def inner() -> None:
        with treadle.TaskGroup(max_workers=1) as group:
            inside.append(group.submit(treadle.sleep, 3600))

    def count_down(number: int) -> int:
        return 0 if number == 0 else 1 + group.submit(count_down, number - 1).result()

    with treadle.TaskGroup(max_workers=2) as group:
        assert group.submit(count_down, 50).result() == 50
        outer = group.submit(inner)
        while not inside:
            pass
        group.cancel()

    assert outer.cancelled()
    assert inside[0].cancelled()


def test_nesting_in_pool_executor() -> None:
    def count_down(number: int) -> int:
        return 0 if number == 0 else 1 + pool.submit(count_down, number - 1).result()

    with treadle.PoolExecutor(2) as pool:
        assert pool.submit(count_down, 50).result() == 50
