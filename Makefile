# The front door. Needs Python 3.11 or newer (with venv and pip), GNU make and bash, nothing else.

# Which interpreter: the first that runs of python3, python3.13, ... (tools/find_python.sh), or yours.
PYTHON ?=
export PYTHON

# Each interpreter has an environment of its own, so that switching between them rebuilds nothing:
# .venv for the default one, .venv-3.13 or .venv-3.13t (free-threaded) for one given as PYTHON.
ifneq ($(strip $(PYTHON)),)
TAG := -$(shell "$(PYTHON)" -c 'import sys; print("%d.%d%s" % (sys.version_info[:2] + (sys.abiflags,)))' 2>/dev/null)
endif
VENV ?= .venv$(TAG)
BENCH_VENV ?= .venv-bench$(TAG)
LOCK_VENV := .venv-lock
BIN := $(VENV)/bin

# ARGS goes to pytest, or to the benchmark or the demo. SLOW=1 adds the slow tests. COVERAGE=0 measures no
# coverage: so by default on a free-threaded build, as tracing slows threads down until they no longer race.
ARGS ?=
SLOW ?=
# Tests run in so many processes; most of them wait most of the time. 0: in this one, as a debugger needs it.
JOBS ?= 3
PYTEST := -m pytest -n $(JOBS) --dist worksteal
MARK := $(if $(filter-out 0,$(SLOW)),,-m "not slow")
COVERAGE ?= $(if $(filter %t,$(TAG)),0,1)

# What an environment holds is up to date when its stamp is newer than the files it was made from,
# and the environment runs and was made here (it holds absolute paths, so a copied one is made anew).
# What only some tests need is left out where it has no wheels: on free-threaded builds, which no marker can name.
TEST_LOCKS := requirements/test.txt $(if $(filter %t,$(TAG)),,requirements/libraries.txt)
TEST_READY := $(VENV)/.ready-test
CHECK_READY := $(VENV)/.ready-check
BENCH_READY := $(BENCH_VENV)/.ready-bench
LOCK_READY := $(LOCK_VENV)/.ready-lock
unless_usable = $(if $(shell [ "$$(cat $(1)/.home 2>/dev/null)" = "$(CURDIR)" ] \
	&& $(1)/bin/python -c 'print("yes")' 2>/dev/null),,FORCE)

.PHONY: help demo test check lint style types api layers sizes package fuzz bench format lock clean FORCE

help:
	@echo 'make demo     see it work'
	@echo 'make test     run the tests, with branch coverage   ARGS="-k name" for pytest, SLOW=1 adds the slow ones,'
	@echo '                                                    JOBS=0 runs them in one process'
	@echo 'make check    all checks of the code, or one of them: lint style types api layers sizes'
	@echo 'make package  build the wheel and the sdist, install each somewhere new, and try them'
	@echo 'make fuzz     random histories for a minute          ARGS="--seconds 28800" for a night, --help for more'
	@echo 'make bench    measure against other libraries       ARGS=... for the benchmark'
	@echo 'make format   format the code, and fix what can be fixed'
	@echo 'make lock     lock the dependencies again           UPGRADE=1 takes newer versions'
	@echo 'make clean    remove everything the above made'
	@echo
	@echo 'PYTHON=/path/to/python chooses the interpreter; each has an environment of its own.'

demo: $(TEST_READY)
	@$(BIN)/treadle demo $(ARGS)

ifneq ($(COVERAGE),0)
# Child processes write there too, wherever they run: hence the absolute path. Where tests fail, their failures are the last
# thing to be seen: no table of coverage comes after them.
test: export COVERAGE_FILE := $(abspath $(VENV))/coverage/data
test: $(TEST_READY)
	@rm -rf $(VENV)/coverage && mkdir $(VENV)/coverage
	@$(BIN)/python -m coverage run $(PYTEST) $(MARK) $(ARGS)
	@$(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage report
else
test: $(TEST_READY)
	@$(BIN)/python $(PYTEST) $(MARK) $(ARGS)
endif

check: lint style types api layers sizes

lint: $(CHECK_READY)
	$(BIN)/ruff check

style: $(CHECK_READY)
	$(BIN)/ruff format --check --output-format concise

types: $(CHECK_READY)
	$(BIN)/python -m mypy

# Pyright on what users see, and that all of it has a type. As its wheels ship it: no look for newer
# ones, no Node.js but the locked one. It takes the interpreter from the PATH.
PYRIGHT := PATH="$(abspath $(BIN)):$$PATH" PYRIGHT_PYTHON_IGNORE_WARNINGS=1 PYRIGHT_PYTHON_GLOBAL_NODE=0 pyright
api: $(CHECK_READY)
	@echo $(BIN)/pyright; $(PYRIGHT)
	@found=$$($(PYRIGHT) --ignoreexternal --verifytypes treadle) || { echo "$$found"; exit 1; }; \
	echo "$$found" | grep '^Type completeness'

layers: $(CHECK_READY)
	$(BIN)/lint-imports --no-logo

sizes: $(CHECK_READY)
	$(BIN)/python tools/check_sizes.py

package: $(TEST_READY)
	@tools/try_package.sh $(BIN)/python

fuzz: $(TEST_READY)
	@$(BIN)/python -m tests.stress.histories $(ARGS)

bench: $(BENCH_READY)
	@$(BENCH_VENV)/bin/python -m bench $(ARGS)

format: $(CHECK_READY)
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# In this order: some take the versions of the ones before as given.
UPGRADE ?=
LOCK := $(LOCK_VENV)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header $(if $(filter-out 0,$(UPGRADE)),--upgrade)
lock: $(LOCK_READY)
	@for name in lock test libraries check sdist bench; do \
		echo "requirements/$$name.txt"; \
		$(LOCK) requirements/$$name.in --output-file requirements/$$name.txt || exit 1; \
	done

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* \
		dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(TEST_READY): $(TEST_LOCKS) pyproject.toml $(call unless_usable,$(VENV))
	@tools/setup.sh $(VENV) $(TEST_LOCKS) .
	@touch $@

$(CHECK_READY): requirements/check.txt $(TEST_READY)
	@tools/setup.sh $(VENV) requirements/check.txt
	@touch $@

$(BENCH_READY): requirements/sdist.txt requirements/bench.txt pyproject.toml $(call unless_usable,$(BENCH_VENV))
	@tools/setup.sh $(BENCH_VENV) requirements/sdist.txt requirements/bench.txt .
	@touch $@

$(LOCK_READY): requirements/lock.txt $(call unless_usable,$(LOCK_VENV))
	@tools/setup.sh $(LOCK_VENV) requirements/lock.txt
	@touch $@
