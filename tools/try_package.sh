#!/usr/bin/env bash
# Build the wheel and the sdist, install each into an environment of its own, and try what a user gets:
#
#   tools/try_package.sh PYTHON
#
# PYTHON belongs to an environment that has hatchling. Nothing is downloaded.
set -euo pipefail

python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_NO_INDEX=1
unset PYTHONPATH

"$python" -m hatchling build -d "$work/dist"
wheel=$(echo "$work"/dist/*.whl) sdist=$(echo "$work"/dist/*.tar.gz)

# What is to be in them, and nothing of ours beside it.
"$python" - "$wheel" "$sdist" <<'PROGRAM'
import pathlib, sys, tarfile, zipfile

wheel, sdist = sys.argv[1:]
sources = {str(path.relative_to("src")) for path in pathlib.Path("src").rglob("*") if path.is_file()}
sources = {name for name in sources if "__pycache__" not in name}
packed = set(zipfile.ZipFile(wheel).namelist())
assert {name for name in packed if ".dist-info/" not in name} == sources, packed ^ sources
assert "treadle/py.typed" in packed
with tarfile.open(sdist) as archive:
    inside = {name.partition("/")[2] for name in archive.getnames()}
assert {f"src/{name}" for name in sources} | {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"} <= inside, inside
assert not any(name.startswith(("tests/", "bench/", ".ci")) for name in inside), inside
PROGRAM

# The sdist is built into a wheel again, as pip does, by the backend that is here.
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/again" "$sdist"

for package in "$wheel" "$work"/again/*.whl; do
    environment=$work/environment-$(basename "$(dirname "$package")")
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --no-deps "$package"
    cd "$work"  # where no source lies about
    "$environment/bin/python" -W error - <<'PROGRAM'
import importlib.metadata, sys

import treadle

assert list(treadle.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
assert list(treadle.map(abs, range(-5, 0), engine="processes")) == [5, 4, 3, 2, 1]
about = importlib.metadata.metadata("treadle")
assert about["Version"] == treadle.__version__, about["Version"]
assert {line.partition(",")[0] for line in about.get_all("Project-URL")} >= {"Homepage", "Documentation", "Changelog"}
assert "click" not in sys.modules and "rich" not in sys.modules
PROGRAM
    # Without the extra the command says what to install, and shows no traceback.
    said=$("$environment/bin/treadle" --help 2>&1) && { echo "the command works without its extra?"; exit 1; }
    case $said in *Traceback*) echo "$said"; exit 1 ;; *"treadle[cli]"*) ;; *) echo "$said"; exit 1 ;; esac
    cd - >/dev/null
    echo "installed and tried: $(basename "$package")"
done

# README is what an index page shows: links that only a checkout can follow lead nowhere there.
if grep -nE '\]\((docs|examples|src|[A-Z]+\.md|LICENSE)[^)]*\)' README.md; then
    echo "README.md has links that lead nowhere on an index page: write them whole"
    exit 1
fi
