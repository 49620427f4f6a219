"""The test tools themselves."""

from __future__ import annotations

import threading

import pytest

from treadle.testing import Turnstile, assert_no_leaked_threads


def test_a_turnstile_forces_the_order() -> None:
    turnstile, order = Turnstile(), []

    def pass_through(number: int) -> None:
        with turnstile(number):
            order.append(number)

    threads = [threading.Thread(target=pass_through, args=(number,)) for number in reversed(range(5))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert order == [0, 1, 2, 3, 4]


def test_a_turn_that_never_comes_is_an_error() -> None:
    with pytest.raises(TimeoutError, match=r"turn 3 did not come within 0.01 s; it is turn 0"):
        Turnstile(timeout=0.01).wait_for(3)


def test_a_turn_passes_even_if_its_block_raises() -> None:
    turnstile = Turnstile(timeout=1)
    with pytest.raises(ValueError), turnstile(0):
        raise ValueError

    turnstile.wait_for(1)


def test_leaked_threads_are_named() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="straggler")

    with pytest.raises(AssertionError, match="straggler"), assert_no_leaked_threads(timeout=0.05):
        thread.start()
    done.set()
    thread.join(10)


def test_threads_that_end_in_time_are_no_leak() -> None:
    with assert_no_leaked_threads():
        threading.Thread(target=threading.Event().wait, args=(0.05,)).start()
