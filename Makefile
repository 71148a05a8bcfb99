# One word a task. Everything lives in .venv/ and .llmagentos/ of this checkout.
#
#   PYTHON      a Python of 3.11 or later; found by itself
#   TORCH_ARGS  extra arguments for installing torch, e.g. "--index-url <PyTorch's CPU index>" where pip's
#               own settings would fetch the CUDA build
#   ARGS        more arguments for demo, up and test

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
TORCH_ARGS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PINS := cluster/constraints.txt
TORCH := $(shell grep '^torch==' $(PINS))
FINISHED := .pytest_cache/v/llmagentos/finished
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help install demo test lint check up down
.DEFAULT_GOAL := help

help:
	@echo "make install   create .venv with the pinned packages and .venv/bin/llmagentos"
	@echo "make demo      install, start everything, let it learn for a day, print what it learned"
	@echo "make test      the tests, without those marked slow or gpu"
	@echo "make lint      ruff"
	@echo "make check     mypy on core and config, and lint"
	@echo "make up        start Ray, MLflow and the agent in the background"
	@echo "make down      stop exactly what up started"

install: $(STAMP)

# torch goes first and through pip: a CPU build may be configured in pip's settings, which uv does not read.
# The stamp comes last, so that an interrupted installation is taken up again.
$(STAMP): pyproject.toml $(PINS)
	@test -n "$(PYTHON)" || { echo "No Python found: install Python 3.11, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: say make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/pip || { echo "Creating $(VENV) with $(PYTHON)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "Installing $(TORCH)"
	@$(BIN)/python -m pip install --quiet --no-deps $(TORCH) $(TORCH_ARGS)
	@echo "Installing the other packages"
	@if $(BIN)/python -m pip install --quiet --constraint $(PINS) uv; \
	then VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --constraint $(PINS) --editable '.[test]'; \
	else $(BIN)/python -m pip install --quiet --constraint $(PINS) --editable '.[test]'; fi
	@touch $(STAMP)
	@echo "Installed: $(BIN)/llmagentos"

demo: install
	$(BIN)/llmagentos demo $(ARGS)

test: install
	@rm -f $(FINISHED)
	$(THREADS) $(BIN)/python -m pytest -q -m "not slow and not gpu" $(ARGS)
	@test -f $(FINISHED) || { echo "The tests ended before the last of them: something in them left the process"; exit 1; }

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint
	$(BIN)/mypy -p llmagentos.core -p llmagentos.config

up: install
	$(BIN)/llmagentos up --detach $(ARGS)

down: install
	$(BIN)/llmagentos down
