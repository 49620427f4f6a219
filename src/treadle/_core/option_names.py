"""What was meant by an option that does not exist: a slip of the pen, or what other libraries call it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# For each of our options what it is called elsewhere: in concurrent.futures, multiprocessing, joblib, tqdm, p_tqdm,
# mpire, ray, dask, tenacity, backoff, urllib3, ratelimit, aiolimiter, asyncio, trio, queue, APScheduler, ...
_ELSEWHERE = {
    "max_workers": """n_jobs jobs num_jobs workers num_workers n_workers nworkers threads num_threads n_threads nthreads
        max_threads processes num_processes n_processes max_processes num_proc n_proc nproc num_cpus n_cpus cpus cores
        n_cores concurrency max_concurrency max_concurrent concurrency_limit parallelism parallel max_parallel pool_size
        poolsize max_tasks""",
    "max_concurrent": "concurrency max_concurrency concurrent parallelism max_workers total_tokens max_in_flight",
    "max_per_second": """rate max_rate calls rps qps per_second calls_per_second requests_per_second rate_limit
        max_calls period time_period""",
    "ordered": "keep_order preserve_order in_order sort unordered",
    "buffersize": "buffer_size buffer prefetch pre_dispatch lookahead max_queue queue_size maxsize backlog",
    "maxsize": "size capacity max_size maxlen buffersize buffer_size",
    "chunksize": "chunk_size chunk batch_size batch",
    "call_timeout": "timeout_per_call per_call_timeout task_timeout item_timeout job_timeout worker_timeout",
    "timeout": "time_out timeout_seconds total_timeout deadline max_time",
    "initializer": "init initfunc initialiser worker_init on_start",
    "initargs": "init_args initializer_args",
    "max_tasks_per_child": "maxtasksperchild worker_lifespan max_calls_per_child",
    "engine": "backend executor pool mode prefer scheduler use_processes use_threads start_method mp_context require",
    "progress": "progress_bar progressbar show_progress use_tqdm tqdm pbar bar verbose on_progress",
    "name": "desc description label thread_name_prefix",
    "grace": "grace_period shutdown_timeout kill_timeout cancel_timeout",
    "retry": """retries max_retries num_retries retry_count attempts max_attempts tries max_tries retry_on retry_policy
        backoff max_delay""",
    "max_attempts": "attempts tries max_tries retries max_retries num_retries total stop times",
    "retry_on": "exceptions exception errors retry_exceptions retry_if catch on",
    "backoff": "delay wait base initial initial_delay min_delay backoff_factor factor",
    "max_delay": "max_wait max_backoff backoff_max cap maximum",
    "limiter": "rate_limit rate_limiter rate max_rate max_per_second rps qps per_second throttle throttled semaphore",
    "resource": "connection connect session client factory context_manager resource_factory worker_state",
    "on_error": """return_exceptions errors raise_errors raise_on_error ignore_errors exception_behaviour on_exception
        on_failure error_callback error_handler""",
    "max_depth": "depth depth_limit levels",
    "depth_first": "dfs bfs breadth_first strategy lifo",
    "seconds": "interval period every delay",
    "burst": "capacity bucket bucket_size max_burst",
}

# Where an option is not simply given under our name.
_WRITTEN = {
    "retry": "retry=treadle.Retry(...)",
    "limiter": "limiter=treadle.Limiter(...)",
}

# What no option is for, and what to do instead.
_INSTEAD = {
    "total": "progress= needs no total: it counts, and knows the length of what has one",
    "args": "for more arguments give an iterable for each, or use treadle.starmap or functools.partial",
    "callback": "work on the results in a loop, which runs in your own thread",
    "daemon": "no thread of Treadle's holds up the exit for long",
    "return_exceptions": ".outcomes() yields what became of each item, and raises for none of them",
    "on_error": ".outcomes() yields what became of each item; treadle.for_each has on_error=",
    "return_as": "a run is an iterator; list() has all results at once",
    "strict": "there is one iterable here; treadle.map has strict= for several",
    "loop": "coroutine functions have an event loop of their own",
    "timeout": "give it where the work is started",
}

_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def suggesting(thing: F) -> F:
    """Have a function, or a class when one is made, say what was meant by an option that it does not have.

    A decorator. The signature, for people and type checkers alike, stays what it is.
    """
    if isinstance(thing, type):
        # Not by an assignment, which type checkers take for a change of its type.
        setattr(thing, "__init__", _suggesting(thing.__init__, thing.__name__))  # type: ignore[misc]  # noqa: B010
        return thing
    wrapped: Any = _suggesting(thing, thing.__name__)
    return wrapped  # type: ignore[no-any-return]  # it is called as what it stands for


def check_names(caller: Callable[..., Any], fn: object, given: Mapping[str, object], options: type) -> None:
    """Raise for an option that ``caller`` does not have, which takes its own and those of the typed dict ``options``.

    ``fn`` is what it was to call.
    """
    for name in given:
        if name not in options.__annotations__:
            raise unexpected(f"{caller.__name__}()", name, [*_named(caller), *options.__annotations__], fn)


def unexpected(
    caller: str, name: str, known: Iterable[str], fn: object = None, instead: Mapping[str, str] | None = None
) -> TypeError:
    """Return the error for an option.

    Args:
        caller: What it was given to.
        name: The option.
        known: What options there are.
        fn: What ``caller`` was to call, if it calls anything.
        instead: What to do instead of options that it does not have for a reason.
    """
    hint = (instead or {}).get(name) or _hint(name, list(known), fn)
    return TypeError(f"{caller} got an unexpected keyword argument {name!r}{f': {hint}' if hint else ''}")


def _hint(name: str, known: list[str], fn: object) -> str:
    """Return what was meant; empty: nobody knows."""
    to_fn = f"fn gets keyword arguments by functools.partial(fn, {name}=...)"
    if callable(fn) and name in _named(fn):
        return to_fn
    if meant := next((option for option in known if name.lower() in _ELSEWHERE.get(option, "").split()), None):
        return f"that is {_WRITTEN.get(meant, f'{meant}=')} here"
    if name in _INSTEAD:
        return _INSTEAD[name]
    plain = {_plain(option): option for option in known}
    if close := get_close_matches(_plain(name), plain, 1, cutoff=0.75):
        return f"did you mean {plain[close[0]]}=?"
    return to_fn if callable(fn) else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _named(fn: Callable[..., Any]) -> list[str]:
    """Return which parameters of ``fn`` have a name to be given by."""
    try:
        return [name for name, parameter in signature(fn).parameters.items() if parameter.kind in _BY_NAME]
    except (TypeError, ValueError):  # one in C does not say
        return []


def _suggesting(fn: Callable[..., Any], caller: str) -> Callable[..., Any]:
    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # it was called: what is wrong is not how
            if (meant := _meant(fn, caller, args, kwargs, error)) is None:
                raise
            raise meant from None
        finally:
            del args, kwargs  # what they hold may know the error that ends this, whose traceback leads here

    return call


def _meant(
    fn: Callable[..., Any], caller: str, args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError
) -> TypeError | None:
    """Return an error that says more than ``error``, by which ``fn`` was not even called; None: there is none."""
    parameters = signature(fn).parameters
    known = _named(fn)
    if unknown := [name for name in kwargs if name not in known]:
        called = dict(zip(parameters, args, strict=False)).get("fn")
        return unexpected(f"{caller}()", unknown[0], known, called)
    workers = parameters.get("max_workers") or next(reversed([*parameters.values()]), None)  # or among ``**options``
    by_name = workers is not None and workers.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)
    if by_name and args and type(args[-1]) is int and "were given" in str(error):
        return TypeError(f"{error}: for so many workers write max_workers={args[-1]}")
    return None
