"""Treadle: a plain function, many inputs, called many at a time - fast, bounded and fully accounted for."""

from treadle._core.cancellation import check_cancelled
from treadle._core.hedge import Hedge
from treadle._core.outcome import Outcome, Stats, Status
from treadle._core.retry import Retry
from treadle._diagnose.diagnosing import diagnose
from treadle._diagnose.diagnosis import Diagnosis
from treadle._engines.dask import DaskExecutor, dask
from treadle._engines.resource import Resource
from treadle._run.executor import PoolExecutor
from treadle._run.flow import Flow
from treadle._run.for_each import for_each
from treadle._run.mapping import map as map
from treadle._run.periodic import Periodic, every
from treadle._run.pipeline import Pipeline, pipeline
from treadle._run.pipeline_stats import PipelineStats, StageStats
from treadle._run.run import Outcomes, Run
from treadle._run.starmap import starmap
from treadle._run.task import Task, current_task
from treadle._run.task_group import TaskGroup, first_success
from treadle._run.to_thread import to_thread
from treadle._run.traversal import Traversal, traverse
from treadle._show.dump import dump
from treadle._sync.cancelling import on_cancel, shield, sleep
from treadle._sync.channel import Channel, Producer
from treadle._sync.guarded import Guarded, Held
from treadle._sync.limiter import Limiter
from treadle._sync.locks import Lock, RLock
from treadle._sync.on_loop import on_loop
from treadle._sync.watching import watch_locks
from treadle.errors import (
    BlocksEventLoop,
    CallCancelled,
    CallNotStarted,
    CallTimedOut,
    Cancelled,
    ChannelClosed,
    Deadlock,
    GroupClosed,
    InvalidArgument,
    MissingExtra,
    NotHeld,
    NotPicklable,
    PatchedTooLate,
    PeriodicStopped,
    PipelineClosed,
    PoolClosed,
    ProcessDied,
    ProcessRefused,
    RemoteError,
    RunClosed,
    TooManyAbandoned,
    TreadleError,
    WorkerLost,
    WrongType,
)

__version__ = "0.1.0"

# All public names but ``map``, so that ``from treadle import *`` leaves the built-in one alone.
__all__ = [
    "BlocksEventLoop",
    "CallCancelled",
    "CallNotStarted",
    "CallTimedOut",
    "Cancelled",
    "Channel",
    "ChannelClosed",
    "DaskExecutor",
    "Deadlock",
    "Diagnosis",
    "Flow",
    "GroupClosed",
    "Guarded",
    "Hedge",
    "Held",
    "InvalidArgument",
    "Limiter",
    "Lock",
    "MissingExtra",
    "NotHeld",
    "NotPicklable",
    "Outcome",
    "Outcomes",
    "PatchedTooLate",
    "Periodic",
    "PeriodicStopped",
    "Pipeline",
    "PipelineClosed",
    "PipelineStats",
    "PoolClosed",
    "PoolExecutor",
    "ProcessDied",
    "ProcessRefused",
    "Producer",
    "RLock",
    "RemoteError",
    "Resource",
    "Retry",
    "Run",
    "RunClosed",
    "StageStats",
    "Stats",
    "Status",
    "Task",
    "TaskGroup",
    "TooManyAbandoned",
    "Traversal",
    "TreadleError",
    "WorkerLost",
    "WrongType",
    "check_cancelled",
    "current_task",
    "dask",
    "diagnose",
    "dump",
    "every",
    "first_success",
    "for_each",
    "on_cancel",
    "on_loop",
    "pipeline",
    "shield",
    "sleep",
    "starmap",
    "to_thread",
    "traverse",
    "watch_locks",
]
