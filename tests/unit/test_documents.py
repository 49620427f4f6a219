"""What the documents say is true: their programs run, print what they show, and their links lead somewhere."""

from __future__ import annotations

import ast
import codeop
import doctest
import importlib
import inspect
import io
import os
import pkgutil
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import treadle
from tests.programs import TIMEOUT_SECONDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for place in ("*.md", "docs/*.md", "src/**/*.md", "bench/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(place)
)
PAGES = [
    name for name in DOCUMENTS if name.startswith(("README", "docs/")) and "```python\n" in (ROOT / name).read_text()
]
EXAMPLES = sorted(path.relative_to(ROOT / "examples").as_posix() for path in (ROOT / "examples").rglob("*.py"))
# They need somebody: a person who connects, a display, an argument. They run in test_examples.
DRIVEN = {"chat_server.py", "three_ways.py", "window.py"}
MODULES = sorted(module.name for module in pkgutil.walk_packages(treadle.__path__, "treadle."))

# Printed between the programs of a page.
MARK = "--- next program ---"

# Where the repository is to be found, which a page outside of it (of a package index) has to name in its links.
REPOSITORY = "https://github.com/treadle-py/treadle"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document.

    Attributes:
        kind: What stands behind the opening fence.
        text: What stands between the fences.
        line: Number of its first line.
    """

    kind: str
    text: str
    line: int


def blocks_of(document: str) -> list[Block]:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in found]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder to work in, where the README's files are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "*")  # the servers of the programs are on this machine
    for block in blocks_of("README.md"):
        if name := re.match(r"# (\w+\.py)\n", block.text):
            (tmp_path / name[1]).write_text(block.text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_run_and_print_what_stands_below_them(page: str, folder: Path) -> None:
    """In one file, one after the other, as they stand, so that whoever copies them gets the same."""
    if page == "docs/gevent.md":
        pytest.importorskip("gevent")
    programs = programs_of(page)
    source = "".join(f"if __name__ == '__main__': print({MARK!r})\n{program}" for program, _ in programs)
    (folder / "page.py").write_text(source, encoding="utf-8")

    result = run_python("page.py", cwd=folder)

    assert result.returncode == 0, result.stderr
    for (program, expected), printed in zip(programs, result.stdout.split(f"{MARK}\n")[1:], strict=True):
        assert without_times(printed) == without_times(expected), program


def test_the_tutorial_can_be_typed_at_the_prompt(folder: Path) -> None:
    """It says so. The prompt shows values as well, of which the tutorial has two kinds: tasks and an account."""
    typed = "".join(f"{program}\n" for program, _ in programs_of("docs/tutorial.md"))

    result = run_python("-q", "-i", cwd=folder, text=typed)

    assert "Error" not in result.stderr, result.stderr
    printed = re.sub(r"^(<Task |Stats\().*\n", "", result.stdout, flags=re.MULTILINE)
    assert without_times(printed) == without_times("".join(expected for _, expected in programs_of("docs/tutorial.md")))


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_can_be_pasted_at_the_prompt(page: str) -> None:
    """There only an empty line ends a statement with a block. One within a block does not, at prompts of today."""
    for program, _ in programs_of(page):
        lines: list[str] = []
        for line in [*re.sub(r"\n\n+(?= )", "\n", program).splitlines(), ""]:
            lines.append(line)
            if codeop.compile_command("\n".join(lines), symbol="single") is not None:
                lines.clear()


def programs_of(page: str) -> list[tuple[str, str]]:
    """Return the programs of a page, each with what it is said to print."""
    blocks = blocks_of(page)
    below = [*blocks[1:], Block("", "", 0)]
    return [
        (block.text, after.text if after.kind == "text" else "")
        for block, after in zip(blocks, below, strict=True)
        if block.kind == "python"
    ]


def run_python(*arguments: str, cwd: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=cwd, input=text, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)


def without_times(text: str) -> str:
    """Leave out how many seconds something took."""
    return re.sub(r"\b\d+\.\d+ s\b", "... s", text)


def test_the_readme_shows_what_its_programs_print() -> None:
    kinds = [block.kind for block in blocks_of("README.md")]

    assert kinds.count("text") >= 5, "the blocks are still found"


def test_the_commands_of_the_readme_print_what_they_show(folder: Path) -> None:
    pytest.importorskip("click")
    pytest.importorskip("rich")
    blocks = [block.text for block in blocks_of("README.md") if block.kind == "console" and "treadle map" in block.text]
    assert blocks
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    for text in blocks:
        commands = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
        result = subprocess.run(
            ["sh", "-c", "exec 2>&1\n" + "\n".join(commands)],
            cwd=folder,
            env={**os.environ, "PATH": search},
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        shown = [line for line in text.splitlines() if not line.startswith("$ ")]
        assert without_circumstances(result.stdout.splitlines()) == without_circumstances(shown)


def without_circumstances(lines: list[str]) -> list[str]:
    """Leave out what differs from run to run, and the marks below a traceback's lines, which differ by version."""
    kept = [line for line in lines if line.strip(" ~^")]
    return [re.sub(r'File ".*/|after [\d.]+ s', "...", line) for line in kept]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name: str) -> None:
    if name.startswith(("treadle._cli", "treadle.__main__")):
        pytest.importorskip("click")
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(verbose=False)

    for test in doctest.DocTestFinder().find(module):
        out = io.StringIO()
        assert runner.run(test, out=out.write).failed == 0, out.getvalue()


@pytest.mark.parametrize("name", MODULES)
def test_what_a_docstring_says_of_arguments_is_of_arguments_that_are_there(name: str) -> None:
    source = inspect.getsource(importlib.import_module(name))
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        text = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", ast.get_docstring(node) or "", re.MULTILINE)
        body = [node] if not isinstance(node, ast.ClassDef) else [part for part in node.body if _takes_arguments(part)]
        if text is None or not body:
            continue
        documented = set(re.findall(r"^ {4}\*{0,2}(\w+):", text[1], re.MULTILINE))
        taken = {argument.arg for part in body for argument in ast.walk(part) if isinstance(argument, ast.arg)}
        assert documented <= taken, f"{name}.{node.name}"


def _takes_arguments(part: ast.stmt) -> bool:
    """Tell whether a part of a class is what takes the arguments of its constructor."""
    return isinstance(part, ast.FunctionDef) and part.name in {"__init__", "__new__"}


@pytest.mark.parametrize("name", ["Outcome", "Run", "Run.outcomes", "Run.rest", "diagnose", "dump", "map"])
def test_what_people_call_has_an_example(name: str) -> None:
    """An example that is not there cannot fail."""
    thing: object = treadle
    for part in name.split("."):
        thing = getattr(thing, part)

    assert ">>> " in (thing.__doc__ or "")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("name", sorted({*EXAMPLES} - DRIVEN))
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    """As a program, with warnings as errors: whoever copies it gets none."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name)]
    result = subprocess.run(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )

    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_it_shows(name: str) -> None:
    source = (ROOT / "examples" / name).read_text(encoding="utf-8")

    assert source.startswith('"""')
    assert len(source.splitlines()) <= 70, "short enough to read"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_make_targets_that_a_document_names_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    named = set(re.findall(r"(?:`|\$ |^    )make ([a-z]+)", text, re.MULTILINE))

    assert named <= targets
    assert document != "README.md" or {"demo", "test"} <= named


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    for target in links_of((ROOT / document).read_text(encoding="utf-8")):
        in_repository = re.match(rf"{re.escape(REPOSITORY)}/(blob|tree)/main/(.+)", target)
        if in_repository is None and re.match(r"[a-z]+:", target):
            continue  # elsewhere
        path, _, anchor = (in_repository[2] if in_repository else target).partition("#")
        file = ROOT / path if in_repository else (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), target
        assert in_repository is None or file.is_dir() == (in_repository[1] == "tree"), target
        if anchor:
            assert anchor in anchors_of(file.read_text(encoding="utf-8")), target


def test_links_of_the_readme_survive_where_only_the_readme_is() -> None:
    """A package index shows it without the files beside it, and gives headings no names to jump to."""
    relative = [target for target in links_of((ROOT / "README.md").read_text()) if not target.startswith("https://")]

    assert relative == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached = {target.rpartition("/docs/")[2] for target in links_of((ROOT / "README.md").read_text())}

    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= reached


def links_of(text: str) -> list[str]:
    """Return where the links of a document lead; each that goes by a name has to have it at the end."""
    prose = prose_of(text)
    by_name = dict(re.findall(r"^\[([^]]+)\]: (\S+)$", prose, re.MULTILINE))
    used = set(re.findall(r"\[[^]]*\]\[([^]]+)\]", re.sub(r"^\[[^]]+\]: .*$", "", prose, flags=re.MULTILINE)))
    assert used == set(by_name), "links by name, and names of links"
    return [*re.findall(r"\[[^]]*\]\(([^)\s]+)\)", prose), *by_name.values()]


def prose_of(text: str) -> str:
    """Leave out code, where brackets mean something else."""
    return re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors_of(text: str) -> set[str]:
    """Return the names that headings can be linked by, as GitHub makes them."""
    without_code = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?)\s*$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
