"""The intake: takes items from the input, as far as the bound allows, and forms chunks of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextvars import Context
from itertools import islice
from typing import Any

from treadle._core import clock
from treadle._core.cancellation import Scope, enter, here
from treadle._core.chunk import Chunk
from treadle._core.describe import cut_our_frames, drop_context
from treadle._core.real_time import perf_counter
from treadle._core.trial import Trial
from treadle._core.user_code import is_a
from treadle._crew.crew import Crew
from treadle._run.ledger import Ledger
from treadle._sync.aside import run_aside
from treadle._sync.parker import Parker
from treadle.errors import Cancelled

# Taking items may not keep the results waiting for longer than about this.
PATIENCE_SECONDS = 0.005
MAX_TAKE_ITEMS = 8192


class Intake:
    """Advances the input, on one thread at a time: the consumer's, or from ``start_feeder`` on its own.

    At most ``max_workers + buffersize`` items are taken beyond the last result consumed.
    """

    def __init__(self, iterator: Iterator[Any], ledger: Ledger, crew: Crew) -> None:
        self.is_ended = False
        self.ended_at: float | None = None  # clock.now(), if the input has ended by itself
        self.error: BaseException | None = None
        self.is_taking = False  # the feeder is advancing the input, or has an item that is in no account yet
        self.is_watched = False  # the consumer, if it waits, looks up now and then whether calls stall
        self.scope = Scope()  # what the feeder runs in: cancelled when it is to leave, wherever it waits
        # Where the input may have nothing for now: whether ``next()`` has an answer. The feeder asks before it asks for
        # an item; whoever has news calls ``wake()``.
        self.has_next: Callable[[], bool] = _always
        # How many items, after the first, ``next()`` has an answer for at once; they are passed on together.
        self.ready: Callable[[], int] = _none
        # Somebody wants to know of each call how long it took. Chunks of a size that was given come before one knows;
        # those that are larger have tiny calls.
        self.is_timed = False
        self._iterator = iterator
        self._ledger = ledger
        self._crew = crew
        self._most = crew.sizer.size  # items to take in one go, if the input is slow
        self._advance: Iterator[None] | None = None  # which has met ``error``
        self._feeder: threading.Thread | None = None
        self._parker = Parker()
        self._wake_consumer: Callable[[], None] = self._parker.wake  # the feeder's; nobody calls it without one

    def refill(self) -> bool:
        """Take as many items as there is room for; on the consumer's thread.

        Stops early if the input is slow, so that results do not wait for it, and then returns True: who finds
        that no result is there has to come back. An exception of the input ends the intake and is kept in
        ``error``. Ctrl-C goes through: the items taken by then are in the ledger. Nothing to do beside a feeder.
        """
        if self._feeder is not None:
            return False
        spent = 0.0
        while not (self.is_ended or self._crew.is_stopping):
            size, room = self._crew.sizer.size, self._room()
            if room < size and (room <= 0 or self._ledger.taken > self._ledger.consumed):
                return False  # a whole chunk later rather than a splinter now
            if spent > PATIENCE_SECONDS:
                return True
            spent += self._take(min(room, self._most), min(room, size, self._most))
        return False

    def feeder(self) -> int:
        """Return the thread that advances the input by itself; 0: there is none, or no more to come."""
        return 0 if self.is_ended or self._feeder is None else self._feeder.ident or 0

    def start_feeder(self, name: str, context: Context, wake_consumer: Callable[[], None]) -> None:
        """Advance the input on a thread of its own from now on, in ``context``.

        Args:
            name: Of the run.
            context: What the input sees.
            wake_consumer: Called at the end of the input, and when work may stall.
        """
        if self._feeder is None and not self.is_ended:
            self._wake_consumer = wake_consumer
            feeder = threading.Thread(
                target=context.run, args=(self._feed,), name=f"treadle-{name}-feeder", daemon=True
            )
            feeder.start()
            self._feeder = feeder

    def note_handed_over(self) -> None:
        """Have a feeder take as many items as were consumed, the first of the batch just handed over included."""
        if self._feeder is not None:
            self._parker.wake()

    def wake(self) -> None:
        """Have the feeder look again whether there is room, or an end."""
        self._parker.wake()

    def cancel(self, reason: str) -> None:
        """Have the feeder leave, also out of a wait of Treadle's in the input. Called under the lock."""
        self.wake()
        if self.scope.flag(reason):
            run_aside("input-cancel", self.scope.run_callbacks)  # they may take other locks, and their time

    def _room(self) -> int:
        crew, ledger = self._crew, self._ledger
        return crew.sizer.limit(crew.busy()) - (ledger.taken - ledger.consumed_now())

    def _take(self, wanted: int, size: int) -> float:
        """Take up to ``wanted`` items at once, have them called in chunks of ``size``, and return the seconds it took.

        Those that the input took, that is: what else happens on a busy machine says nothing of it.
        """
        net = self._ledger.net  # whatever interrupts the next lines, no item is lost: see ``recover``
        raised: list[Exception] = []
        began = perf_counter()
        advance = _advance(self._iterator, wanted, net, raised)
        next(advance)
        took = perf_counter() - began
        if raised:
            self._note_error(raised.pop(), advance)
        count = len(net)
        if count < wanted:
            self._note_end()
        if count == 0:
            return took
        self._crew.submit(self._enter(size))
        fitting = int(count * PATIENCE_SECONDS / took) if took > PATIENCE_SECONDS else 2 * self._most
        self._most = max(1, min(fitting, MAX_TAKE_ITEMS))
        return took

    def _enter(self, size: int) -> list[Chunk]:
        """Enter what is in the net into the account, and return the chunks to be called, of ``size`` items.

        Somebody may have closed the account while the input was advanced: then there are none.
        """
        ledger = self._ledger
        index, items = ledger.taken, ledger.net
        chunks = [self._make_chunk(index + at, items[at : at + size]) for at in range(0, len(items), size)]
        with self._crew.lock:
            return chunks if ledger.enter(chunks) else []

    def recover(self) -> None:
        """Enter into the account what ``refill`` had taken when Ctrl-C came upon it. On its thread."""
        if self._ledger.net:
            self._enter(len(self._ledger.net))

    def _is_timed(self, size: int) -> bool:
        """Tell whether each call of a chunk of ``size`` is timed, or all of them together."""
        return self.is_timed or 1 < size <= (self._crew.sizer.given or 0)

    def _make_chunk(self, index: int, items: list[Any]) -> Chunk:
        chunk = Chunk(index, items)
        chunk.ends = [] if len(items) > 1 and self._is_timed(len(items)) else None
        chunk.make_ready()
        if self._crew.attempts is not None:
            chunk.trial = Trial(self._crew.places)
        return chunk

    def _feed(self) -> None:
        enter(self.scope)
        here.is_feeder = True
        here.places = self._crew.places  # calls that the input makes share them, as they do on the consumer's thread
        try:
            while self._may_take():
                self._take_what_is_there()
        except StopIteration:
            self._note_end()
        except BaseException as error:
            # Asked to leave, an input has not ended by itself: the run ends for the reason it has.
            if not (self.scope.is_cancelled and is_a(error, Cancelled)):
                cut_our_frames(error)
                self.error = error
                self.is_ended = True
        self._iterator = iter(())  # an input that nobody else holds ends now: a generator is closed, a run stops
        self.is_taking = False
        self._wake_consumer()

    def _note_error(self, error: Exception, advance: Iterator[None]) -> None:
        """Keep what the input raised until the consumer is told.

        What it is kept by, a worker's thread holds. So nothing of it may lead to the consumer's frames, whose variables
        hold the run: then nobody could let go of that.
        """
        self._advance = advance  # suspended, it is where the frames of the input end
        if (handled := sys.exception()) is not None:  # the consumer's: it gets that again where the error is raised
            drop_context(error, handled)
        self.error = error
        self.is_ended = True

    def forget(self) -> None:
        """Let go of what nobody will be told any more: the owner of the run is gone."""
        self.error = None

    def _note_end(self) -> None:
        self.ended_at = clock.now()
        self.is_ended = True

    def _may_take(self) -> bool:
        """Wait until there is room, and something to take; False: the run is stopping, which is no end of the input."""
        while not (self._crew.is_stopping or (self._room() > 0 and self.has_next())):
            self.is_taking = False
            self._parker.wait()
        if self.is_taking and not self._crew.is_stopping:
            return True
        with self._crew.lock:
            self.is_taking = not self._crew.is_stopping
            return self.is_taking

    def _take_what_is_there(self) -> None:
        """Take an item, and those for which the input need not be waited for."""
        items = [next(self._iterator)]
        try:
            if (more := min(self.ready(), self._room() - 1)) > 0:
                items.extend(islice(self._iterator, more))
        finally:
            self._pass_on(items)

    def _pass_on(self, items: list[Any]) -> None:
        """Pass ``items`` on at once: who knows when the next one comes. Tiny calls join the chunk that waits."""
        ledger, crew = self._ledger, self._crew
        chunks: list[Chunk] = []
        is_shared = False  # a chunk has several items: what it has done must not wait for the rest of it
        with crew.lock:  # the account may be closed right now, and must have the items or not
            for item in items:
                index, size = ledger.taken, crew.sizer.size
                last = chunks[-1] if chunks else None
                if last is not None and len(last.items) < size:
                    last.items.append(item)
                    last.todo.insert(0, item)
                    is_shared = True
                elif last is None and crew.extend_last(index, item, size):
                    is_shared = True
                else:
                    chunk = self._make_chunk(index, [item])
                    chunk.ends = [] if self._is_timed(size) else None  # others may join it
                    ledger.add(chunk)
                    chunks.append(chunk)
                ledger.count_taken()
        crew.submit(chunks)
        # The consumer may have gone to wait when nothing could stall.
        if not self.is_watched and (is_shared or crew.can_stall()):
            self._wake_consumer()


def _advance(
    iterator: Iterator[Any], wanted: int, net: list[Any], raised: list[Exception]
) -> Generator[None, None, None]:
    """Take up to ``wanted`` items into ``net``, and put what that raises into ``raised``; to be advanced once.

    The frames of an exception lead on to those of all callers, and to their variables. A generator that has yielded has
    no caller: here they end, for as long as it is kept, and it has no variables itself.
    """
    try:
        net.extend(islice(iterator, wanted))
    except Exception as error:
        raised.append(error)
    del iterator, wanted, net, raised
    yield


def _always() -> bool:
    return True


def _none() -> int:
    return 0
