"""What each worker opens for itself, and when it opens it anew."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from weakref import WeakKeyDictionary

from treadle._core import register
from treadle._core.chunk import FailedWithResource
from treadle._core.coroutine_function import CoroutineFunction
from treadle._core.describe import annotate, describe
from treadle._core.option_names import suggesting
from treadle._core.real_time import perf_counter
from treadle._core.retry import Retry, is_types
from treadle._core.settings import check_callable, check_seconds
from treadle._core.tell import tell
from treadle._core.user_code import call_guarded, is_a
from treadle.errors import Cancelled, InvalidArgument, WrongType

if TYPE_CHECKING:
    import asyncio  # slow to import, and only coroutines need it

R = TypeVar("R")

# A resource that no call has used for so long is looked at by ``check`` before the next one gets it.
IDLE_SECONDS = 1.0
# With ``retry`` and a plain factory, a resource is replaced after so many calls in a row failed that are worth a retry.
SUSPECT_FAILURES = 2

RenewOn = type[Exception] | tuple[type[Exception], ...]


@suggesting
class Resource(Generic[R]):
    """What each worker opens for itself, with the rules by which a broken or old one is replaced.

    Give it as ``resource=`` in the place of the plain factory. A worker opens one before its first call and closes it
    when it leaves, as with a plain factory: what ``factory`` returns is entered if it is a context manager, and exited
    then; otherwise its ``close()`` is called if there is one. In between:

    - When a call raises one of ``renew_on``, its resource is closed, and another is opened before the worker's next
      call. If the resource was opened before the item's first call, the failure is the resource's: the call is made
      once more, through the limiter like any other, and does not count as one of the attempts of ``retry`` (which may
      be absent). So an item is spared at most once for each resource that was open when it came.
    - A resource older than ``max_age``, or one that ``check`` does not approve of, is replaced before a call gets it.
    - If another cannot be opened, that is the failure of the call which needed it, and the next call tries again.
      Only one that cannot be opened before a worker's first call ends the run.

    Closing one that is to be replaced may fail, as it is broken: this is logged, and nothing else.

    Args:
        factory: Opens one. Called by several workers at once, unless ``one_at_a_time``. With ``engine="coroutines"`` it
            may be a coroutine function, and so may ``check``.
        renew_on: The types of exceptions that mean the resource is broken, one or a tuple of them.
        check: Given a resource which no call has used for a second, says whether it still works. What it raises means
            no. None: nothing is asked.
        max_age: Seconds after which a resource is replaced, before the next call. None: no limit.
        one_at_a_time: The workers call ``factory`` one after the other, for factories that are not safe to be called
            by several threads, such as ``boto3.client``. Processes share nothing, so each calls its own.

    Raises:
        InvalidArgument: ``max_age`` is not more than 0.
        WrongType: An argument is not what it must be.

    Example:
        >>> import treadle
        >>> class Connection:
        ...     is_open = True
        ...     def double(self, number):
        ...         if number == 2:
        ...             self.is_open = False
        ...         if not self.is_open:
        ...             raise ConnectionError("closed by the server")
        ...         return 2 * number
        >>> pool = treadle.Resource(Connection, renew_on=ConnectionError)
        >>> run = treadle.map(lambda n, db: db.double(n), range(5), resource=pool, max_workers=1)
        >>> [outcome.status for outcome in run.outcomes()]
        ['succeeded', 'succeeded', 'failed', 'succeeded', 'succeeded']
    """

    __slots__ = ("__weakref__", "_locks", "check", "factory", "max_age", "one_at_a_time", "renew_on")

    @overload
    def __init__(
        self,
        factory: CoroutineFunction[[], R],
        *,
        renew_on: RenewOn = ...,
        check: Callable[[R], object] | None = ...,
        max_age: float | None = ...,
        one_at_a_time: bool = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        factory: Callable[[], AbstractAsyncContextManager[R]] | Callable[[], AbstractContextManager[R]],
        *,
        renew_on: RenewOn = ...,
        check: Callable[[R], object] | None = ...,
        max_age: float | None = ...,
        one_at_a_time: bool = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        factory: Callable[[], R],
        *,
        renew_on: RenewOn = ...,
        check: Callable[[R], object] | None = ...,
        max_age: float | None = ...,
        one_at_a_time: bool = ...,
    ) -> None: ...

    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        renew_on: RenewOn = (),
        check: Callable[[Any], object] | None = None,
        max_age: float | None = None,
        one_at_a_time: bool = False,
    ) -> None:
        check_callable("factory", factory)
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in as_tuple(renew_on)):
            raise WrongType("renew_on", describe(renew_on), "a subclass of Exception, or a tuple of them")
        if check is not None:
            check_callable("check", check)
        if max_age is not None:
            check_seconds("max_age", max_age)
            if max_age == 0:
                raise InvalidArgument("max_age", "0", "more than 0 seconds, or None for no limit")
        if not isinstance(one_at_a_time, bool):
            raise WrongType("one_at_a_time", describe(one_at_a_time), "True or False")
        self.factory: Callable[[], Any] = factory
        self.renew_on: RenewOn = renew_on
        self.check: Callable[[Any], object] | None = check
        self.max_age: float | None = max_age
        self.one_at_a_time: bool = one_at_a_time
        self._locks = _Locks()

    def __call__(self) -> R:
        """Return what ``factory`` returns: a ``Resource`` may stand wherever a factory does."""
        found: R = self.factory()
        return found

    def __repr__(self) -> str:
        options = {name: getattr(self, name) for name in ("renew_on", "check", "max_age", "one_at_a_time")}
        defaults = {"renew_on": (), "check": None, "max_age": None, "one_at_a_time": False}
        given = [f"{name}={describe(option)}" for name, option in options.items() if option != defaults[name]]
        return f"Resource({', '.join([describe(self.factory), *given])})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self.factory, self.renew_on, self.check, self.max_age, self.one_at_a_time)


def _remake(kind: Any, factory: Any, renew_on: Any, check: Any, max_age: Any, one_at_a_time: Any) -> Any:
    return kind(factory, renew_on=renew_on, check=check, max_age=max_age, one_at_a_time=one_at_a_time)


class Suspected(Resource[R]):
    """A plain factory beside ``retry``: a resource is replaced after several failures in a row that are worth a retry.

    One such failure may be the item's, or the server's. Several in a row on one worker mean a broken resource more
    often than not, and a worker that fails at once would take most of the items. No item is spared: the user did not
    say which errors mean a broken resource.
    """

    __slots__ = ()


def spares(resource: Callable[[], Any] | None) -> bool:
    """Return True if a failure may be the fault of ``resource``, and not of its item."""
    return isinstance(resource, Resource) and resource.renew_on != ()


def as_resource(factory: Callable[[], Any] | None, retry: Retry | None) -> Callable[[], Any] | None:
    """Return what ``resource=factory`` means beside ``retry``."""
    if factory is None or retry is None or isinstance(factory, Resource):
        return factory
    kinds = as_tuple(retry.retry_on) if is_types(retry.retry_on) else (Exception,)
    return Suspected(factory, renew_on=tuple(kind for kind in kinds if issubclass(kind, Exception)))


def as_tuple(kinds: Any) -> tuple[Any, ...]:
    """Return the types that ``except kinds`` would catch."""
    return kinds if isinstance(kinds, tuple) else (kinds,)


class _Locks:
    """What ``one_at_a_time`` holds: a lock for threads, and one for each event loop. Made anew in another process."""

    def __init__(self) -> None:
        self.close_after_fork()
        register.enroll_for_fork(self)

    def close_after_fork(self) -> None:
        """Be free: in a forked child, a thread that is not there may hold the parent's."""
        self.threads = threading.Lock()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def of_loop(self) -> asyncio.Lock:
        import asyncio

        return self._loops.setdefault(asyncio.get_running_loop(), asyncio.Lock())


class _Slot:
    """What one worker has open: the state that both kinds of it share. One thread's, or one loop's.

    Calls may be nested: a worker that waits for another call may make that one itself. The resource is replaced only
    between calls, never under one.
    """

    def __init__(self, resource: Resource[Any]) -> None:
        self.resource = resource
        self.value: Any = None
        self.is_open = False
        self.opened_at = self.used_at = 0.0  # perf_counter(), which all processes of a machine share
        self.failures = 0  # in a row, of the kind that counts
        self.calls = 0  # being made, one within the other

    def is_worn(self) -> bool:
        """Return True if the resource is to be replaced, whatever ``check`` says."""
        renewal, max_age = self.resource, self.resource.max_age
        if max_age is not None and perf_counter() - self.opened_at > max_age:
            return True
        return self.failures >= (SUSPECT_FAILURES if isinstance(renewal, Suspected) else 1)

    def is_idle(self) -> bool:
        return self.resource.check is not None and perf_counter() - self.used_at > IDLE_SECONDS

    def note_open(self, value: Any) -> None:
        self.value, self.is_open, self.failures = value, True, 0
        self.opened_at = self.used_at = perf_counter()

    def note_success(self) -> None:
        self.failures, self.used_at = 0, perf_counter()

    def judged(self, error: BaseException) -> BaseException:
        """Return what to raise in the place of ``error``, which a call raised."""
        is_meant, _ = call_guarded(isinstance, error, self.resource.renew_on)
        if not is_meant:
            self.used_at = perf_counter()
            return error
        self.failures += 1
        return error if isinstance(self.resource, Suspected) else FailedWithResource(error, self.opened_at)

    def not_reopened(self, error: BaseException) -> BaseException:
        annotate(error, "raised as the resource was opened anew")
        return error


class OpenResource(_Slot):
    """What a worker's thread has open.

    Args:
        resource: What opens it.
        run: Calls a function in the context that the resource is opened and closed in.
    """

    def __init__(self, resource: Resource[Any], run: Callable[..., Any]) -> None:
        super().__init__(resource)
        self._run = run
        self._stack = ExitStack()

    def open(self) -> None:
        """Open one. What that raises is raised."""
        if self.resource.one_at_a_time:
            with self.resource._locks.threads:
                value = self._run(enter, self.resource.factory, self._stack)
        else:
            value = self._run(enter, self.resource.factory, self._stack)
        self.note_open(value)

    def call(self, fn: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``fn(*arguments, resource)``, with a resource that works as far as anybody knows."""
        if not self.calls:
            self._look()
        self.calls += 1
        try:
            result = fn(*arguments, self.value)
        except BaseException as error:
            judged = self.judged(error)
            if judged is error:
                raise
        else:
            self.note_success()
            return result
        finally:
            self.calls -= 1
        try:
            raise judged
        finally:
            del judged  # it leads to the error, whose traceback leads here

    def _look(self) -> None:
        if self.is_open and (self.is_worn() or (self.is_idle() and not self._is_approved())):
            self.is_open = False
            stack, self._stack, self.value = self._stack, ExitStack(), None
            _, error = call_guarded(self._run, stack.close)
            if error is not None:
                tell(logging.INFO, "closing a resource that is replaced failed: %s", describe(error))
        if not self.is_open:
            try:
                self.open()
            except BaseException as error:
                self.not_reopened(error)
                raise

    def _is_approved(self) -> bool:
        check = self.resource.check
        assert check is not None
        is_approved, error = call_guarded(lambda: bool(check(self.value)))
        return bool(is_approved) if error is None else _is_disapproved(error)

    def close(self) -> None:
        """Close what is open. What that raises is raised."""
        self._run(self._stack.close)


class AwaitedResource(_Slot):
    """As ``OpenResource``, for a worker on an event loop."""

    def __init__(self, resource: Resource[Any]) -> None:
        super().__init__(resource)
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Open one. What that raises is raised."""
        if self.resource.one_at_a_time:
            async with self.resource._locks.of_loop():
                value = await enter_awaited(self.resource.factory, self._stack)
        else:
            value = await enter_awaited(self.resource.factory, self._stack)
        self.note_open(value)

    async def call(self, fn: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Return what ``await fn(*arguments, resource)`` comes to, as ``OpenResource.call`` does."""
        await self._look()
        try:
            result = await fn(*arguments, self.value)
        except BaseException as error:
            judged = self.judged(error)
            if judged is error:
                raise
        else:
            self.note_success()
            return result
        try:
            raise judged
        finally:
            del judged

    async def _look(self) -> None:
        if self.is_open and (self.is_worn() or (self.is_idle() and not await self._is_approved())):
            self.is_open = False
            stack, self._stack, self.value = self._stack, AsyncExitStack(), None
            try:
                await stack.aclose()
            except BaseException as error:
                import asyncio

                if is_a(error, asyncio.CancelledError):
                    raise
                tell(logging.INFO, "closing a resource that is replaced failed: %s", describe(error))
        if not self.is_open:
            try:
                await self.open()
            except BaseException as error:
                self.not_reopened(error)
                raise

    async def _is_approved(self) -> bool:
        assert self.resource.check is not None
        try:
            return bool(await awaited(self.resource.check(self.value)))
        except BaseException as error:
            import asyncio

            if is_a(error, asyncio.CancelledError):
                raise
            return _is_disapproved(error)

    async def aclose(self) -> None:
        """Close what is open. What that raises is raised."""
        await self._stack.aclose()


def _is_disapproved(error: BaseException) -> bool:
    """Return False, as ``error`` is what a check raised; raise it if the call was asked to end in it."""
    if is_a(error, Cancelled):
        raise error
    tell(logging.INFO, "a resource is replaced: its check raised %s", describe(error))
    return False


def enter(factory: Callable[[], Any], stack: ExitStack) -> Any:
    """Open a resource: what ``factory`` returns, entered if that can be done; ``stack`` closes it."""
    resource = factory()
    if hasattr(type(resource), "__enter__") and hasattr(type(resource), "__exit__"):
        return stack.enter_context(resource)
    if callable(close := getattr(resource, "close", None)):
        stack.callback(close)
    return resource


async def enter_awaited(factory: Callable[[], Any], stack: AsyncExitStack) -> Any:
    """Open a resource: what ``factory`` returns, awaited if it is a coroutine, and entered if that can be done."""
    resource = await awaited(factory())
    kind = type(resource)
    if hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__"):
        return await stack.enter_async_context(resource)
    if hasattr(kind, "__enter__") and hasattr(kind, "__exit__"):
        return stack.enter_context(resource)
    close = getattr(resource, "aclose", None) or getattr(resource, "close", None)
    if callable(close):
        stack.push_async_callback(_close, close)
    return resource


async def awaited(thing: Any) -> Any:
    """Return what ``thing`` comes to, if it can be awaited; otherwise itself."""
    return await thing if isawaitable(thing) else thing


async def _close(close: Callable[[], Any]) -> None:
    await awaited(close())
