"""A pipeline that runs: one run after the other, each taking what the one before it passes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from treadle._core.describe import annotate, describe
from treadle._core.real_time import perf_counter
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._core.user_code import is_a
from treadle._run.course import Course
from treadle._run.pipeline_stats import PipelineStats, StageStats
from treadle._run.stage import Gauge, Stage
from treadle._run.told import Told, is_cancelled
from treadle._run.unread import Unread
from treadle.errors import PipelineClosed, RunClosed, TooManyAbandoned

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Leg:
    """One stage of a pipeline that runs, between the gauges on the way into it and out of it."""

    stage: Stage
    course: Course
    inlet: Gauge
    outlet: Gauge


class FlowAccount:
    """What is known of a pipeline that runs, or has run. Keeps no part of it going.

    Args:
        name: The pipeline's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.legs: list[_Leg] = []
        self.seconds: float | None = None  # how long it took, once it has ended
        self._began = perf_counter()

    def stats(self) -> PipelineStats:
        """Return the account as it stands; takes no lock, so counts may be moments apart."""
        stages = tuple(
            StageStats(
                **asdict(leg.course.stats()),
                number=number,
                name=leg.stage.name,
                max_workers=leg.course.crew.max_workers,
                makes_calls=leg.stage.makes_calls,
                passed_on=leg.outlet.count,
                full_before=1 - leg.inlet.share(),
                empty_after=leg.outlet.share(),
            )
            for number, leg in enumerate(self.legs, 1)
        )
        seconds = perf_counter() - self._began if self.seconds is None else self.seconds
        return PipelineStats(self.name, stages, seconds)

    def end(self) -> None:
        """Stop every stage at once, and wait for what runs as long as ``grace`` allows. Harmless after the end."""
        for leg in reversed(self.legs):
            leg.course.ask_to_stop(None)
        for leg in reversed(self.legs):
            leg.course.end(None)
        self.note_end()

    def take_too_many(self) -> TooManyAbandoned | None:
        """Return the error of a stage that was closed and left too many calls behind, to be raised."""
        courses = [leg.course for leg in self.legs]
        closed = (course for course in courses if course.ending is None or is_cancelled(course.ending))
        return next((error for course in closed if (error := course.take_too_many()) is not None), None)

    def note_end(self) -> None:
        """Take note that it has ended."""
        if self.seconds is None:
            self.seconds = perf_counter() - self._began

    def tell_other_failures(self, error: BaseException) -> None:
        """Say on ``error``, which ended all of it, what else had failed by then: nobody is told otherwise."""
        for number, leg in enumerate(self.legs, 1):
            other = leg.course.ending
            is_same = other.stands_for(error) if isinstance(other, Told) else other is error
            if other is not None and not is_same and not is_cancelled(other):
                annotate(error, f"stage {number} ({leg.stage.name}) had ended with {describe(other)}")


class Flow(Iterator[T], Generic[T]):
    """A pipeline that runs: an iterator over what its last stage passes on. ``Pipeline.start()`` returns it.

    For one consumer at a time. Leaving its ``with`` block, ``close()`` and dropping the last reference (as ``break``
    does in ``for result in pipeline``) end all stages: no call begins any more, calls that run are asked to end, and
    the source is not advanced any further.

    Example:
        >>> import treadle
        >>> with treadle.pipeline(range(1_000_000)).map(str).start() as flow:
        ...     next(flow)
        '0'
        >>> flow.stats.stages[0].name
        'str'
    """

    def __init__(self, account: FlowAccount, results: Iterator[T]) -> None:
        self._account = account
        self._results = results
        self._is_closed = False
        self._end: str | None = None  # why there is no further result

    def __next__(self) -> T:
        if self._end is not None:
            raise PipelineClosed(self.name, self._end)
        try:
            return next(self._results)
        except StopIteration:
            self._account.note_end()
            raise
        except BaseException as error:
            self._results = iter(())
            if self._is_closed and is_a(error, RunClosed):
                self._end = "was closed"
                raise PipelineClosed(self.name, self._end) from None
            self._end = f"has ended with {describe(error)}"
            self._account.end()
            self._account.tell_other_failures(error)
            del self  # the stages know the error, whose traceback leads here
            raise

    def __enter__(self) -> Self:
        return self

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except TooManyAbandoned as too_many:
            if error is None:
                raise
            annotate(error, str(too_many))
        except BaseException:  # Ctrl-C, maybe before it had begun
            self._part()
            raise

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self._account.name

    @property
    def stats(self) -> PipelineStats:
        """The account as it stands, stage by stage. May be asked at any time, from any thread."""
        return self._account.stats()

    def wait(self) -> PipelineStats:
        """Read the rest, drop it, and return the account; what a loop over the flow would raise is raised."""
        try:
            deque(self, maxlen=0)
            return self.stats
        finally:
            del self  # the flow knows the error that ended it, whose traceback leads here

    def close(self) -> None:
        """End all stages: begin no further call, and wait ``grace`` seconds at most for those that run.

        What still runs then is left behind, logged, and counted in the stats. Asking a closed pipeline for another
        result raises ``PipelineClosed``. Closing twice, or after the end, does nothing. Any thread may close.

        Raises:
            TooManyAbandoned: A stage left more calls behind than its ``max_abandoned`` allows.
        """
        was_open = self._account.seconds is None
        self._is_closed = True
        if was_open:
            self._end = self._end or "was closed"
        self._part()
        too_many = self._account.take_too_many() if was_open else None
        try:
            if too_many is not None:
                raise too_many
        finally:
            del too_many  # its traceback leads here

    def _part(self) -> None:
        """End all stages for their owner, who wants no more results."""
        for leg in self._account.legs:
            leg.course.is_closed = True
            leg.course.unread = None
        self._account.end()


def start_flow(name: str, stages: Iterable[Stage], source: Iterable[Any], timeout: float | None) -> Flow[Any]:
    """Start all ``stages``, each in the scope of the one that takes its results."""
    account = FlowAccount(name)
    chosen, inlet = list(stages), Gauge()
    items = inlet.meter(iter(source))
    try:
        for number, stage in enumerate(chosen, 1):
            title = f"stage {number} ({stage.name}) of {name}"
            run = stage.start(title, items, timeout if number == len(chosen) else None)
            for before in account.legs[-1:]:
                before.course.follow(run._course.intake.scope)
                if before.stage.is_plain:
                    run._course.intake.ready = before.course.ledger.ready
            outlet = Gauge()
            account.legs.append(_Leg(stage, run._course, inlet, outlet))
            items = outlet.meter(stage.results(run))
            inlet = outlet
        # Only the last run has no reader yet: each of the others is the input of the next.
        first, last = account.legs[0].course, account.legs[-1].course
        last.unread = Unread(f"pipeline {name!r}", "iterate it, call its wait(), or use for_each()", first.ledger)
    except BaseException:
        account.end()
        raise
    return Flow(account, items)
