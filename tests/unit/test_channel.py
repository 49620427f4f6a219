"""A channel: its bound and its end, who waits and who is woken, and what becomes of whom when one leaves early.

Orders are forced: a thread stands in line before the next step is made, as the channel's own lines tell.
"""

from __future__ import annotations

import copy
import os
import pickle
import queue
import random
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import treadle
from tests.asides import Aside
from tests.interrupts import interrupt_everywhere
from tests.places import wait_until
from tests.programs import finish, start_program
from treadle._sync.line import Line
from treadle._sync.parker import Parker
from treadle.testing import ManualClock


class Boom(Exception):
    """What goes wrong here."""


@pytest.fixture
def switching() -> Iterator[None]:
    """Have threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_line(line: Line, fn: Callable[..., Any], *args: Any) -> Aside:
    """Call ``fn`` on another thread, and return when it stands in ``line``."""
    before = len(line.waiting)
    aside = Aside(fn, *args)
    wait_until(lambda: len(line.waiting) > before)
    return aside


def full_channel(*items: Any) -> treadle.Channel[Any]:
    channel: treadle.Channel[Any] = treadle.Channel(len(items))
    for item in items:
        channel.put_nowait(item)
    return channel


def assert_nobody_waits(channel: treadle.Channel[Any]) -> None:
    lines = (channel._getters, channel._putters, channel._joiners)
    assert [len(line.waiting) for line in lines] == [0, 0, 0]


# The queue


@pytest.mark.parametrize("act", [copy.copy, copy.deepcopy, pickle.dumps])
def test_neither_it_nor_an_end_of_it_is_copied(act: Callable[[Any], Any]) -> None:
    """A copy would share the items, and not know that the other was closed."""
    channel = treadle.Channel[int](1)

    for each in (channel, channel.producer()):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            act(each)


def test_items_come_out_in_the_order_in_which_they_were_put() -> None:
    channel = full_channel("a", "b", "c")

    assert [channel.get(), channel.get(), channel.get()] == ["a", "b", "c"]


@pytest.mark.parametrize("maxsize", [0, -1])
def test_a_channel_has_a_bound(maxsize: int) -> None:
    """One without would let producers fill the memory."""
    with pytest.raises(treadle.InvalidArgument, match="maxsize must be at least 1"):
        treadle.Channel(maxsize)


@pytest.mark.parametrize("maxsize", [None, 1.5, True, "3"])
def test_a_bound_is_a_whole_number(maxsize: Any) -> None:
    with pytest.raises(treadle.WrongType, match="maxsize must be a whole number"):
        treadle.Channel(maxsize)


def test_it_tells_how_it_stands() -> None:
    channel: treadle.Channel[int] = treadle.Channel(3, name="orders")
    channel.put(1)
    assert (channel.maxsize, len(channel), channel.closed) == (3, 1, False)
    assert repr(channel) == "<treadle.Channel 'orders': 1 of 3 items>"

    channel.close()

    assert channel.closed
    assert repr(channel) == "<treadle.Channel 'orders': closed, 1 of 3 items>"


def test_without_waiting_it_raises_what_the_standard_library_does() -> None:
    channel: treadle.Channel[int] = treadle.Channel(1)
    with pytest.raises(queue.Empty):
        channel.get_nowait()

    channel.put_nowait(1)

    with pytest.raises(queue.Full):
        channel.put_nowait(2)
    assert channel.get_nowait() == 1


def test_get_waits_for_an_item() -> None:
    channel: treadle.Channel[str] = treadle.Channel(1)
    getting = in_line(channel._getters, channel.get)

    channel.put("item")

    assert getting.value() == "item"
    assert_nobody_waits(channel)


def test_put_waits_for_room() -> None:
    channel = full_channel(1)
    putting = in_line(channel._putters, channel.put, 2)
    assert len(channel) == 1

    assert channel.get() == 1

    putting.value()
    assert channel.get() == 2
    assert_nobody_waits(channel)


def test_those_who_wait_get_in_one_by_one() -> None:
    """A consumer that takes a single item and stalls lets one producer in, at once, and no other."""
    channel = full_channel(0, 1)
    putting = [in_line(channel._putters, channel.put, item) for item in (2, 3)]

    channel.get()
    wait_until(lambda: putting[0].is_over())

    assert len(channel) == 2
    assert not putting[1].is_over()
    channel.get()
    putting[1].value()
    assert [channel.get(), channel.get()] == [2, 3]


def test_whoever_takes_an_item_just_before_another_waits_for_room_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer takes without the lock, and finds nobody in line; so the producer looks again, once it is."""
    channel = full_channel(1)
    stand = channel._putters.waiting.__class__.__setitem__

    class Waiting(type(channel._putters.waiting)):  # type: ignore[misc]
        def __setitem__(self, place: Parker, value: None) -> None:
            channel._items.popleft()  # what another thread does, which has just looked
            stand(self, place, value)

    channel._putters.waiting = Waiting()

    putting = Aside(channel.put, 2)

    putting.value()
    assert list(channel._items) == [2]
    assert_nobody_waits(channel)


def test_an_item_put_while_somebody_turns_to_waiting_is_seen() -> None:
    """The consumer has found nothing without the lock; so it looks again under it, before it stands in line."""
    channel: treadle.Channel[int] = treadle.Channel(1)

    class Items(deque[int]):
        def popleft(self) -> int:
            try:
                return super().popleft()
            finally:
                channel._items = deque()
                channel.put_nowait(5)

    channel._items = Items()

    assert Aside(channel.get).value() == 5


# Time


def test_a_get_that_is_out_of_time_takes_nothing() -> None:
    channel: treadle.Channel[int] = treadle.Channel(1, name="orders")
    with ManualClock() as clock:
        getting = Aside(channel.get, 5)
        clock.wait_for_sleepers()

        clock.advance(5)

        assert isinstance(getting.error(), TimeoutError)
    assert str(getting.error()) == "channel 'orders' had no item within 5 seconds"
    assert_nobody_waits(channel)
    channel.put(1)
    assert channel.get(timeout=0) == 1


def test_a_put_that_is_out_of_time_puts_nothing() -> None:
    channel = full_channel(1)
    with ManualClock() as clock:
        putting = Aside(channel.put, 2, 5)
        clock.wait_for_sleepers()

        clock.advance(5)

        assert isinstance(putting.error(), TimeoutError)
    assert_nobody_waits(channel)
    assert [channel.get(), len(channel)] == [1, 0]


def test_no_time_at_all_means_to_look_once() -> None:
    channel = full_channel(1)
    with pytest.raises(TimeoutError, match="had no room within 0 seconds"):
        channel.put(2, timeout=0)
    channel.get(timeout=0)

    with pytest.raises(TimeoutError, match="had no item within 0 seconds"):
        channel.get(timeout=0)


@pytest.mark.parametrize("timeout", [-1, "5", float("nan")])
def test_a_timeout_is_checked_also_where_nobody_waits(timeout: Any) -> None:
    channel: treadle.Channel[int] = treadle.Channel(2)
    channel.put(1)

    for call in (lambda: channel.get(timeout), lambda: channel.put(2, timeout), lambda: channel.join(timeout)):
        with pytest.raises(treadle.InvalidArgument, match="timeout must be"):
            call()
    assert len(channel) == 1


# The end


def test_a_loop_ends_when_the_channel_is_closed_and_drained() -> None:
    channel = full_channel(1, 2)

    channel.close()

    assert list(channel) == [1, 2]
    assert list(channel) == []


def test_what_is_in_a_closed_channel_can_be_taken_and_then_no_more() -> None:
    channel = full_channel(1)

    channel.close()

    assert channel.get() == 1
    for get in (channel.get, channel.get_nowait, lambda: channel.get(timeout=1)):
        with pytest.raises(treadle.ChannelClosed, match="was closed, and nothing is left to get"):
            get()


def test_nothing_is_put_into_a_closed_channel() -> None:
    channel: treadle.Channel[int] = treadle.Channel(2)

    channel.close()
    channel.close()

    for put in (channel.put, channel.put_nowait):
        with pytest.raises(treadle.ChannelClosed, match="was closed, and the item was not put"):
            put(1)
    assert len(channel) == 0


def test_closing_wakes_all_who_wait_for_items() -> None:
    channel: treadle.Channel[int] = treadle.Channel(2)
    getting = [in_line(channel._getters, channel.get) for _ in range(5)]
    looping = [in_line(channel._getters, list, channel) for _ in range(5)]

    channel.close()

    assert {type(aside.error()) for aside in getting} == {treadle.ChannelClosed}
    assert [aside.value() for aside in looping] == [[]] * 5
    assert_nobody_waits(channel)


def test_closing_wakes_all_who_wait_for_room_and_puts_nothing_of_theirs() -> None:
    channel = full_channel("first")
    putting = [in_line(channel._putters, channel.put, item) for item in range(5)]

    channel.close()

    assert {type(aside.error()) for aside in putting} == {treadle.ChannelClosed}
    assert list(channel) == ["first"]
    assert_nobody_waits(channel)


def test_an_item_put_just_before_the_end_is_taken_by_one_of_those_who_wait() -> None:
    channel: treadle.Channel[str] = treadle.Channel(1)
    looping = [in_line(channel._getters, list, channel) for _ in range(3)]

    channel.put("item")
    channel.close()

    assert sorted(aside.value() for aside in looping) == [[], [], ["item"]]


def test_a_channel_closed_with_an_error_does_not_end_a_loop_as_if_all_were_well() -> None:
    """A loop that silently saw a part of the items would be items dropped."""
    channel = full_channel(1, 2)
    seen = []

    channel.close(boom := Boom("no more"))

    with pytest.raises(treadle.ChannelClosed, match="was closed with an error") as info:
        for item in channel:
            seen.append(item)
    assert seen == [1, 2]
    assert info.value.__cause__ is boom


def test_the_first_close_decides() -> None:
    channel: treadle.Channel[int] = treadle.Channel(1)

    channel.close()
    channel.close(Boom())

    assert list(channel) == []


def test_a_consumer_that_leaves_its_loop_loses_only_the_item_it_took() -> None:
    channel = full_channel(1, 2, 3)
    for item in channel:
        assert item == 1
        break

    channel.close()

    assert list(channel) == [2, 3]


def test_several_loops_share_the_items() -> None:
    channel = full_channel(1, 2, 3, 4)
    channel.close()
    one, other = iter(channel), iter(channel)

    assert [next(one), next(other), next(one), next(other)] == [1, 2, 3, 4]
    assert next(one, "end") == next(other, "end") == "end"


def test_a_run_takes_its_input_from_a_channel() -> None:
    channel: treadle.Channel[int] = treadle.Channel(2)

    def fill() -> None:
        for number in range(20):
            channel.put(number)
        channel.close()

    filling = Aside(fill)
    assert list(treadle.map(str, channel, max_workers=3)) == [str(number) for number in range(20)]
    filling.value()


# Cancelling


def test_a_cancelled_get_takes_nothing_and_passes_on_the_call_it_had() -> None:
    """Both are called for an item each; then one leaves. The third would sleep beside what is left."""
    channel: treadle.Channel[int] = treadle.Channel(2)
    first = in_line(channel._getters, channel.get)
    second = in_line(channel._getters, channel.get)
    with channel._lock:  # called, but not yet able to look
        first.cancel()
        channel._getters.call_first()
        channel._items.append(1)

    assert isinstance(first.error(), treadle.Cancelled)
    assert second.value() == 1
    assert_nobody_waits(channel)


def test_a_cancelled_put_puts_nothing_and_passes_on_the_call_it_had() -> None:
    channel = full_channel("old")
    first = in_line(channel._putters, channel.put, "first")
    second = in_line(channel._putters, channel.put, "second")
    with channel._lock:
        first.cancel()
        channel._items.popleft()
        channel._putters.call_first()

    assert isinstance(first.error(), treadle.Cancelled)
    second.value()
    assert channel.get() == "second"
    assert_nobody_waits(channel)


def test_a_put_that_is_out_of_time_passes_on_the_call_it_had() -> None:
    channel = full_channel("old")
    with ManualClock() as clock:
        first = in_line(channel._putters, channel.put, "first", 5)
        clock.wait_for_sleepers()
        second = in_line(channel._putters, channel.put, "second")
        attempts = []
        offer = channel._offer

        def late(item: str, place: Any = None) -> Any:
            attempts.append(item)
            return treadle._sync.line.NOTHING_YET if item == "first" else offer(item, place)

        channel._offer = late  # type: ignore[method-assign]  # it looks in vain, as its time is up
        clock.advance(5)
        with channel._lock:
            channel._items.popleft()
            channel._putters.call_first()

        assert isinstance(first.error(), TimeoutError)
        second.value()
    assert channel.get() == "second"


def test_one_who_waits_in_the_middle_leaves_the_others_where_they_are() -> None:
    channel: treadle.Channel[int] = treadle.Channel(3)
    getting = [in_line(channel._getters, channel.get) for _ in range(3)]

    getting[1].cancel()
    assert isinstance(getting[1].error(), treadle.Cancelled)
    channel.put(1)
    channel.put(2)

    assert sorted([getting[0].value(), getting[2].value()]) == [1, 2]


def test_a_cancelled_call_feels_it_also_where_it_needs_not_wait() -> None:
    """Otherwise a consumer whose channel is never empty would go on for ever."""
    channel = full_channel(1, 2)
    felt: list[int] = []

    def consume() -> None:
        group.cancel()
        for call in (channel.get, lambda: channel.put(3), lambda: next(channel), channel.join):
            try:
                call()
            except treadle.Cancelled:
                felt.append(len(channel))

    with treadle.TaskGroup() as group:
        group.submit(consume)

    assert felt == [2, 2, 2, 2]


def test_what_a_cancelled_call_has_to_tidy_up_it_can() -> None:
    channel = full_channel(1)

    def consume() -> None:
        channel.get_nowait()
        group.cancel()
        channel.task_done()
        channel.close()

    with treadle.TaskGroup() as group:
        group.submit(consume)

    assert channel.closed
    channel.join(timeout=0)


def test_producers_and_consumers_in_a_group_end_when_one_of_them_fails() -> None:
    channel: treadle.Channel[int] = treadle.Channel(1)

    def produce() -> None:
        while True:
            channel.put(1)

    def consume() -> None:
        channel.get()
        raise Boom

    with pytest.raises(ExceptionGroup), treadle.TaskGroup() as group:
        group.submit(produce)
        group.submit(consume)


# Everything processed


def test_join_waits_until_everything_is_processed() -> None:
    channel = full_channel(1, 2)
    joining = [in_line(channel._joiners, channel.join) for _ in range(3)]
    for _ in range(2):
        channel.get()
    assert not any(aside.is_over() for aside in joining)

    channel.task_done()
    assert not any(aside.is_over() for aside in joining)
    channel.task_done()

    for aside in joining:
        aside.value()
    assert_nobody_waits(channel)


def test_join_of_an_unused_channel_is_over_at_once() -> None:
    treadle.Channel[int](1).join(timeout=0)


def test_task_done_is_for_what_was_put_once() -> None:
    channel = full_channel(1)
    channel.get()
    channel.task_done()

    with pytest.raises(ValueError, match="called more often than items were put"):
        channel.task_done()


def test_join_waits_also_for_what_is_left_in_a_closed_channel() -> None:
    channel = full_channel(1)
    channel.close()
    with pytest.raises(TimeoutError, match="were not all processed within 0 seconds"):
        channel.join(timeout=0)

    for _ in channel:
        channel.task_done()

    channel.join(timeout=0)


def test_a_cancelled_join_leaves_the_others_waiting() -> None:
    channel = full_channel(1)
    first, second = (in_line(channel._joiners, channel.join) for _ in range(2))

    first.cancel()
    assert isinstance(first.error(), treadle.Cancelled)
    channel.get()
    channel.task_done()

    second.value()


# Producers


def test_the_last_producer_that_leaves_closes_the_channel() -> None:
    channel: treadle.Channel[int] = treadle.Channel(4)
    first, second = channel.producer(), channel.producer()
    closed = []

    with first as end:
        end.put(1)
        end.put_nowait(2)
    closed.append(channel.closed)
    with second:
        pass
    closed.append(channel.closed)

    assert closed == [False, True]
    assert list(channel) == [1, 2]


def test_a_producer_counts_from_the_moment_it_is_made() -> None:
    """The first may be done before the second has even begun."""
    channel: treadle.Channel[int] = treadle.Channel(1)
    first, second = channel.producer(), channel.producer()
    with first:
        first.put(1)

    channel.get()
    with second:
        second.put(2)

    assert list(channel) == [2]


def test_a_producer_that_fails_is_told_to_the_consumers_when_the_others_are_done() -> None:
    channel: treadle.Channel[int] = treadle.Channel(4)
    good, bad = channel.producer(), channel.producer()
    with pytest.raises(Boom), bad:
        bad.put(1)
        raise Boom
    with good:
        good.put(2)

    with pytest.raises(treadle.ChannelClosed) as info:
        list(channel)

    assert isinstance(info.value.__cause__, Boom)


def test_a_producer_that_has_left_puts_nothing_more() -> None:
    channel: treadle.Channel[int] = treadle.Channel(1)
    first, _ = channel.producer(), channel.producer()
    first.close()
    first.close()

    for put in (first.put, first.put_nowait):
        with pytest.raises(treadle.ChannelClosed, match="this producer has left it"):
            put(1)
    assert not channel.closed


def test_a_closed_channel_takes_no_producer() -> None:
    channel: treadle.Channel[int] = treadle.Channel(1)
    with channel.producer():
        pass

    with pytest.raises(treadle.ChannelClosed, match="was closed, and no producer can be added"):
        channel.producer()


# Ctrl-C, forks


CTRL_C_WHILE_WAITING = """
    import threading, treadle
    channel = treadle.Channel(1)
    if {full}:
        channel.put("old")
    line = channel._putters if {full} else channel._getters
    def tell():
        while not line.waiting:
            pass
        print("waiting", flush=True)
    threading.Thread(target=tell).start()
    try:
        {wait}
    except KeyboardInterrupt:
        print("interrupted", len(channel), len(line.waiting))
    channel.close()
    print(list(channel))
"""


@pytest.mark.parametrize(
    ("wait", "is_full", "expected"),
    [("channel.get()", False, ["interrupted 0 0", "[]"]), ("channel.put('new')", True, ["interrupted 1 0", "['old']"])],
    ids=["get", "put"],
)
def test_ctrl_c_ends_a_wait_in_the_main_thread_and_loses_nothing(wait: str, is_full: bool, expected: list[str]) -> None:
    process = start_program(CTRL_C_WHILE_WAITING.format(wait=wait, full=is_full))
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"

    process.send_signal(signal.SIGINT)

    status, out, err = finish(process)
    assert (status, out.splitlines()) == (0, expected), err


def test_an_interrupted_put_leaves_nobody_sleeping_beside_an_item() -> None:
    def prepare() -> tuple[Callable[[], object], Callable[[], None]]:
        channel: treadle.Channel[int] = treadle.Channel(1)
        getting = in_line(channel._getters, channel.get)

        def check() -> None:
            wait_until(lambda: getting.is_over() or (len(channel) == 0 and len(channel._getters.waiting) == 1))
            channel.close()
            was_taken = getting.error() is None
            assert channel._unfinished == was_taken

        return lambda: channel.put(1), check

    interrupt_everywhere(prepare)


def test_an_interrupted_get_leaves_nobody_sleeping_beside_room() -> None:
    def prepare() -> tuple[Callable[[], object], Callable[[], None]]:
        channel = full_channel(1)
        putting = in_line(channel._putters, channel.put, 2)

        def check() -> None:
            wait_until(lambda: putting.is_over() or (len(channel) == 1 and len(channel._putters.waiting) == 1))
            channel.close()
            putting.error()

        return channel.get, check

    interrupt_everywhere(prepare)


@pytest.mark.parametrize("is_full", [True, False])
def test_an_interrupted_wait_leaves_nobody_in_line(is_full: bool) -> None:
    def prepare() -> tuple[Callable[[], object], Callable[[], None]]:
        channel = full_channel(1) if is_full else treadle.Channel(1)

        def check() -> None:
            assert_nobody_waits(channel)
            assert len(channel) == is_full

        return (lambda: channel.put(2, timeout=0)) if is_full else (lambda: channel.get(timeout=0)), check

    interrupt_everywhere(prepare)


def test_an_interrupted_task_done_leaves_nobody_in_join() -> None:
    def prepare() -> tuple[Callable[[], object], Callable[[], None]]:
        channel = full_channel(1)
        joining = in_line(channel._joiners, channel.join)
        channel.get()

        def check() -> None:
            wait_until(lambda: joining.is_over() or (channel._unfinished == 1 and len(channel._joiners.waiting) == 1))
            if channel._unfinished:
                channel.task_done()
            joining.value()

        return channel.task_done, check

    interrupt_everywhere(prepare)


def test_an_interrupted_close_is_one_or_none() -> None:
    def prepare() -> tuple[Callable[[], object], Callable[[], None]]:
        channel: treadle.Channel[int] = treadle.Channel(1)
        getting = [in_line(channel._getters, channel.get) for _ in range(2)]
        end = channel.producer()

        def check() -> None:
            wait_until(lambda: len(channel._getters.waiting) == 2 or all(aside.is_over() for aside in getting))
            channel.close()
            assert {type(aside.error()) for aside in getting} == {treadle.ChannelClosed}

        return end.close, check

    interrupt_everywhere(prepare)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_copy_in_a_forked_child_is_closed_and_hangs_nowhere() -> None:
    """Whoever holds the lock, and whoever would put or get, stayed with the parent."""
    program = """
        import os, sys, warnings
        import treadle
        warnings.simplefilter("ignore")
        channel = treadle.Channel(2, name="orders")
        channel.put(1)
        end = channel.producer()
        channel._lock.acquire()  # as by another thread, at the moment of the fork
        if (child := os.fork()) == 0:
            for call in (channel.get, lambda: channel.put(2), lambda: next(channel), lambda: end.put(3)):
                try:
                    call()
                except treadle.ChannelClosed as error:
                    print(error, flush=True)
            channel.join()
            end.close()
            os._exit(0)
        os.waitpid(child, 0)
        channel._lock.release()
        print(channel)
    """
    status, out, err = finish(start_program(program))

    lines = out.splitlines()
    assert status == 0, err
    assert len(lines) == 5, out
    assert all("is closed in a forked process, which has to make its own" in line for line in lines[:4])
    assert lines[4] == "<treadle.Channel 'orders': 1 of 2 items>"


# All at once


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("maxsize", [1, 2, 16])
def test_with_many_producers_and_consumers_each_item_is_taken_once_and_the_bound_holds(maxsize: int) -> None:
    producers, consumers, items = 4, 4, 500
    channel: treadle.Channel[tuple[int, int]] = treadle.Channel(maxsize)
    ends = [channel.producer() for _ in range(producers)]
    most = 0

    def produce(number: int) -> None:
        with ends[number] as end:
            for item in range(items):
                end.put((number, item))

    def consume() -> list[tuple[int, int]]:
        nonlocal most
        taken = []
        for item in channel:
            most = max(most, len(channel))
            taken.append(item)
            channel.task_done()
        return taken

    with ThreadPoolExecutor(producers + consumers) as pool:
        producing = [pool.submit(produce, number) for number in range(producers)]
        taken = [future.result(60) for future in [pool.submit(consume) for _ in range(consumers)]]
        for future in producing:
            future.result()

    everything = [(number, item) for number in range(producers) for item in range(items)]
    assert sorted(item for part in taken for item in part) == everything
    assert all(is_in_order(part) for part in taken), "of each producer, each consumer sees a part in order"
    assert most <= maxsize
    channel.join(timeout=0)
    assert_nobody_waits(channel)


def is_in_order(taken: list[tuple[int, int]]) -> bool:
    last: dict[int, int] = {}
    for number, item in taken:
        if item <= last.get(number, -1):
            return False
        last[number] = item
    return True


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_or_twice_while_some_give_up_all_the_time(seed: int) -> None:
    """Cancelled, out of time, or closed under them: what was put is taken, what was refused is not."""
    dice = random.Random(seed)
    channel: treadle.Channel[int] = treadle.Channel(dice.choice([1, 3]))
    put: list[int] = []
    taken: list[int] = []

    def produce(first: int, timeouts: list[float | None]) -> None:
        for item, timeout in enumerate(timeouts, first):
            try:
                channel.put(item, timeout)
            except (TimeoutError, treadle.Cancelled):
                continue
            put.append(item)

    def consume(timeouts: list[float | None]) -> None:
        for timeout in timeouts:
            try:
                taken.append(channel.get(timeout))
            except (TimeoutError, treadle.Cancelled):
                continue
            except treadle.ChannelClosed:
                return

    def random_timeouts(count: int) -> list[float | None]:
        return [dice.choice([0, 0.0001, 0.001, None]) for _ in range(count)]

    producing = [Aside(produce, number * 1000, random_timeouts(200)) for number in range(3)]
    quitters = [Aside(consume, random_timeouts(100)) for _ in range(3)]
    for aside in quitters:
        wait_until(lambda: len(taken) > 20 or all(other.is_over() for other in producing))
        aside.cancel()
    last = Aside(lambda: taken.extend(channel))
    for aside in producing:
        aside.value()
    channel.close()
    for aside in [*quitters, last]:
        aside.value()

    assert Counter(taken) == Counter(put)
    assert_nobody_waits(channel)
