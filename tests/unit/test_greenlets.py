"""What docs/gevent.md says: under gevent and eventlet, what ``threading`` calls threads are greenlets."""

from __future__ import annotations

import textwrap
from functools import cache
from importlib.util import find_spec

import pytest

from tests.programs import finish, start_program

PATCHES = {
    "gevent": "from gevent import monkey, spawn as spawn_greenlet\nmonkey.patch_all()\n",
    "eventlet": """
import warnings
warnings.simplefilter("ignore")
import eventlet
from eventlet import spawn as spawn_greenlet
eventlet.monkey_patch()
""",
}
CLAIMS = '''
import asyncio, threading, time
import treadle

def claim(check):
    try:
        print(check.__name__, check(), flush=True)
    except BaseException as error:
        print(check.__name__, type(error).__name__, error, flush=True)

def meet(number):
    """Return when eight calls are being made at once."""
    together.wait(30)
    return number

together = threading.Barrier(8)
most_inside = [0]

def enter(lock):
    """Have eight greenlets enter ``lock``, in which each lets the others go on; return how many were inside at once."""
    inside, most = [0], [0]
    def use(_):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            for _ in range(3):
                time.sleep(0)
            inside[0] -= 1
    list(treadle.map(use, range(8), max_workers=8))
    return most[0]

@claim
def map_makes_calls_at_once():
    return list(treadle.map(meet, range(8), max_workers=8)) == list(range(8))

@claim
def map_with_a_feeder():
    return list(treadle.map(meet, iter(range(8)), max_workers=8, intake="thread")) == list(range(8))

@claim
def pipeline():
    return list(treadle.pipeline(range(3)).map(abs, max_workers=2).map(str, max_workers=2))

@claim
def call_timeout():
    never = threading.Event()
    [outcome] = treadle.map(lambda _: never.wait(60), [1], call_timeout=0.05, grace=0.05).outcomes()
    never.set()
    return type(outcome.error).__name__

@claim
def retry():
    errors = [OSError(), OSError()]
    def fail_twice(item):
        if errors:
            raise errors.pop()
        return item
    return list(treadle.map(fail_twice, [7], retry=treadle.Retry(3, backoff=0.01)))

@claim
def group():
    with treadle.TaskGroup(8) as group:
        tasks = [group.submit(meet, number) for number in range(8)]
    return [task.result() for task in tasks] == list(range(8))

@claim
def group_cancels():
    begun = threading.Event()
    def wait():
        begun.set()
        treadle.sleep(60)
    def fail():
        begun.wait(30)
        raise ValueError("this one")
    try:
        with treadle.TaskGroup(2) as group:
            group.submit(wait)
            group.submit(fail)
    except ExceptionGroup as errors:
        return errors.exceptions

@claim
def executor():
    with treadle.PoolExecutor(8) as pool:
        return list(pool.map(meet, range(8))) == list(range(8))

@claim
def every():
    with treadle.every(0.01, lambda: None) as periodic:
        periodic.wait_next(30)
    return True

@claim
def limiter():
    return enter(treadle.Limiter(max_concurrent=2))

@claim
def lock():
    return enter(treadle.Lock())

@claim
def rlock():
    return enter(treadle.RLock())

@claim
def rlock_again():
    lock = treadle.RLock()
    with lock, lock:
        return repr(lock).partition(", ")[2]

@claim
def guarded():
    value = treadle.Guarded(0)
    def count(_):
        with value as held:
            before = held.value
            time.sleep(0)
            held.value = before + 1
    list(treadle.map(count, range(8), max_workers=8))
    return value.copy()

@claim
def channel():
    channel, found = treadle.Channel(2), []
    def produce():
        with channel.producer():
            for number in range(6):
                channel.put(number)
    with treadle.TaskGroup(2) as group:
        group.submit(produce)
        group.submit(lambda: found.extend(channel))
    return found

def hang(one, other, mine, theirs):
    with one:
        mine.set()
        theirs.wait(30)
        with other:
            pass

def cross(one, other):
    first, second = threading.Event(), threading.Event()
    with treadle.TaskGroup(2) as group:
        group.submit(hang, one, other, first, second)
        group.submit(hang, other, one, second, first)

@claim
def deadlock():
    try:
        cross(treadle.Lock(), treadle.Lock())
    except ExceptionGroup as errors:
        return errors.exceptions[0].reason, "File" in str(errors.exceptions[0])

@claim
def taken_twice():
    lock = treadle.Lock()
    with lock, lock:
        pass

@claim
def watch_locks():
    told = []
    with treadle.watch_locks(lambda deadlock: told.append(deadlock.reason)):
        most, lock, other = enter(threading.RLock()), threading.RLock(), threading.Lock()
        first, second = threading.Event(), threading.Event()
        for one, two, mine, theirs in (lock, other, first, second), (other, lock, second, first):
            threading.Thread(target=hang, args=(one, two, mine, theirs), daemon=True).start()
        while not told:
            time.sleep(0)
    return most, told

@claim
def raw_greenlet():
    """One that ``threading`` has never heard of holds the lock, and does not count as ended."""
    lock, held, waits = treadle.Lock(), threading.Event(), threading.Event()
    def hold():
        with lock:
            held.set()
            waits.wait(30)
            while not lock._line:
                time.sleep(0)
            for waiter in lock._line:
                waiter.wake()  # as it looks up, a second later: it asks for the holder
            time.sleep(0)
            time.sleep(0)
    greenlet = spawn_greenlet(hold)
    held.wait(30)
    waits.set()
    with lock:
        return True

@claim
def coroutines():
    async def answer(number):
        await asyncio.sleep(0)
        return number
    return list(treadle.map(answer, range(3)))

@claim
def coroutines_of_a_group():
    async def answer():
        return 1
    try:
        with treadle.TaskGroup() as group:
            group.submit(abs, 1)
            group.submit(answer)
    except ExceptionGroup as errors:
        raise errors.exceptions[0]

@claim
def coroutines_of_an_executor():
    treadle.PoolExecutor(2, engine="coroutines")

@claim
def to_thread():
    return asyncio.run(treadle.to_thread(abs, -1))

@claim
def auto():
    return list(treadle.map(abs, range(3), engine="auto"))

@claim
def processes():
    treadle.map(abs, range(3), engine="processes")

@claim
def processes_of_an_executor():
    treadle.PoolExecutor(2, engine="processes")
'''
NO_COROUTINES = "WrongType fn must be a plain function under gevent or eventlet"
NO_PROCESSES = "InvalidArgument engine must be 'threads' under gevent or eventlet, not 'processes'"


@cache
def claims(library: str) -> dict[str, str]:
    """Return what each claim comes to, by its name."""
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    code, out, err = finish(start_program(PATCHES[library] + CLAIMS))
    assert code == 0, err
    return dict(line.split(" ", 1) for line in out.splitlines())


@pytest.mark.parametrize("library", list(PATCHES))
@pytest.mark.parametrize(
    ("claim", "answer"),
    [
        ("map_makes_calls_at_once", "True"),
        ("map_with_a_feeder", "True"),
        ("pipeline", "['0', '1', '2']"),
        ("call_timeout", "CallTimedOut"),
        ("retry", "[7]"),
        ("group", "True"),
        ("group_cancels", "(ValueError('this one'),)"),
        ("executor", "True"),
        ("every", "True"),
        ("limiter", "2"),
        ("lock", "1"),
        ("rlock", "1"),
        ("rlock_again", "held 2 times by thread 'MainThread'>"),
        ("guarded", "8"),
        ("channel", "[0, 1, 2, 3, 4, 5]"),
        ("deadlock", "('deadlock: 2 threads wait for each other', False)"),
        ("watch_locks", "(1, ['deadlock: 2 threads wait for each other'])"),
        ("raw_greenlet", "True"),
        ("coroutines", f"{NO_COROUTINES}, not the coroutine function answer"),
        ("coroutines_of_a_group", f"{NO_COROUTINES}, not the coroutine function answer"),
        ("coroutines_of_an_executor", NO_PROCESSES.replace("processes", "coroutines")),
        ("to_thread", "1"),
        ("auto", "[0, 1, 2]"),
        ("processes", NO_PROCESSES),
        ("processes_of_an_executor", NO_PROCESSES),
    ],
)
def test_what_works_and_what_is_refused(library: str, claim: str, answer: str) -> None:
    assert claims(library)[claim] == answer


@pytest.mark.parametrize("library", list(PATCHES))
def test_a_lock_that_its_greenlet_holds_already_is_a_deadlock(library: str) -> None:
    assert "holds the Lock made at" in claims(library)["taken_twice"]


LATE = """
def refused(use):
    try:
        print(use.__name__, use())
    except treadle.PatchedTooLate as error:
        print(error.library)

def in_two_greenlets():
    import threading, time
    errors = []
    threading.excepthook = lambda event: errors.append(event.exc_value)
    arrived = []
    def use():
        arrived.append(1)
        with lock:
            while len(arrived) < 2:
                time.sleep(0)
            time.sleep(0)
    threads = [threading.Thread(target=use) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    raise errors[0]

def in_a_group():
    with treadle.TaskGroup() as group:
        group.submit(abs, 1)

refused(lambda: list(treadle.map(abs, [1])))
refused(in_a_group)
refused(lambda: treadle.PoolExecutor(2))
refused(lambda: treadle.every(1, lambda: None))
refused(treadle.Lock)
refused(treadle.RLock)
refused(lambda: treadle.Guarded(1))
refused(lambda: treadle.Channel(1))
refused(lambda: treadle.sleep(0))
refused(in_two_greenlets)
refused(limiter.__enter__)
refused(channel.get)
"""


@pytest.mark.parametrize("library", list(PATCHES))
def test_threads_that_are_replaced_after_the_import_are_refused(library: str) -> None:
    """What Treadle has from ``threading`` stays the system's: all greenlets would be one thread to it."""
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    made_before = "import treadle\nlock, limiter, channel = treadle.Lock(), treadle.Limiter(9), treadle.Channel(1)\n"

    code, out, err = finish(start_program(made_before + PATCHES[library] + textwrap.dedent(LATE)))

    assert code == 0, err
    assert out.split() == [library] * 12
