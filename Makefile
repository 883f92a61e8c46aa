# physnn. A newcomer needs two of these: `make quickstart` and `make test`.
# Written for the GNU Make 3.81 of macOS as well: no grouped targets, no .ONESHELL.

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.locked
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help env quickstart test lint format simulators bench peers crosscheck lock cuda clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /|/' \
	  | awk -F'|' '{ printf "  make %-12s%s\n", $$1, $$2 }'

env: $(STAMP) ## create .venv from requirements.lock (needs Python 3.11+; takes uv if there)

quickstart: $(STAMP) ## train, score, report and export a first model, under 10 minutes
	@$(PYTHON) -m physnn quickstart

test: $(STAMP) simulators lint ## everything that must hold: lint, then all tests
	@$(PYTHON) -m pytest -rfEs -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(STAMP) ## formatter, linter, import floors, types
	@$(PYTHON) -m ruff format --check --quiet . || \
	  { echo "The files above the line must be formatted: run \`make format\`."; exit 1; }
	@$(PYTHON) -m ruff check --quiet .
	@$(VENV)/bin/lint-imports --no-logo
	@$(PYTHON) -m pyright

format: $(STAMP) ## format all sources, sort imports, apply safe fixes
	@$(PYTHON) -m ruff check --quiet --fix . ; $(PYTHON) -m ruff format .

simulators: ## install ngspice, Icarus Verilog, Yosys, Chromium (Debian as root), or say how
	@sh .ci/simulators

bench: $(STAMP) ## tests/benchmarks: speed, measured on this machine
	@$(PYTHON) -m pytest tests/benchmarks -s -o addopts=--strict-markers --benchmark-only
	@$(PYTHON) -m tests.benchmarks.floors

# The peers bring PyTorch, which we do without; its CPU build, where pip knows one.
PEERS := .cache/peers
peers: $(STAMP) ## speed beside torchsde, torchlogix, aihwkit-lightning, in an environment of its own
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet torch==2.13.0 numpy scipy trampoline tqdm rich
	@$(PEERS)/bin/python -m pip install --quiet --no-deps torchsde==0.2.6 torchlogix==0.2.2 \
	  aihwkit-lightning==2.1.0
	@$(PYTHON) -m tests.benchmarks.peers --torch-python $(PEERS)/bin/python
	@$(PYTHON) -m tests.benchmarks.transformer_parts --torch-python $(PEERS)/bin/python

# ZigZag pins other versions than we do, so it gets an environment of its own.
ZIGZAG := .cache/zigzag
crosscheck: $(STAMP) ## compare a digital bill with ZigZag, in an environment of its own
	@test -x $(ZIGZAG)/bin/python || $(PYTHON) -m venv $(ZIGZAG)
	@$(ZIGZAG)/bin/python -m pip install --quiet "zigzag-dse>=3.9,<4" six
	@PHYSNN_ZIGZAG_PYTHON=$(CURDIR)/$(ZIGZAG)/bin/python \
	  $(PYTHON) -m pytest -m zigzag tests/test_evals_zigzag.py -s

lock: ## renew requirements.lock from pyproject.toml (needs uv)
	@uv pip compile pyproject.toml --group dev --extra data --extra tensorboard \
	  --output-file requirements.lock --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --quiet $(LOCK_ARGS)

cuda: $(STAMP) ## let JAX use an NVIDIA GPU: its CUDA 12 libraries, at the locked version
	@sh .ci/env $(VENV) "jax[cuda12]==$$(sed -n 's/^jax==\([0-9.]*\).*/\1/p' requirements.lock)"

clean: ## remove caches and .venv; runs/ stays
	@rm -rf $(VENV) .cache dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is broken by moving its folder, so the stamp holds the path.
ifneq "$(shell cat $(STAMP) 2>/dev/null)" "$(CURDIR)"
.PHONY: $(STAMP)
endif
$(STAMP): requirements.lock pyproject.toml .ci/env
	@sh .ci/env $(VENV)
