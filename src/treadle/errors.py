"""Every error that Treadle raises of its own accord.

::

    TreadleError
    ├── InvalidArgument  (ValueError)   an argument outside its bounds
    │   └── WrongType    (TypeError)    an argument that is not what it must be
    ├── RunClosed                       a run was used after its end, or in a forked child
    ├── CallCancelled                   the call was running when its run ended
    ├── CallNotStarted                  the run ended before the call began
    ├── WorkerLost                      the worker that made the call died
    └── TooManyAbandoned                more stuck calls were left behind than allowed

An exception that *your* function raised is never one of these: it reaches you as it is, with a note that
names the item. A run that passes its ``timeout`` raises the built-in ``TimeoutError``.

``args`` are the arguments of ``__init__``, so every error pickles and comes back with the same text.
"""

from __future__ import annotations

__all__ = [
    "CallCancelled",
    "CallNotStarted",
    "InvalidArgument",
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
    """

    def __init__(self, name: str, given: str, expected: str) -> None:
        super().__init__(name, given, expected)
        self.name = name
        self.given = given
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.name} must be {self.expected}, not {self.given}"


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
        return f"run {self.run!r} {self.reason}; call treadle.map() again, or .rest() for what is left of it"


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
