# Every target sets up what it needs in .venv; nothing has to be active.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-all test-oldest test-newest mutants lint docs screenshots bench clean

setup: $(VENV)/.ready

$(VENV)/.demo-ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.ready: $(VENV)/.demo-ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group test --group lint
	$(BIN)/python -m pip install --quiet --no-deps 'mmpose>=1.3,<1.4'  # its requirement chumpy cannot be built
	touch $@

# A browser for the tests of interactive pages: one that is there, the distribution's, or Playwright's own.
$(VENV)/.browser: $(VENV)/.ready
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium) \
		|| $(BIN)/python -m playwright install chromium-headless-shell
	touch $@

demo: $(VENV)/.demo-ready
	$(BIN)/loupe demo --save demo

test: $(VENV)/.ready $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -p no:randomly -m "not slow"

test-all: $(VENV)/.ready $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# The two ends of what pyproject.toml admits, each in an environment of its own (5 to 7 GB). By hand, not in CI.
OLDEST := 'torch==2.4.1' 'torchvision==0.19.1' 'numpy<2.1' 'transformers<5'
NEWEST := 'torch==2.14.1' 'torchvision==0.29.1'

.venv-oldest/.ready: PINS = $(OLDEST)
.venv-newest/.ready: PINS = $(NEWEST)
.venv-oldest/.ready .venv-newest/.ready: pyproject.toml Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(@D)/bin/python -m pip install --quiet --editable '.[all]' --group test $(PINS)
	$(@D)/bin/python -m pip install --quiet --no-deps 'mmpose>=1.3,<1.4'
	touch $@

test-oldest test-newest: test-%: .venv-%/.ready
	OMP_NUM_THREADS=1 .venv-$*/bin/python -m pytest -n 2 -m "not slow"

# Faults planted in what the branch changes, and those that no test notices: make mutants WORDS='--count 40 --seed 2'
mutants: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py $(WORDS)

lint: $(VENV)/.ready
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

# A site of the guides and a reference from the docstrings, in build/site; a link that leads nowhere fails it.
docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	$(BIN)/python docs/site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo build/site/index.html

# Every view of the page at 1280 and 390 pixels, light and dark, in build/screenshots
screenshots: $(VENV)/.ready $(VENV)/.browser
	$(BIN)/python docs/screenshots.py

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest dist build demo
