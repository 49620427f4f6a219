"""What it takes to make calls in processes: their start, and pickling, tried with a real argument and a real result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from treadle._core.real_time import thread_time
from treadle._crew.deciding import START_SECONDS, WARM_START_SECONDS
from treadle._crew.room import call_for_help
from treadle._crew.shared_state import why_shared
from treadle._engines.engine import CallPlan, Engine

IMPORTS = "processes would have to import the program"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of pickling the function, an argument and a result.

    Attributes:
        seconds: For the latter two.
        make_engine: Makes the engines of processes; None: it cannot be.
        refusal: Why not.
    """

    seconds: float = 0.0
    make_engine: Callable[[], Engine] | None = None
    refusal: str = ""


def try_pickling(plan: CallPlan, item: object, result: object) -> Trial:
    """Return what comes of pickling the function, one ``item`` and one ``result``."""
    from treadle._engines.process import ProcessEngine, wrap_plan  # not for whoever needs only threads
    from treadle._engines.process_main import is_guarded
    from treadle._engines.process_pickling import needs_program, wrap

    try:
        parcel = wrap_plan(plan)
        if (reason := why_shared(plan.fn)) is not None:
            return Trial(refusal=reason)
        began = thread_time()  # others may have the processor meanwhile, and the GIL
        parcels = wrap(item, "the argument"), wrap(result, "the result")
        seconds = thread_time() - began
        if any(map(needs_program, (parcel, *parcels))):
            # Nobody has asked for that import, and what comes of it must show before calls depend on it.
            if not is_guarded():
                return Trial(refusal=f"{IMPORTS}, which has no `if __name__ == '__main__':`")
            if not needs_program(parcel):
                return Trial(refusal=f"{IMPORTS} for their arguments or results alone")
        return Trial(seconds, lambda: ProcessEngine(plan, parcel, call_for_help))
    except BaseException as error:  # pickling is code of the user's, and this is a thread that makes calls
        return Trial(refusal=str(error))


def start_seconds() -> float:
    """Return the seconds to the first result of a process, as things are."""
    from treadle._engines.process_start import is_keeper_running  # not for whoever needs only threads

    return WARM_START_SECONDS if is_keeper_running() else START_SECONDS
