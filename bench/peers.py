"""Treadle and its peers behind one call: ``open(fn, items, workers)`` gives the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, TypeAlias

# Where a peer has no default of its own. On few cores more of them would only slow it down.
PEER_WORKERS = 4

Call: TypeAlias = Callable[[Any], object]
# The results as an iterable; leaving the block is what leaving the peer's pool is.
Opened: TypeAlias = AbstractContextManager[Iterable[object]]


@dataclass(frozen=True)
class Peer:
    """One way to make many calls.

    Attributes:
        key: For command lines.
        name: For tables.
        open: Makes the pool and begins; ``workers`` of None leaves their number to the peer.
        distribution: Where the version stands; None for the standard library.
    """

    key: str
    name: str
    open: Callable[[Call, Iterable[Any], int | None], Opened]
    distribution: str | None = None


@contextmanager
def _open_treadle(fn: Call, items: Iterable[Any], workers: int | None) -> Iterator[Iterable[object]]:
    import treadle

    yield treadle.map(fn, items, max_workers=workers)


@contextmanager
def _open_executor(fn: Call, items: Iterable[Any], workers: int | None) -> Iterator[Iterable[object]]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        yield pool.map(fn, items)


@contextmanager
def _open_thread_pool(
    fn: Call, items: Iterable[Any], workers: int | None, *, chunksize: int = 1
) -> Iterator[Iterable[object]]:
    from multiprocessing.pool import ThreadPool

    with ThreadPool(workers or PEER_WORKERS) as pool:
        yield pool.imap(fn, items, chunksize)


@contextmanager
def _open_joblib(
    fn: Call, items: Iterable[Any], workers: int | None, *, return_as: str = "list"
) -> Iterator[Iterable[object]]:
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=workers or PEER_WORKERS, backend="threading", return_as=return_as)
    yield parallel(delayed(fn)(item) for item in items)


@contextmanager
def _open_mpire(fn: Call, items: Iterable[Any], workers: int | None) -> Iterator[Iterable[object]]:
    from mpire import WorkerPool

    with WorkerPool(workers or PEER_WORKERS, start_method="threading") as pool:
        yield pool.imap(fn, items)


@contextmanager
def _open_pebble(fn: Call, items: Iterable[Any], workers: int | None) -> Iterator[Iterable[object]]:
    from pebble import ThreadPool

    with ThreadPool(max_workers=workers or PEER_WORKERS) as pool:
        yield pool.map(fn, items).result()


@contextmanager
def _open_streamable(fn: Call, items: Iterable[Any], workers: int | None) -> Iterator[Iterable[object]]:
    from streamable import stream

    yield stream(items).map(fn, concurrency=workers or PEER_WORKERS)


@contextmanager
def _open_pypeln(fn: Call, items: Iterable[Any], workers: int | None) -> Iterator[Iterable[object]]:
    import pypeln

    yield pypeln.thread.map(fn, items, workers=workers or PEER_WORKERS)


def thread_pool(chunksize: int) -> Peer:
    """Return ``multiprocessing.pool.ThreadPool.imap`` with ``chunksize`` calls handed over at a time."""
    name = f"ThreadPool.imap(chunksize={chunksize})" if chunksize > 1 else "ThreadPool.imap"
    return Peer("imap", name, partial(_open_thread_pool, chunksize=chunksize))


TREADLE = Peer("treadle", "Treadle", _open_treadle)
EXECUTOR = Peer("executor", "ThreadPoolExecutor.map", _open_executor)
THREAD_POOL = thread_pool(chunksize=1)
JOBLIB = Peer("joblib", "joblib, threading", _open_joblib, "joblib")
JOBLIB_GENERATOR = Peer(
    "joblib-generator", "joblib, threading, generator", partial(_open_joblib, return_as="generator"), "joblib"
)
MPIRE = Peer("mpire", "mpire, threading", _open_mpire, "mpire")
PEBBLE = Peer("pebble", "pebble.ThreadPool.map", _open_pebble, "pebble")
STREAMABLE = Peer("streamable", "streamable", _open_streamable, "streamable")
PYPELN = Peer("pypeln", "pypeln.thread", _open_pypeln, "pypeln")

# Those that hand over one call at a time, or find the size of their chunks themselves.
PEERS = (EXECUTOR, THREAD_POOL, JOBLIB, MPIRE, PEBBLE, STREAMABLE, PYPELN)
STREAMING_PEERS = tuple(JOBLIB_GENERATOR if peer is JOBLIB else peer for peer in PEERS)

BY_KEY = {peer.key: peer for peer in (TREADLE, *PEERS, JOBLIB_GENERATOR)}


def versions() -> list[str]:
    """Return the peers that are installed, with their versions."""
    found = []
    for peer in PEERS:
        if peer.distribution is None:
            continue
        try:
            found.append(f"{peer.distribution} {metadata.version(peer.distribution)}")
        except metadata.PackageNotFoundError:
            found.append(f"{peer.distribution} (not installed)")
    return found
