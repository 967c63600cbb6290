# The environment is made on first use; VENV= names another place for it, PYTHON= another interpreter.
VENV ?= .venv
PYTHON ?= python3
EXPERIMENT ?= experiments/smoke.yaml
ARGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.prune_bench

.PHONY: sweep test test-fast lint type bench docs clean help
.DEFAULT_GOAL := help

help:  ## Say what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

sweep: $(READY)  ## Run an experiment: make sweep EXPERIMENT=experiments/smoke.yaml ARGS='seeds=[0]'
	@$(BIN)/prune-bench sweep $(EXPERIMENT) $(ARGS)

test: $(READY)  ## Run all tests
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-fast: $(READY)  ## Run the tests that take no more than a few seconds each
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

lint: $(READY)  ## Check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(READY)  ## Check types
	$(BIN)/mypy

bench: $(READY)  ## Time steps, packs, searches and the engine in turn, on an idle machine: make bench PEERS=/folder
	@$(BIN)/python benchmarks/table.py $(ARGS)

docs: $(READY)  ## Write docs/methods.md anew from the registered methods
	$(BIN)/python docs/make_methods.py

clean:  ## Remove the environment, runs and caches
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (PyTorch is large: a few minutes the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@-$(BIN)/prune-bench methods > /dev/null  # the lists need no torch until the code changes
	@touch $@
