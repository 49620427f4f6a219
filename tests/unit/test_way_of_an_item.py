"""How many of Treadle's functions and modules one item passes: what a newcomer has to read to follow it."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

import treadle

PACKAGE = Path(treadle.__file__).parent
# What there is today, and a little for orders of steps that differ; to go down, and not up.
MOST_FUNCTIONS, MOST_MODULES = 185, 43


def same(item: int) -> int:
    return item


def functions_of_a_run() -> set[tuple[str, str]]:
    """Return each function that ``map`` calls for one item, on whichever thread, and the module it is in."""
    found: list[tuple[str, str]] = []  # a worker may be at its last steps when it is looked at

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and PACKAGE in (path := Path(code.co_filename)).parents:
            found.append((path.relative_to(PACKAGE).as_posix(), code.co_qualname))

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        assert list(treadle.map(same, [1], max_workers=1)) == [1]
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return set(found[:])


def test_the_way_of_one_item_gets_no_longer() -> None:
    functions = functions_of_a_run()
    modules = Counter(module for module, _ in functions)

    print(f"one item: {len(functions)} functions of {len(modules)} modules")
    for module, count in modules.most_common():
        print(f"{count:4}  {module}")

    assert len(functions) <= MOST_FUNCTIONS
    assert len(modules) <= MOST_MODULES
