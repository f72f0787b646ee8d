# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
#
# `make demo` and `make test` set up .venv, build what changed, and run. See `make help`.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SECONDS_EACH ?= 60

BIN := $(VENV)/bin
SLOW := $(BIN)/pytest -m slow -o faulthandler_timeout=900 --durations=10
ALONE := $(filter-out %/test_text.py,$(wildcard test/bench/test_*.py)) test/native test/node test/packaging
REQUIREMENTS := requirements/build.txt requirements/run.txt requirements/ros.txt requirements/dev.txt
# What ends up compiled or copied; the package's Python files are used where they are. The folders
# themselves are listed so that a deleted file counts as a change, too.
BUILD_SOURCES := $(shell find native neuron_chunk_interfaces -type f -o -type d) \
                 $(shell find cmake config launch resource tools -type f ! -name '*.pyc') \
                 setup.py setup.cfg package.xml
NATIVE_SOURCES = $(shell find native -name '*.cpp' -o -name '*.hpp')

# Of pip's many lines the ones that take time; errors come through on stderr.
PROGRESS := '/(Downloading|Using cached) .* [MG]B\)/p; s/^(Installing collected packages):.*/  \1/p'
SHELL := bash
.SHELLFLAGS := -o pipefail -c

.DELETE_ON_ERROR:
.PHONY: demo test test-slow sanitize fuzz icarus tools venv build lint format clean help

demo: build  ## Ask the shipped model 24 questions over ROS 2, its weights read from flash
	@$(BIN)/neuron_chunk_demo $(ARGS)

icarus:
	@tools/install_packages.sh iverilog 'command -v iverilog' 'tests of Verilog are skipped'

test: lint icarus  ## Lint, then the tests of minutes; ARGS goes to pytest: make test ARGS='-k reader'
	@$(BIN)/pytest -m 'not slow' -n auto --maxprocesses=4 --dist=loadfile --durations=10 $(ARGS)

# Those that need the machine for themselves come last, one by one. pytest says 5 where ARGS leaves
# nothing to run.
test-slow: build  ## The rest: real builds, endurance, gigabytes; a part: make test-slow ARGS='-k crowd'
	@$(SLOW) -n auto --maxprocesses=4 --dist=loadfile $(ALONE:%=--ignore=%) $(ARGS) || \
	    [ $$? = 5 ]
	@$(SLOW) $(ALONE) $(ARGS) || [ $$? = 5 ]

sanitize: build  ## The native core under address, undefined-behaviour and thread sanitizers
	@PYTHON='$(BIN)/python' tools/sanitize.sh

fuzz: build  ## Hostile files, images, requests and calls, SECONDS_EACH=60 of each kind; ARGS='--seed 1'
	@echo 'make: fuzzing with seed 0 unless ARGS has another, $(SECONDS_EACH) s each'
	@for target in fuzz/*.py; do \
	    $(BIN)/python $$target --seconds $(SECONDS_EACH) --seed 0 $(ARGS) || failed=1; \
	done; exit $${failed:-0}

tools:
	@PYTHON='$(PYTHON)' tools/check_tools.sh

venv: $(VENV)/.requirements  ## Make .venv from the pinned requirements

$(VENV)/.requirements: $(REQUIREMENTS) requirements/constraints.txt | tools
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo 'make: installing pinned requirements into $(VENV) (once; some minutes)'
	@PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check \
	    $(addprefix -r ,$(REQUIREMENTS)) | sed -un -E $(PROGRESS)
	@touch $@

build: $(VENV)/.built  ## Build the native module and the ROS interfaces into .venv

# `on`: without its interfaces the node can't run, so leaving them out is an error here.
$(VENV)/.built: $(BUILD_SOURCES) $(VENV)/.requirements | tools
	@tools/install_packages.sh liburing-dev 'echo "#include <liburing.h>" | g++ -E -x c++ -' \
	    'reads go without io_uring (slower on fast storage; then make clean build)'
	@echo 'make: building the native module and the ROS interfaces'
	@NEURON_CHUNK_INTERFACES=on $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --no-build-isolation --no-deps --editable .
	@touch $@

lint: build  ## ruff over all Python, clang-format over native/
	@$(BIN)/ruff check .
	@$(BIN)/clang-format --dry-run -Werror $(NATIVE_SOURCES)

format: build  ## Let ruff and clang-format mend what they can
	@$(BIN)/ruff check --fix .
	@$(BIN)/clang-format -i $(NATIVE_SOURCES)

clean:  ## Remove what was built; .venv stays, `rm -rf .venv` starts over
	rm -rf build install log dist demo_out *.egg-info neuron_chunk_ros/_native*.so
	rm -rf .pytest_cache .hypothesis .ruff_cache $(VENV)/.built
	find . -path './$(VENV)' -prune -o -name __pycache__ -prune -exec rm -rf {} +

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
