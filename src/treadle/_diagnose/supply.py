"""The items of a diagnosis, for one trial after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

# That are kept to be called again, should there be no others; they may be large.
KEPT_ITEMS = 64


class Supply:
    """Items for one trial after another: each once, as long as there are some, then those kept, again and again.

    Attributes:
        taken: Of the input.
        error: That the input has raised.
        may_repeat: Whether an item may be called again.
    """

    def __init__(self, items: Iterator[Any], most: int, may_repeat: bool) -> None:
        self.taken = 0
        self.error: BaseException | None = None
        self._items = items
        self._most = most
        self.may_repeat = may_repeat
        self._returned: deque[Any] = deque()
        self._left_out: list[Any] = []
        self._kept: deque[Any] = deque(maxlen=KEPT_ITEMS)
        self._has_ended = False

    @property
    def total(self) -> int | None:
        """How many there are; None: the last was not seen yet."""
        return self.taken if self._has_ended else None

    def lacks(self) -> bool:
        """Tell whether there is nothing left to be called."""
        return (self._has_ended or self._is_full()) and not self._returned and not (self.may_repeat and self._kept)

    def items(self, is_over: Callable[[int], bool]) -> Iterator[Any]:
        """Yield items until it is over, which is asked with the number of those that were yielded."""
        count = 0
        while not is_over(count):
            try:
                yield self._next()
            except StopIteration:
                return
            count += 1

    def give_back(self, item: Any) -> None:
        """Take an item back that was not called."""
        if not any(item is left for left in self._left_out):
            self._returned.append(item)

    def leave_out(self, item: Any) -> None:
        """Do not call this item again."""
        self._left_out.append(item)
        self._kept = deque((kept for kept in self._kept if kept is not item), maxlen=KEPT_ITEMS)
        self._returned = deque(waits for waits in self._returned if waits is not item)

    def _is_full(self) -> bool:
        return self.taken >= self._most

    def _next(self) -> Any:
        if self._returned:
            return self._returned.popleft()
        if not self._has_ended and not self._is_full():
            try:
                item = next(self._items)
            except StopIteration:
                self._has_ended = True
            except BaseException as error:
                self.error = error
                raise
            else:
                self.taken += 1
                self._kept.append(item)
                return item
        if not self.may_repeat or not self._kept:
            raise StopIteration
        self._kept.rotate(-1)
        return self._kept[-1]
