"""What becomes of failed calls where they do not end a run: given to a function, or collected and raised in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

from treadle._core.describe import annotate, clear_variables, describe
from treadle._core.outcome import Outcome
from treadle._core.settings import not_among
from treadle._core.user_code import is_a

if TYPE_CHECKING:
    from types import TracebackType

    from treadle._run.run import Run

# Ends everything at the first failure, collects them all, or is told each.
OnError = Literal["cancel", "collect"] | Callable[[Outcome[Any, Any]], object]

# Of so many failures the exception is kept; the others are counted.
MAX_COLLECTED = 10_000
# Of so many also the variables of the frames that they went through, which may be of any size.
MAX_WITH_VARIABLES = 100


def check_on_error(on_error: object) -> None:
    """Raise unless it is an ``OnError``."""
    if on_error not in ("cancel", "collect") and not callable(on_error):
        raise not_among("on_error", on_error, ("cancel", "collect"), "a function that takes an Outcome")


def settled(run: Run[Any, Any], on_error: Callable[[Outcome[Any, Any]], object]) -> Iterator[Any]:
    """Yield the results of ``run``, and give the failures to ``on_error``."""
    outcome = None
    try:
        for outcome in run.outcomes():
            if outcome.ok:
                yield outcome.value
            elif outcome.status in ("failed", "timed_out"):
                try:
                    on_error(outcome)
                except BaseException as error:
                    annotate(error, f"on_error, for item {outcome.index} of run {run.name!r}: {describe(outcome.item)}")
                    run._course.end_interrupted(error)
                    raise
    finally:
        del run, outcome  # they know the error that ends this, whose traceback leads here


class Failures:
    """Failures, to be raised together when the block is left. Bounded, however many they are.

    Args:
        what: Whose they are, as messages call it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0
        self._errors: dict[int, BaseException] = {}  # by identity: a function may raise one object many times
        self._others: Counter[str] = Counter()  # what was not kept, by type

    def add(self, outcome: Outcome[Any, Any]) -> None:
        """Collect the error of a call that failed."""
        error = outcome.error
        assert error is not None
        self._count += 1
        if id(error) in self._errors:
            return
        if len(self._errors) < MAX_COLLECTED:
            self._errors[id(error)] = error
        else:
            self._others[type(error).__name__] += 1
        if len(self._errors) > MAX_WITH_VARIABLES:
            clear_variables(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, ending: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raise what was collected as one ``ExceptionGroup``, behind ``ending``, which ended everything early.

        Ctrl-C, and whatever else is no ``Exception``, goes through.
        """
        errors, self._errors = list(self._errors.values()), {}
        try:
            if not errors:
                return
            if ending is not None and not is_a(ending, Exception):
                annotate(ending, f"before, {self._summary()}")
                return
            if ending is not None and not any(ending is error for error in errors):
                errors.insert(0, ending)
            raise self._group(errors) from None
        finally:
            del errors, ending, traceback  # an exception's traceback leads here

    def _group(self, errors: list[BaseException]) -> BaseExceptionGroup[BaseException]:
        group = BaseExceptionGroup(self._summary(), errors)
        if self._others:
            others = ", ".join(f"{count:,} of type {name}" for name, count in self._others.most_common())
            annotate(group, f"the first {MAX_COLLECTED:,} are here; not kept: {others}")
        return group

    def _summary(self) -> str:
        return f"{self._count:,} {'call' if self._count == 1 else 'calls'} of {self._what} failed"
