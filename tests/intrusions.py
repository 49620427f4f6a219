"""A finalizer or a signal handler at every moment: it comes upon the same step again and again, a little later."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.conftest import PATIENCE_SECONDS

MOST_MOMENTS = 20_000


@dataclass
class Scene:
    """Something to do, what comes upon it, and what must be so in the end.

    Attributes:
        step: Done on a thread of its own.
        act: Done once in the middle of it, by the same thread.
        check: Called after both, on the test's thread.
    """

    step: Callable[[], object]
    act: Callable[[], object]
    check: Callable[[], object] = lambda: None


class _Intrusion:
    """Has ``act`` done between two instructions of the modules whose paths contain one of ``inside``."""

    def __init__(self, at: int, act: Callable[[], object], inside: tuple[str, ...]) -> None:
        self.left = at
        self._act = act
        self._inside = inside
        self._looked_at: dict[Any, bool] = {}

    def __call__(self, frame: Any, event: str, _: object) -> Any:
        code = frame.f_code
        if (is_inside := self._looked_at.get(code)) is None:
            is_inside = self._looked_at[code] = any(part in code.co_filename for part in self._inside)
        if not is_inside:
            return None
        frame.f_trace_opcodes = True
        if event in ("call", "opcode"):
            self.left -= 1
            if self.left == 0:
                self._act()
        return self


def intrude_everywhere(
    prepare: Callable[[], Scene], inside: tuple[str, ...] = ("/treadle/_sync/",), stride: int = 1
) -> None:
    """Do a step with something coming upon it, at each moment in turn, and check each time what comes of it.

    Args:
        prepare: Makes the scene anew.
        inside: Parts of the paths of the modules whose moments count.
        stride: Of so many moments, take one.
    """
    for at in range(1, MOST_MOMENTS, stride):
        scene = prepare()
        intrusion = _Intrusion(at, scene.act, inside)
        errors: list[BaseException] = []
        thread = threading.Thread(target=_do, args=(scene.step, intrusion, errors), name="intruded upon", daemon=True)
        thread.start()
        thread.join(PATIENCE_SECONDS)
        if thread.is_alive():
            stack = traceback.format_stack(sys._current_frames()[thread.ident or 0])
            raise AssertionError(f"stuck, broken in upon at moment {at}:\n{''.join(stack)}")
        if errors:
            raise errors[0]
        if intrusion.left > 0:
            assert at > stride, "nothing ever came upon it"
            return
        scene.check()
    raise AssertionError("it never came to its end")


def _do(step: Callable[[], object], intrusion: _Intrusion, errors: list[BaseException]) -> None:
    sys.settrace(intrusion)
    try:
        step()
    except BaseException as error:
        errors.append(error)
    finally:
        sys.settrace(None)
