# Every target sets up what it needs in .venv; nothing has to be active.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-all lint bench clean

setup: $(VENV)/.ready

$(VENV)/.demo-ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.ready: $(VENV)/.demo-ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group test --group lint
	touch $@

demo: $(VENV)/.demo-ready
	$(BIN)/loupe demo --save demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/.ready
	$(BIN)/python -m pytest

lint: $(VENV)/.ready
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) dist build demo
