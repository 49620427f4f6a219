"""How many items a worker takes in one go, as what it has seen of the calls says."""

from __future__ import annotations

import pytest

from treadle._core.chunk import Chunk
from treadle._crew.chunking import IN_PROCESSES, ON_THREADS, ChunkSizer, Pace


def show_calls(sizer: ChunkSizer, seconds: float, calls: int = 4096) -> None:
    """Let ``sizer`` see calls that take so long, until it has learnt from them what it can."""
    for _ in range(20):
        chunk = Chunk(0, [None] * calls)
        chunk.results = [None] * calls
        chunk.begun, chunk.ended = 0.0, seconds * calls
        sizer.observe(chunk)


@pytest.mark.parametrize(
    ("given", "seconds", "size"),
    [(1, 9.99e-6, 300), (200, 9.99e-6, 200), (90, 9.99e-6, 270), (1, 0.99e-3, 3), (1, 0.002, 1), (500, 0.002, 500)],
)
def test_chunks_of_a_size_that_was_given_are_joined_to_three_milliseconds_of_calls(
    given: int, seconds: float, size: int
) -> None:
    """Where a process makes the calls: it tells of each chunk by itself, but is sent several at once."""
    sizer = ChunkSizer(2, given, None, IN_PROCESSES)

    show_calls(sizer, seconds)

    assert sizer.size == size


@pytest.mark.parametrize("pace", [ON_THREADS, IN_PROCESSES])
def test_a_size_that_was_given_is_kept_to_where_nothing_is_known(pace: Pace) -> None:
    sizer = ChunkSizer(2, 7, None, pace)
    assert sizer.size == 7

    show_calls(sizer, 1e-6)
    sizer.forget()

    assert sizer.size == 7


def test_threads_and_calls_under_a_policy_take_chunks_of_the_given_size_one_by_one() -> None:
    for sizer in (ChunkSizer(2, 7, None, ON_THREADS), ChunkSizer(2, 7, None, IN_PROCESSES, may_join=False)):
        show_calls(sizer, 1e-6)

        assert sizer.size == 7


def test_a_buffersize_that_was_given_caps_what_is_joined() -> None:
    """Or one worker could take all that may wait."""
    sizer = ChunkSizer(2, 2, 14, IN_PROCESSES)

    show_calls(sizer, 1e-6)

    assert sizer.size == 4
