"""What controllers have learnt in this process, by what was called and what that is bound to."""

from __future__ import annotations

from contextlib import suppress

from treadle._crew.rounds import Lesson
from treadle._crew.subject import Subject

MAX_LESSONS = 1000

# The oldest first. Without a lock: the end of a run comes upon any thread, and each step here is atomic.
_lessons: dict[Subject, Lesson] = {}


def recall(subject: Subject | None) -> Lesson | None:
    """Return what was learnt last about ``subject``."""
    return None if subject is None else _lessons.get(subject)


def remember(subject: Subject | None, lesson: Lesson | None) -> None:
    """Keep ``lesson``; where there are too many, forget those of what is gone, and else the oldest."""
    if subject is None or lesson is None:
        return
    _lessons.pop(subject, None)
    _lessons[subject] = lesson
    if len(_lessons) > MAX_LESSONS:
        for known in list(_lessons):
            if known.is_gone:
                _lessons.pop(known, None)
    while len(_lessons) > MAX_LESSONS:
        with suppress(StopIteration, RuntimeError):  # others come and go meanwhile
            _lessons.pop(next(iter(_lessons)), None)
