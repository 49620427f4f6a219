"""Channel: a bounded queue between threads that knows its end."""

from __future__ import annotations

import queue
from collections import deque
from types import TracebackType
from typing import Generic, Literal, NamedTuple, Self, TypeVar

from treadle._core import register
from treadle._core.cancellation import check_cancelled, here
from treadle._core.describe import describe
from treadle._core.greenlets import check_patched_first
from treadle._core.option_names import suggesting
from treadle._core.raw import make_rlock
from treadle._core.settings import check_count, check_seconds
from treadle._core.uninterrupted import starts_uninterrupted
from treadle._sync.line import NOTHING_YET, Line, Nothing
from treadle._sync.parker import Parker
from treadle._sync.shared import Shared
from treadle.errors import ChannelClosed, InvalidArgument

T = TypeVar("T")


NOTHING_LEFT = "nothing is left to get (a for loop over it ends by itself)"


class _End(NamedTuple):
    """Why no more items come; ``is_whole`` unless something went wrong with those before it."""

    reason: str
    is_whole: bool = True
    error: BaseException | None = None


@suggesting
class Channel(Shared, Generic[T]):
    """A bounded queue between threads: any number of them put items in, any number take them out.

    First in, first out; each item is taken exactly once. It never holds more than ``maxsize`` items, so producers
    that are too fast wait for the consumers. (A queue without a bound is ``queue.SimpleQueue``.)

    ``close()`` says that no more items come. What is in it then can still be taken; after that ``get()`` raises
    ``ChannelClosed``, and a loop over the channel ends. Any number of threads may loop over one channel: they share
    its items. One that leaves its loop has taken the item it has, and no other.

    Every wait ends when what runs there is cancelled, and on Ctrl-C in the main thread; the item that was to be
    put was then not put, and none was taken. Only a Ctrl-C that comes while an item is being handed over, which takes
    about a microsecond, may leave open whether it was; the channel stays in order.

    In a forked child, the copy of a channel that was in use is closed and empty: its items, and those who wait for
    them, are the parent's. One that was not in use is as good as new.

    Args:
        maxsize: How many items it holds, at least 1.
        name: For messages.

    Raises:
        InvalidArgument: ``maxsize`` is below 1.
        WrongType: ``maxsize`` is not a whole number.

    Example:
        >>> import treadle
        >>> numbers = treadle.Channel(maxsize=2)
        >>> def count():
        ...     with numbers.producer() as end:
        ...         for number in range(5):
        ...             end.put(number)
        >>> with treadle.TaskGroup() as group:
        ...     _ = group.submit(count)
        ...     print(list(numbers))
        [0, 1, 2, 3, 4]
    """

    def __init__(self, maxsize: int, *, name: str = "channel") -> None:
        if maxsize == 0:
            hint = "it is no bound for queue.Queue, but a channel always has one"
            raise InvalidArgument("maxsize", describe(maxsize), "at least 1", hint)
        check_count("maxsize", maxsize, least=1)
        self._maxsize = maxsize
        self._name = name
        self._end: _End | None = None
        self._start_empty()
        check_patched_first()
        register.enroll_for_fork(self)

    def _start_empty(self) -> None:
        # Protects all of this, and is held for moments; see line.py. Reentrant, as a signal handler or a finalizer may
        # come upon its holder. One that puts an item in just then may make it one more than the bound.
        self._lock = make_rlock()
        self._items: deque[T] = deque()
        self._getters = Line(self._lock)  # they wait for an item
        self._putters = Line(self._lock)  # for room
        self._joiners = Line(self._lock)  # for everything to be processed
        self._unfinished = 0  # items put and not reported by task_done()
        self._producers: set[Producer[T]] = set()
        self._producer_error: BaseException | None = None  # the first with which one left

    def __repr__(self) -> str:
        state = "closed, " if self._end is not None else ""
        return f"<treadle.Channel {self._name!r}: {state}{len(self._items)} of {self._maxsize} items>"

    def __len__(self) -> int:
        """Return how many items are in it now."""
        return len(self._items)

    @property
    def maxsize(self) -> int:
        """How many items it holds at most."""
        return self._maxsize

    @property
    def closed(self) -> bool:
        """Whether it was closed; there may be items left to take."""
        return self._end is not None

    def put(self, item: T, timeout: float | None = None) -> None:
        """Put ``item`` in, as soon as there is room.

        Args:
            item: Anything.
            timeout: Seconds to wait for room, 0 or more; None: no limit.

        Raises:
            Cancelled: What runs here was asked to end. The item was not put.
            ChannelClosed: It was closed, before or during the wait. The item was not put.
            InvalidArgument: ``timeout`` is negative or not a number.
            TimeoutError: There was no room in time. The item was not put.
        """
        if here.__dict__:  # otherwise this thread never had anything that can be cancelled; a look costs 30 ns
            check_cancelled()
        if timeout is not None:
            check_seconds("timeout", timeout)
        if self._offer(item) is NOTHING_YET:
            self._putters.wait(
                lambda place: self._offer(item, place), self._has_room, timeout, f"channel {self._name!r} had no room"
            )

    def put_nowait(self, item: T) -> None:
        """Put ``item`` in, if there is room right now.

        Raises:
            ChannelClosed: It was closed.
            queue.Full: There is no room.
        """
        if self._offer(item) is NOTHING_YET:
            raise queue.Full(f"channel {self._name!r} holds {self._maxsize} items; put() waits for room")

    def get(self, timeout: float | None = None) -> T:
        """Take the item that was put first, as soon as there is one.

        Args:
            timeout: Seconds to wait for an item, 0 or more; None: no limit.

        Raises:
            Cancelled: What runs here was asked to end. No item was taken.
            ChannelClosed: It was closed, and all items are taken. Its ``__cause__`` is the error it was closed with,
                if any.
            InvalidArgument: ``timeout`` is negative or not a number.
            TimeoutError: There was no item in time.
        """
        if here.__dict__:  # otherwise this thread never had anything that can be cancelled; a look costs 30 ns
            check_cancelled()
        if timeout is not None:
            check_seconds("timeout", timeout)
        item = self._take()
        if item is NOTHING_YET:
            complaint = f"channel {self._name!r} had no item"
            return self._getters.wait(self._take, self._has_news_for_getters, timeout, complaint)
        return item

    def get_nowait(self) -> T:
        """Take the item that was put first, if there is one right now.

        Raises:
            ChannelClosed: It was closed, and all items are taken.
            queue.Empty: There is none.
        """
        item = self._take()
        if item is NOTHING_YET:
            raise queue.Empty(f"channel {self._name!r} is empty; get() waits for an item")
        return item

    def __iter__(self) -> Self:
        """Return the channel itself: its items are taken by whoever asks next, until it is closed and drained."""
        return self

    def __next__(self) -> T:
        """Take the item that was put first, as soon as there is one.

        Raises:
            Cancelled: What runs here was asked to end. No item was taken.
            ChannelClosed: All items are taken, and it was closed with an error, which is its ``__cause__``.
            StopIteration: All items are taken, and it was closed.
        """
        try:
            return self.get()
        except ChannelClosed:
            if self._end is not None and self._end.is_whole:
                raise StopIteration from None
            raise

    def close(self, error: BaseException | None = None) -> None:
        """Say that no more items come; twice is fine. What is in it can still be taken.

        Whoever waits in ``put()`` gets ``ChannelClosed``; whoever waits in ``get()``, once nothing is left.

        Args:
            error: Why the items are not complete. With one, a loop over the channel does not end after the last
                item as if all were well, but raises ``ChannelClosed``, whose ``__cause__`` it is.
        """
        with self._lock:
            self._close(error)

    def producer(self) -> Producer[T]:
        """Return an end to put items into; when the last of these is closed, the channel is closed.

        It counts from this call, not from the ``with`` block. So make the ends of all producers before the first
        of them can be done, and hand one to each.

        Raises:
            ChannelClosed: It was closed already.

        Example:
            >>> import treadle
            >>> letters = treadle.Channel(maxsize=10)
            >>> def spell(word, end):
            ...     with end:
            ...         for letter in word:
            ...             end.put(letter)
            >>> with treadle.TaskGroup() as group:
            ...     for word, end in [(word, letters.producer()) for word in ("warp", "weft")]:
            ...         _ = group.submit(spell, word, end)
            ...     print(sorted(letters))
            ['a', 'e', 'f', 'p', 'r', 't', 'w', 'w']
        """
        with self._lock:
            if self._end is not None:
                raise self._closed_for("no producer can be added")
            producer = Producer(self)
            self._producers.add(producer)
        return producer

    def task_done(self) -> None:
        """Report that an item which was taken is processed; once for each, by any thread.

        Raises:
            ValueError: It was called more often than items were put.
        """
        with self._lock:
            if self._unfinished == 0:
                raise ValueError(f"task_done() was called more often than items were put into {self._name!r}")
            if self._unfinished == 1:
                self._joiners.call_first()
            self._unfinished -= 1

    def join(self, timeout: float | None = None) -> None:
        """Wait until every item that was put was also taken, and reported by ``task_done()``.

        Closing makes no difference: what is left in the channel must still be taken by somebody.

        Args:
            timeout: Seconds, 0 or more; None: no limit.

        Raises:
            Cancelled: What runs here was asked to end.
            InvalidArgument: ``timeout`` is negative or not a number.
            TimeoutError: It did not come to that in time.
        """
        check_cancelled()
        if timeout is not None:
            check_seconds("timeout", timeout)
        complaint = f"the items of channel {self._name!r} were not all processed"
        self._joiners.wait(self._see_all_done, self._is_all_done, timeout, complaint)

    # See line.py for the order of the steps: whoever is to look is called first, and what changes comes last.

    def _offer(self, item: T, place: Parker | None = None) -> Literal[Nothing.YET] | None:
        """Put ``item`` if there is room; if not, ``place`` stands in line."""
        with self._lock:
            if self._end is not None:
                raise self._closed_for("the item was not put")
            if len(self._items) >= self._maxsize and (place is None or self._stand_in_line_for_room(place)):
                return NOTHING_YET
            if self._getters.waiting:
                self._getters.call_first()
            self._unfinished += 1
            self._items.append(item)
        return None

    def _stand_in_line_for_room(self, place: Parker) -> bool:
        """Enter the line for room; tell whether there is still none, as items are taken without the lock."""
        self._putters.waiting[place] = None
        try:
            self._items[self._maxsize - 1]  # not len(), which is not ordered with others' steps where there is no GIL
        except IndexError:
            del self._putters.waiting[place]
            return False
        return True

    def _take(self, place: Parker | None = None) -> T | Literal[Nothing.YET]:
        """Take an item if there is one; if not, ``place`` stands in line."""
        while True:
            try:
                item = self._items.popleft()
                if self._putters.waiting:
                    self._call_putter()
                return item
            except IndexError:
                if self._stand_in_line_for_item(place):
                    return NOTHING_YET
            except BaseException:  # Ctrl-C: maybe there is room now
                self._call_putter()
                raise

    def _stand_in_line_for_item(self, place: Parker | None) -> bool:
        """Enter the line for items; tell whether there is still none, now that nobody can put one."""
        with self._lock:
            if self._items:
                return False
            if self._end is not None:
                raise self._closed_for(NOTHING_LEFT) from self._end.error
            if place is not None:
                self._getters.waiting[place] = None
            return True

    def _call_putter(self) -> None:
        with self._lock:
            if self._putters.waiting and self._has_room():
                self._putters.call_first()

    def _see_all_done(self, place: Parker) -> Literal[Nothing.YET] | None:
        with self._lock:
            if self._is_all_done():
                return None
            self._joiners.waiting[place] = None
            return NOTHING_YET

    def _has_room(self) -> bool:
        return self._end is not None or len(self._items) < self._maxsize

    def _has_news_for_getters(self) -> bool:
        return self._end is not None or bool(self._items)

    def _is_all_done(self) -> bool:
        return self._unfinished == 0

    def _close(self, error: BaseException | None) -> None:
        """Close it, under the lock. Those who wait leave one by one, each calling the next."""
        if self._end is None:
            self._getters.call_first()
            self._putters.call_first()
            self._end = _End("was closed") if error is None else _End("was closed with an error", False, error)

    def _remove(self, producer: Producer[T], error: BaseException | None) -> None:
        """Have one producer less; it may have left already."""
        with self._lock:
            if producer in self._producers:
                self._producer_error = error if self._producer_error is None else self._producer_error
                if len(self._producers) == 1:
                    self._close(self._producer_error)
                self._producers.discard(producer)

    def _closed_for(self, consequence: str) -> ChannelClosed:
        assert self._end is not None
        return ChannelClosed(self._name, f"{self._end.reason}, and {consequence}")

    def close_after_fork(self) -> None:
        """Be empty and closed, if it was in use: the items, and whoever waits for some, are the parent's."""
        lines = (self._getters, self._putters, self._joiners)
        is_in_use = bool(self._items or self._unfinished or self._producers or any(line.waiting for line in lines))
        self._start_empty()  # the lock as well, whose holder may be a thread of the parent's
        if is_in_use:
            self._end = _End("is closed in a forked process, which has to make its own", False)


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
