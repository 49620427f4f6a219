"""What runs on a thread of its own, also where there is no thread to be had."""

from __future__ import annotations

import threading

import pytest

import treadle
from tests.conftest import PATIENCE_SECONDS
from tests.places import wait_until
from treadle._sync.aside import run_aside


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError(f"can't start {thread.name}")


def test_without_a_thread_it_runs_right_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", refuse)
    ran_on: list[int] = []

    run_aside("test", lambda: ran_on.append(threading.get_ident()))

    assert ran_on == [threading.get_ident()]


def test_without_a_thread_it_runs_while_ctrl_c_is_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 starts no thread at exit; the interrupt being handled is then that error's context."""
    monkeypatch.setattr(threading.Thread, "start", refuse)
    ran: list[bool] = []

    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        run_aside("test", lambda: ran.append(True))

    assert ran == [True]


def test_ctrl_c_that_comes_out_of_the_start_in_disguise_is_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: threading.Thread) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("cannot release un-acquired lock")

    monkeypatch.setattr(threading.Thread, "start", interrupted)

    with pytest.raises(KeyboardInterrupt):
        run_aside("test", list)


def test_a_worker_that_cannot_be_had_while_ctrl_c_is_handled_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same error, for the same reason, where a crew sends for help."""
    with treadle.PoolExecutor(2) as pool:
        hold = threading.Event()
        first = pool.submit(hold.wait, PATIENCE_SECONDS)
        wait_until(first.running)
        monkeypatch.setattr(threading.Thread, "start", refuse)

        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            second = pool.submit(abs, -1)
        hold.set()

        assert second.result(PATIENCE_SECONDS) == 1
