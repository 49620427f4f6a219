"""The muster of a crew: what waits, who is idle or on the way, and whom to send. See README.md beside this file."""

from __future__ import annotations

import logging
import math
from collections import deque

from treadle._core.chunk import Chunk
from treadle._core.describe import annotate, count_of
from treadle._core.gil import is_gil_enabled
from treadle._core.greenlets import check_patched_first
from treadle._core.raw import is_mine, make_rlock
from treadle._core.real_time import perf_counter
from treadle._core.tell import tell
from treadle._crew.account import Account
from treadle._crew.attempts import Attempts
from treadle._crew.chunking import ChunkSizer
from treadle._crew.room import Room
from treadle._crew.tuner import Tuner
from treadle._crew.worker import Worker
from treadle._sync import timekeeper
from treadle._sync.aside import start_thread

# How long to go on with the workers there are before another is tried again; it doubles each time in vain.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0


class Shortage:
    """That no further worker can be had: no thread, or none that gets ready. It passes, and is looked at again.

    Changed under the crew's lock, but for its end.
    """

    def __init__(self) -> None:
        self._most: float = math.inf
        self._pause = FIRST_PAUSE_SECONDS
        self._over_at = 0.0
        self._told: float = math.inf  # how many workers it was last said that there are

    def begin(self, workers: int) -> bool:
        """Have no more than ``workers`` for a while, and tell whether this is news."""
        is_news, self._told = workers < self._told, min(workers, self._told)
        self._most = workers
        self._over_at = perf_counter() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return is_news

    def most_workers(self) -> float:
        """Return how many there may be now."""
        if self._most != math.inf and perf_counter() >= self._over_at:
            self._most = math.inf
        return self._most

    def end(self) -> None:
        """Take note that a worker could be had. While a pause lasts, it was sent for before."""
        if self._told != math.inf and perf_counter() >= self._over_at:
            self._told, self._pause = math.inf, FIRST_PAUSE_SECONDS


class Muster:
    """The queue and the workers of a crew, and how the two come together.

    The lock protects who is idle, on the way, opening, stopping, and the splitting of chunks; the queue and the
    look at the idle ones need none.
    """

    def __init__(self, name: str, max_workers: int, sizer: ChunkSizer, account: Account, room: Room) -> None:
        check_patched_first()
        # Reentrant only so that a finalizer or a handler can tell that its own thread has it: see ``is_mine``.
        self.lock = make_rlock()
        self.sizer = sizer
        self.account = account
        self.room = room
        self.attempts: Attempts | None = None
        self.tuner: Tuner | None = None  # where the number of workers is not fixed
        self.workers: dict[Worker, None] = {}
        self.is_stopping = False
        self._name = name
        self._max_workers = max_workers
        self._wanted_workers = max_workers  # whatever there is for them
        self._shortage = Shortage()
        self._queue: deque[Chunk] = deque()
        self._idle: list[Worker] = []
        self._on_its_way: Worker | None = None
        self._opening = 0
        self._started = 0
        self._gil = is_gil_enabled()

    def _hire(self, number: int) -> Worker:
        """Return a new worker, not started yet."""
        raise NotImplementedError

    # What waits, and who is there

    def enqueue(self, chunk: Chunk, first: bool = False) -> None:
        """Put ``chunk`` into the queue again, unless the crew is stopping; who does so sends help. Under the lock."""
        if not self.is_stopping:
            (self._queue.appendleft if first else self._queue.append)(chunk)
            # That its peers are tiny says nothing of a call that failed, or hangs; and the consumer may have gone to
            # wait when nothing could stall.
            self.sizer.forget()
            self.account.note_quieter()
            self.room.count()

    def withdraw(self, chunk: Chunk) -> bool:
        """Take ``chunk`` out of the queue, unless a worker has done so. Under the lock."""
        try:
            self._queue.remove(chunk)
        except (ValueError, IndexError):  # the latter where others take from it meanwhile
            return False
        return bool(chunk.todo)

    def take_for(self, waiting: list[Worker]) -> Chunk | None:
        """Take the first chunk that a call in the hands of ``waiting`` has submitted, or else the first of all.

        Called under the lock.
        """
        in_hand = {chunk for worker in waiting for chunk in worker.in_hand()}
        for chunk in snapshot(self._queue):
            if chunk.submitter() in in_hand and self.withdraw(chunk):
                return chunk
        return self._take_queued()

    def extend_last(self, index: int, item: object, size: int) -> bool:
        """Add ``item`` to the last chunk that waits, if it has fewer than ``size`` items and ends at ``index``.

        Called under the lock.
        """
        if size == 1:
            return False
        try:
            chunk = self._queue.pop()  # nobody can take it meanwhile
        except IndexError:
            return False
        if extends := len(chunk.items) < size and chunk.start + len(chunk.items) == index:
            chunk.items.append(item)
            chunk.todo.insert(0, item)
        self._queue.append(chunk)
        return extends

    def is_quiet(self) -> bool:
        """Tell whether no worker has a call in its hands."""
        return not self.chunks_in_hand()

    def can_stall(self) -> bool:
        """Tell whether calls may wait behind one that turned out slow, though a worker could be had for them."""
        if self._queue and (self._idle or self.has_room()):
            return True
        # Also what such a chunk has done already should not wait for the rest of it.
        return self.sizer.was_ever_large and any(len(chunk.items) > 1 for chunk in self.chunks_in_hand())

    def busy(self) -> int:
        """Return about how many workers are at work."""
        return len(self.workers) - len(self._idle)

    def at_work(self) -> int:
        """Return about how many workers have begun to make calls, and are not idle."""
        return self.busy() - self._opening - (self._on_its_way is not None)

    def has_backlog(self) -> bool:
        """Tell whether more calls wait than workers may come for them."""
        return len(self._queue) > self._max_workers - self.at_work()

    def count_waiting(self) -> int:
        """Return how many calls wait for a worker; takes no lock."""
        return sum(len(chunk.todo) for chunk in snapshot(self._queue))

    @property
    def max_workers(self) -> int:
        """How many workers there may be now, but for those on lent places."""
        return self._max_workers

    def chunks_in_hand(self) -> list[Chunk]:
        """Return the chunks whose calls are being made."""
        return [chunk for worker in list(self.workers) for chunk in worker.in_hand()]

    def has_surplus(self) -> bool:
        """Tell whether there are more workers than there should be."""
        return len(self.workers) > self._max_workers

    def resize(self, max_workers: int) -> int:
        """Have at most so many workers from now on, or as the system has threads, and return how many that is.

        Of those beyond, idle ones leave at once, the others when they come for work.
        """
        with self.lock:
            before, self._wanted_workers = self._max_workers, max_workers
            self._max_workers = int(min(max_workers, self._shortage.most_workers()))
            surplus = [] if self.is_stopping else self._idle[: max(0, len(self.workers) - self._max_workers)]
            for worker in surplus:
                worker.is_idle = False
                self._idle.remove(worker)
            if self._max_workers > before:
                self.account.note_grown()
        for worker in surplus:
            worker.parker.wake()
        self.send_help()
        return self._max_workers

    # Sending help

    def send_help(self) -> None:
        """Send a worker to the work that waits, if there is any."""
        if self._may_need_help():
            self._help()

    def hurry(self) -> None:
        """Forget how fast calls used to be, and send help to whoever has calls waiting."""
        self.sizer.forget()
        self._help()

    def _may_need_help(self) -> bool:
        """Tell, at a glance, whether another worker should be sent. Never wrongly says no for good: see README.md."""
        if not (self._queue or self.sizer.was_ever_large):
            return False
        if self._on_its_way is not None or not (self._idle or self.has_room()):
            return False
        return self._is_help_worthwhile()

    def has_room(self) -> bool:
        """Tell whether another worker may be had."""
        if len(self.workers) < self._max_workers or self.room.has_place():
            return True
        if self._max_workers < self._wanted_workers and self._shortage.most_workers() == math.inf:
            self._max_workers = self._wanted_workers
            return len(self.workers) < self._max_workers
        return False

    def _is_help_worthwhile(self) -> bool:
        if not self.workers or len(self._idle) == len(self.workers):
            return bool(self._queue)
        if self._queue:
            # Those who are getting ready will take some of it.
            waiting = (len(self._queue) - self._opening) * self.sizer.size
        else:
            longest = self._longest_in_hand()
            waiting = len(longest.todo) if longest is not None else 0
        return waiting > 0 and self.sizer.is_worth_sharing(waiting, self._gil)

    def _help(self) -> None:
        """Send one worker on its way to the work that waits."""
        if is_mine(self.lock):  # a handler has come upon this thread in the middle of a step
            timekeeper.leave(self._help)
            return
        try:
            with self.lock:
                worker = self._choose_helper()
            if worker is not None and worker.is_started:
                worker.parker.wake()
            elif worker is not None:
                self._start(worker)
        except BaseException:  # Ctrl-C: nobody must be waited for who was never sent
            self._call_back()
            raise

    def _start(self, worker: Worker) -> None:
        try:
            start_thread(worker.thread)
        except (RuntimeError, MemoryError) as error:
            self.make_do_without(worker, error, "thread starts")

    def _call_back(self) -> None:
        with self.lock:
            worker = self._on_its_way
            if worker is None:
                return
            self._note_arrival(worker)
            self._see_off(worker)

    def _see_off(self, worker: Worker) -> None:
        """Have ``worker``, which was sent for, look what there is; or not come, if it has not begun. Under the lock."""
        if not worker.is_started:
            worker.is_abandoned = True  # should it run after all, it leaves at once
            self.workers.pop(worker, None)
        else:
            worker.parker.wake()  # one that still counts as idle goes on waiting

    def make_do_without(self, worker: Worker, error: BaseException, what: str) -> None:
        """Go on with the workers there are, for a while: no further thread, or whatever ``what`` says of it."""
        with self.lock:
            self._note_arrival(worker)
            self.workers.pop(worker, None)
            enough = len(self.workers)
            is_news = self._shortage.begin(max(1, enough))
            self._max_workers = min(self._max_workers, max(1, enough))
            if enough == 0:
                annotate(error, f"no worker of {self.account.kind} {self._name!r} could get ready")
                self.account.note_unserved(error)
        if enough == 0:
            self.account.note_left()
        elif is_news:
            reason = str(error) or type(error).__name__
            told = (self.account.kind, self._name, count_of(enough, "worker"), what, reason)
            tell(logging.WARNING, "%s %r goes on with %s for now: no further %s (%s)", *told)

    # Taking work

    def _take_queued(self) -> Chunk | None:
        try:
            return self._queue.popleft() if self._queue else None  # an exception costs more than a look
        except IndexError:
            return None

    def _take(self) -> Chunk | None:
        chunk = self._take_queued()
        return self._steal() if chunk is None and self.sizer.was_ever_large else chunk

    def _steal(self) -> Chunk | None:
        with self.lock:
            victim = self._longest_in_hand()
            if victim is None or not self.sizer.is_worth_sharing(len(victim.todo), self._gil):
                return None
            # Half of it: the rest stays with its owner, and either part can be split again.
            tail = victim.split((len(victim.todo) + 1) // 2)
            if tail is not None:
                self.account.note_split(tail)
            return tail

    def _longest_in_hand(self) -> Chunk | None:
        if not self.sizer.was_ever_large or self.attempts is not None:  # those have one call, maybe at the limiter
            return None
        # A chunk that was only just taken is left to its owner, who begins with the items first in order.
        since = perf_counter() - self.sizer.pace.chunk_seconds
        lasting = [chunk for chunk in self.chunks_in_hand() if chunk.begun is not None and chunk.begun < since]
        return max(lasting, key=lambda chunk: len(chunk.todo), default=None)

    # Under the lock

    def _note_arrival(self, worker: Worker) -> None:
        if worker.is_on_its_way:
            worker.is_on_its_way = False
            self._on_its_way = None
        if worker.is_opening:
            worker.is_opening = False
            self._opening -= 1
        if worker.is_idle:
            worker.is_idle = False
            self._drop_idle(worker)

    def _drop_idle(self, worker: Worker) -> None:
        """Take ``worker`` off the idle ones.

        It is the last as a rule, and to look for it among thousands would cost more than its call did. Others may be
        added to the end meanwhile, and none is taken off: that is done under the lock.
        """
        last = len(self._idle) - 1
        if self._idle[last] is worker:
            del self._idle[last]
        else:
            self._idle.remove(worker)

    def _dismiss_one(self) -> None:
        """Let one idle worker leave, who then lets the next: thousands at once would fight for the GIL.

        First woken, then taken off the list: interrupted in between, it finds out by itself that it is to leave.
        """
        try:
            worker = self._idle[-1]
        except IndexError:  # nobody is idle; asked by looking, which is in step with whoever goes idle
            return
        worker.parker.wake()
        worker.is_idle = False
        self._drop_idle(worker)

    def _choose_helper(self) -> Worker | None:
        """Return a worker to send, at most one at a time; new ones are not started yet."""
        if self.is_stopping or not self._may_need_help():
            return None
        if self._idle:
            worker = self._idle[-1]
            worker.free_since = perf_counter()  # had it nothing to do, nobody was slow
            worker.is_on_its_way = True
            self._on_its_way = worker  # from here on, ``_call_back`` knows of it
            worker.is_idle = False
            self._drop_idle(worker)
        else:
            worker = self._hire(self._started)
            self._started += 1
            self._on_its_way = worker
            self.workers[worker] = None
        return worker


def snapshot(chunks: deque[Chunk]) -> list[Chunk]:
    """Return what is in ``chunks`` now; without a GIL, it may change under whoever iterates it."""
    while True:
        try:
            return list(chunks)
        except RuntimeError:
            continue
