"""The scheduler: lets one thread go on at a time, and decides which by a seed."""

from __future__ import annotations

import math
import re
import sys
import threading
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from random import Random
from types import CodeType, FrameType

from treadle._explore.steps import Stepper, is_machinery

STEP_SECONDS = 1e-6  # what a step takes by the clock of an exploration
MAX_STEPS = 200_000


class Abandoned(BaseException):
    """Raised in threads that are still there when their schedule is over, so that they end."""


class Agent:
    """One explored thread. ``waits_for`` is None while it can go on."""

    def __init__(self, name: str, priority: float, is_daemon: bool) -> None:
        self.name = name
        self.priority = priority
        self.is_daemon = is_daemon
        self.is_done = False
        self.waits_for: object = None
        self.deadline: float | None = None
        self.has_timed_out = False
        self.thread: threading.Thread | None = None
        self.place: FrameType | None = None  # where it stands, while another one goes on
        self.baton = allocate_lock()  # whoever holds it goes on
        self.baton.acquire()


class Switch:
    """One hand-over from thread to thread, for the report."""

    __slots__ = ("code", "line", "name", "to", "why")

    def __init__(self, agent: Agent, to: Agent, why: str, frame: FrameType | None) -> None:
        self.name, self.to, self.why = agent.name, to.name, why
        self.code: CodeType | None = None if frame is None else frame.f_code
        self.line = 0 if frame is None else frame.f_lineno


class Scheduler:
    """Runs one schedule of explored threads, by probabilistic concurrency testing.

    Each thread has a random priority, and the highest of those that can go on does. At each of ``points``, numbers
    of choices, the thread that runs falls below all that have not fallen yet. So a schedule has few preemptions,
    and they are spread evenly. Time is one more thread, by default the last of all: when its turn comes, the next
    timeout ends.

    Only the agent that runs touches any of this, so it needs no lock; the batons order its memory.
    """

    def __init__(self, random: Random, points: list[int], stepper: Stepper, eager_timeouts: bool) -> None:
        self.agents: list[Agent] = []
        self.switches: list[Switch] = []
        self.steps = 0
        self.choices = 0  # steps at which another could have gone on
        self.failure: BaseException | None = None
        self.stuck: list[Agent] = []  # where nobody can go on: all who wait
        self.is_endless = False
        self.is_over = False
        self.is_starting = False  # the agent that runs is starting a thread, for which it uses real locks
        self.over = allocate_lock()
        self.over.acquire()
        self.running: Agent | None = None
        self._here: dict[int, Agent] = {}
        self._random = random
        self._points = sorted({*points, MAX_STEPS + 1}, reverse=True)
        self._is_open = False  # whether another could go on now
        self._eager_timeouts = eager_timeouts
        self._time_priority = self._draw_time_priority()
        self._seconds = 0.0  # that passed in leaps, over those for steps
        self._stepper = stepper
        stepper.step = self.step

    # For explored threads

    def is_here(self) -> bool:
        """Tell whether the calling thread is explored, and goes by this scheduler."""
        return get_ident() in self._here

    def now(self) -> float:
        """Return the time, in seconds since the schedule began."""
        return self._seconds + self.steps * STEP_SECONDS

    def step(self, frame: FrameType | None = None) -> None:
        """Take a step: here another thread may go on instead."""
        self.steps += 1
        if self.is_over:  # what is left are ``finally`` blocks and finalizers, unless it goes on for ever
            if self.steps > 2 * MAX_STEPS:
                raise Abandoned
            return
        if self.steps > MAX_STEPS:
            self._give_up()
        if self._is_open:
            self.choices += 1
            if self.choices >= self._points[-1]:
                self._come_to_point(frame)

    def wait(self, what: object, seconds: float | None = None) -> bool:
        """Wait until somebody says that ``what`` has changed, or for ``seconds``; tell which it was."""
        if self.is_over:
            raise Abandoned
        agent = self._me()
        agent.waits_for = what
        agent.has_timed_out = False
        agent.deadline = None if seconds is None else self.now() + seconds
        self._hand_over("waits")
        return not agent.has_timed_out

    def note_changed(self, what: object) -> None:
        """Let those go on who wait for ``what``; at once, if they come first."""
        if self._wake(what) and not self.is_over:
            self._hand_over("wakes another")

    def stand_back(self) -> None:
        """Let all others go first."""
        if self.is_over:
            raise Abandoned
        self._me().priority = min(agent.priority for agent in self.agents) - 1
        self._hand_over("stands back")

    # Beginning and ending

    def add(self, name: str, is_daemon: bool) -> Agent:
        """Return a new agent, whose thread is to begin with ``run``."""
        if self.is_over:
            raise Abandoned
        name = re.sub(r"^Thread-\d+", f"thread {len(self.agents)}", name)  # the same in each schedule
        agent = Agent(name, 1 + self._random.random(), is_daemon)
        self.agents.append(agent)
        return agent

    def note_started(self) -> None:
        """Take note that a thread was started: it goes first, if its priority says so."""
        self._hand_over("starts another")

    def begin(self, agent: Agent) -> None:
        """Let the first thread go, from outside."""
        self.running = agent
        agent.baton.release()

    def run(self, agent: Agent, action: Callable[[], object]) -> None:
        """Run ``action`` on the calling thread as the agent's, when its turn comes."""
        error: BaseException | None = None
        self._here[get_ident()] = agent
        agent.baton.acquire()
        self._stepper.begin_thread()
        try:
            if not self.is_over:
                action()
        except (Abandoned, SystemExit):
            pass
        except BaseException as raised:
            error = raised
        finally:
            self._stepper.end_thread()
            del self._here[get_ident()]
            self._leave(agent, error)
            # Its thread ends with the schedule: the system gives the identifier of one that has ended to the next, or
            # does not, as it comes, and code that compares them would not do the same each time.
            if not self.is_over:
                agent.baton.acquire()

    def _leave(self, agent: Agent, error: BaseException | None) -> None:
        agent.is_done = True
        if self.is_over:
            return
        if error is not None:
            self.failure = error
            self._end()
            return
        self._wake(agent)
        following = self._choose()
        if following is None:
            self._stop()
        else:
            self.switches.append(Switch(agent, following, "ends", None))
            self.running = following
            following.baton.release()

    def _end(self) -> None:
        self.is_over = True
        self.over.release()

    def _stop(self) -> None:
        """Come to an end, as nobody can go on: a good one, if only daemons wait."""
        waiting = [agent for agent in self.agents if not agent.is_done]
        if any(not agent.is_daemon for agent in waiting):
            self.stuck = waiting
        self._end()

    # Who goes on

    def _wake(self, what: object) -> bool:
        waiting = [agent for agent in self.agents if agent.waits_for is what]
        for agent in waiting:
            agent.waits_for = agent.deadline = None
        return bool(waiting)

    def _me(self) -> Agent:
        return self._here[get_ident()]

    def _give_up(self) -> None:
        self.is_endless = True
        self._end()
        self._pause(self._me())

    def _come_to_point(self, frame: FrameType | None) -> None:
        while self._points[-1] <= self.choices:
            self._points.pop()
        self._me().priority = self._random.random()
        self._hand_over("is preempted", frame)

    def _hand_over(self, why: str, frame: FrameType | None = None) -> None:
        agent, following = self._me(), self._choose()
        if following is agent:
            return
        agent.place = frame or _caller()
        if following is None:
            self._stop()
        else:
            self.switches.append(Switch(agent, following, why, agent.place))
            self.running = following
            following.baton.release()
        self._pause(agent)

    def _pause(self, agent: Agent) -> None:
        agent.baton.acquire()
        agent.place = None
        if self.is_over:
            raise Abandoned

    def _choose(self) -> Agent | None:
        while True:
            ready = [agent for agent in self.agents if agent.waits_for is None and not agent.is_done]
            best = max(ready, key=lambda agent: agent.priority, default=None)
            timed = [agent for agent in self.agents if agent.deadline is not None]
            if all(agent.is_daemon or agent.is_done for agent in self.agents):
                timed = []  # daemons may come to a rest, and are not waited for
            self._is_open = len(ready) > 1 or (bool(timed) and self._eager_timeouts)
            if not timed or (best is not None and best.priority > self._time_priority):
                return best
            self._leap(min(timed, key=lambda agent: agent.deadline or 0.0))

    def _leap(self, agent: Agent) -> None:
        assert agent.deadline is not None
        self._seconds += max(0.0, agent.deadline - self.now())
        self._time_priority = self._draw_time_priority()
        agent.waits_for = agent.deadline = None
        agent.has_timed_out = True

    def _draw_time_priority(self) -> float:
        # Anew after each leap, and every other time below all: beside one that polls it would starve the others.
        is_eager = self._eager_timeouts and self._random.random() < 0.5
        return 2 * self._random.random() if is_eager else -math.inf


def _caller() -> FrameType | None:
    """Return the innermost frame that is neither ours nor that of a lock or queue."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    return frame
