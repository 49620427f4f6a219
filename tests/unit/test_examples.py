"""The examples that need somebody: who types, who connects, a server, a screen. The others run in test_documents."""

from __future__ import annotations

import importlib.util
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.calls import PATIENCE_SECONDS
from tests.postgres import postgres
from tests.programs import finish, start

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def program(name: str, *arguments: str, stdin: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start an example, and end it whatever happens."""
    process = start([sys.executable, "-W", "error", str(EXAMPLES / name), *arguments], stdin=stdin)
    try:
        yield process
    finally:
        process.kill()
        with process:
            pass


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def test_commands_are_answered_while_work_goes_on() -> None:
    """There is work for hours, so whatever is answered is answered meanwhile."""
    with program("commands.py", "1000000", stdin=subprocess.PIPE) as process:
        assert hear(process) == 'type "status" or "stop"'
        say(process, "status")
        assert re.fullmatch(r"\d+ of 1000000 done, \d running", hear(process))
        say(process, "what?")
        assert hear(process) == "'what?'? There are status and stop."
        say(process, "stop")

        status, out, err = finish(process)

    assert (status, err) == (0, "")
    assert re.fullmatch(r"stopped\nthe sum of the first \d+ is \d+\n", out)


def test_work_ends_while_somebody_could_still_type() -> None:
    """Standard input stays open, and holds nobody up."""
    with program("commands.py", "4", stdin=subprocess.PIPE) as process:
        hear(process)

        assert hear(process) == "the sum of the first 4 is 6"
        assert process.wait(10) == 0


def test_an_end_of_the_input_does_not_end_the_work() -> None:
    with program("commands.py", "4") as process:
        assert finish(process) == (0, 'type "status" or "stop"\nthe sum of the first 4 is 6\n', "")


@pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="psycopg is not installed")
def test_queries_on_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server; both databases come to the same."""
    with postgres() as folder:
        for name, value in {"PGHOST": str(folder), "PGUSER": "postgres", "PGDATABASE": "postgres"}.items():
            monkeypatch.setenv(name, value)
        with program("database.py") as process:
            status, out, err = finish(process)

    assert (status, err) == (0, "")
    lite, lite_account, big, big_account = out.splitlines()
    assert lite.removeprefix("SQLite") == big.removeprefix("PostgreSQL")
    assert lite_account.startswith("SQLite: 50 queries over ")
    assert big_account.startswith("PostgreSQL: 50 queries over ")


class Guest:
    """Somebody in the chat, who reads only when asked to."""

    def __init__(self, port: int) -> None:
        self.connection = socket.socket()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # who does not read is noticed sooner
        self.connection.settimeout(PATIENCE_SECONDS)
        self.connection.connect(("127.0.0.1", port))
        self._lines = self.connection.makefile("r", encoding="utf-8")

    def say(self, line: str) -> None:
        self.connection.sendall(f"{line}\n".encode())

    def hear(self) -> str:
        """Return the next line; nothing, if the server has hung up."""
        return self._lines.readline().rstrip("\n")

    def leave(self) -> None:
        self._lines.close()
        self.connection.close()


class Chat:
    """The server, and who has come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.guests: list[Guest] = []
        self._port = int(hear(process).removeprefix("listening on port "))

    def let_in(self) -> Guest:
        """Connect somebody, and wait until he is inside: all hear him."""
        guest = self.knock()
        guest.say("I have come")
        assert all(other.hear() == "I have come" for other in self.guests)
        return guest

    def knock(self) -> Guest:
        self.guests.append(Guest(self._port))
        return self.guests[-1]


@contextmanager
def chat() -> Iterator[Chat]:
    with program("chat_server.py", "0") as process:
        chat = Chat(process)
        try:
            yield chat
        finally:
            for guest in chat.guests:
                guest.leave()


def test_what_one_says_in_the_chat_all_hear() -> None:
    with chat() as room:
        guests = [room.let_in() for _ in range(3)]

        for number, guest in enumerate(guests):
            guest.say(f"hello {number}")

        for guest in guests:
            assert sorted(guest.hear() for _ in guests) == ["hello 0", "hello 1", "hello 2"]


def test_on_sigterm_the_chat_delivers_what_waits_and_ends() -> None:
    """One reads nothing until the server was told to end, and misses nothing."""
    lines = [f"line {number}" for number in range(50)]
    with chat() as room:
        silent, talker = room.let_in(), room.let_in()
        for line in lines:
            talker.say(line)
        assert [talker.hear() for _ in lines] == lines

        room.process.send_signal(signal.SIGTERM)

        assert [silent.hear() for _ in range(52)] == [*lines, "the server closes", ""]
        assert [talker.hear() for _ in range(2)] == ["the server closes", ""]
        assert finish(room.process) == (0, "", "")


def test_ctrl_c_ends_the_chat_although_everybody_is_silent() -> None:
    """The group asks its calls to end; those that wait for a line are woken as the connections are shut."""
    with chat() as room:
        guests = [room.let_in() for _ in range(2)]

        room.process.send_signal(signal.SIGINT)

        assert [guest.hear() for guest in guests] == ["", ""]
        status, _, err = finish(room.process)
    assert status == -signal.SIGINT
    assert err.endswith("KeyboardInterrupt\n")


def test_somebody_has_to_leave_the_chat_before_the_fifth_gets_in() -> None:
    with chat() as room:
        first, second, *_ = [room.let_in() for _ in range(4)]
        fifth = room.knock()  # the system accepts the connection, and the server does not yet
        fifth.say("let me in")
        first.say("is nobody else here yet?")
        assert second.hear() == "is nobody else here yet?"

        first.leave()

        assert second.hear() == "let me in"
        assert fifth.hear() == "let me in"


def test_who_does_not_read_is_shown_out_of_the_chat() -> None:
    """His lines fill the system's buffers and his channel; the others wait for a second, and go on without him."""
    with chat() as room:
        sleeper, talker = room.let_in(), room.let_in()

        for number in range(10_000):
            talker.say(f"{number} ".ljust(900, "."))
            assert talker.hear().startswith(f"{number} ")

        heard = 0
        with suppress(OSError):
            while sleeper.hear():
                heard += 1
        assert heard < 10_000


@pytest.mark.usefixtures("display")
def test_a_window_shows_all_that_comes_and_closes() -> None:
    with program("window.py", "--close") as process:
        status, out, err = finish(process)

    assert (status, err) == (0, "")
    assert re.match(r"all 60 pictures are there\nthe window's clock ticked \d+ times", out)


def test_a_counter_is_right_when_it_is_guarded() -> None:
    """And wrong without a lock; it would be a wonder if not, with 1,200,000 calls between reading and writing."""
    for _ in range(3):
        with program("lesson/06_counter.py") as process:
            status, out, err = finish(process)
        assert (status, err) == (0, "")
        without_lock, guarded = out.splitlines()
        assert guarded.split(maxsplit=1)[1] == "100,000 of 100,000"
        if not without_lock.endswith(" 0 updates are lost"):
            return
    pytest.fail("nothing was lost without a lock")


def test_three_ways_are_found_for_six_kinds_of_calls() -> None:
    """Which they are depends on the machine and on what else it has to do."""
    pytest.importorskip("cloudpickle")
    with program("three_ways.py", "0.5") as process:
        status, out, err = finish(process)

    assert (status, err) == (0, "")
    names = ["fetch", "fetch_async", "count_primes", "checksum", "fetch_and_parse", "double"]
    assert [re.search(r"(\w+)(\(item\)|, items)", line)[1] for line in out.splitlines()] == names  # type: ignore[index]
