"""What every engine must do: each implementation's tests inherit this suite."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest

from tests.calls import FileGate
from treadle._core.chunk import Chunk
from treadle._engines.engine import CallPlan, Engine
from treadle.errors import Cancelled

_colour: ContextVar[str] = ContextVar("_colour", default="white")


def make_chunk(items: list[Any], start: int = 0) -> Chunk:
    """Return a chunk of ``items``, ready to be worked on."""
    chunk = Chunk(start, items)
    chunk.make_ready()
    return chunk


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def fail_on_odd(number: int) -> int:
    """Raise for odd numbers."""
    if number % 2:
        raise ValueError(number)
    return number


class Resource:
    """A resource that keeps a diary: in a file, as it may be opened in another process."""

    def __init__(self, diary: Path) -> None:
        self._diary = diary
        self.note("made")

    def note(self, what: str) -> None:
        with self._diary.open("a") as file:
            file.write(f"{what}\n")

    def close(self) -> None:
        self.note("closed")


class ManagedResource(Resource):
    """A resource that is a context manager; what it yields is what the calls get."""

    def __enter__(self) -> str:
        self.note("entered")
        return "connection"

    def __exit__(self, *_: object) -> None:
        self.note("exited")


def look_and_set(item: int) -> str:
    """Return the colour as it is found, after having painted it; raise it for item 2."""
    found = _colour.get()
    _colour.set(f"set by {item}")
    if item == 2:
        raise ValueError(found)
    return found


class EngineContract:
    """Inherit, and say how the engine is made.

    Nothing here counts on memory that test and calls share: what they have in common is in files.
    """

    carries_context = True
    has_own_workers = False  # which cannot be got ready for a run

    @pytest.fixture
    def diary(self, tmp_path: Path) -> Path:
        return tmp_path / "diary"

    @pytest.fixture
    def file_gate(self, tmp_path: Path) -> FileGate:
        return FileGate(tmp_path)

    def make_engine(self, plan: CallPlan) -> Engine:
        raise NotImplementedError

    def open_engine(self, fn: Callable[..., Any], **options: Any) -> Engine:
        engine = self.make_engine(CallPlan(fn, copy_context(), **options))
        engine.open()
        return engine

    def test_results_stand_in_the_order_of_the_items(self) -> None:
        engine, chunk = self.open_engine(double), make_chunk([1, 2, 3])

        engine.make_calls(chunk)

        assert chunk.results == [2, 4, 6]
        assert chunk.failures is None
        assert chunk.todo == []
        engine.close()

    def test_a_chunk_that_others_have_emptied_is_no_error(self) -> None:
        engine, chunk = self.open_engine(double), make_chunk([])

        engine.make_calls(chunk)

        assert chunk.results == []
        engine.close()

    def test_a_failure_is_recorded_in_its_place_and_the_others_go_on(self) -> None:
        engine, chunk = self.open_engine(fail_on_odd), make_chunk([0, 1, 2, 3])

        engine.make_calls(chunk)

        assert len(chunk.results) == 4
        assert chunk.results[0] == 0
        assert chunk.results[2] == 2
        assert chunk.failures is not None
        assert sorted(chunk.failures) == [1, 3]
        assert [str(error) for error in chunk.failures.values()] == ["1", "3"]
        engine.close()

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit, IndexError])
    def test_whatever_a_call_raises_is_its_items_failure(self, kind: type[BaseException]) -> None:
        """IndexError is also what an empty list of work raises; the two must not be taken for each other."""

        def explode(_: int) -> None:
            raise kind

        engine, chunk = self.open_engine(explode), make_chunk([7, 8])

        engine.make_calls(chunk)

        assert chunk.failures is not None
        assert [type(error) for error in chunk.failures.values()] == [kind, kind]
        engine.close()

    def test_a_tuple_is_spread_only_where_the_plan_says_so(self) -> None:
        engine, chunk = self.open_engine(pow, spread=True), make_chunk([(2, 3), (3, 2)])

        engine.make_calls(chunk)

        assert chunk.results == [8, 9]
        engine.close()

    def test_the_initializer_runs_once_before_the_first_call(self) -> None:
        if self.has_own_workers:
            pytest.skip("its workers are its own")
        seen: list[Any] = []  # theirs, wherever they are: one list for both

        def look(item: int) -> list[Any]:
            seen.append(item)
            return seen[:]

        engine = self.open_engine(look, initializer=seen.append, initargs=("hello",))
        first, second = make_chunk([1, 2]), make_chunk([3])
        engine.make_calls(first)
        engine.make_calls(second)

        assert first.results == [["hello", 1], ["hello", 1, 2]]
        assert second.results == [["hello", 1, 2, 3]]
        engine.close()

    def test_a_resource_is_the_last_argument_and_closed_in_the_end(self, diary: Path) -> None:
        if self.has_own_workers:
            pytest.skip("its workers are its own")
        engine = self.open_engine(lambda item, got: (item, type(got).__name__), resource=lambda: Resource(diary))
        chunk = make_chunk([1])

        engine.make_calls(chunk)
        assert diary.read_text().split() == ["made"]
        engine.close()

        assert chunk.results == [(1, "Resource")]
        assert diary.read_text().split() == ["made", "closed"]

    def test_a_context_manager_is_entered_and_exited_instead(self, diary: Path) -> None:
        if self.has_own_workers:
            pytest.skip("its workers are its own")
        engine = self.open_engine(lambda a, b, got: (a, b, got), resource=lambda: ManagedResource(diary), spread=True)
        chunk = make_chunk([(1, 2)])

        engine.make_calls(chunk)
        engine.close()

        assert chunk.results == [(1, 2, "connection")]
        assert diary.read_text().split() == ["made", "entered", "exited"]

    def test_what_opening_raises_is_raised(self) -> None:
        if self.has_own_workers:
            pytest.skip("its workers are its own")

        def refuse() -> None:
            raise ConnectionError("no")

        engine = self.make_engine(CallPlan(double, copy_context(), resource=refuse))

        with pytest.raises(ConnectionError, match="no"):
            engine.open()
        engine.close()

    def test_what_closing_raises_is_raised(self) -> None:
        if self.has_own_workers:
            pytest.skip("its workers are its own")

        class Stubborn:
            def close(self) -> None:
                raise ConnectionError("no")

        engine = self.open_engine(lambda item, _: item, resource=Stubborn)

        with pytest.raises(ConnectionError, match="no"):
            engine.close()

    def test_calls_see_the_submitters_context(self) -> None:
        if not self.carries_context:
            pytest.skip("a ContextVar does not pickle")
        token = _colour.set("blue")
        engine, chunk = self.open_engine(lambda _: _colour.get()), make_chunk([1])
        _colour.reset(token)

        engine.make_calls(chunk)

        assert chunk.results == ["blue"]
        engine.close()

    @pytest.mark.parametrize("submitter_set_it", [False, True])
    def test_what_a_call_sets_reaches_no_other_call(self, submitter_set_it: bool) -> None:
        before = "blue" if submitter_set_it and self.carries_context else "white"
        token = _colour.set("blue") if submitter_set_it else None
        engine, chunk = self.open_engine(look_and_set), make_chunk([1, 2, 3])
        if token is not None:
            _colour.reset(token)

        engine.make_calls(chunk)

        assert [chunk.results[0], chunk.results[2]] == [before, before]
        assert chunk.failures is not None
        assert str(chunk.failures[1]) == before
        assert _colour.get() == "white"
        engine.close()

    def test_a_thief_may_take_from_the_other_end_meanwhile(self, file_gate: FileGate) -> None:
        """The owner is held in its first call; what the thief took, the owner must not call."""
        engine, chunk = self.open_engine(file_gate.hold), make_chunk([0, 1, 2, 3])
        owner = threading.Thread(target=engine.make_calls, args=(chunk,))
        owner.start()
        file_gate.wait_for_arrivals()

        stolen = chunk.split(2)
        file_gate.open()
        owner.join()

        assert chunk.results == [0, 1]
        assert chunk.items == [0, 1]
        assert stolen is not None
        assert (stolen.start, stolen.items, stolen.todo) == (2, [2, 3], [3, 2])
        engine.close()

    def test_clearing_what_is_to_do_ends_the_chunk_after_the_call_being_made(self, file_gate: FileGate) -> None:
        engine, chunk = self.open_engine(file_gate.hold), make_chunk([0, 1, 2])
        owner = threading.Thread(target=engine.make_calls, args=(chunk,))
        owner.start()
        file_gate.wait_for_arrivals()

        chunk.todo.clear()
        file_gate.open()
        owner.join()

        assert chunk.results == [0]
        engine.close()

    def test_what_can_be_killed_comes_back_at_once_and_goes_on(self, file_gate: FileGate) -> None:
        engine, chunk = self.open_engine(file_gate.hold), make_chunk(["stuck"])
        owner = threading.Thread(target=engine.make_calls, args=(chunk,))
        owner.start()
        file_gate.wait_for_arrivals()

        chunk.mark_cancelled()
        if engine.is_killable:
            engine.kill()
        else:
            file_gate.open()
        owner.join()
        file_gate.open()
        engine.make_calls(after := make_chunk(["after"]))

        assert after.results == ["after"]
        assert isinstance((chunk.failures or {}).get(0), Cancelled) == engine.is_killable
        engine.close()

    def test_each_call_is_timed_where_that_was_asked_for(self) -> None:
        engine, chunk = self.open_engine(double), make_chunk([1, 2])
        chunk.ends = []

        engine.make_calls(chunk)

        assert len(chunk.ends) == 2
        assert chunk.ends == sorted(chunk.ends)
        engine.close()

    def test_interrupt_never_blocks(self) -> None:
        engine = self.open_engine(double)

        thread = threading.Thread(target=engine.interrupt)
        thread.start()
        thread.join(10)

        assert not thread.is_alive()
        engine.close()
