"""``contextmanager`` as in ``contextlib``, but whatever exception leaves the block leaves it as it is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import _GeneratorContextManager
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar, cast

from treadle._core.uninterrupted import starts_uninterrupted
from treadle._core.user_code import is_a

P = ParamSpec("P")
T = TypeVar("T")


def contextmanager(fn: Callable[P, Iterator[T]]) -> Callable[P, _GeneratorContextManager[T]]:
    """Return ``fn``, a generator function with one ``yield``, as one whose calls are for ``with``.

    That of ``contextlib`` assigns to ``__traceback__`` of what leaves the block, which a frozen dataclass refuses: its
    user would get a ``FrozenInstanceError`` instead.
    """

    @wraps(fn)
    def make(*args: P.args, **kwargs: P.kwargs) -> _GeneratorContextManager[T]:
        return _Block(cast("Callable[..., Generator[T, None, None]]", fn), args, kwargs)

    return make


class _Block(_GeneratorContextManager[T]):
    """One block. An exception that is raised in it is raised at the ``yield``, and not swallowed there.

    Ctrl-C may come on the way to it, and is raised there as well: whatever interrupts that way, the generator ends.
    """

    def __enter__(self) -> T:
        del self.args, self.kwds, self.func  # as contextlib does: the generator has what it needs of them
        try:
            return next(self.gen)
        except BaseException:  # Ctrl-C, maybe after the ``yield``
            self.gen.close()
            raise

    @starts_uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return self._leave(error, traceback)
        except BaseException:
            self.gen.close()
            raise

    def _leave(self, error: BaseException | None, traceback: TracebackType | None) -> bool | None:
        if error is None:
            next(self.gen, None)
            return None
        try:
            self.gen.throw(error)
        except BaseException as raised:
            # A StopIteration cannot leave a generator, and comes out as the cause of something else.
            if raised is not error and not (is_a(error, StopIteration) and raised.__cause__ is error):
                raise
            # As it was on its way out of the block, without the frames of the generator.
            BaseException.with_traceback(error, traceback)
        return None
