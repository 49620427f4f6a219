#!/usr/bin/env bash
# Print the interpreter to use: $PYTHON if it is set, else the first of these that is good enough.
set -euo pipefail

names="python3 python3.15 python3.14 python3.13 python3.12 python3.11"
incomplete=

# A name on the PATH proves nothing: it may be a shim with no interpreter behind it.
runs() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 </dev/null; }
makes_environments() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 </dev/null; }

take_if_good() {
    runs "$1" || return 0
    if makes_environments "$1"; then
        command -v "$1"
        exit 0
    fi
    incomplete=${incomplete:-$1}
}

if [ -n "${PYTHON:-}" ]; then
    take_if_good "$PYTHON"
    problem="PYTHON=$PYTHON does not run, or is not Python 3.11 or newer"
else
    for name in $names; do take_if_good "$name"; done
    problem="need Python 3.11 or newer, and none of these is: $names; name yours: make PYTHON=/path/to/python"
fi
if [ -n "$incomplete" ]; then
    problem="$incomplete has no venv or no pip: install them (Debian, Ubuntu: apt install python3-venv)"
fi
echo "$problem" >&2
exit 1
