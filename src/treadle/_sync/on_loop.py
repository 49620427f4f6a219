"""``on_loop``: from any thread to the one that owns a window or an event loop."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec

from treadle._core.coroutine_function import is_coroutine_function
from treadle._core.describe import annotate, describe, describe_function
from treadle._core.option_names import suggesting
from treadle._core.settings import check_callable
from treadle._sync.inbox import Inbox
from treadle.errors import WrongType

P = ParamSpec("P")

# How often a Tk window looks for calls: below what a person notices, and next to nothing for a processor.
TK_POLL_MILLISECONDS = 15

EXPECTED = "an asyncio loop, a Tk widget, a Qt object, or a function that has its argument called on a loop's thread"


@suggesting
def on_loop(callback: Callable[P, object], via: Any = None, *, latest: bool = False) -> Callable[P, None]:
    """Return a function for any thread that has ``callback`` called on the thread of a loop.

    Results and progress so reach a window or a coroutine, whose thread alone may touch it, and which must not wait.
    Calling what is returned takes note of the call and returns at once: it never blocks and never makes the call
    itself, not even on the loop's own thread. Calls are made in the order they were asked for, in the context (see
    ``contextvars``) of whoever asked; after 8 ms of them the loop gets its turn. What ``callback`` raises goes to
    the loop's own handler (asyncio's exception handler, Tk's ``report_callback_exception``), and the next call is made.

    Once the loop is closed or the window destroyed, calls are dropped: those that wait (the log says so at level INFO),
    and those that come (a warning says so, once, if they come a second later or more). Nothing is raised: work that
    still goes on in other threads is not disturbed.

    Args:
        callback: Called with the same arguments; what it returns is ignored.
        via: An asyncio loop. None: the one that runs here. Or a Tk widget, which looks for calls every 15 ms until it
            is destroyed or nobody holds what was returned; or a Qt object, such as the ``QApplication``, of PySide6 or
            PyQt6. For these two, ``on_loop`` itself is to be called on the thread of the window. Or any function
            that takes a function and has it called on the right thread, at once or later, such as
            ``loop.call_soon_threadsafe``. It is called by any thread, that of the loop included; a ``RuntimeError`` of
            its own means that the loop has ended.
        latest: Of calls that wait, make the latest only: for progress, when only the newest state counts and more may
            come than a window can show. Otherwise all are made, and kept in memory until then.

    Raises:
        WrongType: ``callback`` cannot be called, or ``via`` is nothing of this; None where no loop runs.

    Example:
        >>> import asyncio, treadle
        >>> async def main():
        ...     seen = asyncio.Queue()
        ...     with treadle.TaskGroup() as group:
        ...         group.submit(treadle.on_loop(seen.put_nowait), "from a thread")
        ...     return await seen.get()
        >>> asyncio.run(main())
        'from a thread'
    """
    check_callable("callback", callback)
    if is_coroutine_function(callback):
        given = f"the coroutine function {describe_function(callback)}"
        raise WrongType("callback", given, "a plain function, which may call asyncio.create_task()")
    inbox = Inbox(callback, latest)

    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        inbox.put(args, kwargs)

    call.__name__ = call.__qualname__ = describe_function(callback)
    if via is None or callable(getattr(via, "call_soon_threadsafe", None)):
        _use_asyncio(inbox, via)
    elif callable(getattr(via, "after", None)) and callable(getattr(via, "bind", None)):
        try:
            _use_tk(inbox, via, weakref.ref(call))
        except Exception as error:  # Tk's own words do not lead there
            annotate(error, "on_loop() itself is to be called on the thread of the window, while it lives")
            raise
    elif (core := _qt_core(via)) is not None:
        _use_qt(inbox, via, core, call)
    elif callable(via):
        inbox.ask = lambda: via(inbox.drain)
    else:
        raise WrongType("via", describe(via), EXPECTED)
    return call


def _use_asyncio(inbox: Inbox, loop: Any) -> None:
    if loop is None:
        asyncio = sys.modules.get("asyncio")  # slow to import; where a loop runs, it is there
        try:
            loop = asyncio.get_running_loop() if asyncio else None
        except RuntimeError:
            pass
    if loop is None:
        raise WrongType("via", "None where no asyncio loop runs", EXPECTED)
    inbox.ask = lambda: loop.call_soon_threadsafe(inbox.drain)
    inbox.has_ended = getattr(loop, "is_closed", inbox.has_ended)


def _use_tk(inbox: Inbox, widget: Any, handle: weakref.ref[Any]) -> None:
    """Look for calls from Tk's own thread: from another one, whatever one asks of Tk may wait for that, or fail.

    Nothing that other threads hold leads to the widget: Tk must not be torn down by one of them.
    """
    timer: str | None = None

    def poll() -> None:
        nonlocal timer
        timer = None
        if handle() is not None or not inbox.is_empty():
            timer = widget.after(TK_POLL_MILLISECONDS, poll)  # first: a call may raise, or open a dialog
            inbox.drain()
        else:
            _unbind(widget, "<Destroy>", binding)

    def end(event: Any) -> None:
        nonlocal timer
        if event.widget is widget:  # a window hears of the end of everything in it
            if timer is not None:
                widget.after_cancel(timer)
                timer = None
            inbox.close()

    binding = widget.bind("<Destroy>", end, add="+")
    timer = widget.after(TK_POLL_MILLISECONDS, poll)


def _unbind(widget: Any, sequence: str, binding: str) -> None:
    """Do as ``widget.unbind``, which takes away everybody's bindings before Python 3.12."""
    lines = str(widget.tk.call("bind", str(widget), sequence)).split("\n")
    others = [line for line in lines if f"[{binding} " not in line]
    widget.tk.call("bind", str(widget), sequence, "\n".join(others) if any(others) else "")
    widget.deletecommand(binding)


def _qt_core(thing: object) -> Any:
    """Return the module ``QtCore`` that ``thing`` is a ``QObject`` of; None: it is none."""
    for kind in type(thing).__mro__:
        if kind.__name__ == "QObject":
            return sys.modules.get(kind.__module__)
    return None


def _use_qt(inbox: Inbox, owner: Any, core: Any, call: Callable[..., Any]) -> None:
    """Have a signal, which may be sent from any thread, arrive on that of ``owner``."""
    signal = core.Signal if hasattr(core, "Signal") else core.pyqtSignal

    class Relay(core.QObject):  # type: ignore[misc]  # whichever Qt it is
        asked = signal()

        def drain(self) -> None:
            inbox.drain()

    relay = Relay(owner)
    relay.asked.connect(relay.drain, core.Qt.ConnectionType.QueuedConnection)
    relay.destroyed.connect(lambda: inbox.close())
    inbox.ask = relay.asked.emit
    weakref.finalize(call, _delete_later, relay).atexit = False


def _delete_later(relay: Any) -> None:
    """Have Qt delete ``relay``, on its own thread, after what was sent to it."""
    try:
        relay.deleteLater()
    except RuntimeError:  # it went with its owner
        pass
