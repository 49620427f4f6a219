"""A channel moved at random, against a plain list: threads that wait, give up, are cancelled, and are let in.

Each step of the machine waits until the channel has come to rest, so a wake-up that is lost shows as somebody who
waits beside what he waits for.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import treadle
from tests.asides import Aside
from tests.places import wait_until


class ChannelMachine(RuleBasedStateMachine):
    """Items are numbers, put in the order in which they are made up."""

    waits = Bundle("waits")

    def __init__(self) -> None:
        super().__init__()
        self.channel: treadle.Channel[int] = treadle.Channel(2)
        self.is_closed = False
        self.made = 0
        self.putting: dict[Aside, int] = {}
        self.getting: list[Aside] = []
        self.put: list[int] = []
        self.taken: list[int] = []
        self.refused: list[int] = []
        self.unreported = 0

    @rule(target=waits)
    def put_one(self) -> Aside:
        self.made += 1
        aside = Aside(self.channel.put, self.made)
        self.putting[aside] = self.made
        self.settle()
        return aside

    @rule(target=waits)
    def get_one(self) -> Aside:
        aside = Aside(self.channel.get)
        self.getting.append(aside)
        self.settle()
        return aside

    @rule()
    def put_at_once(self) -> None:
        self.made += 1
        try:
            self.channel.put(self.made, timeout=0)
        except treadle.ChannelClosed:
            assert self.is_closed
            self.refused.append(self.made)
        except TimeoutError:
            assert not self.is_closed
            self.refused.append(self.made)
        else:
            self.put.append(self.made)
        self.settle()

    @rule()
    def get_at_once(self) -> None:
        try:
            self.taken.append(self.channel.get(timeout=0))
        except treadle.ChannelClosed:
            assert self.is_closed
        except TimeoutError:
            assert not self.is_closed
        else:
            self.unreported += 1
        self.settle()

    @rule(aside=waits)
    def cancel(self, aside: Aside) -> None:
        aside.cancel()
        self.settle()

    @precondition(lambda self: self.unreported > 0)
    @rule()
    def report(self) -> None:
        self.channel.task_done()
        self.unreported -= 1

    @rule(chance=st.integers(0, 9))
    def close(self, chance: int) -> None:
        if chance == 0:
            self.channel.close()
            self.is_closed = True
            self.settle()

    def settle(self) -> None:
        """Wait until nobody is on the way any more, and note what became of those who waited."""
        wait_until(self._is_at_rest)
        for aside, item in [entry for entry in self.putting.items() if entry[0].is_over()]:
            del self.putting[aside]
            (self.put if self.ended_well(aside) else self.refused).append(item)
        for aside in [aside for aside in self.getting if aside.is_over()]:
            self.getting.remove(aside)
            if self.ended_well(aside):
                self.taken.append(aside.value())
                self.unreported += 1

    def ended_well(self, aside: Aside) -> bool:
        """Tell whether it came to what it waited for; otherwise it was cancelled, or the channel closed."""
        error = aside.error()
        assert error is None or isinstance(error, treadle.Cancelled | treadle.ChannelClosed)
        return error is None

    def _is_at_rest(self) -> bool:
        """Tell whether each who waits does so for a reason."""
        channel = self.channel
        putting = sum(not aside.is_over() for aside in self.putting)
        getting = sum(not aside.is_over() for aside in self.getting)
        if (len(channel._putters.waiting), len(channel._getters.waiting)) != (putting, getting):
            return False
        if self.is_closed:
            return putting == getting == 0
        return not (putting and len(channel) < channel.maxsize) and not (getting and len(channel))

    @invariant()
    def account_is_exact(self) -> None:
        """What was put is in the channel or was taken, once; what was refused is in neither."""
        items = list(self.channel._items)
        assert Counter(self.taken + items) == Counter(self.put)
        assert len(items) <= self.channel.maxsize
        assert self.channel._unfinished == len(items) + self.unreported
        assert not (self.putting and self.getting), "one of them could go on"

    def teardown(self) -> None:
        self.channel.close()
        self.is_closed = True
        self.settle()
        for item in self.channel:
            self.taken.append(item)
        assert Counter(self.taken) == Counter(self.put)


def explore(examples: int, steps: int, seeded: bool) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis has no types here
        ChannelMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=seeded,
            database=None,
            deadline=None,
            phases=[Phase.generate],  # a wake-up that is lost costs seconds to see, each time
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )


def test_a_channel_keeps_its_promises_whatever_happens() -> None:
    """The same examples every time, so that a failure here is one of the change that was made."""
    explore(examples=40, steps=30, seeded=True)


@pytest.mark.slow
def test_a_channel_keeps_its_promises_whatever_happens_for_long() -> None:
    """Other examples every time; hypothesis prints how to see the one that failed again."""
    explore(examples=300, steps=40, seeded=False)
