# Every target does its own set-up: a virtual environment in .venv with the versions of
# constraints.txt, installed by uv, which comes from there too. Whatever is downloaded, to install or
# to build with, is refused if its hash is not the one of that file. Bytecode is compiled once here,
# or each of Ray's workers might compile torch anew.

VENV := .venv
STAMP := $(VENV)/.installed
PYTHON ?= python3
UV := $(VENV)/bin/uv
INSTALL := $(UV) pip install --quiet --python $(VENV)/bin/python --constraint constraints.txt \
	--build-constraints constraints.txt --require-build-hashes

# Workers run in this environment itself rather than in one that Ray would build for each.
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0

.DEFAULT_GOAL := help
.PHONY: help install study test test-core docs lint format benchmarks constraints clean

help: ## Show what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Install raydrop and what it needs into .venv

$(STAMP): pyproject.toml constraints.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' constraints.txt > $(VENV)/uv.txt
	@$(VENV)/bin/python -m pip install --quiet --require-hashes --requirement $(VENV)/uv.txt
	$(INSTALL) --compile-bytecode --editable '.[dev,export]'
	@touch $@

study: $(STAMP) ## Run the digits study: all four stages, about four minutes on two cores
	$(VENV)/bin/python sweeps/digits.py

# pytest and the processes of tests keep what they compiled, which takes twice as long as running it.
unexport PYTHONDONTWRITEBYTECODE

# Files of tests are shared out among processes, one more than two cores: tests of Ray mostly wait.
BESIDE := --dist loadfile --no-loadscope-reorder

# A thread for each process: numpy's threads would wait for each other.
test test-core: export OMP_NUM_THREADS := 1

test: $(STAMP) ## Run the whole test suite, in three processes
	$(VENV)/bin/python -m pytest -n 3 $(BESIDE)

test-core: $(STAMP) ## Run the tests that need no Ray, browser or server of an object store
	$(VENV)/bin/python -m pytest -n 2 $(BESIDE) -m "not ray and not services"

docs: $(STAMP) ## Build the site of docs/ and docstrings in build/site
	$(VENV)/bin/sphinx-build -W --keep-going -q docs build/site

lint: $(STAMP) ## Check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(STAMP) ## Format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

benchmarks: $(STAMP) ## Measure training, scoring and scheduling, and kill drivers
	$(INSTALL) --editable '.[bench]'
	$(VENV)/bin/python benchmarks/training.py
	$(VENV)/bin/python benchmarks/feeding.py
	$(VENV)/bin/python benchmarks/scoring.py
	$(VENV)/bin/python benchmarks/scoring.py --sharded
	$(VENV)/bin/python benchmarks/scaling.py
	$(VENV)/bin/python benchmarks/streaming.py
	$(VENV)/bin/python benchmarks/chaos.py

# Besides what pyproject.toml asks for: what builds it, what installs it, and Google Cloud's client.
constraints: $(STAMP) ## Resolve every version anew into constraints.txt
	@{ sed -n '/^#/p' constraints.txt; printf '%s\n' hatchling editables uv google-api-python-client | \
	  $(UV) pip compile pyproject.toml - --extra dev --extra bench --extra export --extra cluster --extra docs --universal --python-version 3.11 \
	    --upgrade --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet; } > .constraints.new
	@mv .constraints.new constraints.txt

clean: ## Remove the environment and the caches, not the results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
