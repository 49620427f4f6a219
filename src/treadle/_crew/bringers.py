"""Which threads bring the end of calls: what the wait graph asks about crews. Nothing here takes a lock.

A worker that goes on, whatever it does, is a help, and one that is stuck is not: in a call, in getting ready, in
telling others of an end, in closing what it has. So it is never asked which of these it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from treadle._core.chunk import Chunk
from treadle._sync.wait_graph import GOES_ON, Needs

if TYPE_CHECKING:
    from treadle._crew.crew import Crew
    from treadle._crew.worker import Worker


def bringers_of_call(crew: Crew, chunk: Chunk) -> Needs:
    """Return who can bring the end of the call of ``chunk``: who makes it, or all who might come to make it."""
    if _ends_by_itself(crew) or chunk.is_cancelled:
        return GOES_ON
    workers = list(crew.workers)
    for worker in workers:
        if chunk in worker.in_hand():
            return any, idents_of([worker])
    if not chunk.todo or _is_help_coming(crew, workers):
        return GOES_ON
    return all, idents_of(workers)


def bringers_of_any(crew: Crew) -> Needs:
    """Return who can bring the end of any call: all who make one, unless others come to help."""
    workers = list(crew.workers)
    busy = [worker for worker in workers if not worker.is_idle]
    chunks = [chunk for worker in busy for chunk in worker.in_hand()]
    if _ends_by_itself(crew) or any(_has_news(chunk) for chunk in chunks):
        return GOES_ON
    is_work_left = bool(crew._queue) or any(chunk.todo for chunk in chunks)
    if is_work_left and (len(busy) < len(workers) or _is_help_coming(crew, workers)):
        return GOES_ON
    return all, idents_of(busy)


def bringers_of_all(crew: Crew) -> Needs:
    """Return who can bring the end of all calls, and of the crew: each of its workers has to leave."""
    return GOES_ON if _ends_by_itself(crew) else (any, idents_of(list(crew.workers)))


def _is_help_coming(crew: Crew, workers: list[Worker]) -> bool:
    """Tell whether there will be a worker more; not before those who are getting ready have taken what waits."""
    return crew.has_room() and not any(worker.is_opening for worker in workers)


def _has_news(chunk: Chunk) -> bool:
    """Tell whether a part of ``chunk`` is done that was not delivered; whoever waits looks for it now and then."""
    return len(chunk.results) > chunk.delivered


def idents_of(workers: Iterable[Worker]) -> list[int]:
    """Return the threads of ``workers``."""
    return [worker.thread.ident or 0 for worker in list(workers)]


def _ends_by_itself(crew: Crew) -> bool:
    """Tell whether calls are ended that take too long, or are made twice."""
    policy = None if crew.attempts is None else crew.attempts.policy
    return policy is not None and not (policy.call_timeout is None and policy.hedge is None)
