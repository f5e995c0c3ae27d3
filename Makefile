# `make demo` and `make test` set up what they need: the stamp stands for a finished .venv, shared by both.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format types lock bench clean

BIN := .venv/bin
STAMP := .venv/.ready
PYTEST := $(BIN)/python -m pytest

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml .ci/bootstrap.txt .ci/setup
	@.ci/setup
	@touch $@

setup: $(STAMP) ## make .venv: every package pinned and checked by hash (PYTHON=... to choose the interpreter)

demo: $(STAMP) ## train, encode and retrieve on videos made on the spot; ends with the path of a report
	$(BIN)/mgvr demo

test: lint types ## lint, types and every test but the slow ones
	$(PYTEST) -m "not slow" --numprocesses 2

test-all: lint types ## the slow tests too: kills, soak and large scale
	$(PYTEST)

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(STAMP) ## rewrite the files as ruff wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

bench: $(STAMP) ## the benchmarks under tests/benchmarks, which no other target runs
	$(PYTEST) -s -o python_files="bench_*.py" tests/benchmarks

lock: $(STAMP) ## pin again after a change of pyproject.toml (UPGRADE=1: at the newest versions)
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header $(if $(UPGRADE),--upgrade) --output-file requirements.lock

clean: ## remove caches and builds; .venv, .cache and runs stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +
