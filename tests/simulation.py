"""A crew and what it asks, in virtual time: how well a number of workers does, or a controller of it."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from treadle._crew.controller import Knee
from treadle._crew.rounds import Round

LATENCY = 0.05
REFUSAL_SECONDS = 0.005


@dataclass
class Answer:
    """When a call ends, and whether it came to something."""

    ends: float
    is_refusal: bool = False
    cores: float = 0.0


class Server:
    """What calls ask: ``places`` of them at a time, in line, each for a time drawn by ``draw``.

    Args:
        places: At a time; None: any number.
        draw: Seconds of a call.
        knee: Beyond so many inside, all of them get slower.
        refuses_beyond: So many inside, a call is refused.
        grows_at: When there are four times the places.
        computing: The share of a call that holds what there is one of: the GIL.
    """

    def __init__(
        self,
        draw: Callable[[], float],
        places: int | None = None,
        knee: float = math.inf,
        refuses_beyond: float = math.inf,
        grows_at: float = math.inf,
        computing: float = 0.0,
    ) -> None:
        self._draw = draw
        self._free = None if places is None else [0.0] * places
        self._knee = knee
        self._refuses_beyond = refuses_beyond
        self._grows_at = grows_at
        self._computing = computing
        self._gil_free_at = 0.0

    def ask(self, now: float, inside: int) -> Answer:
        if inside > self._refuses_beyond:
            return Answer(now + REFUSAL_SECONDS, is_refusal=True)
        seconds = self._draw() * max(1.0, (inside / self._knee) ** 2 if self._knee < math.inf else 1.0)
        cores = self._computing * seconds
        begins = now
        if self._free is not None:
            if now >= self._grows_at:
                self._grows_at = math.inf
                self._free = [*self._free, *[now] * (3 * len(self._free))]
                heapq.heapify(self._free)
            begins = max(now, self._free[0])
            heapq.heapreplace(self._free, begins + seconds)
        if cores:
            begins = max(begins, self._gil_free_at)
            self._gil_free_at = begins + cores
        return Answer(begins + seconds, cores=cores)


def same(seconds: float = LATENCY) -> Callable[[random.Random], Callable[[], float]]:
    """Return what draws nearly the same time for all calls."""
    return lambda chance: lambda: seconds * chance.uniform(0.9, 1.1)


def heavy_tailed(seconds: float = LATENCY, sigma: float = 1.0) -> Callable[[random.Random], Callable[[], float]]:
    """Return what draws times of which some are very long; ``seconds`` is their mean."""
    return lambda chance: lambda: chance.lognormvariate(math.log(seconds) - sigma * sigma / 2, sigma)


def fixed(workers: int) -> Callable[[], Knee]:
    """Return what makes a controller that always says ``workers``."""

    class Fixed(Knee):
        def note(self, done: Round, open_since: Callable[[], Iterable[float]]) -> None: ...
        def note_throttled(self, now: float) -> None: ...

    return lambda: Fixed(workers, workers)


def simulate(
    make_server: Callable[[random.Random], Server],
    knee: Knee,
    seconds: float = math.inf,
    items: float = math.inf,
    seed: int = 0,
    trace: list[tuple[float, int]] | None = None,
) -> float:
    """Return the goodput, calls a second, of a crew that ``knee`` controls, for so long or so many items."""
    server = make_server(random.Random(seed))
    order: Iterator[int] = iter(range(10**9))
    running: list[tuple[float, int, float, Answer]] = []
    now, done, left = 0.0, 0, items
    last = 0.0
    while True:
        while left > 0 and len(running) < knee.workers:
            left -= 1
            answer = server.ask(now, len(running) + 1)
            heapq.heappush(running, (answer.ends, next(order), now, answer))
        if not running or now > seconds:
            return done / (last if items < math.inf else seconds)
        busy = len(running)
        now, _, began, answer = heapq.heappop(running)
        if now <= seconds and not answer.is_refusal:
            done, last = done + 1, now
        knee.note(Round(began, now, int(not answer.is_refusal), busy, busy, answer.cores), lambda: open_since(running))
        if answer.is_refusal:
            left += 1
            knee.note_throttled(now)
        if trace is not None and (not trace or trace[-1][1] != knee.workers):
            trace.append((now, knee.workers))


def open_since(running: Iterable[tuple[float, int, float, Answer]]) -> Iterator[float]:
    return (began for _, _, began, _ in running)


def best_fixed(make_server: Callable[[random.Random], Server], seconds: float, seed: int = 0) -> tuple[int, float]:
    """Return the best number of workers, and its goodput: what a controller is compared with."""
    numbers = (1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 22, 25, 32, 48, 60, 64, 100, 110, 128, 256)
    found = {n: simulate(make_server, fixed(n)(), seconds, seed=seed) for n in numbers}
    best = max(found, key=lambda n: found[n])
    return best, found[best]
