"""What Treadle does by the clock goes on while tests of the user's have put stand-ins into ``time``."""

from __future__ import annotations

import ast
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

import treadle
from tests import in_real_time
from tests.programs import finish, start_program

ROOT = Path(__file__).parents[2]
SOURCE = Path(treadle.__file__).parent
# One takes the real functions from there, one puts an exploration's stand-ins there, and one travels to where no
# Treadle may be.
MAY_IMPORT_TIME = {"_core/real_time.py", "_explore/stand_ins.py", "_engines/errand.py"}

# As freezegun does it: a time that stands still, in ``time`` and wherever a loaded module has one of its functions; but
# what threading or queue calls is left the real one.
STAND_INS = """
    import contextlib, sys, time

    @contextlib.contextmanager
    def frozen():
        names = "time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns"
        reals = {name: getattr(time, name) for name in names}

        def stand_in_for(real):
            def fake():
                frame = sys._getframe(1)
                for _ in range(5):
                    if frame is None:
                        break
                    if frame.f_globals.get("__name__", "").startswith(("threading", "queue")):
                        return real()
                    frame = frame.f_back
                return 1.5e9
            return fake

        fakes = {id(real): stand_in_for(real) for real in reals.values()}
        undo = []
        for module_name, module in list(sys.modules.items()):
            if not module_name.startswith(("threading", "queue")):
                for name, value in list(vars(module).items()):
                    if id(value) in fakes and name != "reals":
                        undo.append((module, name, value))
                        setattr(module, name, fakes[id(value)])
        try:
            yield
        finally:
            for module, name, value in undo:
                setattr(module, name, value)
    """
FREEZEGUN = """
    import functools
    from freezegun import freeze_time
    frozen = functools.partial(freeze_time, "2020-01-01")
    """
IMPORTED_BEFORE = """
    from tests import in_real_time
    with frozen():
        assert time.monotonic() == time.monotonic()
        in_real_time.check_all()
    """
IMPORTED_MEANWHILE = """
    with frozen():
        from tests import in_real_time
        in_real_time.check_all()
    """


def test_time_is_imported_in_one_place() -> None:
    """A name taken from ``time``, or looked up there, is one that others can replace."""
    found = {
        str(path.relative_to(SOURCE)): node.lineno
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(name.name == "time" for name in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "time")
    }

    assert set(found) == MAY_IMPORT_TIME


@pytest.mark.parametrize(
    "program", [IMPORTED_BEFORE, IMPORTED_MEANWHILE], ids=["imported before", "imported meanwhile"]
)
@pytest.mark.parametrize("freezer", [STAND_INS, FREEZEGUN], ids=["stand-ins", "freezegun"])
def test_all_goes_on_in_real_time_while_time_is_frozen(freezer: str, program: str) -> None:
    """Half of the threads would see the real time and half of them one that stands still: they waited for years."""
    if freezer == FREEZEGUN and find_spec("freezegun") is None:
        pytest.skip("freezegun is not installed")
    program = "import faulthandler, time; faulthandler.dump_traceback_later(40)\n" + textwrap.dedent(freezer + program)

    status, out, err = finish(start_program(program, cwd=ROOT))

    assert (status, err) == (0, "")
    assert out.split() == [check.__name__ for check in in_real_time.ALL]
