# Each target makes .venv first when it is missing or older than pyproject.toml.
#   make demo       a real Postgres captured, joined, served and verified; ends by itself
#   make test       lint and all tests: servers from a container engine, or native processes
#   make test-fast  the tests that need no server; under 30 s
#   make bench      the figures of bench/README.md
#   make lint       formatting, rules, types

PYTHON ?= python3
BIN := .venv/bin
DEMO_STAMP := .venv/.demo-installed
DEV_STAMP := .venv/.dev-installed
SOURCES := $(wildcard cdc views sinks compaction demo bench tests)

# Containers often set this. Every process of the tests and the demo would compile all modules anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-fast bench lint format

demo: $(DEMO_STAMP)
	$(BIN)/python -m demo.run

# loadgroup: tests that share a heavy server (tests/conftest.py) run in one worker.
# Three workers on CI's two cores: a test often waits for a server, and another has the core then.
test: lint
	$(BIN)/python -m pytest -n 3 --dist loadgroup

test-fast: $(DEV_STAMP)
	$(BIN)/python -m pytest -n 2 -m "not service and not slow and not crash"

bench: $(DEV_STAMP)
	$(BIN)/python -m bench.run

lint: $(DEV_STAMP)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

format: $(DEV_STAMP)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# The dev extra contains the demo's.
$(DEV_STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(DEV_STAMP) $(DEMO_STAMP)

$(DEMO_STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $(DEMO_STAMP)
