"""Whether what a world of groups came to agrees with what happened in it."""

from __future__ import annotations

from collections.abc import Iterator

import treadle
from tests.stress.group_world import Block, Boom, Entry, World
from treadle.errors import Cancelled, TooManyAbandoned


def find_faults(world: World) -> list[str]:
    """Return what is wrong, now that all blocks are over."""
    faults: list[str] = []
    for block in world.blocks:
        if block.entered_at is None:
            if block.raised is not None and not isinstance(block.raised, Cancelled):
                faults.append(f"{block.name}, not entered, raised {block.raised!r}")
            continue
        faults += [f"{block.name}: {fault}" for fault in _faults_of_block(block)]
        for entry in block.entries:
            faults += [f"{entry.name} of {block.name}: {fault}" for fault in _faults_of_task(entry)]
    return faults


# Tasks


def _faults_of_task(entry: Entry) -> Iterator[str]:
    task, calls = entry.task, entry.calls
    assert task is not None
    if not task.done() or task.running():
        yield f"lost: {task!r}"
        return
    if len(calls) > entry.block.options.max_attempts:
        yield f"{len(calls)} calls were made"
    if task.cancelled():
        yield from _faults_of_cancelled(entry)
    elif (error := task.exception()) is not None:
        yield from _faults_of_failed(entry, error)
    elif not any(call.value is task.result() for call in calls):
        yield "has a result that no call returned"
    elif [call for call in calls[:-1] if call.error is None] or calls[-1].value is not task.result():
        yield "was called again after a success"


def _faults_of_cancelled(entry: Entry) -> Iterator[str]:
    if not may_be_cancelled(entry):
        yield "was cancelled, and by nobody"
    if entry.block.options.may_abandon or not entry.calls:
        return
    last = entry.calls[-1]
    # By whoever cancels the task, or who submits it while the group is being cancelled.
    between_attempts = entry.block.options.max_attempts > len(entry.calls)
    if last.error is None:
        yield "returned, and is cancelled all the same"
    elif not isinstance(last.error, Cancelled) and not between_attempts:
        yield f"raised {last.error!r}, and is cancelled all the same"


def _faults_of_failed(entry: Entry, error: BaseException) -> Iterator[str]:
    calls, options = entry.calls, entry.block.options
    was_raised = any(call.error is error for call in calls)  # also another task's error, that it was given
    if isinstance(error, treadle.CallTimedOut) and not was_raised:
        if not was_late(entry):
            yield "timed out, and was not late"
    elif isinstance(error, TooManyAbandoned) and not was_raised:
        if options.call_timeout is None:
            yield f"failed with {error!r}"
    elif not was_raised:
        yield f"failed with {error!r}, which no call raised"
    elif isinstance(error, Cancelled) and error not in entry.block.world.unasked:
        yield "failed, and was only cancelled"
    elif calls[-1].error is not error and not options.may_abandon:
        yield f"failed with {error!r}, not with the last: {calls[-1].error!r}"
    elif isinstance(error, Boom) and len(calls) < options.max_attempts and not may_be_cancelled(entry):
        yield f"failed for good after {len(calls)} attempts"


# Blocks


def _faults_of_block(block: Block) -> Iterator[str]:
    yield from (f"was left before {entry.name} was done" for entry in block.undone)
    yield from (f"refused {entry.name}: {entry.refused!r}" for entry in block.refused if not _may_refuse(entry))
    if block.most_holding > block.options.max_workers and not block.options.may_abandon:
        yield f"{block.most_holding} calls at once"
    if block.has_felt and not may_end_early(block):
        yield "was cancelled, and by nobody"
    if (
        block.has_felt
        and not _may_end_in_time(block)
        and not any(_is_late(block, e) for e in _raised_errors(block.raised))
    ):
        yield f"was out of time, and raised {block.raised!r}"
    if block.is_doomed and block.raised is None:
        yield "was cancelled with the block around it, which goes on as if nothing were"
    yield from _faults_of_account(block)
    yield from _faults_of_raised(block)


def _may_refuse(entry: Entry) -> bool:
    block = entry.block
    return entry.was_refused_early or block.is_leaving or may_end_early(block)


def _faults_of_account(block: Block) -> Iterator[str]:
    tasks = [entry.task for entry in block.entries if entry.task is not None and entry.task.done()]
    cancelled = sum(task.cancelled() for task in tasks)
    failed = sum(not task.cancelled() and task.exception() is not None for task in tasks)
    stats = block.group.stats
    told = (stats.taken, stats.succeeded, stats.failed + stats.timed_out, stats.cancelled)
    if told != (wanted := (len(tasks), len(tasks) - cancelled - failed, failed, cancelled)):
        yield f"its account says {told}, not {wanted}"


def _faults_of_raised(block: Block) -> Iterator[str]:
    raised, body = block.raised, block.body_error
    failures = _failures(block)
    told_after = failures if block.options.on_error == "cancel" else [e for e in failures if not e.is_told]
    told_before = failures if block.options.on_error == "cancel" else [e for e in failures if not e.is_told_early]
    # Of an attempt that another would have followed it depends on why the group ended whether it is told.
    required = _unique([_error(entry) for entry in told_after if not (entry.task and entry.task._is_given_up)])
    allowed = _unique([_error(entry) for entry in told_before])
    is_ended = isinstance(body, Cancelled) and may_end_early(block)  # by its own cancellation: no error
    if body is not None and not isinstance(body, Exception) and (not is_ended or raised is body):
        yield from _faults_of_bare(block, body, len(required))
        return
    if isinstance(body, Exception):
        required, allowed = _unique([body, *required]), _unique([body, *allowed])
    known = [*required, *allowed]
    got = [e for e in _raised_errors(raised) if any(e is other for other in known) or not _is_own(block, e)]
    if isinstance(raised, BaseExceptionGroup) and raised is not body:
        for error in required:
            if sum(error is other for other in got) != 1:
                yield f"did not raise {error!r} once, but {raised!r} of {raised.exceptions}"
        for error in got:
            if not any(error is other for other in allowed):
                yield f"raised {error!r}, which did not happen, or was told to somebody"
    elif required:
        yield f"did not raise {required!r}, but {raised!r}"
    elif isinstance(raised, Cancelled):
        if not _is_cancelled_from_outside(block):
            yield f"raised {raised!r}, and nobody around it was cancelled"
    elif got:
        yield f"raised {raised!r}"


def _faults_of_bare(block: Block, body: BaseException, failures: int) -> Iterator[str]:
    if block.raised is not body:
        yield f"raised {block.raised!r} instead of {body!r}"
    words = f"group {block.name!r} also had the failure"
    if sum(words in note for note in getattr(body, "__notes__", ())) < failures:
        yield f"raised {body!r} without a word on {failures} failures"


def has_failed(block: Block) -> bool:
    """Tell whether a task has failed so far."""
    return bool(_failures(block))


def _failures(block: Block) -> list[Entry]:
    done = [entry for entry in block.entries if entry.task is not None and entry.task.done()]
    return [entry for entry in done if not entry.task.cancelled() and entry.task.exception() is not None]  # type: ignore[union-attr]  # tested above


def _error(entry: Entry) -> BaseException:
    assert entry.task is not None
    error = entry.task.exception()
    assert error is not None
    return error


def _unique(errors: list[BaseException]) -> list[BaseException]:
    return list({id(error): error for error in errors}.values())


def _raised_errors(raised: BaseException | None) -> list[BaseException]:
    if isinstance(raised, BaseExceptionGroup):
        return list(raised.exceptions)
    return [] if raised is None else [raised]


def _is_own(block: Block, error: BaseException) -> bool:
    """Tell whether ``error`` is the group's own, of which no task knows, and had reason to be."""
    if isinstance(error, TooManyAbandoned):
        return error.run == block.name and _may_break(block)
    return _is_late(block, error) and _was_out_of_time(block)


def _is_late(block: Block, error: BaseException) -> bool:
    return type(error) is TimeoutError and str(error).startswith(f"group {block.name!r} did not end")


# Why things may end


def may_be_cancelled(entry: Entry) -> bool:
    """Tell whether there was a reason to cancel the task."""
    return entry.was_cancelled or may_end_early(entry.block)


def may_end_early(block: Block) -> bool:
    """Tell whether there was a reason to cancel the block and its tasks."""
    return _was_out_of_time(block) or _may_end_in_time(block)


def _may_end_in_time(block: Block) -> bool:
    if block.was_cancelled or _has_own_error(block):
        return True
    if block.options.on_error == "cancel" and has_failed(block):
        return True
    return _may_break(block) or _is_cancelled_from_outside(block)


def _has_own_error(block: Block) -> bool:
    """Tell whether the body failed, other than by being cancelled, for which there must be another reason."""
    error = block.body_error
    return error is not None and not (isinstance(error, Cancelled) and error not in block.world.unasked)


def _is_cancelled_from_outside(block: Block) -> bool:
    outer = block.outer
    if isinstance(outer, Entry):
        return outer.was_cancelled or was_late(outer) or may_end_early(outer.block)
    return outer is not None and may_end_early(outer)


def _was_out_of_time(block: Block) -> bool:
    timeout = block.options.timeout
    return timeout is not None and block.entered_at is not None and block.left_at >= block.entered_at + timeout


def was_late(entry: Entry) -> bool:
    """Tell whether a call of ``entry`` may have taken longer than it was given."""
    timeout = entry.block.options.call_timeout
    return timeout is not None and entry.done_at >= entry.submitted_at + timeout


def _may_break(block: Block) -> bool:
    late = sum(was_late(entry) for entry in block.entries)
    return block.options.call_timeout is not None and late > block.options.max_workers
