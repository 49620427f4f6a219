"""Something a test does on another thread while it goes on itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.calls import PATIENCE_SECONDS
from tests.places import wait_until
from treadle._core.cancellation import Scope
from treadle._sync.cancelling import entered
from treadle.testing import ManualClock


class Aside:
    """A call on a thread of its own, which can be cancelled, and what became of it."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self.scope = Scope()
        self._fn = fn
        self._args = args
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"aside-{fn}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with entered(self.scope):
                self._value = self._fn(*self._args)
        except BaseException as error:
            self._error = error

    def cancel(self) -> None:
        """Ask it to end."""
        self.scope.cancel("the test has cancelled it")

    def wait_until_asleep(self, clock: ManualClock) -> None:
        """Wait until it waits for ``clock``: not only some other thread, such as the one that keeps all timers."""
        wait_until(lambda: self._thread.ident in clock._sleepers)

    def is_over(self) -> bool:
        """Tell whether it has ended."""
        return not self._thread.is_alive()

    def error(self) -> BaseException | None:
        """Wait for its end, and return what it has raised."""
        self._thread.join(PATIENCE_SECONDS)
        assert self.is_over(), f"{self._thread.name} is stuck"
        return self._error

    def value(self) -> Any:
        """Wait for its end, and return what it has returned, or raise what it has raised."""
        error = self.error()
        if error is not None:
            raise error
        return self._value
