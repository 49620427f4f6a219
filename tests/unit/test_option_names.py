"""An option that does not exist: the error says what was meant, by a slip of the pen or in another library's words."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import treadle
from treadle import testing
from treadle._core import option_names
from treadle._run.options import MapOptions

Make = Callable[..., Any]


def scale(number: int, factor: int = 1) -> int:
    return number * factor


def over(front: Make) -> Make:
    """Return ``front`` as a function of its options alone."""
    return lambda **options: front(scale, [1], **options)


def in_a_pipeline(method: str) -> Make:
    return lambda **options: getattr(treadle.pipeline([1]), method)(scale, **options)


def taking_options() -> dict[str, Make]:
    return {
        "map": over(treadle.map),
        "starmap": over(treadle.starmap),
        "for_each": over(treadle.for_each),
        "traverse": over(treadle.traverse),
        "diagnose": over(treadle.diagnose),
        "pipeline": lambda **options: treadle.pipeline([1], **options),
        "Pipeline.map": in_a_pipeline("map"),
        "Pipeline.filter": in_a_pipeline("filter"),
        "Pipeline.flat_map": in_a_pipeline("flat_map"),
        "Pipeline.for_each": in_a_pipeline("for_each"),
        "Pipeline.batched": lambda **options: treadle.pipeline([1]).batched(2, **options),
        "Pipeline.start": lambda **options: treadle.pipeline([1]).start(**options),
        "TaskGroup": treadle.TaskGroup,
        "PoolExecutor": treadle.PoolExecutor,
        "first_success": lambda **options: treadle.first_success(list, **options),
        "every": lambda **options: treadle.every(1, scale, **options),  # type: ignore[arg-type]
        "Limiter": treadle.Limiter,
        "Retry": treadle.Retry,
        "Hedge": treadle.Hedge,
        "Resource": lambda **options: treadle.Resource(list, **options),
        "Channel": lambda **options: treadle.Channel(1, **options),
        "Lock": treadle.Lock,
        "RLock": treadle.RLock,
        "Guarded": lambda **options: treadle.Guarded(0, **options),
        "on_loop": lambda **options: treadle.on_loop(scale, **options),
        "dask": lambda **options: treadle.dask("127.0.0.1:1", **options),
        "explore": lambda **options: testing.explore(scale, **options),  # type: ignore[arg-type]
        "Turnstile": testing.Turnstile,
        "ManualClock": testing.ManualClock,
    }


@pytest.mark.parametrize("name", taking_options())
def test_whatever_takes_options_refuses_others_by_its_own_name(name: str) -> None:
    call = name.rpartition(".")[2]
    with pytest.raises(TypeError, match=rf"^{call}\(\)( of a pipeline)? got an unexpected keyword argument 'naem'"):
        taking_options()[name](naem="x")


MEANT = [
    ("map", "max_worker", "did you mean max_workers=?"),
    ("map", "maxworkers", "did you mean max_workers=?"),
    ("map", "ordred", "did you mean ordered=?"),
    ("map", "n_jobs", "that is max_workers= here"),
    ("map", "num_workers", "that is max_workers= here"),
    ("map", "processes", "that is max_workers= here"),
    ("map", "chunk_size", "that is chunksize= here"),
    ("map", "prefetch", "that is buffersize= here"),
    ("map", "backend", "that is engine= here"),
    ("map", "desc", "that is name= here"),
    ("map", "retries", "that is retry=treadle.Retry(...) here"),
    ("map", "rate_limit", "that is limiter=treadle.Limiter(...) here"),
    ("map", "total", "progress= needs no total"),
    ("map", "return_exceptions", ".outcomes() yields what became of each item"),
    ("map", "on_error", "treadle.for_each has on_error="),
    ("map", "factor", "fn gets keyword arguments by functools.partial(fn, factor=...)"),
    ("map", "whatever", "fn gets keyword arguments by functools.partial(fn, whatever=...)"),
    ("for_each", "return_exceptions", "that is on_error= here"),
    ("for_each", "n_jobs", "that is max_workers= here"),
    ("starmap", "strict", "there is one iterable here"),
    ("starmap", "chunk_size", "that is chunksize= here"),
    ("traverse", "depth", "that is max_depth= here"),
    ("traverse", "n_jobs", "that is max_workers= here"),
    ("Pipeline.map", "n_jobs", "that is max_workers= here"),
    ("Pipeline.map", "timeout", "call_timeout= limits one call"),
    ("Pipeline.for_each", "errors", "that is on_error= here"),
    ("Pipeline.batched", "time_out", "that is timeout= here"),
    ("TaskGroup", "n_jobs", "that is max_workers= here"),
    ("PoolExecutor", "workers", "that is max_workers= here"),
    ("Limiter", "rate", "that is max_per_second= here"),
    ("Limiter", "concurrency", "that is max_concurrent= here"),
    ("Retry", "attempts", "that is max_attempts= here"),
    ("Retry", "exceptions", "that is retry_on= here"),
    ("Retry", "jiter", "did you mean jitter=?"),
    ("every", "interval", "that is seconds= here"),
    ("Channel", "capacity", "that is maxsize= here"),
    ("Lock", "nam", "did you mean name=?"),
]


@pytest.mark.parametrize(("name", "option", "hint"), MEANT)
def test_the_error_says_what_was_meant(name: str, option: str, hint: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}': ") as caught:
        taking_options()[name](**{option: 3})

    assert hint in str(caught.value)


def test_wait_says_where_its_timeout_belongs() -> None:
    with (
        treadle.map(scale, [1]) as run,
        pytest.raises(TypeError, match="'timeout': give it where the work is started"),
    ):
        run.wait(timeout=3)  # type: ignore[call-arg]


def test_a_type_error_of_another_kind_stays_what_it_is() -> None:
    with pytest.raises(TypeError, match=r"^map\(\) missing 1 required positional argument: 'fn'$"):
        treadle.map()  # type: ignore[call-overload]
    with pytest.raises(treadle.WrongType, match="max_workers must be a whole number"):
        treadle.TaskGroup(max_workers=2.0)  # type: ignore[arg-type]


def test_every_word_leads_to_an_option_that_something_has() -> None:
    options = set(MapOptions.__annotations__) | {"key"}
    for thing in (*vars(treadle).values(), *vars(treadle.Pipeline).values()):
        if callable(thing) and (getattr(thing, "__module__", None) or "").startswith("treadle"):
            options.update(option_names._named(thing))

    assert set(option_names._ELSEWHERE) <= options


def test_what_speaks_of_options_keeps_signature_name_and_pickle() -> None:
    assert list(inspect.signature(treadle.Retry).parameters)[:2] == ["max_attempts", "retry_on"]
    assert inspect.signature(treadle.map).parameters["ordered"].default is True
    assert (treadle.map.__name__, treadle.map.__qualname__) == ("map", "map")
    assert pickle.loads(pickle.dumps(treadle.Retry(5))) == treadle.Retry(5)
    assert pickle.loads(pickle.dumps(treadle.map)) is treadle.map
