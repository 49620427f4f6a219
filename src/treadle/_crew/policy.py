"""What every call of a crew is held to, whoever asked for it and whichever engine makes it."""

from __future__ import annotations

from dataclasses import dataclass

from treadle._core.describe import describe
from treadle._core.hedge import Hedge
from treadle._core.retry import Retry
from treadle._core.settings import (
    DEFAULT_GRACE_SECONDS,
    DEFAULT_MAX_WORKERS,
    check_count,
    check_seconds,
)
from treadle._sync.limiter import Limiter
from treadle.errors import InvalidArgument, WrongType


@dataclass(frozen=True, slots=True)
class Policy:
    """The options that ``map``, groups and executors have in common; see ``treadle.map`` for what each means.

    ``timeout_option`` is what whoever gave ``call_timeout`` calls it. ``spares``: a call that fails for its resource is
    made once more.
    """

    call_timeout: float | None = None
    retry: Retry | None = None
    limiter: Limiter | None = None
    hedge: Hedge | None = None
    grace: float = DEFAULT_GRACE_SECONDS
    max_abandoned: int = DEFAULT_MAX_WORKERS
    timeout_option: str = "call_timeout"
    spares: bool = False

    def __post_init__(self) -> None:
        if self.call_timeout is not None:
            check_seconds("call_timeout", self.call_timeout)
            if self.call_timeout == 0:
                raise InvalidArgument("call_timeout", "0", "more than 0 seconds, or None for no limit")
        for name, kind in (("retry", Retry), ("limiter", Limiter), ("hedge", Hedge)):
            given = getattr(self, name)
            if given is not None and not isinstance(given, kind):
                is_number = isinstance(given, int | float) and not isinstance(given, bool)
                hint = f"write {name}=treadle.{kind.__name__}({given!r})" if is_number else ""
                raise WrongType(name, describe(given), f"a treadle.{kind.__name__}, or None", hint)
        check_seconds("grace", self.grace)
        check_count("max_abandoned", self.max_abandoned, least=0)

    @property
    def is_needed(self) -> bool:
        """Whether calls need more than to be made: if so, each is a chunk of its own."""
        options = (self.call_timeout, self.retry, self.limiter, self.hedge)
        return self.spares or any(option is not None for option in options)
