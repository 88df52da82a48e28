PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Releases of transformers besides that of constraints.txt, which `make test` runs with.
VERSIONS ?= 5.22

.PHONY: help setup demo test versions models soak check bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv and install transom with its extras

# The stamp is written last, so that an interrupted install is taken up again.
$(READY): pyproject.toml constraints.txt
	@echo "1/2 make $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "2/2 install transom and what it needs; PyTorch is most of it, and takes minutes"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@
	@echo "ready; next: make demo"

demo: $(READY) ## read a long text through a real model, in a fixed window
	$(BIN)/transom demo

test: $(READY) ## run the tests, with coverage, two at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term $(PYTEST)

versions: $(READY) ## test what depends on the release of transformers with others, VERSIONS="5.22 5.23"
	@set -e; for version in $(VERSIONS); do \
		folder=$(VENV)/transformers-$$version; \
		echo "== transformers $$version"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
			--target $$folder "transformers~=$$version.0"; \
		OMP_NUM_THREADS=1 PYTHONPATH=$$folder $(BIN)/python -m pytest -n 2 --dist worksteal \
			tests/attention/test_versions.py tests/attention/test_use_pattern.py \
			tests/kv/test_cache.py tests/kv/test_generate.py tests/kv/test_oracle.py tests/test_context.py $(PYTEST); \
	done

models: $(READY) ## try every kind of model of transformers, before a release: docs/models.md
	$(BIN)/python benchmarks/models.py --jobs 2

soak: $(READY) ## kill, flip, fill and fuzz stores of contexts for some ten minutes
	TRANSOM_SOAK=1 $(BIN)/python -m pytest tests/memory $(PYTEST)

check: $(READY) ## lint, formatting, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## run every benchmark
	@set -e; for script in $(filter-out benchmarks/models.py,$(wildcard benchmarks/[a-z]*.py)); do \
		echo "== $$script"; $(BIN)/python "$$script"; done
