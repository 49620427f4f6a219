"""Producer: one of several ends to put into a channel, the last of which closes it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from treadle._core.uninterrupted import starts_uninterrupted
from treadle._sync.shared import Shared
from treadle.errors import ChannelClosed

if TYPE_CHECKING:
    from treadle._sync.channel import Channel

T = TypeVar("T")


class Producer(Shared, Generic[T]):
    """One producer's end of a channel, from ``Channel.producer()``; its ``with`` block closes it.

    When the last end is closed, the channel is. If one of them left its block by an exception, the items are not
    complete, and the channel is closed with that error: see ``Channel.close()``. The exception goes on.
    """

    def __init__(self, channel: Channel[T]) -> None:
        self._channel = channel

    def __repr__(self) -> str:
        return f"<treadle.Producer of {self._channel!r}>"

    def put(self, item: T, timeout: float | None = None) -> None:
        """Put ``item`` into the channel; see ``Channel.put()``.

        Raises:
            ChannelClosed: This end, or the whole channel, was closed. The item was not put.
        """
        self._check_open()
        self._channel.put(item, timeout)

    def put_nowait(self, item: T) -> None:
        """Put ``item`` into the channel, if there is room right now; see ``Channel.put_nowait()``.

        Raises:
            ChannelClosed: This end, or the whole channel, was closed.
            queue.Full: There is no room.
        """
        self._check_open()
        self._channel.put_nowait(item)

    @starts_uninterrupted
    def close(self, error: BaseException | None = None) -> None:
        """Say that this producer puts no more; twice is fine.

        Args:
            error: Why its items are not complete.
        """
        channel = self._channel
        try:
            channel._remove(self, error)
        except BaseException:  # Ctrl-C: each step may be done twice
            channel._remove(self, error)
            raise

    def __enter__(self) -> Self:
        return self

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(error)

    def _check_open(self) -> None:
        channel = self._channel
        if self not in channel._producers and not channel.closed:
            raise ChannelClosed(channel._name, "goes on, but this producer has left it, and the item was not put")
