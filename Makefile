PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help setup demo test soak check bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv and install transom with its extras

# The stamp is written last, so that an interrupted install is taken up again.
$(READY): pyproject.toml constraints.txt
	@echo "installing transom and what it needs into $(VENV), for a minute or two ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: $(READY) ## read a long text through a real model, in a fixed window
	$(BIN)/transom demo

test: $(READY) ## run the tests, with coverage, two at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term $(PYTEST)

soak: $(READY) ## kill, flip, fill and fuzz stores of contexts for some ten minutes
	TRANSOM_SOAK=1 $(BIN)/python -m pytest tests/memory $(PYTEST)

check: $(READY) ## lint, formatting, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## run every benchmark
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script"; done
