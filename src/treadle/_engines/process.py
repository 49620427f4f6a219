"""The process engine: the worker's thread owns a process, has it make the calls, and answers for it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from treadle._core.chunk import Chunk, FailedWithResource
from treadle._core.describe import annotate
from treadle._core.real_time import perf_counter
from treadle._engines.engine import CallPlan, EngineBroken, NoRoom
from treadle._engines.portions import fail, fitting, put_back, take
from treadle._engines.process_child import PORTION_SECONDS
from treadle._engines.process_pickling import Parcel, pack, unwrap, unwrap_error, wrap
from treadle._engines.process_start import ChildProcess
from treadle._engines.process_surroundings import surroundings
from treadle._engines.process_wire import BEGUN, ENDED, SILENCE, UNPACKING, LineClosed
from treadle.errors import Cancelled, ProcessDied

# If nothing is heard for so long, a portion hangs at one of its calls: the others are taken back for whoever has time.
PATIENCE_SECONDS = 0.020
# A process that dies as it takes a call out of its pickle was perhaps killed by what it got; the next one is to show.
MAX_DEATHS_AT_THE_DOOR = 2
# Others that die before they have begun a call are killed by somebody, or by their own initializer.
MAX_STARTS = 5
MAX_DEATHS = 10
NO_ROOM_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS})


def wrap_plan(plan: CallPlan) -> Parcel:
    """Return what a process must know of ``plan``. Its context is not among it: context variables do not pickle.

    Raises:
        NotPicklable: The function, initializer or resource cannot be sent.
    """
    for what, thing in (
        ("the function", plan.fn),
        ("the initializer", plan.initializer),
        ("initargs", plan.initargs),
        ("the resource", plan.resource),
    ):
        wrap(thing, what)
    return wrap(
        (
            plan.fn,
            plan.spread,
            plan.initializer,
            plan.initargs,
            plan.resource,
            plan.brings_context,
            plan.chunksize,
        ),
        "the function",
    )


class ProcessEngine:
    """Makes calls in a process of its own, started when it opens, and anew when it has died.

    Args:
        plan: How calls are made.
        parcel: The same, by ``wrap_plan``: it is made once for all.
        call_for_help: Called on the worker's thread when a call lasts and those behind it are there for others to take.
    """

    is_killable = True

    def __init__(self, plan: CallPlan, parcel: Parcel, call_for_help: Callable[[], object] = lambda: None) -> None:
        self._plan = parcel
        self._module = _module_of_ours(plan.fn)
        self._call_for_help = call_for_help
        self._has_resource = plan.resource is not None  # to be closed in the process in the end, which is waited for
        self._most_calls = plan.max_tasks_per_child
        self._item = "the call" if plan.brings_context else "the argument"  # in messages
        self._calls_left = 0  # until the process is replaced
        self._child: ChildProcess | None = None
        self._kills = 0
        self._number = 0  # of the portion
        self._fitting = 1  # items for the next portion
        self._deaths = 0  # in a row, without a call begun
        self._deaths_at_the_door = 0  # of these, as a portion was taken out of its pickles
        self._failure: BaseException | None = None  # of closing a process that was replaced

    def open(self) -> None:
        """Start the process, and have it run the initializer and open the resource.

        One that dies before it is ready has begun no call, so nothing is lost by another attempt.

        Raises:
            NoRoom: The system has none for it.
        """
        kills = self._kills
        for attempt in range(MAX_STARTS):
            try:
                self._hatch()
            except ProcessDied:
                if self._kills != kills or attempt == MAX_STARTS - 1:
                    raise
            else:
                return

    def _hatch(self) -> None:
        kills, around = self._kills, surroundings()
        try:
            self._child = child = ChildProcess()
        except (OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno not in NO_ROOM_ERRORS:
                raise
            raise NoRoom(error) from error
        if self._kills != kills:
            child.kill()
        try:
            child.wire.send(("open", self._module, around, self._plan))
            failure = child.wire.receive()
        except LineClosed:
            death = self._bury()
            raise (NoRoom(death) if child.was_refused else death) from None
        if failure is not None:
            raise unwrap_error(failure)
        self._calls_left = self._most_calls or 0

    def make_calls(self, chunk: Chunk) -> None:
        """Send the items in portions worth some milliseconds; others may take what is not under way."""
        results = chunk.results  # those of a chunk that was left behind are replaced
        while chunk.todo:
            self.get_ready()
            if self._child is not None:
                self._make_portion(chunk, results)

    def get_ready(self) -> None:
        """Start a fresh process, where the last one has died, or has made as many calls as it may.

        There is none after all where it was killed by us: whoever does that has ended what it was to be ready for.
        """
        if self._child is not None and self._most_calls is not None and self._calls_left == 0:
            try:
                self._part()
            except BaseException as error:  # told in the end, as of any other
                self._failure = error
        kills = self._kills
        try:
            if self._child is None:
                self.open()
        except NoRoom:
            raise
        except BaseException as error:
            if self._kills == kills:
                raise EngineBroken(error) from error

    def _make_portion(self, chunk: Chunk, results: list[Any]) -> None:
        portion = self._take(chunk)
        packed, are_parcels, refused = pack(portion, self._item)
        if refused:
            first = min(refused)
            if first == 0:
                fail(chunk, results, refused[0])
            put_back(chunk, portion[max(1, first) :])
            portion, packed = portion[:first], packed[:first]
        if not portion:
            return
        before, began = len(results), perf_counter()
        try:
            self._exchange(chunk, results, portion, (self._number + 1, chunk.ends is not None, are_parcels, packed))
        except LineClosed:
            self._account_for_death(chunk, results, portion, len(results) - before)
            return
        except MemoryError as error:  # there is no room for what was said, so nobody knows what that was
            self.kill()
            self._account_for_death(chunk, results, portion, len(results) - before, error)
            return
        self._deaths = self._deaths_at_the_door = 0
        self._calls_left -= len(portion)
        self._learn(len(portion), perf_counter() - began)

    def _take(self, chunk: Chunk) -> list[Any]:
        most = self._fitting if self._most_calls is None else min(self._fitting, self._calls_left)
        return take(chunk, most)

    def _exchange(self, chunk: Chunk, results: list[Any], portion: list[Any], message: tuple[Any, ...]) -> None:
        """Have the calls of ``portion`` made and take what they come to; those not begun are put back."""
        child = self._child
        assert child is not None
        child.page[BEGUN] = child.page[ENDED] = child.page[UNPACKING] = 0
        # First the number, then the look: who cancels does it the other way round.
        self._number += 1
        child.wire.send(("calls", *message))
        if chunk.is_cancelled:
            self.interrupt()
        before, is_last = len(results), False
        while not is_last:
            may_hang = before + len(portion) - len(results) > 1
            report = child.wire.receive(PATIENCE_SECONDS if may_hang else None)
            if report is SILENCE:
                child.give_back(self._number)
                continue
            packed, are_parcels, wrapped, opened, ends, given_back, is_last = report
            if chunk.ends is not None and ends is not None:
                chunk.ends.extend(ends)  # before the results: whoever sees a result finds its time
            failures = {at: unwrap_error(error) for at, error in wrapped.items()}
            failures |= {at: FailedWithResource(failures[at], when) for at, when in opened.items()}
            _record(chunk, results, packed, are_parcels, failures)
            if given_back:
                put_back(chunk, portion[-given_back:])
                del portion[-given_back:]
                if not is_last:
                    self._call_for_help()

    def _learn(self, made: int, seconds: float) -> None:
        if made:
            self._fitting = fitting(self._fitting, made, seconds, PORTION_SECONDS)

    # Death

    def _bury(self) -> ProcessDied:
        """Part with a process whose line has closed, and return the error that says how it ended."""
        child, self._child = self._child, None
        assert child is not None
        cause = child.cause_of_death()
        child.close()
        return ProcessDied(cause)

    def _account_for_death(
        self, chunk: Chunk, results: list[Any], portion: list[Any], reported: int, reason: BaseException | None = None
    ) -> None:
        """Settle what each item of ``portion`` came to, of which that many were reported.

        The call that was being made has failed. So have those whose results were lost: they must not be made
        again, as nobody knows that once is as good as twice. The others have not begun, and go on.

        Args:
            chunk: That they are of.
            results: Its own.
            portion: That was sent.
            reported: Of these.
            reason: Why it was killed by us; None: it was not.
        """
        assert self._child is not None
        begun, ended = max(reported, self._child.page[BEGUN]), self._child.page[ENDED]
        is_at_the_door = self._child.page[UNPACKING] == self._number
        error = self._bury()
        if begun == 0 and reason is None:
            self._deaths += 1
            self._deaths_at_the_door += is_at_the_door
            if self._deaths_at_the_door < MAX_DEATHS_AT_THE_DOOR:
                put_back(chunk, portion)
                if self._deaths >= MAX_DEATHS:
                    raise EngineBroken(error)
                return
        begun = max(1, begun)
        self._deaths = self._deaths_at_the_door = 0
        self._fitting = 1
        for at in range(reported, begun):
            if reason is not None:
                fail(chunk, results, reason)
            elif chunk.is_cancelled:  # it was us, and whoever asked for it hears of that, not of a death
                fail(chunk, results, Cancelled("its process was killed"))
            elif at < max(ended, begun - 1):
                fail(chunk, results, ProcessDied(error.cause, had_ended=True))
            else:
                fail(chunk, results, error)
        put_back(chunk, portion[begun:])

    # From other threads

    def interrupt(self) -> None:
        """Let the call find that it is cancelled, where it looks: in ``check_cancelled`` and in Treadle's waits."""
        if (child := self._child) is not None:
            child.stop_calls(self._number)

    def kill(self) -> None:
        """Kill the process."""
        self._kills += 1
        if (child := self._child) is not None:
            child.kill()

    # The end

    def close(self) -> None:
        """Let the process go; where it has a resource, once that is closed."""
        failure, self._failure = self._failure, None
        if self._child is not None:
            self._part()
        if failure is not None:
            raise failure

    def _part(self) -> None:
        """Let the process go."""
        child = self._child
        assert child is not None
        failure = None
        try:
            if self._has_resource:
                child.wire.send(("close",))
                failure = child.wire.receive()
        except LineClosed:
            raise self._bury() from None
        self._child = None
        child.let_go()
        if failure is not None:
            raise unwrap_error(failure)


def _module_of_ours(fn: Any) -> str | None:
    """Return the module of Treadle's that a process needs for ``fn``, to be imported before the user's path counts."""
    name: Any = getattr(fn, "__module__", None)
    return name if isinstance(name, str) and name.startswith("treadle.") else None


def _record(
    chunk: Chunk, results: list[Any], packed: list[Any], are_parcels: bool, failures: dict[int, BaseException]
) -> None:
    if not (are_parcels or failures):
        results.extend(packed)
        return
    for at, value in enumerate(packed):
        if at in failures:
            fail(chunk, results, failures[at])
        elif not are_parcels:
            results.append(value)
        else:
            _unwrap_result(chunk, results, value)


def _unwrap_result(chunk: Chunk, results: list[Any], parcel: Parcel) -> None:
    try:
        value = unwrap(parcel)
    except BaseException as error:
        annotate(error, "raised as the result was received from its process")
        fail(chunk, results, error)
    else:
        results.append(value)
