"""Which inputs the user named on the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import click

from treadle._cli.inputs import Entry, count_lines, from_arguments, from_json_lines, from_lines


class _Sized:
    """Inputs whose number is known, so that it can be told how many are left."""

    def __init__(self, entries: Iterator[Entry], total: int) -> None:
        self._entries = entries
        self._total = total

    def __iter__(self) -> Iterator[Entry]:
        return self._entries

    def __len__(self) -> int:
        return self._total


def choose_inputs(
    inputs: tuple[str, ...],
    line_files: tuple[str, ...],
    json_files: tuple[str, ...],
    key_field: str | None = None,
    json_option: str = "--json",
) -> Iterable[Entry]:
    """Return the inputs that were named; their number can be asked, if it is known.

    Raises:
        click.UsageError: None were named, or in two ways, or there is no such file.
    """
    if inputs == ("-",):
        inputs, line_files = (), (*line_files, "-")
    if bool(inputs) + bool(line_files) + bool(json_files) != 1:
        ways = f"as arguments, with --lines, with {json_option}, or - for standard input"
        raise click.UsageError(f"give inputs one way: {ways}")
    if key_field and not json_files:
        raise click.UsageError("--key names a field of JSON inputs; it goes with --json")
    for path in line_files + json_files:
        if path != "-" and not os.path.exists(path):
            raise click.UsageError(f"there is no file {path!r}")
    if inputs:
        return _Sized(from_arguments(inputs), len(inputs))
    total = count_lines(line_files + json_files)
    entries = from_lines(line_files) if line_files else from_json_lines(json_files, key_field)
    return entries if total is None else _Sized(entries, total)
