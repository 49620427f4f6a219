"""Treadle: a plain function, many inputs, called many at a time - fast, bounded and fully accounted for."""

from treadle._core.outcome import Outcome, Stats, Status
from treadle._run.mapping import map
from treadle._run.run import Outcomes, Run
from treadle._show.dump import dump
from treadle.errors import (
    CallCancelled,
    CallNotStarted,
    InvalidArgument,
    RunClosed,
    TooManyAbandoned,
    TreadleError,
    WorkerLost,
    WrongType,
)

__version__ = "0.1.0"

__all__ = [
    "CallCancelled",
    "CallNotStarted",
    "InvalidArgument",
    "Outcome",
    "Outcomes",
    "Run",
    "RunClosed",
    "Stats",
    "Status",
    "TooManyAbandoned",
    "TreadleError",
    "WorkerLost",
    "WrongType",
    "dump",
    "map",
]
