"""What mypy says of mistakes that are likely: it is to name the mistake, and not an overload that nobody meant."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # it reads all of Treadle's types first

SOURCE = """
import treadle
def one(number: int) -> int: return number
def two(number: int, other: int) -> int: return number
async def ask(number: int) -> int: return number
"""
MISTAKES = {
    "treadle.map(two, [1])": '"Callable[[int, int], int]"; expected "Callable[[int], int]"',
    'treadle.map(one, ["a"])': '"Callable[[int], int]"; expected "Callable[[str], int]"',
    'treadle.map(ask, ["a"])': '"Callable[[int], Coroutine[Any, Any, int]]"; expected "Callable[[str], Coroutine',
    "treadle.for_each(two, [1])": 'expected "Callable[[int], object]"',
    "treadle.traverse(one, [1])": 'expected "Callable[[int], Iterable[int] | None]"',
    "treadle.pipeline([1]).map(two)": 'expected "Callable[[int], int]"',
    "treadle.pipeline([1]).flat_map(one)": 'expected "Callable[[int], Iterable',
    "treadle.Resource(one)": 'expected "Callable[[], AbstractAsyncContextManager',
    "treadle.map(one, [1], max_worker=3)": 'did you mean "max_workers"?',
    "treadle.Limiter(max_per_secnd=3)": 'did you mean "max_per_second"?',
}


def test_mypy_names_the_mistake(tmp_path: Path) -> None:
    """Where no overload fits, it shows the errors of the first whose arguments look alike."""
    api = pytest.importorskip("mypy.api")
    path = tmp_path / "mistakes.py"
    path.write_text(SOURCE + "\n".join(MISTAKES))

    out, err, _ = api.run(["--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(path)])

    assert err == ""
    before = len(SOURCE.splitlines())
    for line, (mistake, message) in enumerate(MISTAKES.items(), before + 1):
        said = [text for text in out.splitlines() if text.startswith(f"{path}:{line}: error:")]
        assert said, mistake
        assert message in said[0], mistake
        assert "CoroutineFunction" not in said[0], mistake
