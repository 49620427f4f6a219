"""Messages between a worker and its process: pickled, with large buffers beside them instead of in them.

A frame is a number of parts, their sizes, and the parts: the pickle first, then the buffers that it refers to
(PEP 574). So an array is read from where it lies into where it will lie, and is copied by nobody but the kernel.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
from typing import Any, Final

_COUNT = struct.Struct("<I")
_ONE_PART = struct.Struct("<IQ")
_TIMEVAL = struct.Struct("@ll")
SILENCE: Final = object()
# Stands for a buffer for which there is no memory: it goes lost, and the rest of the message is as good as ever.
NO_ROOM: Final = type("NoRoom", (bytes,), {})()
# A part up to this size is read together with its neighbours, a larger one by itself and straight to its place.
SMALL_BYTES = 64 * 1024
# What the kernel may hold on the way; it grants less where it is told to.
KERNEL_BYTES = 1024 * 1024
MAX_PARTS_AT_ONCE = 256  # in one system call


class LineClosed(EOFError):
    """The other side has closed the line, or is gone."""


class Wire:
    """One end of a stream of messages. Each direction is one thread's at a time."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._patience: float | None = None
        self._buffer = bytearray(SMALL_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # of what was read and not used yet

    def send(self, message: Any) -> None:
        """Send ``message``, waiting until the other side has room for it.

        Raises:
            LineClosed: The other side is gone.
        """
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(message, 5, buffer_callback=buffers.append)
        try:
            if not buffers and len(data) <= SMALL_BYTES:
                self._line.sendall(_ONE_PART.pack(1, len(data)) + data)
                return
            parts = [memoryview(data), *[buffer.raw() for buffer in buffers]]
            sizes = [part.nbytes for part in parts]
            self._send_all([memoryview(struct.pack(f"<I{len(parts)}Q", len(parts), *sizes)), *parts])
        except OSError as error:
            raise LineClosed(str(error)) from None

    def _send_all(self, parts: list[memoryview]) -> None:
        parts = [part for part in parts if part.nbytes]
        parts.reverse()  # the next one last, where it is cheap to take
        while parts:
            sent = self._line.sendmsg(parts[: -MAX_PARTS_AT_ONCE - 1 : -1])
            while parts and sent >= parts[-1].nbytes:
                sent -= parts.pop().nbytes
            if sent:
                parts[-1] = parts[-1][sent:]

    def receive(self, seconds: float | None = None) -> Any:
        """Wait for a message, and return it; ``SILENCE``, if none begins within ``seconds``.

        Where there is no memory for a buffer, ``NO_ROOM`` is in its place.

        Raises:
            LineClosed: The other side is gone.
        """
        if seconds != self._patience:
            self._be_patient(seconds)
        if (at := self._start + _ONE_PART.size) <= self._end:
            # Most messages are of one part, and here already, with others: then in as few steps as can be.
            count, size = _ONE_PART.unpack_from(self._buffer, self._start)
            if count == 1 and at + size <= self._end:
                self._start = at + size
                return pickle.loads(self._view[at : at + size])  # noqa: S301  # it comes from a process of our own
        try:
            head = self._take(_COUNT.size, may_give_up=True)
            if head is None:
                return SILENCE
            (count,) = _COUNT.unpack(head)
            sizes = struct.unpack(f"<{count}Q", self._take(8 * count))
            data, *buffers = self._take_parts(sizes)
        except OSError as error:
            raise LineClosed(str(error)) from None
        return pickle.loads(data, buffers=buffers)  # noqa: S301  # it comes from a process of our own

    def _be_patient(self, seconds: float | None) -> None:
        try:
            self._line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(*_split(seconds)))
        except OSError as error:
            raise LineClosed(str(error)) from None
        self._patience = seconds

    def _take_parts(self, sizes: tuple[int, ...]) -> list[Any]:
        parts: list[Any] = []
        for at, size in enumerate(sizes):
            try:
                parts.append(self._take_part(size, is_kept=bool(at)))
            except MemoryError:
                if at == 0:
                    raise
                self._skip(size)
                parts.append(NO_ROOM)
        return parts

    def _skip(self, size: int) -> None:
        """Let go of the next ``size`` bytes."""
        while size:
            there = min(size, SMALL_BYTES)
            self._take(there)
            size -= there

    def _take_part(self, size: int, is_kept: bool) -> memoryview | bytearray:
        """Return the next ``size`` bytes; in memory of their own if they are kept, or many."""
        if not is_kept and size <= SMALL_BYTES:
            found: memoryview = self._take(size)
            return found
        part = bytearray(size)
        there = min(size, self._end - self._start)
        part[:there] = self._view[self._start : self._start + there]
        self._start += there
        rest = memoryview(part)[there:]
        while rest:
            rest = rest[self._read_into(rest, socket.MSG_WAITALL) :]
        return part

    def _take(self, size: int, may_give_up: bool = False) -> Any:
        """Return the next ``size`` bytes; if there are not many, they are good until the next call.

        Args:
            size: Any.
            may_give_up: Return None if they do not come within the seconds that ``receive`` was given.
        """
        if size > SMALL_BYTES:
            return memoryview(self._take_part(size, is_kept=True))
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start + size > SMALL_BYTES:
            there = self._end - self._start
            self._view[:there] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, there
        while self._end - self._start < size:
            count = self._read_into(self._view[self._end :])
            if not count and may_give_up:
                return None
            self._end += count
        begin = self._start
        self._start += size
        return self._view[begin : self._start]

    def _read_into(self, view: memoryview, flags: int = 0) -> int:
        """Wait for bytes, and return how many have come; 0: none have, for as many seconds as ``receive`` was given."""
        try:
            count = self._line.recv_into(view, 0, flags)
        except BlockingIOError:
            return 0
        if not count:
            raise LineClosed("the other side has closed")
        return count

    def close(self) -> None:
        """Close this end."""
        self._line.close()


def _split(seconds: float | None) -> tuple[int, int]:
    """Return whole seconds and microseconds; none of either means for ever."""
    return (0, 0) if seconds is None else divmod(int(seconds * 1_000_000), 1_000_000)


def open_line() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a line, on which messages go both ways."""
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    return ends


def open_page() -> int:
    """Return the descriptor of a file of ``PAGE_BYTES``, which is in no folder and goes with its last descriptor."""
    if hasattr(os, "memfd_create"):
        page = os.memfd_create("treadle")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            page = os.dup(file.fileno())
    os.truncate(page, PAGE_BYTES)
    return page


# Has a process look into the page that it shares with its worker. By default this one is ignored: it hurts nobody else.
LOOK_SIGNAL = signal.SIGURG
PAGE_BYTES = 40
# What stands where in the memory that worker and process share, each a 64-bit number. The process writes:
BEGUN = 0  # calls of the present portion that have begun,
ENDED = 1  # how many of these had ended when it last began to say so,
UNPACKING = 4  # and the portion that it is taking out of its pickles. The worker's side writes:
STOP = 2  # the portion whose calls are to end,
GIVE_BACK = 3  # and the one of which it wants back what has not begun.
