"""The results of a batch: JSON lines on standard output, the user's own errors on standard error."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, TextIO

from treadle._cli.inputs import Entry
from treadle._cli.standard_error import say, write_beside
from treadle._core.block import contextmanager
from treadle._core.describe import escape_controls, hide_secrets, is_control, shorten
from treadle._core.outcome import Outcome

MAX_TRACEBACKS = 5
MAX_TAG_LENGTH = 60


class JSONCall:
    """Calls a function with the value of an entry and returns the JSON of its result.

    The encoding is part of the call: it runs on the worker's thread, and its failure is that item's. In another process
    its output is nobody's, and an entry has become a tuple.
    """

    def __init__(self, func: Callable[[Any], Any], output: TaggedOutput) -> None:
        self.func = func
        self._output = output

    def __call__(self, entry: Entry) -> str:
        refuse(entry.problem)
        with self._output.tagged(entry.key):
            result = self.func(entry.value)
        return as_json(result)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (json_of_call, self.func)

    async def awaiting(self, entry: Entry) -> str:
        """Do the same where the function is to be awaited."""
        refuse(entry.problem)
        with self._output.tagged(entry.key):
            result = await self.func(entry.value)
        return as_json(result)


def json_of_call(fn: Callable[[Any], Any], entry: tuple[str, Any, str | None]) -> str:
    """Do what ``JSONCall`` does, in another process, where there may be no Treadle."""
    _, value, problem = entry
    refuse(problem)
    return as_json(fn(value))


def refuse(problem: str | None) -> None:
    """Fail, if there is something wrong with an input."""
    if problem is not None:
        raise ValueError(problem)


def as_json(result: object) -> str:
    """Return what a function returned as JSON."""
    try:
        return json.dumps(result, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the function returned {type(result).__name__}, which is not JSON: {error}") from None


class Tag:
    """Whose output it is that comes, and what there is of a line."""

    __slots__ = ("line", "name")

    def __init__(self, key: str) -> None:
        self.name = shorten(key, MAX_TAG_LENGTH)
        self.line = ""


# Of the call, also where many take turns on one thread.
_tag: ContextVar[Tag | None] = ContextVar("_tag", default=None)


class TaggedOutput:
    """Stands for ``sys.stdout``: what the function prints goes to standard error, each line with its key."""

    encoding = "utf-8"

    @contextmanager
    def tagged(self, key: str) -> Iterator[None]:
        """Tag what is printed here with ``key``, as long as the block lasts."""
        tag = Tag(key)
        token = _tag.set(tag)
        try:
            yield
        finally:
            if tag.line:
                self.write("\n")
            _tag.reset(token)

    def write(self, text: str) -> int:
        """Write the lines that are complete; keep the rest until it is."""
        tag = _tag.get()
        if tag is None:
            write_beside(text)
            return len(text)
        *lines, tag.line = (tag.line + text).split("\n")
        if lines:
            write_beside("".join(f"[{tag.name}] {line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        """Do nothing: what is complete was flushed."""

    def isatty(self) -> bool:
        """Say no: what is printed here is not for a screen."""
        return False

    def fileno(self) -> int:
        """Return the file descriptor of standard error."""
        return sys.stderr.fileno()


class AboveTheBar(io.TextIOBase):
    """Writes to standard error as it is at the moment: a live display there puts the text above itself."""

    def write(self, text: str) -> int:
        """Write ``text``."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush it."""
        sys.stderr.flush()


class Writer:
    """Writes outcomes as JSON lines, each complete and flushed, and shows errors that are new.

    Attributes:
        written: How many lines there are.
    """

    def __init__(self, stream: TextIO) -> None:
        self.written = 0
        self._stream = stream
        self._seen: dict[tuple[str, str, int], int] = {}

    def write(self, outcome: Outcome[Entry, str]) -> None:
        """Write one outcome."""
        entry = outcome.item
        facts: dict[str, Any] = {"index": outcome.index, "key": entry.key, "status": outcome.status}
        if outcome.attempts > 1:
            facts["attempts"] = outcome.attempts
        text = json.dumps(facts, ensure_ascii=False)
        if outcome.status == "succeeded":
            text = f'{text[:-1]}, "value": {outcome.value}}}'
        else:
            error = outcome.error
            assert error is not None
            reason = json.dumps({"type": type(error).__name__, "message": _message(error)}, ensure_ascii=False)
            text = f'{text[:-1]}, "error": {reason}}}'
            if outcome.status == "failed":
                self._show(error, entry.key)
        self._stream.write(_visibly(text) + "\n")
        self._stream.flush()
        self.written += 1

    def count_hidden_errors(self) -> None:
        """Say how many errors were not shown, because they are like others or too many."""
        hidden = sum(self._seen.values()) - min(len(self._seen), MAX_TRACEBACKS)
        if hidden:
            say(f"treadle: {hidden:,} more failed with errors not shown here")

    def _show(self, error: BaseException, key: str) -> None:
        frames = _user_frames(error)
        last = frames[-1] if frames else None
        place = (type(error).__name__, last.filename if last else "", (last.lineno or 0) if last else 0)
        is_new = place not in self._seen
        self._seen[place] = self._seen.get(place, 0) + 1
        if not is_new or len(self._seen) > MAX_TRACEBACKS:
            return
        shown = traceback.format_list(frames)
        head = ["Traceback (most recent call last):\n"] if shown else []
        told: Any = traceback.TracebackException(type(error), error, None)
        told.__notes__ = None  # they name the item, as the line above does
        # Further lines of a message are set in: they must not look like lines of ours.
        message = [line.rstrip("\n").replace("\n", "\n    ") + "\n" for line in told.format_exception_only()]
        text = hide_secrets("".join([*head, *shown, *message]))
        write_beside(f"{shorten(key)} failed:\n{escape_controls(text)}")


def claim_stdout() -> TextIO:
    """Return a stream to standard output that nobody else has: whoever writes to it now writes to standard error.

    The functions' prints and the output of programs they start would otherwise mix with the results.

    Raises:
        OSError: Standard output is closed.
    """
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    sys.stdout.flush()
    try:
        os.dup2(2, 1)
    except OSError:  # standard error is closed; the first descriptor that is free takes its place
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
    return stream


def discard(stream: TextIO) -> None:
    """Let what is still to be written to ``stream`` go nowhere, so that closing it does not fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _visibly(text: str) -> str:
    """Return JSON with escapes in the place of what a terminal would act upon; it says the same."""
    if text.isprintable():
        return text
    return "".join(json.dumps(char)[1:-1] if is_control(char) else char for char in text)


def _user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} whose str() fails>"
