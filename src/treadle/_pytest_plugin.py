"""The plugin for pytest: ``--treadle-watch-locks`` runs each test in ``watch_locks``, and a deadlock fails it."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from types import FrameType, TracebackType
from typing import Any, TypeVar

import pytest

from treadle._core.real_time import monotonic, sleep
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._sync.aside import run_aside
from treadle._sync.wait_graph import hangs
from treadle._sync.watching import watch_locks
from treadle.errors import Deadlock

T = TypeVar("T")

OPTION = "treadle_watch_locks"
# What a test that does not hang itself has to come to its end, after others hang that it may be waiting for.
GRACE_SECONDS = 3.0
POLL_SECONDS = 0.01


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option, to the command line and to the configuration."""
    text = "run each test in treadle.watch_locks(); a deadlock fails it"
    parser.getgroup("treadle").addoption("--treadle-watch-locks", action="store_true", dest=OPTION, help=text)
    parser.addini(OPTION, text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Take part only if asked to."""
    if config.getoption(OPTION) or config.getini(OPTION):
        config.pluginmanager.register(LockWatch(), "treadle-watch-locks")


class LockWatch:
    """Watches the locks of each test, fails it for a deadlock, and ends its wait if it hangs."""

    def __init__(self) -> None:
        self._found: list[Deadlock] = []  # in the present test
        self._rescue = Rescue()
        self._status = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, T, T]:
        """Run a test, with its fixtures, in ``watch_locks``."""
        found: list[Deadlock] = []
        self._found, rescue = found, self._rescue

        def note(deadlock: Deadlock) -> None:
            found.append(deadlock)
            rescue.call(deadlock)

        with watch_locks(note):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, T, T]:
        """Let the setup be interrupted, if it hangs."""
        with self._rescue:
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, T, T]:
        """Let the test be interrupted, if it hangs."""
        with self._rescue:
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, T, T]:
        """Let the teardown be interrupted, if it hangs."""
        with self._rescue:
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let a test fail in which there was a deadlock."""
        report = yield
        if self._found and (report.failed or report.when != "setup"):
            text = "\n\n".join(map(str, self._found))
            self._found.clear()
            if report.failed:
                report.sections.append(("treadle: deadlock", text))
            else:
                report.outcome, report.longrepr = "failed", text
        return report

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Remember how it ended."""
        self._status = int(exitstatus)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Leave at once if threads hang, as the interpreter would wait for them for ever."""
        stuck = [thread.name for thread in threading.enumerate() if not thread.daemon and hangs(thread.ident or 0)]
        if stuck:
            names = ", ".join(stuck)
            sys.stderr.write(f"treadle: leaving without a goodbye: {len(stuck)} threads hang ({names})\n")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._status)


class Rescue:
    """Raises a deadlock in the main thread, while its block runs there, by signals: it may be waiting for a lock."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()  # protects what follows
        self._deadlock: Deadlock | None = None  # to be raised
        self._block = 0  # which, while one runs
        self._before: Callable[[int, FrameType | None], Any] | int | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
            with self._lock:
                self._block += 1

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._end()
        except BaseException:  # Ctrl-C: each step may be done twice
            self._end()
            raise

    def _end(self) -> None:
        if threading.current_thread() is threading.main_thread():
            with self._lock:
                self._deadlock = None
                self._block += 1
            signal.signal(signal.SIGINT, self._before)  # a signal that has come is handled before

    def call(self, deadlock: Deadlock) -> None:
        """Raise ``deadlock`` in the main thread, at once if it hangs in it, otherwise if its block goes on for long."""
        block = self._block
        run_aside("rescue", lambda: self._interrupt(deadlock, block))

    def _interrupt(self, deadlock: Deadlock, block: int) -> None:
        """Raise it again while the block goes on: on its way out it may come to wait for a thread that hangs."""
        main = threading.main_thread().ident or 0
        is_first = True
        while self._block == block:
            deadline = monotonic() + GRACE_SECONDS
            while monotonic() < deadline and self._block == block and not (is_first and hangs(main)):
                sleep(POLL_SECONDS)
            is_first = False
            with self._lock:
                if self._block == block:
                    self._deadlock = deadlock
                    _send_interrupt(main)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        deadlock, self._deadlock = self._deadlock, None
        if deadlock is not None:
            raise deadlock
        if callable(self._before):
            self._before(number, frame)


def _send_interrupt(thread: int) -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(thread, signal.SIGINT)
    else:
        _thread.interrupt_main()
