"""What is shown of items, wherever it is: short, in one line, and nobody's password."""

from __future__ import annotations

import logging

import pytest

import treadle
from tests.conftest import Gate
from treadle._core.describe import describe, escape_controls, hide_secrets, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ada:pass@host/x", "https://ada:***@host/x"),
        ("postgres://ada:p@ss@host:5432/db", "postgres://ada:***@host:5432/db"),
        ("redis://:pass@host", "redis://:***@host"),
        ("https://ghp_abc@host/x", "https://***@host/x"),
        ("https://host/?a=1&token=abc&b=2", "https://host/?a=1&token=***&b=2"),
        ("https://host/?access_token=abc#top", "https://host/?access_token=***#top"),
        ("https://host/?X-Amz-Signature=a%2Fb&n=1", "https://host/?X-Amz-Signature=***&n=1"),
        ("https://host/?key=abc", "https://host/?key=***"),
        ("Login(user='ada', password='pass, word')", "Login(user='ada', password=***)"),
        ("two: http://a:b@c and http://d:e@f", "two: http://a:***@c and http://d:***@f"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown


@pytest.mark.parametrize(
    "text",
    ["ssh://git@host/x", "http://host:8080/a@b", "ada@example.org", "a=1&monkey=2", "https://host/?a=b:c", "tokens: 5"],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert hide_secrets(text) == text


class Odd:
    """Its ``repr`` is what it was given."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


SECRET = "https://ada:hunter2@host"


@pytest.mark.parametrize(
    "item", [SECRET, [SECRET], {"url": SECRET}, SECRET.encode(), Odd(SECRET), ValueError(SECRET), (1, [SECRET])]
)
def test_wherever_in_an_item_it_is(item: object) -> None:
    assert "ada:***@host" in describe(item)
    assert "hunter2" not in describe(item)


def test_a_secret_is_hidden_before_a_text_is_cut() -> None:
    """Cut first, half of it would stand there, and would not look like one any more."""
    for length in range(200):
        assert "pa" not in describe("x" * length + "https://ada:" + "pa" * 60 + "@host" + "x" * (200 - length))


@pytest.mark.parametrize("item", ["x" * 10**6, b"x" * 10**6, Odd("x" * 10**6), Odd("\x1b" * 10**6)])
def test_what_is_long_is_cut(item: object) -> None:
    assert len(describe(item)) < 130
    assert "..." in describe(item)


@pytest.mark.parametrize("item", ["a\x1b[2J\nb\u202ec", Odd("a\x1b[2J\nb\u202ec"), Odd("a\x07\x9b\u2028")])
def test_no_character_of_an_item_acts_upon_a_terminal(item: object) -> None:
    assert describe(item).isprintable()


def test_texts_of_several_lines_keep_their_lines() -> None:
    assert escape_controls("one\n\ttwo\x1b[31m é \N{CJK UNIFIED IDEOGRAPH-4E00}") == (
        "one\n\ttwo\\x1b[31m é \N{CJK UNIFIED IDEOGRAPH-4E00}"
    )
    assert shorten("one\ntwo") == "one\\ntwo"


@pytest.mark.parametrize("text", ["a-" * 2000 + "=@", "://" * 1300 + "=@", "http://a:" * 450 + "=@", "token=" * 680])
def test_looking_for_secrets_takes_no_longer_than_there_is_text(text: str) -> None:
    """Each of these has many beginnings of what might be one. A search that tries them all again and again hangs."""
    describe(text)


def test_notes_logs_and_the_dump_hide_it(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "treadle")

    with pytest.raises(ZeroDivisionError) as raised:
        list(treadle.map(lambda _: 1 / 0, [SECRET]))
    with pytest.raises(ExceptionGroup) as failures, treadle.TaskGroup() as group:
        group.submit(lambda _: 1 / 0, SECRET)
    with treadle.map(gate.hold, [SECRET], grace=0) as run:
        gate.wait_for_arrivals()
        run.close()
    gate.open()

    notes = [*raised.value.__notes__, *failures.value.exceptions[0].__notes__]
    assert notes
    assert "ada:***@host" in caplog.text
    assert "hunter2" not in caplog.text + "".join(notes)
