"""Fail where the code grows too large to be read in one go.

Limits: a module has at most 600 lines, a function at most 60, and at least 90% of all functions have
fewer than 25. Modules above 400 lines are named, as a remark.

A function is measured from its ``def`` to its last line, with the functions inside it and without its
docstring: explaining is free. Decorators do not count either. A module's lines all count.

Usage: ``python tools/check_sizes.py [FOLDER]``, where the folder is ``src`` unless given.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_MODULE_LINES = 600
REMARKABLE_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
SHORT_FUNCTION_LINES = 25  # a short function has fewer
MIN_SHORT_SHARE = 0.90


@dataclass(frozen=True)
class Sized:
    """A module or a function, where it is, and how many lines it has."""

    place: str
    lines: int


def docstring_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's docstring."""
    match function.body[0]:
        case ast.Expr(value=ast.Constant(value=str())) as docstring:
            return (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
        case _:
            return 0


def measure_functions(path: Path, source: str) -> Iterator[Sized]:
    """Yield every function of a module, methods and nested ones included."""
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
            yield Sized(f"{path}:{node.lineno}: {node.name}", lines)


def report(modules: list[Sized], functions: list[Sized]) -> bool:
    """Print what was found; return whether all limits are kept."""
    too_long = [(module, MAX_MODULE_LINES) for module in modules if module.lines > MAX_MODULE_LINES]
    too_long += [(item, MAX_FUNCTION_LINES) for item in functions if item.lines > MAX_FUNCTION_LINES]
    share = sum(function.lines < SHORT_FUNCTION_LINES for function in functions) / len(functions)

    for module in modules:
        if REMARKABLE_MODULE_LINES < module.lines <= MAX_MODULE_LINES:
            print(f"{module.place}: {module.lines} lines: think again above {REMARKABLE_MODULE_LINES}")
    for sized, limit in too_long:
        print(f"{sized.place}: {sized.lines} lines: {limit} are allowed")
    print(f"{len(modules)} modules, the longest of {max(module.lines for module in modules)} lines")
    print(f"{len(functions)} functions, the longest of {max(item.lines for item in functions)} lines")
    print(f"{share:.1%} of the functions have fewer than {SHORT_FUNCTION_LINES} lines")
    if share < MIN_SHORT_SHARE:
        print(f"{MIN_SHORT_SHARE:.0%} must")
    return not too_long and share >= MIN_SHORT_SHARE


def main(folder: str = "src") -> int:
    """Measure all modules in a folder; return the exit status, 1 if a limit is passed."""
    modules: list[Sized] = []
    functions: list[Sized] = []
    for path in sorted(Path(folder).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        modules.append(Sized(str(path), len(source.splitlines())))
        functions.extend(measure_functions(path, source))
    if not functions:
        print(f"{folder}: no functions found")
        return 1
    return 0 if report(modules, functions) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
