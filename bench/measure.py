"""Taking turns: every contender once in each round, so that the noise of a shared machine hits all alike."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

ROUND_LIMIT_SECONDS = 60.0

Sample: TypeAlias = Mapping[str, float]


@dataclass(frozen=True)
class Contender:
    """Somebody who takes part: ``take`` does the work once and returns what was measured."""

    name: str
    take: Callable[[], Sample]


@dataclass
class Series:
    """The samples of one contender, or why there are none."""

    name: str
    samples: list[Sample] = field(default_factory=list)
    failure: str | None = None

    def median(self, figure: str) -> float | None:
        """Return the median of ``figure``, or None if the contender did not come through."""
        return None if self.failure else median(sample[figure] for sample in self.samples)

    def worst(self, figure: str) -> float | None:
        """Return the largest ``figure``, or None if the contender did not come through."""
        return None if self.failure else max(sample[figure] for sample in self.samples)

    def ratio(self, figure: str, baseline: Series | float) -> float | None:
        """Return the median of ``figure`` against the baseline's, or None if one of them is missing."""
        mine = self.median(figure)
        other = baseline.median(figure) if isinstance(baseline, Series) else baseline
        return None if mine is None or other is None else mine / other


def interleave(
    contenders: Sequence[Contender], rounds: int, limit_seconds: float = ROUND_LIMIT_SECONDS
) -> dict[str, Series]:
    """Let each contender do its work once a round, and return their samples by name.

    Each round begins with another contender, and each turn with a garbage collection. One that fails, or
    takes longer than ``limit_seconds``, is out from then on; its ``failure`` says why.
    """
    series = {contender.name: Series(contender.name) for contender in contenders}
    for number in range(rounds):
        first = number % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            one = series[contender.name]
            if one.failure is None:
                _take_turn(contender, one, limit_seconds)
                if one.failure and number:
                    one.failure += f" (in round {number + 1})"
    return series


def _take_turn(contender: Contender, series: Series, limit_seconds: float) -> None:
    gc.collect()
    outcome: Future[Sample] = Future()

    def turn() -> None:
        try:
            outcome.set_result(contender.take())
        except BaseException as error:  # pools pass on SystemExit and worse
            outcome.set_exception(error)

    # On a thread of its own, so that a contender that hangs costs its own figures only.
    threading.Thread(target=turn, name=f"turn of {contender.name}", daemon=True).start()
    try:
        series.samples.append(outcome.result(limit_seconds))
    except BaseException as error:
        if not outcome.done():
            if not isinstance(error, TimeoutError):
                raise  # Ctrl-C, here
            series.failure = f"no result within {limit_seconds:.0f} s"
        else:
            series.failure = explain(error)


def explain(error: BaseException) -> str:
    """Return ``error`` in one short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1][:160]}" if lines else type(error).__name__
