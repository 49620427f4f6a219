"""Another thread, for tests of threads that wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.conftest import PATIENCE_SECONDS
from tests.places import wait_until
from treadle._sync import wait_graph


class Other:
    """A thread whose end a test waits for, and what became of it."""

    def __init__(self, action: Callable[[], Any], name: str = "other") -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(action,), name=name)
        self.thread.start()

    def _run(self, action: Callable[[], Any]) -> None:
        try:
            self.value = action()
        except BaseException as error:
            self.error = error

    def join(self) -> Other:
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive(), "it hangs"
        return self

    def wait_until_it_waits(self) -> None:
        """Return once it stands in the wait graph, and is as good as blocked."""
        assert self.thread.ident is not None
        wait_until_it_waits(self.thread.ident)


def wait_until_it_waits(ident: int) -> None:
    """Return once a thread stands in the wait graph."""
    wait_until(lambda: ident in wait_graph._waits)
