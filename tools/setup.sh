#!/usr/bin/env bash
# Make a virtual environment, or bring it up to date:
#
#   tools/setup.sh ENVIRONMENT WHAT...
#
# WHAT is a file of locked requirements, or "." for this package (editable). All that is installed is pinned
# and hashed; what comes as source is built with what was installed before it, and nothing else.
set -euo pipefail

environment=$1
shift
log=$environment/setup.log

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
install() { "$environment/bin/python" -m pip install --no-deps --no-build-isolation "$@"; }

# Runs its arguments silently, and shows what they said if they fail.
quietly() {
    "$@" >>"$log" 2>&1 </dev/null && return
    cat "$log" >&2
    echo "setting up $environment failed: see above" >&2
    exit 1
}

# An environment holds absolute paths: one that was copied or moved here is made anew.
is_ours() { [ "$(cat "$environment/.home" 2>/dev/null)" = "$(pwd -P)" ] && "$environment/bin/python" -c '' 2>/dev/null; }

if is_ours; then
    python=$environment/bin/python
else
    python=$("$(dirname "$0")/find_python.sh")
fi
echo "setting up $environment (Python $("$python" -c 'import platform; print(platform.python_version())')): $* ..."

if ! is_ours; then
    if [ -e "$environment" ] && [ ! -e "$environment/pyvenv.cfg" ]; then
        echo "$environment exists and is not a virtual environment: move it away" >&2
        exit 1
    fi
    rm -rf "$environment"
    mkdir -p "$environment"
    : >"$log"
    quietly "$python" -m venv "$environment"
fi

: >"$log"
for what in "$@"; do
    case $what in
        *.txt) quietly install --require-hashes --requirement "$what" ;;
        *) quietly install --editable "$what" ;;
    esac
done
pwd -P >"$environment/.home"
