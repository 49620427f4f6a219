"""A number of workers is learnt for what is called and what that is bound to, not for all that has the same code."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import treadle
from treadle._crew import lessons
from treadle._crew.rounds import Lesson
from treadle._crew.subject import Subject, subject_of


class Server:
    """Has an opinion about everything that is asked of it."""

    def ask(self, page: int) -> int:
        return page

    __call__ = ask

    def __eq__(self, other: object) -> bool:
        raise AssertionError("it is not to be compared")

    def __hash__(self) -> int:
        raise AssertionError("it is not to be hashed")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"it is not to be asked for {name}")


class Slotted:
    """Cannot be referenced weakly, so nothing can stand for it."""

    __slots__ = ()

    def ask(self, page: int) -> int:
        return page


class Address(NamedTuple):
    host: str
    port: int


def fetch(server: Any, page: int, **options: Any) -> int:
    return page


def about(fn: Any, limiter: treadle.Limiter | None = None, engine: Any = "threads", *others: object) -> Subject | None:
    return subject_of(fn, limiter, engine, *others)


def closure(server: Any) -> Callable[[int], int]:
    return lambda page: fetch(server, page)


def opener(server: str) -> Callable[[], str]:
    return lambda: server


def default(server: Any) -> Callable[[int], int]:
    def ask(page: int, server: Any = server) -> int:
        return page

    return ask


def named_default(server: Any) -> Callable[[int], int]:
    def ask(page: int, *, server: Any = server) -> int:
        return page

    return ask


def decorated(server: Any) -> Callable[[int], int]:
    @wraps(fetch)
    def ask(page: int) -> int:
        return fetch(server, page)

    return ask


WAYS = [
    closure,
    default,
    named_default,
    decorated,
    lambda server: partial(fetch, server),
    lambda server: partial(fetch, options={"of": [server]}),
    lambda server: partial(closure(server)),
    lambda server: closure(closure(server)),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Server(), Server()),
        ("http://a", "http://b"),
        (b"a", b"b"),
        (1, True),
        (Address("a", 80), Address("b", 80)),
        (Path("a"), Path("b")),
        (date(2026, 1, 1), date(2026, 1, 2)),
        ({"host": "a"}, {"host": "b"}),
        (["a"], ["b"]),
        ({"a"}, {"b"}),
        (str.upper, str.lower),
        ([].append, [1].append),
    ],
    ids=["objects", "texts", "bytes", "kinds", "named", "paths", "dates", "dicts", "lists", "sets", "words", "methods"],
)
def test_what_is_bound_to_another_thing_is_another(way: Callable[[Any], Any], one: Any, other: Any) -> None:
    first, again, second = about(way(one)), about(way(one)), about(way(other))

    assert first is not None
    assert first == again
    assert hash(first) == hash(again)
    assert first != second


def test_a_method_belongs_to_its_object_and_a_callable_object_is_itself() -> None:
    one, other = Server(), Server()

    assert about(one.ask) == about(one.ask) != about(other.ask)
    assert about(one) == about(one) != about(other)
    assert about([].__len__) != about([1].__len__)
    assert about(Server) == about(Server) != about(Slotted)


def test_a_module_may_have_functions_without_python_code() -> None:
    assert about(abs) == about(abs) != about(len)


@pytest.mark.parametrize("way", [closure, lambda thing: partial(fetch, thing)])
@pytest.mark.parametrize("thing", [Slotted(), list(range(1000)), [Slotted()]], ids=["slotted", "long", "inside"])
def test_what_nothing_can_stand_for_is_told_by_what_holds_it(way: Callable[[Any], Any], thing: Any) -> None:
    """Its number alone might be that of the next thing, once it is gone."""
    holder = way(thing)

    assert about(holder) == about(holder) != about(way(thing))
    assert about(holder) is not None


def test_where_nothing_holds_it_no_lesson_is_kept() -> None:
    assert about(Slotted().ask) is None

    lessons.remember(None, Lesson(3, is_settled=True))

    assert lessons.recall(None) is None


def test_what_a_function_assigns_to_is_not_what_it_is_bound_to() -> None:
    count = 0

    def ask(page: int) -> int:
        nonlocal count
        count += 1
        return page

    before = about(ask)
    ask(1)

    assert count == 1
    assert about(ask) == before


def test_functions_that_call_themselves_have_an_end() -> None:
    def ask(page: int) -> int:
        return ask(page - 1) if page else 0

    circle: list[Any] = []
    circle.append(circle)

    assert about(ask) == about(ask) is not None
    assert about(partial(fetch, circle)) is not None


def test_limiter_resource_initializer_and_executor_count_as_well() -> None:
    limiter, connect = treadle.Limiter(max_concurrent=1), opener("http://a")
    plain = about(fetch, None, "threads", None, None, ())

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        subjects = [
            plain,
            about(fetch, limiter, "threads", None, None, ()),
            about(fetch, treadle.Limiter(max_concurrent=1), "threads", None, None, ()),
            about(fetch, None, "processes", None, None, ()),
            about(fetch, None, one, None, None, ()),
            about(fetch, None, other, None, None, ()),
            about(fetch, None, "threads", connect, None, ()),
            about(fetch, None, "threads", treadle.Resource(connect), None, ()),
            about(fetch, None, "threads", opener("http://b"), None, ()),
            about(fetch, None, "threads", None, fetch, ("http://a",)),
            about(fetch, None, "threads", None, fetch, ("http://b",)),
        ]

    assert None not in subjects
    assert len(set(subjects)) == len(subjects)
    again = about(fetch, None, "threads", treadle.Resource(connect), None, ())
    assert again in subjects


def test_nothing_is_kept_alive_and_what_is_gone_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "MAX_LESSONS", 2)
    monkeypatch.setattr(lessons, "_lessons", {})
    server = Server()
    kept, gone = about("kept".upper), about(closure(server))
    for subject in (kept, gone):
        lessons.remember(subject, Lesson(3, is_settled=True))
    reference = weakref.ref(server)
    del server
    gc.collect()

    lessons.remember(about(fetch), Lesson(4, is_settled=True))

    assert reference() is None
    assert list(lessons._lessons) == [kept, about(fetch)]


def test_what_is_gone_equals_nothing_else() -> None:
    """The next object may have the number of one that is gone."""
    server = Server()
    subject = about(server.ask)
    del server
    gc.collect()

    assert subject == subject  # so that it can be found and removed
    assert subject is not None
    assert subject.is_gone
    assert about(Server().ask) != subject


@pytest.mark.parametrize("make", [treadle.TaskGroup, treadle.PoolExecutor])
def test_runs_groups_and_executors_begin_anew_for_another_server(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "_lessons", {})
    subject = about(closure("http://a"), None, "threads", None, None, ())
    lessons.remember(subject, Lesson(3, is_settled=True))

    def decision(server: str) -> str:
        with treadle.map(closure(server), [1], max_workers="auto") as run:
            assert list(run) == [1]
            assert run.stats.decision is not None
        with make(max_workers="auto", engine="threads") as owner:
            owner.submit(closure(server), 1)
            assert owner.stats.decision == run.stats.decision
        return run.stats.decision

    assert decision("http://a") == "threads; 3 workers, as at the last time"
    assert decision("http://b").endswith("to begin with")
