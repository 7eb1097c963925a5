# Every habit in one place; `make` alone lists the targets. The environment is made on first use,
# and once: the stamps in it are as new as the pyproject.toml that they were made from.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet
TYPED  := client engine service tests scripts examples
# Whoever is done takes over what others have yet to do, so that all end together.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help setup demo test test-fast faults soak fuzz check format lint types imports generated fmt gen docs serve docker clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.dev ## make .venv with everything a developer needs

demo: $(VENV)/.demo ## build, differentiate and train a small classifier over HTTP
	@$(BIN)/python examples/train_digits.py --out demo-output

test: $(VENV)/.dev ## run the whole test suite
	@$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(VENV)/.dev ## run the tests that take milliseconds
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

faults: $(VENV)/.dev ## the long fault tests: kills and full disks in earnest (about an hour)
	@$(BIN)/python -m pytest tests/faults --long --timeout 7200

soak: $(VENV)/.dev ## half an hour of mixed load, memory watched
	@$(BIN)/python -m pytest tests/soak --long --timeout 7200

fuzz: $(VENV)/.dev ## hostile input: the decoder, 5,000 schemathesis cases, a million spoilt requests
	@$(BIN)/python -m tests.fuzz.decoder
	@$(BIN)/python -m pytest tests/contract/test_schemathesis.py --long --timeout 14400
	@$(BIN)/python -m tests.fuzz.http

check: format lint types imports generated ## everything CI checks beside the tests

format: $(VENV)/.dev
	@$(BIN)/ruff format --check --quiet . || { echo "Run make fmt."; exit 1; }

lint: $(VENV)/.dev
	@$(BIN)/ruff check --quiet .

types: $(VENV)/.dev
	@$(BIN)/mypy --no-error-summary $(TYPED)
	@$(BIN)/pyright --warnings

imports: $(VENV)/.dev
	@$(BIN)/lint-imports --no-logo > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }

generated: $(VENV)/.dev
	@$(BIN)/python scripts/gen_client.py --check
	@$(BIN)/python scripts/gen_docs.py --check

fmt: $(VENV)/.dev ## format the code and mend what the linter can mend
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

gen: $(VENV)/.dev ## write the generated files anew: the client's ops, the reference pages
	@$(BIN)/python scripts/gen_client.py && $(BIN)/python scripts/gen_docs.py

docs: $(VENV)/.dev ## build the documentation into site/
	@$(BIN)/zensical build --strict && echo "The documentation is in site/index.html"

serve: $(VENV)/.demo ## start the service on http://127.0.0.1:8000
	@$(BIN)/gradwire serve

docker: ## build the image and test it: health, a restart, the sessions still there
	@docker/test_image.sh

clean: ## remove the environment and everything made by the other targets
	@rm -rf $(VENV) site dist build demo-output .cache .hypothesis .*_cache

# -- the environment ---------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing Gradwire and its tools, PyTorch among them, into $(VENV), once; it takes some minutes ..."
	@$(PIP) -e '.[dev]' && touch $(VENV)/.demo $@

# The demo needs neither the tools nor the test oracle, so a fresh clone shows it sooner.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing Gradwire for the demo into $(VENV), once; it takes a minute or two ..."
	@$(PIP) -e '.[demo]' && touch $@
