"""Whoever a crew works for, as the crew sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from treadle._core.chunk import Chunk

if TYPE_CHECKING:
    from treadle._crew.worker import Worker


class Account(Protocol):
    """Whoever the crew works for."""

    kind: str  # what a person calls it: run, group, executor

    def note_done(self, chunk: Chunk) -> None:
        """Take note that all calls of ``chunk`` are made. Called by many workers at once, without the lock."""

    def note_succeeded(self, chunk: Chunk) -> None:
        """As ``note_done`` and ``note_handed_in``, for a chunk without failures. Without the lock."""

    def note_handed_in(self) -> None:
        """Do what ``note_done`` left to do without the lock, on the same thread, right after it."""

    def note_split(self, tail: Chunk) -> None:
        """Take note that ``tail`` was split off an earlier chunk. Under the lock, as all that follow."""

    def note_failed(self, chunk: Chunk) -> None:
        """Take note that calls of ``chunk`` failed, before ``note_done``."""

    def note_replaced(self, old: Chunk, new: Chunk) -> None:
        """Take note that ``new`` stands for ``old``: another attempt at its item."""

    def note_abandoned(self, worker: Worker, chunk: Chunk) -> None:
        """Take note that ``worker`` was left behind in a call of ``chunk``, while the crew goes on."""

    def note_expired(self) -> None:
        """Take note that the crew's deadline has passed."""

    def note_broken(self, error: BaseException) -> None:
        """Take note that a worker could not get ready, and that the crew is of no use."""

    def note_unserved(self, error: BaseException) -> None:
        """Take note that there is no worker, and that none can be had now; ``note_left`` follows."""

    def note_quieter(self) -> None:
        """Take note that the last worker of a stopping crew has ended its call, or left."""

    def note_grown(self) -> None:
        """Take note that there may be more workers than before, and more items taken."""

    def note_left(self) -> None:
        """Take note that a worker has left. Without the lock."""


class Nobody:
    """The account of a crew that nobody works with any more."""

    kind = "run"

    def note_done(self, chunk: Chunk) -> None: ...
    def note_succeeded(self, chunk: Chunk) -> None: ...
    def note_handed_in(self) -> None: ...
    def note_split(self, tail: Chunk) -> None: ...
    def note_replaced(self, old: Chunk, new: Chunk) -> None: ...
    def note_abandoned(self, worker: Worker, chunk: Chunk) -> None: ...
    def note_failed(self, chunk: Chunk) -> None: ...
    def note_expired(self) -> None: ...
    def note_broken(self, error: BaseException) -> None: ...
    def note_unserved(self, error: BaseException) -> None: ...
    def note_quieter(self) -> None: ...
    def note_grown(self) -> None: ...
    def note_left(self) -> None: ...
