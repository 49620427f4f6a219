"""What runs in a process that makes calls: it takes a portion of them, answers, and waits for the next.

The calls are made by the inline engine, on the main thread, and no thread of ours stands by. Who wants them to end, or
to know how far they are, writes so into the page that both sides share, and has a signal sent.
"""

from __future__ import annotations

import _thread
import atexit
import importlib
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

from treadle._core.cancellation import Scope, here
from treadle._core.chunk import Chunk, FailedWithResource
from treadle._core.describe import annotate
from treadle._core.importing import receiving
from treadle._core.quiet_seat import QuietSeat
from treadle._core.real_time import perf_counter
from treadle._core.user_code import is_a
from treadle._engines.engine import CallPlan
from treadle._engines.inline import InlineEngine
from treadle._engines.process_lifeline import Lifeline
from treadle._engines.process_pickling import Parcel, pack, unwrap, wrap_error
from treadle._engines.process_surroundings import enter
from treadle._engines.process_wire import (
    BEGUN,
    ENDED,
    GIVE_BACK,
    LOOK_SIGNAL,
    PAGE_BYTES,
    STOP,
    UNPACKING,
    LineClosed,
    Wire,
)
from treadle._sync.aside import guard

# After so long, what calls came to is reported, though others of the portion are still to be made ...
REPORT_SECONDS = 0.001
# ... and after so long, those not begun are given back: somebody else may have time for them.
PORTION_SECONDS = 0.010
# To look at the clock costs as much as a tiny call; of such ones, some are made in between.
STRIDE_SECONDS = 0.00005
MAX_STRIDE = 64


class Child(QuietSeat):
    """The life of such a process. Also the seat of its calls: it knows the scope of the one being made."""

    def __init__(self, line: socket.socket, page: memoryview, lifeline: Lifeline) -> None:
        self._wire = Wire(line)
        self._lifeline = lifeline
        self._page = page
        self._engine: InlineEngine | None = None
        self._chunk: Chunk | None = None
        self._number = 0  # of the portion
        self._items = 0  # in it
        self._given_back = 0  # of them
        self._reported = 0
        self._report_at = self._end_at = 0.0
        self._opened: dict[int, float] = {}  # when a resource was that broke, by the place of the call
        self._stride = 1  # calls from one look at the clock to the next
        self._is_copy = False  # of the process that it was
        self._most_together: int | None = None  # calls whose results are told together
        self._is_reporting = False
        self._reporter: _thread.LockType | None = None  # held while another thread reports

    def serve(self) -> None:
        """Do what the worker asks for, until it asks for the end, or is gone."""
        here.seat = self
        signal.signal(LOOK_SIGNAL, self._look)
        os.register_at_fork(after_in_child=self._disown)
        goes_on = True
        while goes_on:
            try:
                kind, *message = self._wire.receive()
                goes_on = getattr(self, f"_do_{kind}")(*message)
            except LineClosed:  # while we wait, or while we answer: nobody wants anything more
                goes_on = self._do_close()

    def _disown(self) -> None:
        """Let go, in a copy that a call has forked, of what only one process can do: take items, and answer."""
        self._is_copy = True
        self._wire.close()
        if self._chunk is not None:
            self._chunk.todo.clear()

    def call_scope(self) -> Scope | None:
        """Return the scope of the call being made."""
        return None if self._chunk is None else self._chunk.own_scope()

    def current_task(self) -> Any:
        """Return None: tasks stay with whoever submitted them."""
        return None

    def _look(self, *_: object) -> None:
        """Look into the page: a signal handler, so it may come between any two steps of the main thread.

        What may need a lock that the call holds is left to a thread, made without the locks of ``threading``.
        """
        chunk, scope = self._chunk, None
        if chunk is None or self._number not in (self._page[STOP], self._page[GIVE_BACK]):
            return  # those it was meant for have ended
        if self._page[STOP] == self._number and not chunk.is_cancelled:
            scope = chunk.mark_cancelled()
            if scope is not None and not scope.flag("it was asked to end"):
                scope = None
        given_back = len(chunk.todo)
        chunk.todo.clear()
        if self._is_reporting or self._reporter is not None:
            if scope is not None:
                _start_or_do(scope.run_callbacks)
            return  # the next report will say it
        before = self._reported, self._given_back
        report = self._next_report(chunk, given_back)
        self._reporter = reporter = _thread.allocate_lock()
        reporter.acquire()
        try:
            _thread.start_new_thread(self._report_aside, (report, reporter, scope))
        except (RuntimeError, MemoryError):  # there is none to be had: the next report will say it
            self._reported, self._given_back = before
            self._page[ENDED] = self._reported
            self._reporter = None
            if scope is not None:
                guard(scope.run_callbacks)

    def _report_aside(self, report: _Report, reporter: _thread.LockType, scope: Scope | None) -> None:
        try:
            self._send(report, is_last=False)
        except LineClosed:  # the next one finds that out as well
            pass
        finally:
            reporter.release()
        if scope is not None:
            guard(scope.run_callbacks)

    # What the worker asks for

    def _do_open(self, module: str | None, surroundings: dict[str, Any], plan: Any) -> bool:
        failure = None
        try:
            if module is not None:
                importlib.import_module(module)
            enter(surroundings)
            fn, spread, initializer, initargs, resource, brings_context, self._most_together = _unpack_plan(plan)
            engine = InlineEngine(
                CallPlan(fn, Context(), spread, initializer, initargs, resource, brings_context), self._drain
            )
            self._engine = engine
            engine.open()
        except BaseException as error:
            failure = wrap_error(error)
        self._lifeline.renew()
        self._wire.send(failure)
        return True

    def _do_calls(self, number: int, is_timed: bool, are_parcels: bool, values: list[Any]) -> bool:
        assert self._engine is not None
        self._page[UNPACKING] = number
        items, broken = _unpack(values) if are_parcels else (values, None)
        self._page[UNPACKING] = 0
        chunk = Chunk(0, items)
        chunk.make_ready()
        chunk.ends = [] if is_timed else None
        self._number, self._items, self._given_back, self._reported = number, len(values), 0, 0
        self._opened.clear()
        self._chunk = chunk
        if self._page[STOP] == number:
            chunk.todo.clear()
            chunk.mark_cancelled()
        if broken is not None:
            chunk.fail(broken)
            chunk.results.append(None)
        elif items:
            began = perf_counter()
            self._report_at, self._end_at = began + REPORT_SECONDS, began + PORTION_SECONDS
            self._engine.make_calls(chunk)
            mean = (perf_counter() - began) / max(1, len(chunk.results))
            self._stride = max(1, min(MAX_STRIDE, int(STRIDE_SECONDS / mean)))
        self._report(chunk, is_last=True)
        self._chunk = None
        self._is_reporting = False  # not before: after the last report there must be no other
        return True

    def _do_close(self) -> bool:
        failure = None
        try:
            if self._engine is not None:
                self._engine.close()
        except BaseException as error:
            failure = wrap_error(error)
        with suppress(LineClosed):  # nobody waits for it
            self._wire.send(failure)
        return False

    # The calls

    def _drain(self, chunk: Chunk, fn: Callable[[Any], Any], context: Context | tuple[()]) -> bool:
        """As the inline engine's own loop, and tell how far it is: in the shared page, and on the line."""
        take, results, ends, page = chunk.todo.pop, chunk.results, chunk.ends, self._page
        begun, unwatched = len(results), min(self._stride, self._most_together or self._stride)
        while True:
            try:
                item = take()
            except IndexError:
                return True
            page[BEGUN] = begun = begun + 1
            try:
                result = fn(item)
            except BaseException as error:
                if is_a(error, FailedWithResource):
                    self._opened[len(results)] = error.opened_at
                chunk.fail(error)
                result = None
            if ends is not None:
                ends.append(perf_counter())
            results.append(result)
            unwatched -= 1
            if not unwatched:
                unwatched = self._look_up(chunk)
            if context:
                return False

    def _look_up(self, chunk: Chunk) -> int:
        """Report, or give back, what is due for it, and return after how many calls to look again."""
        now, most = perf_counter(), self._most_together
        together = len(chunk.results) - self._reported
        if now >= self._end_at:
            chunk.todo.clear()
        elif chunk.todo and (now >= self._report_at or together == most):
            self._report(chunk, is_last=False)
            self._report_at = perf_counter() + REPORT_SECONDS
            together = 0
        return self._stride if most is None else min(self._stride, most - together)

    def _report(self, chunk: Chunk, is_last: bool) -> None:
        """Tell what calls came to since the last report."""
        if self._is_copy:
            raise RuntimeError("a call has forked and has returned in the copy too; let that end by os._exit()")
        self._is_reporting = True
        if self._reporter is not None:
            self._reporter.acquire()
            self._reporter = None
        given_back = self._items - len(chunk.results) - self._given_back if is_last else 0
        self._send(self._next_report(chunk, given_back), is_last)
        self._is_reporting = is_last

    def _next_report(self, chunk: Chunk, given_back: int) -> _Report:
        begin, end = self._reported, len(chunk.results)
        self._page[ENDED] = self._reported = end
        self._given_back += given_back
        failures = {at - begin: error for at, error in (chunk.failures or {}).items() if begin <= at < end}
        ends = None if chunk.ends is None else chunk.ends[begin:end]
        opened = {at - begin: when for at, when in self._opened.items() if begin <= at < end}
        return chunk.results[begin:end], failures, opened, ends, given_back

    def _send(self, report: _Report, is_last: bool) -> None:
        results, errors, opened, ends, given_back = report
        failures = {at: wrap_error(error) for at, error in errors.items()}
        packed, are_parcels, refused = pack(results, "the result")
        failures |= {at: wrap_error(error) for at, error in refused.items()}
        self._wire.send((packed, are_parcels, failures, opened, ends, given_back, is_last))


# Results; failures, and when the resource of each was opened that broke, by their place among these; when each call
# ended; and how many others are given back.
_Report = tuple[list[Any], dict[int, BaseException], dict[int, float], list[float] | None, int]


def _start_or_do(action: Callable[[], object]) -> None:
    """Do that on another thread; right here, in the middle of the call, if there is none to be had."""
    try:
        _thread.start_new_thread(guard, (action,))
    except (RuntimeError, MemoryError):
        guard(action)


def _unpack_plan(parcel: Parcel) -> Any:
    try:
        with receiving():
            return unwrap(parcel)
    except BaseException as error:
        annotate(error, "raised in the process that was to make the calls, as it received the function")
        raise


def _unpack(parcels: list[Any]) -> tuple[list[Any], BaseException | None]:
    """Return the items up to the first that cannot be made here, and why, if that is the first of all."""
    items: list[Any] = []
    for parcel in parcels:
        try:
            with receiving():
                items.append(unwrap(parcel))
        except BaseException as error:
            annotate(error, "raised in the process that was to make the call, as it received the argument")
            return items, None if items else error
    return items, None


def main(line: socket.socket, page: int, lifeline: Lifeline) -> int:
    """Be a process that makes calls, and return its exit status."""
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is what Python opens
    shared = mmap.mmap(page, PAGE_BYTES)
    os.close(page)
    Child(line, memoryview(shared).cast("q"), lifeline).serve()
    # As an interpreter does that exits by itself.
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that calls have started
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):  # it is closed, or nobody reads it
                stream.flush()
    return 0
