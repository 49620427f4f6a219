"""``explore``: run a test again and again, each time with its threads interleaved in another way."""

from __future__ import annotations

import gc
import secrets
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from types import ModuleType
from typing import NamedTuple

from treadle._core.block import contextmanager
from treadle._core.describe import describe
from treadle._core.option_names import suggesting
from treadle._core.settings import check_callable, check_count
from treadle._explore import stand_ins
from treadle._explore.scheduler import MAX_STEPS, Agent, Scheduler, Switch
from treadle._explore.steps import Explored, Stepper, is_machinery, step_by
from treadle.errors import InvalidArgument

GOLDEN_RATIO = 0.6180339887498949  # multiples of it, without the whole part, spread evenly however many there are
STUCK_SECONDS = 10.0
COLLECT_EVERY = 50
SHOWN_SWITCHES = 40

_one_at_a_time = threading.Lock()


class Standstill(AssertionError):
    """No explored thread can go on: a deadlock, or a wake-up that was lost. Says where each of them stands."""


@suggesting
def explore(
    scenario: Callable[[], object],
    *,
    schedules: int = 200,
    preemptions: int = 3,
    eager_timeouts: bool = False,
    modules: Iterable[ModuleType | str] | None = None,
    seed: int | None = None,
    replay: str | None = None,
) -> int:
    """Run ``scenario`` many times, its threads interleaved in another way each time, until something goes wrong.

    The scenario is a test: a function that starts threads, waits for them, and asserts what must hold. Its threads
    run one at a time, and a scheduler decides at each step who goes on. So a race that shows once in a million
    runs is found in a second, and can be seen again. A step is one bytecode instruction that can touch what
    threads share, or an operation of a lock. A schedule goes wrong when the scenario or a thread raises, or when
    nobody can go on any more.

    The strategy is probabilistic concurrency testing (Burckhardt, Kothari, Musuvathi and Nagarakatte, "A Randomized
    Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010): of ``n`` threads and ``k`` steps, each
    schedule finds a bug that needs ``d`` preemptions or fewer with a chance of at least 1 in ``n * k ** d``.

    The threads' locks, conditions, events, queues, joins and sleeps are replaced by ones the scheduler knows,
    where they come from ``threading``, ``queue`` and ``time`` and are made in the scenario. Time is the scheduler's:
    it advances by a microsecond a step, and where nobody else can go on, to the end of the next sleep or timeout. A
    thread that waits for something else, such as a socket, or a lock made before, is reported.

    Args:
        scenario: Makes all that it works with anew, and is deterministic but for its threads.
        schedules: How many to try, at least 1.
        preemptions: How often a thread is stopped where it could go on, at most, in a schedule. Most bugs need one
            or two.
        eager_timeouts: A sleep or timeout may also end while others could go on, before anything they do.
        modules: The modules, or packages, whose steps are switched at; by default all code but the standard
            library's, Treadle's and what is installed. Other code is switched at its locks only.
        seed: Decides everything. By default a random one.
        replay: What the note on an error says: run that one schedule again, and nothing else.

    Returns:
        How many different interleavings there were.

    Raises:
        Standstill: In some schedule nobody could go on.
        AssertionError: A thread has gone on for 200,000 steps without end, or waits for something unknown.
        BaseException: What the scenario or a thread of it raised, with notes that tell how it came about.
        InvalidArgument: A number is out of its bounds, ``replay`` is not from a note, or one of ``modules`` is none
            that was imported by the end.
        RuntimeError: Another exploration is going on in this process.

    Example:
        >>> import threading
        >>> from treadle.testing import explore
        >>> def two_increments():
        ...     counter = {"value": 0}
        ...     def increment():
        ...         counter["value"] += 1
        ...     threads = [threading.Thread(target=increment) for _ in range(2)]
        ...     for thread in threads:
        ...         thread.start()
        ...     for thread in threads:
        ...         thread.join()
        ...     assert counter["value"] == 2, "an update was lost"
        >>> try:
        ...     explore(two_increments)
        ... except AssertionError as error:
        ...     print(error)
        an update was lost
    """
    check_callable("scenario", scenario)
    check_count("schedules", schedules, least=1)
    check_count("preemptions", preemptions, least=0)
    names = None if modules is None else [each if isinstance(each, str) else each.__name__ for each in modules]
    explored = Explored(names)
    own_seed = secrets.randbelow(2**32) if seed is None else seed
    first = _Drawn(own_seed, 0, 0) if replay is None else _read(replay)
    seen: set[int] = set()
    with _alone(), stand_ins.installed(explored), _collecting_between(), step_by(explored) as stepper:
        # Without preemptions: it tells how many choices there are. A replay begins with it as well, since code may do
        # more when it runs for the first time.
        schedule = _Schedule(scenario, stepper, eager_timeouts, _Drawn(first.seed, 0, 0), 0)
        schedule.run()
        seen.add(schedule.interleaving())
        length = first.length or schedule.scheduler.choices
        for number in range(1, schedules) if replay is None else [first.number]:
            schedule = _Schedule(scenario, stepper, eager_timeouts, _Drawn(first.seed, number, length), preemptions)
            schedule.run()
            seen.add(schedule.interleaving())
            length = max(length, schedule.scheduler.choices)
            if number % COLLECT_EVERY == 0:
                gc.collect()
    for name in names or []:  # not before: the scenario may import it
        if name not in sys.modules:
            raise InvalidArgument("modules", repr(name), "a module that is imported, as its steps were to be explored")
    return len(seen)


class _Drawn(NamedTuple):
    """What a schedule is drawn from. Its text is what ``replay`` takes."""

    seed: int
    number: int
    length: int  # of the longest schedule before it, in choices

    def __str__(self) -> str:
        return f"{self.seed}/{self.number}/{self.length}"

    def points(self, random: Random, count: int) -> list[int]:
        """Draw the choices at which the thread that runs is preempted."""
        if not (self.length and count):
            return []
        start = Random(self.seed).random()
        first = 1 + int(self.length * ((start + self.number * GOLDEN_RATIO) % 1))
        return [first, *(1 + random.randrange(self.length) for _ in range(count - 1))]


class _Schedule:
    """One schedule: how it is run, and told."""

    def __init__(
        self,
        scenario: Callable[[], object],
        stepper: Stepper,
        eager_timeouts: bool,
        drawn: _Drawn,
        preemptions: int,
    ) -> None:
        self._scenario = scenario
        self._drawn = drawn
        random = Random(str(drawn))
        self.scheduler = Scheduler(random, drawn.points(random, preemptions), stepper, eager_timeouts)

    def run(self) -> None:
        """Run it to its end; raise what went wrong."""
        scheduler = self.scheduler
        name = getattr(self._scenario, "__name__", "scenario")
        agent = scheduler.add(name, is_daemon=False)
        agent.thread = threading.Thread(
            target=scheduler.run, args=(agent, self._scenario), name=f"explored-{name}", daemon=True
        )
        stand_ins.use(scheduler)
        agent.thread.start()
        scheduler.begin(agent)
        failure: BaseException | None = None
        try:
            failure = self._wait()
        finally:
            left = self._clean_up()
            stand_ins.use(None)
        if failure is not None:
            self._say(failure, left)
            raise failure

    def _say(self, failure: BaseException, left: list[str]) -> None:
        """Put on ``failure`` how it came to that, if it takes notes."""
        with suppress(Exception):
            failure.add_note(self._story())
            failure.add_note(f"to see it again: explore(..., replay={str(self._drawn)!r})")
            if left:
                failure.add_note(f"these threads could not be ended: {', '.join(left)}")

    def _wait(self) -> BaseException | None:
        scheduler, steps = self.scheduler, -1
        while not scheduler.over.acquire(timeout=STUCK_SECONDS):
            if scheduler.steps == steps:
                return self._unknown_wait()
            steps = scheduler.steps
        if scheduler.stuck:
            return Standstill("no thread can go on\n" + "\n".join(map(_describe, scheduler.stuck)))
        if scheduler.is_endless:
            return AssertionError(f"there is no end after {MAX_STEPS:,} steps")
        return scheduler.failure

    def _unknown_wait(self) -> BaseException:
        self.scheduler.is_over = True
        agent = self.scheduler.running
        assert agent is not None
        assert agent.thread is not None
        agent.place = sys._current_frames().get(agent.thread.ident or 0)
        return AssertionError(
            f"a thread takes no step for {STUCK_SECONDS:.0f} s; if it waits, make what it waits for in the scenario, "
            f"or leave out the module that holds it\n{_describe(agent)}"
        )

    def _clean_up(self) -> list[str]:
        """End the threads that are left, one after the other; return the names of those who do not."""
        scheduler = self.scheduler
        scheduler.is_over = True
        left: list[str] = []
        for agent in scheduler.agents:
            thread = agent.thread
            if thread is None or thread.ident is None:  # never started
                continue
            agent.baton.release()
            thread.join(STUCK_SECONDS)
            if thread.is_alive():
                left.append(thread.name)
        return left

    def interleaving(self) -> int:
        """Return a number that is the same for the same order of the same steps."""
        return hash(tuple((each.code, each.line, each.why) for each in self.scheduler.switches))

    def _story(self) -> str:
        switches = self.scheduler.switches
        lines = [_tell(switch) for switch in switches[-SHOWN_SWITCHES:]]
        if len(switches) > len(lines):
            lines.insert(0, f"  ... {len(switches) - len(lines)} switches before")
        return "\n".join(["how it came about:", *lines])


def _describe(agent: Agent) -> str:
    if agent.place is None:
        return f"{agent.name}, which has not begun"
    stack = [entry for entry in traceback.extract_stack(agent.place) if not is_machinery(entry.filename)]
    return f"{agent.name} is at\n{''.join(traceback.format_list(stack))}"


def _tell(switch: Switch) -> str:
    code = switch.code
    place = "" if code is None else f" at {Path(code.co_filename).name}:{switch.line} in {code.co_name}"
    return f"  {switch.name} {switch.why}{place}; {switch.to} goes on"


def _read(replay: str) -> _Drawn:
    try:
        return _Drawn(*map(int, replay.split("/")))
    except (AttributeError, TypeError, ValueError):
        raise InvalidArgument("replay", describe(replay), "what the note on an error says") from None


@contextmanager
def _alone() -> Iterator[None]:
    if not _one_at_a_time.acquire(blocking=False):
        raise RuntimeError("one exploration at a time: threads are replaced for all of them")
    try:
        yield
    finally:
        _one_at_a_time.release()


@contextmanager
def _collecting_between() -> Iterator[None]:
    """Keep the garbage collector from running in the middle of a schedule, where finalizers would be steps."""
    was_enabled, is_frozen_by_us = gc.isenabled(), gc.get_freeze_count() == 0
    gc.disable()
    if is_frozen_by_us:
        gc.freeze()  # so that collecting the garbage of a schedule looks at nothing older
    try:
        yield
    finally:
        if is_frozen_by_us:
            gc.unfreeze()
        if was_enabled:
            gc.enable()
