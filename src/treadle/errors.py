"""Every error that Treadle raises of its own accord.

::

    TreadleError
    ├── InvalidArgument  (ValueError)   an argument outside its bounds
    │   └── WrongType    (TypeError)    an argument that is not what it must be
    ├── RunClosed                       a run was used after its end, or in a forked child
    ├── PipelineClosed                  a pipeline that runs was used after its end
    ├── GroupClosed      (RuntimeError) a task was submitted to a group after its end
    ├── PoolClosed       (RuntimeError) a task was submitted to an executor after its shutdown
    ├── PeriodicStopped                 the next run was waited for of what runs no more
    ├── ChannelClosed                   a channel was used after its end, or in a forked child
    ├── NotHeld          (RuntimeError) the handle of a guarded value was used outside of its block
    ├── CallTimedOut     (TimeoutError) the call took longer than ``call_timeout``
    ├── CallCancelled                   the call was running when its run ended
    ├── CallNotStarted                  the run ended before the call began
    ├── Deadlock         (RuntimeError) what was waited for would never have come
    ├── PatchedTooLate   (RuntimeError) gevent or eventlet has replaced threads after Treadle was imported
    ├── BlocksEventLoop  (RuntimeError) a coroutine was about to wait without awaiting
    ├── NotPicklable     (TypeError)    what was to go to another process, or come back, cannot
    ├── ProcessRefused   (RuntimeError) processes were to be started where that would never end
    ├── ProcessDied                     the process that made the call died: a crash, a signal, an exit
    ├── MissingExtra     (ImportError)  what was asked for needs a library that is not installed
    ├── RemoteError                     stands for an exception of another process that cannot be pickled
    ├── WorkerLost                      the worker that made the call died
    └── TooManyAbandoned                more stuck calls were left behind than allowed

    Cancelled  (BaseException)          what runs here was asked to end; raised only where it runs

An exception that *your* function raised is never one of these: it reaches you as it is, with a note that
names the item. A run or a group that passes its ``timeout`` raises the built-in ``TimeoutError``.

``args`` are the arguments of ``__init__``, so every error pickles and comes back with the same text.
"""

from __future__ import annotations

__all__ = [
    "BlocksEventLoop",
    "CallCancelled",
    "CallNotStarted",
    "CallTimedOut",
    "Cancelled",
    "ChannelClosed",
    "Deadlock",
    "GroupClosed",
    "InvalidArgument",
    "MissingExtra",
    "NotHeld",
    "NotPicklable",
    "PatchedTooLate",
    "PeriodicStopped",
    "PipelineClosed",
    "PoolClosed",
    "ProcessDied",
    "ProcessRefused",
    "RemoteError",
    "RunClosed",
    "TooManyAbandoned",
    "TreadleError",
    "WorkerLost",
    "WrongType",
]


class TreadleError(Exception):
    """The root of every error that Treadle raises of its own accord."""


class InvalidArgument(TreadleError, ValueError):
    """An argument is outside its bounds.

    Args:
        name: The argument.
        given: What was given, as text.
        expected: What would be right.
        hint: What was probably meant, if that can be told.
    """

    def __init__(self, name: str, given: str, expected: str, hint: str = "") -> None:
        super().__init__(name, given, expected, hint)
        self.name = name
        self.given = given
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.name} must be {self.expected}, not {self.given}" + (f"; {self.hint}" if self.hint else "")


class WrongType(InvalidArgument, TypeError):
    """An argument is not the kind of thing it must be."""


class RunClosed(TreadleError):
    """A run was asked for results after its end, or in a process that does not own it.

    Args:
        run: The run's name.
        reason: What ended it.
    """

    def __init__(self, run: str, reason: str) -> None:
        super().__init__(run, reason)
        self.run = run
        self.reason = reason

    def __str__(self) -> str:
        return f"run {self.run!r} {self.reason}; start another, or ask .rest() for what is left of it"


class PipelineClosed(TreadleError):
    """The flow of a pipeline was asked for results after its end.

    Args:
        pipeline: The pipeline's name.
        reason: What ended it.
    """

    def __init__(self, pipeline: str, reason: str) -> None:
        super().__init__(pipeline, reason)
        self.pipeline = pipeline
        self.reason = reason

    def __str__(self) -> str:
        return f"pipeline {self.pipeline!r} {self.reason}; iterate the pipeline again, or call its start()"


class GroupClosed(TreadleError, RuntimeError):
    """A task was submitted to a group that has ended, or is about to.

    Args:
        group: The group's name.
        reason: What ended it.
    """

    def __init__(self, group: str, reason: str) -> None:
        super().__init__(group, reason)
        self.group = group
        self.reason = reason

    def __str__(self) -> str:
        return f"group {self.group!r} {self.reason}; submit inside its with block, before it ends"


class PoolClosed(TreadleError, RuntimeError):
    """A task was submitted to an executor after its shutdown, or in a process that does not own it.

    Args:
        pool: The executor's name.
        reason: What ended it.
    """

    def __init__(self, pool: str, reason: str) -> None:
        super().__init__(pool, reason)
        self.pool = pool
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot schedule new futures: executor {self.pool!r} {self.reason}"


class PeriodicStopped(TreadleError):
    """The next run was waited for of a function that is not called again.

    Args:
        name: What ``every`` calls it.
        reason: What ended it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"periodic {self.name!r} {self.reason}, and does not run again; call treadle.every() for another"


class ChannelClosed(TreadleError):
    """A channel was used after its end: put into once closed, or asked for more once drained as well.

    Args:
        channel: The channel's name.
        reason: What ended it, and what that means here.
    """

    def __init__(self, channel: str, reason: str) -> None:
        super().__init__(channel, reason)
        self.channel = channel
        self.reason = reason

    def __str__(self) -> str:
        return f"channel {self.channel!r} {self.reason}"


class NotHeld(TreadleError, RuntimeError):
    """The handle of a ``Guarded`` was used where its lock is not held: after its block, or in another thread.

    Args:
        lock: The lock that guards the value.
        where: Where the handle was used.
    """

    def __init__(self, lock: str, where: str) -> None:
        super().__init__(lock, where)
        self.lock = lock
        self.where = where

    def __str__(self) -> str:
        return f"a handle was used {self.where}, without the {self.lock}; enter the Guarded again for another handle"


class CallTimedOut(TreadleError, TimeoutError):
    """The call took longer than ``call_timeout`` (``timeout``, of ``every``) and was told to end.

    A ``TimeoutError`` that the function raised itself is not one of these: it is a failure like any other.

    Args:
        run: The name of the run, group or executor.
        index: The item's place in the input, or the number of the task or run, from 0.
        seconds: How long it might take.
        option: Which option says so.
    """

    def __init__(self, run: str, index: int, seconds: float, option: str = "call_timeout") -> None:
        super().__init__()
        # OSError.__init__ would take them for errno, text and a file's name.
        setattr(self, "args", (run, index, seconds, option))  # noqa: B010  # assigned, it would count as declared anew
        self.run = run
        self.index = index
        self.seconds = seconds
        self.option = option

    def __str__(self) -> str:
        return f"call {self.index} of {self.run!r} took longer than {self.option}={self.seconds} seconds"


class CallCancelled(TreadleError):
    """The call was still running when its run ended; what it did is not known.

    Args:
        run: The run's name.
        index: The item's place in the input, from 0.
    """

    def __init__(self, run: str, index: int) -> None:
        super().__init__(run, index)
        self.run = run
        self.index = index

    def __str__(self) -> str:
        return f"the call for item {self.index} was still running when run {self.run!r} ended"


class CallNotStarted(TreadleError):
    """The run ended before this item's call began.

    Args:
        run: The run's name.
        index: The item's place in the input, from 0.
    """

    def __init__(self, run: str, index: int) -> None:
        super().__init__(run, index)
        self.run = run
        self.index = index

    def __str__(self) -> str:
        return f"run {self.run!r} ended before the call for item {self.index} began"


class Deadlock(TreadleError, RuntimeError):
    """What was to be waited for would never have come; raised instead of waiting for it.

    The threads of the circle that are named here wait on, for what the one that gets this error holds. So let it
    pass through the ``with`` blocks that hold locks; then the others go on.

    Args:
        reason: What is wrong, in one line.
        threads: For each thread of the circle, the one that gets this error first, a text of several lines: its
            name, what it holds and waits for, each lock with the place where it was made, and its stack.
    """

    def __init__(self, reason: str, threads: tuple[str, ...] = ()) -> None:
        super().__init__(reason, threads)
        self.reason = reason
        self.threads = threads

    def __str__(self) -> str:
        return "\n".join((self.reason, *self.threads))


class PatchedTooLate(TreadleError, RuntimeError):
    """gevent or eventlet has replaced threads by greenlets after Treadle was imported, which knows only the old ones.

    Args:
        library: Which of them.
    """

    def __init__(self, library: str) -> None:
        super().__init__(library)
        self.library = library

    def __str__(self) -> str:
        patch = {"gevent": "gevent.monkey.patch_all()", "eventlet": "eventlet.monkey_patch()"}
        return (
            f"{self.library} has replaced threads after Treadle was imported, which would take all greenlets for one "
            f"thread; call {patch.get(self.library, 'what replaces them')} first, before anything else is imported"
        )


class BlocksEventLoop(TreadleError, RuntimeError):
    """A coroutine was about to wait without awaiting, and all others on its event loop with it.

    Args:
        what: What it has called.
        instead: What lets the others go on meanwhile.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what, instead)
        self.what = what
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.what} would hold up the event loop, and every call on it; use {self.instead}"


class NotPicklable(TreadleError, TypeError):
    """Something that was to go to another process or interpreter, or to come back from it, cannot be pickled.

    Args:
        what: What it is, and the part of it that is to blame.
        reason: What pickle says.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} cannot be sent to another process or interpreter: {self.reason}"


class ProcessRefused(TreadleError, RuntimeError):
    """Processes were to be started where they would start others in turn, without an end.

    As by a module that starts them while it is imported: each of them imports it, to find the function.

    Args:
        what: What would start them.
        instead: What to do.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what, instead)
        self.what = what
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.what}; {self.instead}"


class ProcessDied(TreadleError):
    """The process that made the call died of something that the call did not raise: a crash, a signal, an exit.

    Args:
        cause: How it ended, as text.
        had_ended: This call had ended, and only its result was lost. It is not made again.
    """

    def __init__(self, cause: str, had_ended: bool = False) -> None:
        super().__init__(cause, had_ended)
        self.cause = cause
        self.had_ended = had_ended

    def __str__(self) -> str:
        if self.had_ended:
            return f"this call had ended, but its result was lost when the process died: {self.cause}"
        return f"the process that made this call died: {self.cause}"


class MissingExtra(TreadleError, ImportError):
    """What was asked for needs a library that is not installed.

    Args:
        what: What was asked for.
        extra: The extra of Treadle's that brings the library.
        reason: What the import said.
    """

    def __init__(self, what: str, extra: str, reason: str) -> None:
        super().__init__(what, extra, reason)
        self.what = what
        self.extra = extra
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} needs an extra: pip install 'treadle[{self.extra}]' ({self.reason})"


class RemoteError(TreadleError):
    """Stands for an exception that a call raised in another process, and that cannot be pickled.

    Where it was raised stands in ``__cause__``, as text.

    Args:
        described: The ``repr`` of that exception.
    """

    def __init__(self, described: str) -> None:
        super().__init__(described)
        self.described = described

    def __str__(self) -> str:
        return self.described


class WorkerLost(TreadleError):
    """The worker that made this call died of something that the call did not raise itself.

    Args:
        run: The run's name.
        index: The item's place in the input, from 0.
        cause: What killed the worker, as text.
    """

    def __init__(self, run: str, index: int, cause: str) -> None:
        super().__init__(run, index, cause)
        self.run = run
        self.index = index
        self.cause = cause

    def __str__(self) -> str:
        return f"the worker of run {self.run!r} died during the call for item {self.index}: {self.cause}"


class TooManyAbandoned(TreadleError):
    """More calls are stuck, and were left behind, than ``max_abandoned`` allows.

    Args:
        run: The run's name.
        abandoned: How many were left behind.
        allowed: The run's ``max_abandoned``.
    """

    def __init__(self, run: str, abandoned: int, allowed: int) -> None:
        super().__init__(run, abandoned, allowed)
        self.run = run
        self.abandoned = abandoned
        self.allowed = allowed

    def __str__(self) -> str:
        return (
            f"run {self.run!r} left {self.abandoned} stuck calls behind, more than max_abandoned={self.allowed}; "
            "treadle.dump() shows where they hang"
        )


class Cancelled(BaseException):
    """What runs here has been asked to end: by a failure beside it, a timeout, a close, or ``cancel()``.

    Raised by ``check_cancelled()`` and by every wait of Treadle's, in the call or block that was asked. Not an
    ``Exception``, so that ``except Exception`` lets it pass, as it should: whoever asked for the end takes it.

    Args:
        reason: Who asked, and why.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
