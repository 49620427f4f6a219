"""Starting processes: the parent's side of the keeper, and of each process that it has started."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import socket
import subprocess
import sys
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path

from treadle._core.raw import make_rlock
from treadle._engines.process_keeper import KILL, LET_GO, LOOK, REPORT
from treadle._engines.process_surroundings import environment
from treadle._engines.process_wire import GIVE_BACK, PAGE_BYTES, STOP, Wire, open_line, open_page

# How long to wait for word of how a process ended whose line has closed; the keeper says so before it closes it.
REPORT_SECONDS = 2.0
# Treadle is found where it is, and by no path of ours: what it imports in turn is the standard library's, whatever
# files of such names lie in folders that come first there.
_PLACE = str(Path(__file__).absolute().parents[2])
_START = """
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
spec = PathFinder.find_spec("treadle", [{folder!r}])
treadle = sys.modules["treadle"] = module_from_spec(spec)
spec.loader.exec_module(treadle)
from treadle._engines.process_keeper import main
main()
"""


class ChildProcess:
    """A process that makes calls, as its worker holds it: a line for messages, a leash, and the shared page.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self) -> None:
        self.was_refused = False  # once its cause of death is known: the system had no room for it
        with _lock, ExitStack() as theirs:
            _take_standard_places(theirs)
            self.line, line = open_line()
            theirs.callback(line.close)
            self._leash, leash = socket.socketpair()
            theirs.callback(leash.close)
            self._leash.setblocking(False)
            page = open_page()
            theirs.callback(os.close, page)
            self.page = memoryview(mmap.mmap(page, PAGE_BYTES)).cast("q")
            self.wire = Wire(self.line)
            self._keeper = _ask_for_child(self, [leash.fileno(), line.fileno(), page])

    def stop_calls(self, portion: int) -> None:
        """Ask the calls of that portion to end."""
        self.page[STOP] = portion
        self._order(LOOK)

    def give_back(self, portion: int) -> None:
        """Ask for what calls of that portion have come to, and for those that have not begun."""
        self.page[GIVE_BACK] = portion
        self._order(LOOK)

    def kill(self) -> None:
        """Kill the process, and what it has started in its process group."""
        self._order(KILL)

    def let_go(self) -> None:
        """Have nothing to do with it any more: it ends by itself now, and is killed if it does not."""
        self._order(LET_GO)
        self.close()

    def close(self) -> None:
        """Close all that is open here; without a word before, that kills the process."""
        self.line.close()
        self._leash.close()

    def _order(self, order: bytes) -> None:
        try:
            self._leash.send(order)
        except OSError:  # it is dead already, or closed
            return
        _have_go_on(self._keeper)

    def cause_of_death(self) -> str:
        """Return how the process ended, in words, once its line has closed."""
        try:
            self._leash.settimeout(REPORT_SECONDS)
            (status,) = REPORT.unpack(self._leash.recv(REPORT.size))
        except Exception:  # closed without a report
            self.was_refused = not _is_keeper_gone(self._keeper)
            if self.was_refused:
                return "it could not be started: the process that starts others can have nothing more open"
            return "the process that starts and ends it was killed, and it with that"
        self.was_refused = status < 0
        return describe_status(status)


def describe_status(status: int) -> str:
    """Return in words how a process ended: ``status`` is that of ``os.wait``, or an errno, negated."""
    if status < 0:
        return f"it could not be started: {os.strerror(-status)}"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"it exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    what = signal.strsignal(-code)
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"it was killed by {name} ({what}{hint})"


# The keeper of this process

_lock = make_rlock()  # protects the keeper, and the standard places while they are taken
# Its number, and where processes are asked for: a descriptor, which the system closes when we end, as is meant.
_keeper: tuple[int, int] | None = None
_children: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


def _take_standard_places(stack: ExitStack) -> None:
    """Fill what is closed of standard input, output and error until ``stack`` is left.

    What is opened meanwhile gets another place. In one of these it would get what is printed.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        stack.callback(os.close, fd)
    os.close(fd)


def _ask_for_child(child: ChildProcess, fds: list[int]) -> int:
    """Have the keeper start a process that gets ``fds``, and our standard error; start the keeper, if need be.

    Returns the keeper's number.
    """
    _children.add(child)
    for is_last in (False, True):
        keeper, fd = _running_keeper()
        control = socket.socket(fileno=fd)
        try:
            socket.send_fds(control, [b"+"], [*fds, 2])
            _have_go_on(keeper)
            return keeper
        except OSError as error:
            if is_last or error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
        finally:
            control.detach()
        _end_keeper()
    raise AssertionError("the last attempt returns or raises")


def _have_go_on(keeper: int) -> None:
    """Let the keeper do what it was asked to, should somebody have stopped it: nobody else can end what is stuck."""
    with suppress(OSError):
        if _keeper is not None and _keeper[0] == keeper:  # or the number may be that of something else by now
            os.kill(keeper, signal.SIGCONT)


def _is_keeper_gone(pid: int) -> bool:
    """Tell whether the keeper of that number has ended; there will be another, then."""
    global _keeper
    with _lock:
        if _keeper is None or _keeper[0] != pid:
            return True
        try:
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                return False
        except ChildProcessError:  # somebody else has waited for it
            pass
        os.close(_keeper[1])
        _keeper = None
        return True


def _running_keeper() -> tuple[int, int]:
    global _keeper
    if _keeper is None:
        _keeper = _start_keeper()
    return _keeper


def _start_keeper() -> tuple[int, int]:
    if not sys.executable:
        raise OSError("processes need a Python to be started: sys.executable does not name one")
    ours, theirs = socket.socketpair()
    try:
        program = _START.format(folder=_PLACE)
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *flags, "-P", "-c", program],
            {name: value for name, value in environment().items() if name and "=" not in name},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, 2, 1),
                (os.POSIX_SPAWN_DUP2, 2, 2),  # or it would be closed there, if Python has opened it
            ],
            setpgroup=0,  # so that Ctrl-C at a terminal is none of its business
            setsigmask=[],
            setsigdef=[signal.SIGCHLD],
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, ours.detach()


def is_keeper_running() -> bool:
    """Tell whether a process can be had at once."""
    return _keeper is not None


def end_keeper() -> None:
    """End the keeper, and wait until it has gone; processes that were not let go are killed."""
    with _lock:
        _end_keeper()


def _end_keeper() -> None:
    global _keeper
    if _keeper is None:
        return
    (pid, control), _keeper = _keeper, None
    os.close(control)
    with suppress(OSError):
        os.kill(pid, signal.SIGCONT)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:  # somebody else has waited for it
        pass


def _forget() -> None:
    """In a forked child: let go of what is the parent's, or the end of the parent would not be noticed."""
    global _keeper, _lock
    _lock = make_rlock()
    if _keeper is not None:
        os.close(_keeper[1])
        _keeper = None
    for child in list(_children):
        child.close()
    _children.clear()


os.register_at_fork(after_in_child=_forget)  # before anybody takes the lock
