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
    """An input cannot be read; the text says which, where, and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One input.

    Attributes:
        key: Names it in the output: by its content, never by its place.
        value: What the function gets.
    """

    key: str
    value: Any

    def __repr__(self) -> str:
        return repr(self.key)

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, ((self.key, self.value),)  # where it goes there may be no Treadle


def from_arguments(arguments: Iterable[str]) -> Iterator[Entry]:
    """Yield an entry for each argument."""
    return (Entry(key_of(argument), argument) for argument in arguments)


def from_lines(paths: Iterable[str]) -> Iterator[Entry]:
    """Yield an entry for each line of the files that is not blank."""
    for path in paths:
        for _, line in _read_lines(path):
            yield Entry(key_of(line), line)


def from_json_lines(paths: Iterable[str], field: str | None) -> Iterator[Entry]:
    """Yield an entry for each line of the files, read as JSON; its ``field`` is the key, if one is named."""
    for path in paths:
        for number, line in _read_lines(path):
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{_name(path)}:{number}: this is not JSON: {error.msg} (column {error.colno})"
                ) from None
            except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a thousand brackets
                raise InputError(f"{_name(path)}:{number}: this JSON cannot be read: {error}") from None
            yield Entry(_field_of(value, field, f"{_name(path)}:{number}") if field else key_of(value), value)


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


def _field_of(value: Any, field: str, place: str) -> str:
    if not isinstance(value, dict) or field not in value:
        raise InputError(f"{place}: there is no field {field!r}, which --key names")
    return key_of(value[field])


def _read_lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are not blank, with their numbers, each as soon as it is complete."""
    try:
        with _open(path) as file:
            for number, line in enumerate(_split(file), start=1):
                try:
                    text = line.decode("utf-8").rstrip("\r")
                except UnicodeDecodeError as error:
                    raise InputError(f"{_name(path)}:{number}: this is not UTF-8: {error.reason}") from None
                if text and not text.isspace():
                    yield number, text
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
