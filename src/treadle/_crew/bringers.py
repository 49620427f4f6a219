"""Which threads bring the end of calls: what the wait graph asks about crews. Nothing here takes a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treadle._core.chunk import Chunk
from treadle._sync.wait_graph import GOES_ON, Needs

if TYPE_CHECKING:
    from treadle._crew.crew import Crew


def bringers_of_call(crew: Crew, chunk: Chunk) -> Needs:
    """Return who can bring the end of the call of ``chunk``: who makes it, or all who might come to make it."""
    if _ends_by_itself(crew) or chunk.is_cancelled:
        return GOES_ON
    workers = list(crew.workers)
    for worker in workers:
        if chunk in worker.in_hand():
            return any, (worker.thread.ident or 0,)
    if not chunk.todo or crew.has_room():
        return GOES_ON
    return all, [worker.thread.ident or 0 for worker in workers]


def bringers_of_all(crew: Crew) -> Needs:
    """Return who can bring the end of all calls: whoever has one in hand. Those in the queue have to wait for them."""
    if _ends_by_itself(crew):
        return GOES_ON
    return any, [worker.thread.ident or 0 for worker in list(crew.workers) if worker.chunk is not None]


def _ends_by_itself(crew: Crew) -> bool:
    """Tell whether calls are ended that take too long, or are made twice."""
    policy = None if crew.attempts is None else crew.attempts.policy
    return policy is not None and not (policy.call_timeout is None and policy.hedge is None)
