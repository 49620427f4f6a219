"""``treadle.on_loop``: to the thread of a window or a loop, from any other, in order, without waiting for it.

Windows are opened by programs of their own: what Tk and Qt leave behind must not be collected by a thread of ours.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import logging
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from textwrap import dedent

import pytest

import treadle
from tests.programs import finish, start_program
from treadle._sync import inbox
from treadle.testing import ManualClock


class Loop:
    """A loop that goes on when it is told to; its own ``call_soon`` is the ``via``."""

    def __init__(self) -> None:
        self.ready: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def call_soon(self, action: Callable[[], object]) -> None:
        self.ready.put(action)

    def turn(self) -> None:
        """Do what is ready now, and nothing that becomes so meanwhile."""
        for _ in range(self.ready.qsize()):
            self.ready.get()()

    def run(self) -> None:
        """Do all there is."""
        while not self.ready.empty():
            self.turn()


@pytest.fixture
def loop() -> Loop:
    return Loop()


# Any loop


def test_calls_are_made_in_order_and_never_by_whoever_asks(loop: Loop) -> None:
    made: list[tuple[int, int]] = []
    post = treadle.on_loop(lambda number: made.append((number, threading.get_ident())), via=loop.call_soon)

    with treadle.PoolExecutor(1) as pool:
        for number in range(100):
            pool.submit(post, number)
    post(100)
    assert made == []
    loop.run()

    assert made == [(number, threading.get_ident()) for number in range(101)]


def test_each_thread_keeps_its_order_and_nothing_is_lost_or_made_twice(loop: Loop) -> None:
    made: list[tuple[int, int]] = []
    post = treadle.on_loop(lambda *pair: made.append(pair), via=loop.call_soon)

    def ask(thread: int) -> None:
        for number in range(1000):
            post(thread, number)

    with treadle.PoolExecutor(4) as pool:
        tasks = [pool.submit(ask, thread) for thread in range(4)]
        while not all(task.done() for task in tasks):
            loop.run()
    loop.run()

    assert len(made) == 4000
    for thread in range(4):
        assert [number for other, number in made if other == thread] == list(range(1000))


def test_arguments_of_all_kinds_arrive(loop: Loop) -> None:
    made: list[object] = []
    post = treadle.on_loop(lambda *args, **kwargs: made.append((args, kwargs)), via=loop.call_soon)
    post(1, 2, three=3)
    post()
    loop.run()

    assert made == [((1, 2), {"three": 3}), ((), {})]


def test_many_calls_ask_the_loop_once(loop: Loop) -> None:
    post = treadle.on_loop(lambda number: None, via=loop.call_soon)
    for number in range(1000):
        post(number)

    assert loop.ready.qsize() == 1


def test_a_flood_leaves_the_loop_its_turn(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def tick() -> None:
        nonlocal now
        now += 0.001

    monkeypatch.setattr(inbox, "perf_counter", lambda: now)
    made: list[int] = []

    def call(number: int) -> None:
        tick()
        made.append(number)

    post = treadle.on_loop(call, via=loop.call_soon)
    for number in range(20):
        post(number)
    loop.turn()
    first = len(made)
    loop.run()

    assert first == 8
    assert made == list(range(20))


def test_of_a_flood_of_progress_the_latest_is_enough(loop: Loop) -> None:
    made: list[int] = []
    post = treadle.on_loop(made.append, via=loop.call_soon, latest=True)
    for number in range(10_000):
        post(number)
    loop.run()
    post(10_000)
    loop.run()

    assert made == [9_999, 10_000]


def test_an_exception_goes_to_the_loop_and_the_next_call_is_made(loop: Loop) -> None:
    made: list[int] = []

    def call(number: int) -> None:
        made.append(number)
        if number == 1:
            raise ValueError("bad")

    post = treadle.on_loop(call, via=loop.call_soon)
    for number in range(4):
        post(number)
    with pytest.raises(ValueError, match="bad"):
        loop.turn()
    loop.run()

    assert made == [0, 1, 2, 3]


def test_a_call_that_runs_the_loop_itself_does_not_hold_up_the_others(loop: Loop) -> None:
    """As a dialog does: what waits behind it is to be seen while it is open."""
    made: list[str] = []

    def call(name: str) -> None:
        made.append(f"{name} begins")
        if name == "dialog":
            loop.run()
        made.append(f"{name} ends")

    post = treadle.on_loop(call, via=loop.call_soon)
    post("dialog")
    post("progress")
    loop.run()

    assert made == ["dialog begins", "progress begins", "progress ends", "dialog ends"]


def test_a_call_may_ask_for_another(loop: Loop) -> None:
    made: list[int] = []

    def call(number: int) -> None:
        made.append(number)
        if number < 3:
            post(number + 1)

    post = treadle.on_loop(call, via=loop.call_soon)
    post(0)
    loop.run()

    assert made == [0, 1, 2, 3]


def test_a_call_has_the_context_of_whoever_asked(loop: Loop) -> None:
    variable = contextvars.ContextVar("variable", default="nobody's")
    made: list[str] = []
    post = treadle.on_loop(lambda: made.append(variable.get()), via=loop.call_soon)

    def ask(value: str) -> None:
        variable.set(value)
        post()

    for value in ("first", "second"):
        contextvars.copy_context().run(ask, value)
    post()
    loop.run()

    assert made == ["first", "second", "nobody's"]


def test_a_via_that_fails_tells_whoever_asks_and_loses_nothing() -> None:
    full: queue.Queue[Callable[[], object]] = queue.Queue(1)
    made: list[int] = []
    post = treadle.on_loop(made.append, via=full.put_nowait)
    full.put(lambda: None)
    with pytest.raises(queue.Full):
        post(0)
    full.get()
    post(1)
    full.get()()

    assert made == [0, 1]


def test_a_call_that_is_made_at_once_and_fails_is_not_taken_for_the_end_of_the_loop() -> None:
    """A ``via`` may wait for the call and raise what it raised: a ``RuntimeError`` of it is not one of the loop."""
    made: list[int] = []

    def call(number: int) -> None:
        if number == 0:
            raise RuntimeError("a bug")
        made.append(number)

    post = treadle.on_loop(call, via=lambda action: action())
    with pytest.raises(RuntimeError, match="a bug"):
        post(0)
    post(1)

    assert made == [1]


def test_a_stack_that_is_full_is_not_taken_for_the_end_of_the_loop(loop: Loop) -> None:
    """``RecursionError`` is a ``RuntimeError``: it says something of whoever asks."""
    made: list[int] = []
    is_full = True

    def via(action: Callable[[], object]) -> None:
        if is_full:
            raise RecursionError
        loop.call_soon(action)

    post = treadle.on_loop(made.append, via=via)
    with pytest.raises(RecursionError):
        post(1)
    is_full = False
    post(2)
    loop.run()

    assert made == [1, 2]


def test_what_is_returned_is_called_as_the_callback_is(loop: Loop) -> None:
    def show(text: str) -> None: ...

    assert treadle.on_loop(show, via=loop.call_soon).__name__ == "show"


@pytest.mark.parametrize("via", [5, "loop", object()])
def test_what_is_no_loop_is_refused(via: object) -> None:
    with pytest.raises(treadle.WrongType, match="via must be an asyncio loop, a Tk widget, a Qt object"):
        treadle.on_loop(print, via=via)


def test_without_a_loop_there_is_none_to_take() -> None:
    with pytest.raises(treadle.WrongType, match="None where no asyncio loop runs"):
        treadle.on_loop(print)


def test_what_cannot_be_called_is_refused(loop: Loop) -> None:
    with pytest.raises(treadle.WrongType, match="callback must be callable"):
        treadle.on_loop(5, via=loop.call_soon)  # type: ignore[arg-type]


# asyncio


def test_asyncio_gets_results_on_its_own_thread() -> None:
    async def main() -> None:
        seen: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        post = treadle.on_loop(lambda number: seen.put_nowait((number, threading.get_ident())))

        def work() -> None:
            for outcome in treadle.map(abs, [-1, -2, -3]).outcomes():
                post(outcome.result())

        await treadle.to_thread(work)
        assert [await seen.get() for _ in range(3)] == [(number, threading.get_ident()) for number in (1, 2, 3)]

    asyncio.run(main())


def test_asyncio_is_given_the_end_of_each_task() -> None:
    async def main() -> int:
        total = 0
        done = asyncio.Event()

        def add(task: Future[int]) -> None:
            nonlocal total
            total += task.result()
            if total == 6:
                done.set()

        post = treadle.on_loop(add)
        with treadle.PoolExecutor(2) as pool:
            for number in (1, 2, 3):
                pool.submit(abs, -number).add_done_callback(post)
            await asyncio.wait_for(done.wait(), 10)
        return total

    assert asyncio.run(main()) == 6


def test_asyncio_hands_an_exception_to_its_handler() -> None:
    async def main() -> tuple[list[object], list[int]]:
        handled: list[object] = []
        made: list[int] = []
        over = asyncio.Event()

        def call(number: int) -> None:
            if number == 0:
                raise ValueError("bad")
            made.append(number)
            over.set()

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: handled.append(context["exception"]))
        post = treadle.on_loop(call, via=loop)
        with treadle.PoolExecutor(1) as pool:
            pool.submit(post, 0)
            pool.submit(post, 1)
        await over.wait()
        return handled, made

    handled, made = asyncio.run(main())
    assert [repr(error) for error in handled] == ["ValueError('bad')"]
    assert made == [1]


def test_calls_for_a_closed_loop_are_dropped_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Also those that the loop was asked to make, and never came to."""
    caplog.set_level(logging.INFO, "treadle")
    made: list[int] = []
    loop = asyncio.new_event_loop()
    post = treadle.on_loop(made.append, via=loop)
    post(1)  # the loop never comes to it
    loop.close()
    for number in range(2, 10):
        post(number)

    assert made == []
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "the loop that calls of append are for has ended: dropped 2 that waited")
    ]


def test_only_calls_that_come_long_after_the_end_are_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Who leaves a loop while work comes to its end has done nothing wrong, and could not avoid it."""
    loop = asyncio.new_event_loop()
    with ManualClock() as clock:
        post = treadle.on_loop(print, via=loop)
        loop.close()
        post("too late")
        clock.advance(0.9)
        post("too late as well")
        assert caplog.records == []
        clock.advance(0.1)
        post("who asks for this?")
        post("and for this?")

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "calls of print still come 1.0 s after the end of the loop they are for, and are dropped")
    ]


def test_what_waits_for_a_loop_that_never_comes_is_bounded_once_it_is_known_to_have_ended(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that cannot say that it has ended is asked again when much waits."""
    monkeypatch.setattr(inbox, "ASK_AGAIN_CALLS", 10)
    has_ended = False

    def via(action: Callable[[], object]) -> None:
        if has_ended:
            raise RuntimeError("the loop has ended")
        loop.call_soon(action)

    item = type("Item", (), {})()
    alive = weakref.ref(item)
    post = treadle.on_loop(print, via=via)
    post(item)
    has_ended = True
    for number in range(20):
        post(number)

    del item
    assert alive() is None


def test_a_map_shows_its_progress_on_a_loop() -> None:
    async def main() -> list[int]:
        seen: list[int] = []
        post = treadle.on_loop(lambda stats: seen.append(stats.succeeded), latest=True)
        results = await treadle.to_thread(lambda: list(treadle.map(abs, range(100), progress=post)))
        await asyncio.sleep(0)
        assert len(results) == 100
        return seen

    assert asyncio.run(main())[-1] == 100


# Tk


def run_window(source: str) -> str:
    """Run a program with a window, ``root``, and what these programs need; return what it prints."""
    head = """
        import logging, os, signal, sys, threading, time, tkinter
        import treadle
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        main = threading.get_ident()
        root = tkinter.Tk()
        guard = root.after(30_000, lambda: os._exit(3))
        def start(work):
            thread = threading.Thread(target=work)
            thread.start()
            return thread
    """
    status, out, err = finish(start_program(dedent(head) + dedent(source)))
    assert status == 0, err
    assert err == ""
    return out


@pytest.mark.usefixtures("display")
def test_tk_gets_calls_in_order_on_its_own_thread_while_it_stays_responsive() -> None:
    out = run_window("""
        label = tkinter.Label(root)
        beats = []
        def beat():
            beats.append(1)
            root.after(5, beat)
        def show(number):
            assert threading.get_ident() == main
            label["text"] = number
            numbers.append(number)
            if number == 9_999:
                root.destroy()
        numbers = []
        post = treadle.on_loop(show, via=label)
        def work():
            for number in range(10_000):
                post(number)
        beat()
        thread = start(work)
        root.mainloop()
        thread.join()
        print(numbers == list(range(10_000)), len(beats) > 3)
    """)
    assert out == "True True\n"


@pytest.mark.usefixtures("display")
def test_tk_shows_the_progress_of_a_map() -> None:
    out = run_window("""
        seen = []
        def show(stats):
            seen.append(stats.succeeded)
            if stats.succeeded == 50:
                root.destroy()
        progress = treadle.on_loop(show, via=root, latest=True)
        thread = start(lambda: print(sum(treadle.map(abs, range(50), progress=progress))))
        root.mainloop()
        thread.join()
        print(seen[-1])
    """)
    assert out == f"{sum(range(50))}\n50\n"


@pytest.mark.usefixtures("display")
def test_asking_does_not_wait_for_tk() -> None:
    """The window's thread waits for the other, which asks meanwhile: by Tk's own means that is a deadlock."""
    out = run_window("""
        made = []
        post = treadle.on_loop(made.append, via=root)
        def work():
            for number in range(100):
                post(number)
        def wait():
            start(work).join()
            assert made == []
            root.after(100, root.destroy)
        root.after(1, wait)
        root.mainloop()
        print(made == list(range(100)))
    """)
    assert out == "True\n"


@pytest.mark.usefixtures("display")
def test_tk_reports_an_exception_and_goes_on() -> None:
    out = run_window("""
        root.report_callback_exception = lambda kind, error, traceback: print("reported", error)
        def show(number):
            if number == 0:
                raise ValueError("bad")
            print(number)
            root.destroy()
        post = treadle.on_loop(show, via=root)
        post(0)
        post(1)
        root.mainloop()
    """)
    assert out == "reported bad\n1\n"


@pytest.mark.usefixtures("display")
def test_tk_goes_on_behind_an_open_dialog() -> None:
    out = run_window("""
        answer = tkinter.StringVar(root)
        def show(text):
            print(text)
            if text == "dialog":
                root.wait_variable(answer)
                print("closed")
                root.destroy()
            elif text == "later":
                answer.set("ok")
        post = treadle.on_loop(show, via=root)
        post("dialog")
        root.after(50, lambda: post("later"))
        root.mainloop()
    """)
    assert out == "dialog\nlater\nclosed\n"


@pytest.mark.usefixtures("display")
def test_calls_for_a_destroyed_window_are_dropped_and_no_cause_for_alarm() -> None:
    out = run_window("""
        logging.getLogger("treadle").setLevel(logging.INFO)
        frame = tkinter.Frame(root)
        child = tkinter.Label(frame)
        post = treadle.on_loop(print, via=frame)
        other = treadle.on_loop(print, via=root)
        child.destroy()
        post("arrives")
        def waiting():
            return len(root.tk.splitlist(root.tk.call("after", "info")))
        def destroy():
            post("too late")
            post("too late")
            before = waiting()
            frame.destroy()
            print("timers:", waiting() - before)
        root.after(50, destroy)
        root.after(100, lambda: (post("later still"), other("goes on")))
        root.after(150, root.destroy)
        root.mainloop()
        other("after the end")
        other("and again")
    """)
    assert out.splitlines() == [
        "arrives",
        "the loop that calls of print are for has ended: dropped 2 that waited",
        "timers: -1",
        "goes on",
    ]


@pytest.mark.usefixtures("display")
def test_what_others_have_bound_to_the_end_of_a_window_stays_bound() -> None:
    """``unbind`` of Python 3.11 takes away all that is bound to it."""
    out = run_window("""
        logging.getLogger("treadle").setLevel(logging.INFO)
        root.bind("<Destroy>", lambda event: print("the user's own"))
        gone = treadle.on_loop(print, via=root)
        kept = treadle.on_loop(print, via=root)
        del gone
        root.after(50, lambda: (kept("too late"), root.destroy()))
        root.mainloop()
    """)
    assert out.splitlines() == [
        "the user's own",
        "the loop that calls of print are for has ended: dropped 1 that waited",
    ]


@pytest.mark.usefixtures("display")
def test_tk_is_left_alone_when_nobody_can_ask_any_more() -> None:
    out = run_window("""
        def waiting():
            return len(root.tk.splitlist(root.tk.call("after", "info")))
        before = waiting()
        post = treadle.on_loop(print, via=root)
        assert waiting() == before + 1
        post("what waits is still shown")
        del post
        root.after(100, lambda: (print(waiting() - before), root.destroy()))
        root.mainloop()
    """)
    assert out == "what waits is still shown\n0\n"


# Qt


def test_qt_gets_calls_in_order_on_its_own_thread() -> None:
    if importlib.util.find_spec("PySide6") is None:
        pytest.skip("no PySide6")
    source = """
        import logging, os, sys, threading
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
        from PySide6.QtCore import QCoreApplication, QEvent, QObject, QTimer
        import treadle
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        sys.excepthook = lambda kind, error, traceback: print("reported", error)
        app = QCoreApplication([])
        main, numbers = threading.get_ident(), []
        def show(number):
            assert threading.get_ident() == main
            numbers.append(number)
            if number == 5:
                raise ValueError("bad")
            if number == 999:
                app.quit()
        post = treadle.on_loop(show, via=app)
        QTimer.singleShot(30_000, lambda: os._exit(3))
        thread = threading.Thread(target=lambda: [post(number) for number in range(1000)])
        thread.start()
        app.exec()
        thread.join()
        print(numbers == list(range(1000)))

        def settle():
            app.processEvents()
            QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
            app.processEvents()

        relays = len(app.children())
        post(1000)
        del post
        settle()
        print(numbers[-1], relays - len(app.children()))

        owner = QObject()
        post = treadle.on_loop(show, via=owner)
        owner.deleteLater()
        settle()
        post(2000)  # nobody makes it, and nothing is raised
    """
    status, out, err = finish(start_program(source))
    assert (status, out.splitlines()) == (
        0,
        [
            "reported bad",
            "True",
            "1000 1",
        ],
    ), err


def test_a_coroutine_function_is_refused() -> None:
    """Its coroutines would never be awaited."""

    async def show() -> None: ...

    class Show:
        async def __call__(self) -> None: ...

    with pytest.raises(treadle.WrongType, match="create_task.*not the coroutine function show"):
        treadle.on_loop(show, via=list)
    for callback in (Show(), partial(Show())):
        with pytest.raises(treadle.WrongType, match="create_task.*not the coroutine function Show"):
            treadle.on_loop(callback, via=list)
