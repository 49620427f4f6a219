"""``treadle.dask``: a Dask cluster as an engine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future
from importlib import import_module
from typing import Any

from treadle._core.option_names import suggesting
from treadle._core.settings import check_seconds
from treadle.errors import InvalidArgument, MissingExtra, WrongType

SCHEME = "dask://"


class DaskExecutor(Executor):
    """A ``concurrent.futures.Executor`` whose calls are made by a Dask cluster. See ``treadle.dask``."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._executor = client.get_executor(pure=False)
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have ``fn(*args, **kwargs)`` called by the cluster, and return its future."""
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = self._executor.submit(fn, *args, **kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Part with the cluster, which goes on.

        Args:
            wait: Return only when what was submitted has ended; otherwise it is cancelled.
            cancel_futures: Cancel it in any case.
        """
        if self._is_shut_down:
            return
        self._is_shut_down = True
        if self._client.status == "running":
            self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=False)  # as a client of Dask's: a call that hangs there must not hold this

    def count_threads(self) -> int:
        """Return how many calls the cluster makes at once, as it is now."""
        return 0 if self._is_shut_down else count_threads(self._client)

    def __repr__(self) -> str:
        return f"<treadle.dask with {self._client!r}>"


def count_threads(client: Any) -> int:
    """Return how many threads the workers of the cluster have."""
    return sum(client.ncores().values())


@suggesting
def dask(address: str, *, timeout: float = 5.0) -> DaskExecutor:
    """Connect with a Dask cluster, as an engine for ``map`` and its kin. Needs ``pip install 'treadle[dask]'``.

    As a context manager it parts with the cluster when the block is left: the cluster goes on, and what it has not
    finished for this client is cancelled. Its workers need no Treadle. They need the modules of yours that functions
    are in, as with Dask; functions of ``__main__``, inner functions and lambdas are sent along.

    Args:
        address: Of the scheduler: ``HOST:PORT``, or an address as Dask writes them.
        timeout: Seconds that the scheduler may take to answer.

    Returns:
        A ``concurrent.futures.Executor``.

    Raises:
        ConnectionError: No scheduler answers there.
        InvalidArgument: An argument is outside its bounds.
        MissingExtra: The library ``distributed`` is not installed.
        WrongType: An argument is not what it must be.

    Example:
        ::

            with treadle.dask("10.0.0.7:8786") as cluster:
                for result in treadle.map(fetch, urls, engine=cluster):
                    ...
    """
    if not isinstance(address, str):
        raise WrongType("address", repr(address), "a string such as 'HOST:PORT'")
    check_seconds("timeout", timeout)
    try:
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise MissingExtra("treadle.dask()", "dask", str(error)) from error
    address = address.removeprefix(SCHEME)
    try:
        _knock(address, timeout)
        return DaskExecutor(distributed.Client(address, timeout=timeout, set_as_default=False))
    except OSError as error:  # its traceback would keep the client
        raise ConnectionError(f"no Dask scheduler answers at {address!r}, for {timeout} seconds: {error}") from None


def _knock(address: str, timeout: float) -> None:
    """Raise ``OSError`` where nobody listens: a client finds that out too, but leaves threads behind."""
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if not (host and port.isdecimal()):
        raise InvalidArgument("address", repr(address), "HOST:PORT of the scheduler, such as '10.0.0.7:8786'")
    if scheme in ("", "tcp", "tls"):
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
