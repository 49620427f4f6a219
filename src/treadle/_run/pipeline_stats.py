"""What became of the items of a pipeline, stage by stage, and which stage holds up the others."""

from __future__ import annotations

from dataclasses import dataclass

from treadle._core.outcome import Stats

_COLUMNS = ("stage", "taken", "succeeded", "failed", "passed on", "running", "full before", "empty after")


@dataclass(frozen=True, slots=True, repr=False)
class StageStats(Stats):
    """The state of one stage: what ``Stats`` tells of a run, and how it stands to its neighbours.

    Attributes:
        number: The stage's place, from 1.
        name: Its name.
        max_workers: The workers it may have.
        makes_calls: Whether it calls a function; ``batched`` only collects items.
        passed_on: Items that were taken from it: by the next stage, or by whoever iterates the pipeline.
        full_before: For which share of the time, from 0 to 1, items waited before the stage because it took no more.
        empty_after: For which share of the time whoever takes its results had none to take.
    """

    number: int = 0
    name: str = ""
    max_workers: int = 0
    makes_calls: bool = True
    passed_on: int = 0
    full_before: float = 0.0
    empty_after: float = 0.0

    @property
    def pressure(self) -> float:
        """How much the stage holds up the others, from 0 to 1: its input is full, and what follows has nothing."""
        return self.full_before * self.empty_after


@dataclass(frozen=True, slots=True)
class PipelineStats:
    """The state of a pipeline at one moment. As text, a table of its stages and a sentence about the bottleneck.

    Attributes:
        name: The pipeline's.
        stages: Its stages, in order; the sink of ``for_each`` is the last.
        seconds: Since it was started; after the end, how long it took.

    Example:
        >>> import treadle
        >>> stats = treadle.pipeline(["1", "2"]).map(int).for_each(print, max_workers=1)
        1
        2
        >>> [(stage.name, stage.succeeded) for stage in stats.stages]
        [('int', 2), ('print', 2)]
    """

    name: str
    stages: tuple[StageStats, ...] = ()
    seconds: float = 0.0

    @property
    def bottleneck(self) -> str:
        """What holds up the rest and what to do about it, in a sentence."""
        if not any(stage.passed_on for stage in self.stages):
            return "nothing has come through yet, so there is no bottleneck to name"
        first, last = self.stages[0], self.stages[-1]
        slowest = max(self.stages, key=lambda stage: stage.pressure)
        source, consumer = 1 - first.full_before, 1 - last.empty_after
        if source >= max(consumer, slowest.pressure):
            return (
                f"the source is the bottleneck: stage 1 ({first.name}) waits for it {source:.0%} of the time; "
                "what the source does with each item could be a stage"
            )
        if consumer > slowest.pressure:
            return (
                f"whoever takes the results is the bottleneck: results lie ready {consumer:.0%} of the time; "
                "what is done with them could be a stage, or the sink of for_each()"
            )
        advice = "it only collects items, one after the other, so let it get fewer and larger ones"
        if slowest.makes_calls:
            advice = f"give it more than max_workers={slowest.max_workers}, or make its calls faster"
        return (
            f"stage {slowest.number} ({slowest.name}) is the bottleneck: its input is full {slowest.full_before:.0%} "
            f"of the time, and what follows waits for it {slowest.empty_after:.0%}; {advice}"
        )

    def __str__(self) -> str:
        rows = [_COLUMNS, *(_row(stage) for stage in self.stages)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        return "\n".join([f"pipeline {self.name!r}, {self.seconds:.1f} s", *lines, self.bottleneck])


def _row(stage: StageStats) -> tuple[str, ...]:
    counts = (stage.taken, stage.succeeded, stage.failed + stage.timed_out, stage.passed_on, stage.running)
    shares = (stage.full_before, stage.empty_after)
    return (
        f"{stage.number} {stage.name}",
        *(f"{count:,}" for count in counts),
        *(f"{share:.0%}" for share in shares),
    )
