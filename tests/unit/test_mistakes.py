"""What people get wrong, and what they are told: what was wrong, where, and what to write instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import treadle
from treadle._core import misfit

Mistake = Callable[[], object]

# As whoever makes mistakes has no type checker, or has not asked it yet.
lib: Any = treadle


def double(number: int) -> int:
    return 2 * number


def told(error: BaseException) -> str:
    """Return all that is printed of an error but the traceback."""
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    own = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]
    return "\n".join([*own, *map(told, inner)])


def in_group(submit: Callable[[Any], object]) -> Mistake:
    def make_it() -> None:
        with treadle.TaskGroup() as group:
            submit(group)

    return make_it


def submit_late() -> None:
    with treadle.TaskGroup() as group:
        pass
    group.submit(double, 1)


def submit_an_option() -> None:
    with lib.PoolExecutor(1) as pool:
        pool.submit(double, 1, timeout=3).result()


def ask_for_the_value_in_vain() -> None:
    with lib.map(double, [1]) as run:
        run.result()


def index_a_run() -> None:
    with lib.map(double, [1]) as run:
        run[0]


MISTAKES: dict[str, tuple[Mistake, str]] = {
    "the function was called": (
        lambda: lib.map(double(3), [1]),
        "WrongType: fn must be callable, not 6 (int); give the function itself, not what a call of it returns",
    ),
    "a call, submitted": (
        in_group(lambda group: group.submit(double(3))),
        "WrongType: fn must be callable, not 6 (int); give the function itself, not what a call of it returns",
    ),
    "a call for first_success": (
        lambda: lib.first_success(double(1)),
        "fns must be callable, not 2 (int); give the fun",
    ),
    "no input": (
        lambda: lib.map(double),
        "the input must be at least one iterable, not missing; give it behind the fun",
    ),
    "a number for the input": (lambda: lib.map(double, 10), "must be iterable, not 10 (int); write range(10) for the"),
    "a generator function": (lambda: lib.map(double, iter_numbers), "must be iterable, not <function iter_numbers"),
    "a number of workers by position": (
        lambda: lib.map(double, [1], 8),
        "iterables[1] must be iterable, not 8 (int); write max_workers=8 for so many workers",
    ),
    "a number of workers for starmap": (
        lambda: lib.starmap(pow, [], 8),
        "were given: for so many workers write max_wor",
    ),
    "a number of workers for traverse": (
        lambda: lib.traverse(double, [], 8),
        "were given: for so many workers write max",
    ),
    "a number of workers for a stage": (
        lambda: lib.pipeline([1]).map(double, 8),
        "were given: for so many workers write max_workers=8",
    ),
    "function and input swapped": (
        lambda: lib.map([1, 2], double),
        "fn must be callable, not [1, 2] (list); the function comes first",
    ),
    "a slip": (lambda: lib.map(double, [1], max_worker=3), "'max_worker': did you mean max_workers=?"),
    "joblib's word": (lambda: lib.map(double, [1], n_jobs=3), "'n_jobs': that is max_workers= here"),
    "tqdm's word": (lambda: lib.map(double, [1], total=1), "'total': progress= needs no total"),
    "sorted's word": (
        lambda: lib.map(double, [1], key=3),
        "'key': fn gets keyword arguments by functools.partial(fn, k",
    ),
    "no workers": (lambda: lib.map(double, [1], max_workers=0), "max_workers must be at least 1, not 0"),
    "workers as text": (lambda: lib.map(double, [1], max_workers="4"), "or 'auto', not '4'; write max_workers=4"),
    "workers as a float": (lambda: lib.map(double, [1], max_workers=2.0), "must be a whole number, not 2.0; write 2"),
    "seconds as text": (lambda: lib.map(double, [1], timeout="1.5"), "a number of seconds, not '1.5'; write 1.5"),
    "a rate as text": (
        lambda: lib.Limiter("10"),
        "max_per_second must be a number of calls a second, not '10'; write 10",
    ),
    "a count as text": (lambda: lib.Channel("3"), "maxsize must be a whole number, not '3'; write 3"),
    "a word for a number": (lambda: lib.map(double, [1], timeout="soon"), "a number of seconds, not 'soon'"),
    "a word for the order": (lambda: lib.map(double, [1], ordered="no"), "ordered must be True or False, not 'no'"),
    "one initarg without its tuple": (
        lambda: lib.map(double, [1], initializer=print, initargs="abc"),
        "initargs must be a tuple of arguments, not 'abc'; write initargs=('abc',)",
    ),
    "an initarg of an executor": (
        lambda: lib.PoolExecutor(initializer=print, initargs=3),
        "initargs must be a tuple of arguments, not 3; write initargs=(3,)",
    ),
    "a coroutine function for threads": (
        lambda: lib.map(asyncio.sleep, [1], engine="threads"),
        "a plain function where engine='threads', not the coroutine function sleep; without engine= it is awaited",
    ),
    "items that starmap cannot spread": (
        lambda: list(lib.starmap(lambda a: a, [1])),
        "<lambda> takes (a); starmap spreads each item over these, so it must be a tuple of arguments",
    ),
    "half a worker": (lambda: lib.map(double, [1], max_workers=2.5), "max_workers must be a whole number, not 2.5"),
    "a word for the engine": (lambda: lib.map(double, [1], engine="process"), "did you mean 'processes'?"),
    "a word for the intake": (lambda: lib.map(double, [1], intake="threads"), "did you mean 'thread'?"),
    "a word for on_error": (lambda: lib.TaskGroup(on_error="collects"), "did you mean 'collect'?"),
    "a word that is none": (lambda: lib.map(double, [1], intake=3), "intake must be 'caller' or 'thread', not 3"),
    "one argument too few": (
        lambda: list(lib.map(lambda a, b: a, [1, 2])),
        "<lambda> takes (a, b), and got one argument, the item; map takes a second iterable for a second argument, f",
    ),
    "tuples that are not spread": (
        lambda: list(lib.map(lambda a, b: a, [(2, 3)])),
        "<lambda> takes (a, b), and got one argument, the item; treadle.starmap spreads it over the parameters",
    ),
    "tuples of another length": (
        lambda: list(lib.starmap(lambda a, b: a, [(1, 2, 3)])),
        "<lambda> takes (a, b), and got the parts of the item, one by one",
    ),
    "a resource that has no parameter": (
        lambda: list(lib.map(double, [1], resource=dict)),
        "double takes (number); resource= adds another argument, the last",
    ),
    "a resource instead of its factory": (
        lambda: lib.map(double, [1], resource={}),
        "resource must be callable, not {} (dict); give a function that opens one: each worker calls it for itself",
    ),
    "a parameter too many for traverse": (
        lambda: list(lib.traverse(lambda a, b: [], [1])),
        "<lambda> takes (a, b), and got one argument, the item; map takes a second iterable",
    ),
    "an option for submit": (
        submit_an_option,
        "double takes (number); submit() passes on all that stands behind the function; options are given",
    ),
    "arguments forgotten in submit": (
        in_group(lambda group: group.submit(double).exception()),
        "double takes (number); submit() passes on all that stands behind the function; options are given",
    ),
    "submit after the end": (submit_late, "group 'group' has ended; submit inside its with block, before it ends"),
    "submit without the block": (
        lambda: treadle.TaskGroup().submit(double, 1),
        "group 'group' has not begun; submit inside its with block, before it ends",
    ),
    "the result of a run": (ask_for_the_value_in_vain, "has no attribute 'result'; a run is an iterator: list(run)"),
    "an index into a run": (index_a_run, "'Run' object is not subscriptable; list(run) has all results"),
    "retry as a number": (lambda: lib.map(double, [1], retry=3), "or None, not 3; write retry=treadle.Retry(3)"),
    "limiter as a number": (
        lambda: lib.map(double, [1], limiter=9),
        "or None, not 9; write limiter=treadle.Limiter(9)",
    ),
    "hedge as a number": (lambda: lib.map(double, [1], hedge=0.5), "or None, not 0.5; write hedge=treadle.Hedge(0.5)"),
    "an exception by its name": (
        lambda: lib.Retry(retry_on="OSError"),
        "retry_on must be an exception type, a tuple of them, or a function of the exception, not 'OSError'; give the",
    ),
    "attempts of another name": (lambda: lib.Retry(attempts=3), "'attempts': that is max_attempts= here"),
    "a limiter without a limit": (
        lambda: treadle.Limiter(),
        "the limit must be one of max_per_second, max_concurrent and throttled, not none at all; write treadle.Lim",
    ),
    "a coroutine that nobody awaits": (
        lambda: list(lib.map(lambda n: asyncio.sleep(0, n), [1])),
        "not the coroutine sleep(), which nobody awaits; give the coroutine function itself, or engine='coroutines'",
    ),
    "less than no time": (lambda: lib.map(double, [1], timeout=-1), "timeout must be 0 seconds or more, not -1"),
    "time as a timedelta": (
        lambda: lib.map(double, [1], timeout=timedelta(seconds=1)),
        "must be a number of seconds, not datetime.timedelta(seconds=1); give its total_seconds()",
    ),
    "every with its arguments swapped": (
        lambda: lib.every(double, 5),
        "seconds must be a number of seconds, not <function double",
    ),
    "a channel without a bound": (lambda: treadle.Channel(0), "maxsize must be at least 1, not 0; it is no bound for"),
    "a guarded value past its lock": (
        lambda: lib.Guarded({"a": 1})["a"],
        "reached in a block: `with guarded as handle:`",
    ),
    "a guarded list past its lock": (
        lambda: lib.Guarded([]).append(1),
        "no attribute 'append'; the value of a Guarded",
    ),
    "all functions of first_success fail": (
        lambda: treadle.first_success(lambda: int("x"), lambda: int("y")),
        "ValueError: invalid literal for int() with base 10: 'y'",
    ),
    "time is up in a loop": (
        lambda: list(treadle.map(treadle.sleep, [100], timeout=0.01)),
        "TimeoutError: run 'sleep' did not end within timeout=0.01 seconds",
    ),
}


def iter_numbers() -> object:
    yield 1


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_what_to_write_instead(name: str) -> None:
    make_it, expected = MISTAKES[name]
    with pytest.raises(BaseException) as caught:  # the text below tells more than a type
        make_it()

    assert expected in told(caught.value)


def test_a_counter_that_is_added_to_past_its_lock_is_refused() -> None:
    counter: Any = treadle.Guarded(0)
    for change in (counter.__iadd__, counter.__isub__, counter.__contains__, counter.__delitem__):
        with pytest.raises(TypeError, match="reached in a block"):
            change(1)
    with pytest.raises(TypeError, match="reached in a block"):
        counter["a"] = 1
    with pytest.raises(TypeError, match="reached in a block"):
        iter(counter)


def test_every_says_of_a_function_with_parameters_that_it_passes_none() -> None:
    with lib.every(0.01, double) as check:  # the first run may be over before it is waited for
        error = check.wait_next(10).error

    assert told(error).endswith(
        "treadle: double takes (number); every() calls it without arguments, and functools.partial sets some"
    )


def test_a_pipeline_that_is_only_made_warns() -> None:
    with pytest.warns(RuntimeWarning, match="^pipeline 'numbers' was never run, so nothing was taken") as caught:
        treadle.pipeline([1, 2], name="numbers").map(double).filter(bool)

    assert [warning.filename for warning in caught] == [__file__]


def test_a_pipeline_that_goes_on_or_was_refused_does_not() -> None:
    start = treadle.pipeline([1, 2]).map(double)
    assert list(start.filter(bool)) == [2, 4]
    assert list(start) == [2, 4]
    lib_start: Any = start
    with pytest.raises(TypeError, match="n_jobs"):
        lib_start.map(double, n_jobs=3)


# What is no mistake to Python is none here.


def test_text_and_dictionaries_are_iterables_as_ever() -> None:
    assert list(treadle.map(str.upper, "abc")) == ["A", "B", "C"]
    assert list(treadle.map(str.upper, {"a": 1})) == ["A"]


def test_a_run_is_read_once_and_outcomes_go_on_where_next_was() -> None:
    run = treadle.map(double, [1, 2])
    assert (list(run), list(run)) == ([2, 4], [])

    run = treadle.map(double, range(3))
    next(run)
    assert [outcome.index for outcome in run.outcomes()] == [1, 2]


def test_the_value_of_a_call_that_failed_is_none_and_ok_says_so() -> None:
    (outcome,) = treadle.map(int, ["x"]).outcomes()

    assert (outcome.ok, outcome.value) == (False, None)
    with pytest.raises(ValueError, match="invalid literal"):
        outcome.result()


# What must not be explained


def test_a_type_error_of_the_functions_own_is_not_explained() -> None:
    def call(number: int, other: int = 0) -> int:
        return double()  # type: ignore[call-arg]

    with pytest.raises(TypeError) as caught:
        list(treadle.map(call, [1]))

    assert caught.value.__notes__ == ["treadle: item 0 of run 'call': 1"]


def test_one_of_a_function_in_c_is_not_explained() -> None:
    for fn in (len, dict):
        with pytest.raises(TypeError) as caught:
            list(lib.map(fn, [5], name="call"))

        assert caught.value.__notes__ == ["treadle: item 0 of run 'call': 5"]


def test_a_function_whose_signature_fails_is_not_explained() -> None:
    class Odd:
        @property
        def __signature__(self) -> object:
            raise RuntimeError("no signature")

        def __call__(self) -> None: ...

    odd: Any = Odd()
    with pytest.raises(TypeError) as caught:
        list(treadle.map(odd, [1]))

    assert len(caught.value.__notes__) == 1


def test_an_item_is_not_consumed_to_explain_it() -> None:
    with pytest.raises(TypeError) as caught:
        list(lib.starmap(lambda a: a, [iter([1, 2])]))

    assert len(caught.value.__notes__) == 1
    assert misfit.explain_item(TypeError(), double, iter([1]), is_spread=True, has_resource=False) == ""


def test_it_is_said_also_of_calls_in_another_process() -> None:
    with pytest.raises(TypeError) as caught:
        list(lib.map(pow, [(2, 3)], engine="processes", max_workers=1))

    assert "treadle.starmap spreads it over the parameters" in told(caught.value)


def test_an_object_whose_repr_fails_can_be_complained_of() -> None:
    class Secret:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    with pytest.raises(treadle.WrongType, match="fn must be callable, not <Secret instance at"):
        lib.map(Secret(), [1])
