"""The inputs of a batch: arguments, lines of files, or JSON lines, each with the key that names it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MAX_KEY_LENGTH = 120
READ_BYTES = 64 * 1024
MAX_COUNTED_BYTES = 256 * 1024 * 1024
STANDARD_INPUT = 0


class InputError(Exception):
    """A file of inputs cannot be read any further; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One input.

    Attributes:
        key: Names it in the output: by its content, never by its place.
        value: What the function gets.
        problem: Where it stands and what is wrong with it, if it cannot be used: a failure of this item alone.
    """

    key: str
    value: Any
    problem: str | None = None

    def __repr__(self) -> str:
        return repr(self.key)

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, ((self.key, self.value, self.problem),)  # where it goes there may be no Treadle


def from_arguments(arguments: Iterable[str]) -> Iterator[Entry]:
    """Yield an entry for each argument."""
    return (Entry(key_of(argument), argument) for argument in arguments)


def from_lines(paths: Iterable[str]) -> Iterator[Entry]:
    """Yield an entry for each line of the files that is not blank."""
    for path in paths:
        for _, line, problem in _read_lines(path):
            yield Entry(key_of(line), line, problem)


def from_json_lines(paths: Iterable[str], field: str | None) -> Iterator[Entry]:
    """Yield an entry for each line of the files, read as JSON; its ``field`` is the key, if one is named."""
    for path in paths:
        for place, line, problem in _read_lines(path):
            yield Entry(key_of(line), line, problem) if problem else _parse(line, field, place)


def _parse(line: str, field: str | None, place: str) -> Entry:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Entry(key_of(line), None, f"{place}: this is not JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a thousand brackets
        return Entry(key_of(line), None, f"{place}: this JSON cannot be read: {error}")
    if field is None:
        return Entry(key_of(value), value)
    if not isinstance(value, dict) or field not in value:
        return Entry(key_of(value), value, f"{place}: there is no field {field!r}, which --key names")
    return Entry(key_of(value[field]), value)


def count_lines(paths: Iterable[str]) -> int | None:
    """Return how many lines of the files are not blank, where counting them is quick and changes nothing."""
    count = 0
    for path in paths:
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_COUNTED_BYTES:
                return None
            with open(path, "rb") as file:
                count += sum(1 for line in file if not line.isspace())
        except OSError:
            return None
    return count


def key_of(value: Any) -> str:
    """Return the text of ``value`` (canonical JSON if it is none), or where that is long a hash of it."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
    if len(text) <= MAX_KEY_LENGTH:
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _read_lines(path: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield the lines of a file that are not blank, each as soon as it is there: its place, it, and what is wrong."""
    try:
        with _open(path) as file:
            for number, line in enumerate(_split(file), start=1):
                place, problem = f"{_name(path)}:{number}", None
                try:
                    text = line.decode("utf-8").rstrip("\r")
                except UnicodeDecodeError as error:
                    text = line.decode("utf-8", "backslashreplace").rstrip("\r")
                    problem = f"{place}: this is not UTF-8: {error.reason}"
                if text and not text.isspace():
                    yield place, text, problem
    except OSError as error:
        raise InputError(f"{_name(path)}: {error.strerror or error}") from None


def _open(path: str) -> io.FileIO:
    # Unbuffered: a buffered standard input that a thread is reading at exit is fatal to the interpreter.
    return io.FileIO(STANDARD_INPUT, closefd=False) if path == "-" else io.FileIO(path)


def _split(file: io.FileIO) -> Iterator[bytes]:
    pending: list[bytes] = []
    while block := file.read(READ_BYTES):
        first, *others = block.split(b"\n")
        pending.append(first)
        for following in others:
            yield b"".join(pending)
            pending = [following]
    if last := b"".join(pending):
        yield last


def _name(path: str) -> str:
    return "standard input" if path == "-" else path
