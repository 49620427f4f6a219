"""The keeper: one small process without threads, which forks the others, kills them, and tells how they ended.

A process that has threads must not fork; this one has none, and has imported what the others need, so another
costs milliseconds. It alone knows process numbers, and it alone collects its dead: so nobody can be killed by
mistake whose number somebody else has inherited.

For each process there is a *leash*, a socket between the keeper and whoever asked for the process. On it come
orders, one byte each, and in the end the keeper's report. A leash that closes without a word means that its
holder is gone: the process is killed, however busy it is. To notice that, no process has to look up. Should the keeper
itself be killed, its processes are, too (see ``process_lifeline``): nobody else could end them.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass

from treadle._core.real_time import monotonic
from treadle._engines.process_lifeline import Lifeline
from treadle._engines.process_wire import LOOK_SIGNAL

LOOK = b"l"
KILL = b"k"
LET_GO = b"g"

# The exit status as ``os.wait`` has it; below 0, why it could not be started: an errno, negated.
REPORT = struct.Struct("<q")
# What comes with the request for a process: its leash, its line, the page that it shares, and its standard error.
DESCRIPTORS = 4
# For goodbyes of a process that was let go: its exit handlers, and threads that it has started.
LAST_SECONDS = 2.0
# How often to look whether our own parent still lives; that is only for the case that a copy of it holds our sockets.
LOOK_SECONDS = 1.0


@dataclass(eq=False)
class Ward:
    """A process in the keeper's care.

    Attributes:
        pid: Its number, and that of its process group.
        leash: Where orders come from.
        line: Its own end of the line to its worker. The line is closed when the process is dead, even if one that
            it has started holds on to a copy.
        is_let_go: It may take its time to end.
        deadline: When it is killed; None: not by the clock.
    """

    pid: int
    leash: socket.socket
    line: socket.socket
    is_let_go: bool = False
    deadline: float | None = None

    def kill(self) -> None:
        """Kill it, wherever it may have gone, and what it has started in its process group."""
        for kill in (os.killpg, os.kill):
            try:
                kill(self.pid, signal.SIGKILL)
            except OSError:
                pass

    def report(self, status: int) -> None:
        """Say how it ended, and then close its line: whoever finds that closed finds the report."""
        try:
            self.leash.send(REPORT.pack(status))
        except OSError:  # nobody wants to know
            pass
        for end in (self.line, self.leash):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


class Keeper:
    """Forks, kills and collects until nobody needs it any more."""

    def __init__(self, control: socket.socket) -> None:
        self._control: socket.socket | None = control
        self._wards: dict[int, Ward] = {}
        self._leashes: dict[int, Ward] = {}
        self._parent = os.getppid()
        self._lifeline = Lifeline()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._bell, ring = socket.socketpair()
        for end in (self._bell, ring):
            end.setblocking(False)
        self._ring = ring
        self._poll.register(self._bell, select.POLLIN)
        signal.signal(signal.SIGCHLD, _ignore)
        # What the system sends to one that is stopped as its parent ends: it is to go on, and to kill what that leaves.
        self._on_hangup = signal.signal(signal.SIGHUP, _ignore)
        signal.set_wakeup_fd(ring.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Do what is asked; return when whoever asks is gone, and with them every process."""
        while self._control is not None or self._wards:
            for fd, _ in self._poll.poll(self._milliseconds()):
                if fd == self._bell.fileno():
                    self._collect()
                elif fd in self._leashes:
                    self._listen(self._leashes[fd])
                elif self._control is not None and fd == self._control.fileno():
                    self._start(self._control)
            if self._wards and os.getppid() != self._parent:
                self._abdicate()
            now = monotonic()
            for ward in self._wards.values():
                if ward.deadline is not None and ward.deadline <= now:
                    ward.deadline = None
                    ward.kill()
        signal.set_wakeup_fd(-1)
        self._bell.close()
        self._ring.close()

    def close(self) -> None:
        """Close what is the keeper's own."""
        signal.set_wakeup_fd(-1)
        for end in (self._bell, self._ring):
            end.close()
        self._lifeline.close()

    def _milliseconds(self) -> float | None:
        if not self._wards:
            return None
        now = monotonic()
        waits = [ward.deadline - now for ward in self._wards.values() if ward.deadline is not None]
        return 1000 * max(0.001, min([LOOK_SECONDS, *waits]))

    def _start(self, control: socket.socket) -> None:
        """Fork a process, as was asked: the descriptors that it needs come with the request."""
        try:
            request, fds, _, _ = socket.recv_fds(control, 1, DESCRIPTORS)
        except OSError:
            request, fds = b"", []
        if not request:
            self._abdicate()
            return
        if len(fds) < DESCRIPTORS:  # there was no room for the others, and these are closed
            self._refuse(fds)
            return
        for fd in fds:  # or what a call starts would have them too, and could write what we read
            os.set_inheritable(fd, False)
        leash, line = socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])
        leash.setblocking(False)
        ward = Ward(0, leash, line)
        try:
            ward.pid = os.fork()
        except OSError as error:
            ward.report(-(error.errno or 1))
        else:
            if ward.pid == 0:
                self._become(line, leash, fds[2:])
            self._admit(ward)
        for fd in fds[2:]:
            os.close(fd)

    def _refuse(self, fds: list[int]) -> None:
        """Say that there is no room for another process, on its leash, if that has come."""
        if fds:
            with suppress(OSError):  # nobody wants to know
                os.write(fds[0], REPORT.pack(-errno.EMFILE))
        for fd in fds:
            os.close(fd)

    def _admit(self, ward: Ward) -> None:
        try:
            os.setpgid(ward.pid, ward.pid)
        except OSError:  # it has done so itself, or is dead
            pass
        self._wards[ward.pid] = ward
        self._leashes[ward.leash.fileno()] = ward
        self._poll.register(ward.leash, select.POLLIN)

    def _listen(self, ward: Ward) -> None:
        try:
            orders = ward.leash.recv(64)
        except BlockingIOError:
            return
        except OSError:
            orders = b""
        if LET_GO in orders:
            ward.is_let_go = True
        if KILL in orders:
            ward.kill()
        elif LOOK in orders:
            os.kill(ward.pid, LOOK_SIGNAL)
        if not orders:
            self._drop_leash(ward)
            if ward.is_let_go:
                ward.deadline = monotonic() + LAST_SECONDS
            else:
                ward.kill()

    def _drop_leash(self, ward: Ward) -> None:
        if self._leashes.pop(ward.leash.fileno(), None) is not None:
            self._poll.unregister(ward.leash)

    def _collect(self) -> None:
        try:
            self._bell.recv(4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (ward := self._wards.pop(pid, None)) is not None:
                self._drop_leash(ward)
                ward.report(status)

    def _abdicate(self) -> None:
        """Start nothing more, and kill all that were not let go: whoever they worked for is gone."""
        if self._control is not None:
            self._poll.unregister(self._control)
            self._control.close()
            self._control = None
        for ward in self._wards.values():
            if not ward.is_let_go:
                ward.kill()

    def _become(self, line: socket.socket, leash: socket.socket, fds: list[int]) -> None:
        """Be the new process, from here to its end."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, self._on_hangup)
            os.setpgid(0, 0)
            self._lifeline.hold()
            for other in (leash, self._control, self._bell, self._ring):
                if other is not None:
                    other.close()
            for ward in self._wards.values():
                ward.leash.close()
                ward.line.close()
            page, error = fds
            os.dup2(error, 1)
            os.dup2(error, 2)
            os.close(error)
            from treadle._engines import process_child

            status = process_child.main(line, page, self._lifeline)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)


def _ignore(*_: object) -> None:
    """Ignore a signal, which wakes us as well."""


def main() -> None:
    """Be the keeper: standard input is the socket on which processes are asked for."""
    control = socket.socket(fileno=os.dup(0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    close_all_but(control.fileno())
    _get_ready()
    keeper = Keeper(control)
    keeper.serve()
    keeper.close()


def close_all_but(kept: int) -> None:
    """Close whatever else our parent has left open beside the standard places: it is not ours to hold."""
    try:
        others = {int(name) for name in os.listdir("/dev/fd")}
    except OSError:  # there is no such folder without /proc
        os.closerange(3, kept)
        os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
        return
    for fd in others - {0, 1, 2, kept}:
        with suppress(OSError):
            os.close(fd)


def _get_ready() -> None:
    """Import what every process needs."""
    from treadle._engines.process_pickling import find_cloudpickle

    find_cloudpickle()
