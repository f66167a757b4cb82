# All set-up happens here: every target creates .venv and installs what it needs, once.
PYTHON ?= python3
VENV ?= .venv
# For a CPU-only PyTorch on Linux: make reproduce PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
INPUTS := pyproject.toml constraints.txt

.PHONY: help reproduce figures docs test test-all check bench bench-llm clean

help:
	@echo "make reproduce   install, make the main figures, print the final distances"
	@echo "make test        install, run the tests (under 6 minutes)"
	@echo "make test-all    run the slow tests: wheel, notebook, pages, labs, pictures, language models"
	@echo "make check       lint and type-check"
	@echo "make bench       time the engine against a plain PyTorch loop, and objectives against DPO"
	@echo "make bench-llm   time didsim.llm's trainer against TRL's"
	@echo "make figures     remake the committed figures/ and the numbers in README.md"
	@echo "make docs        install, write the documentation site into ./site"
	@echo "make clean       remove .venv and caches; results stay"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "didsim needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(INPUTS) | $(VENV)/bin/python
	@echo "Installing didsim into $(VENV) ..."
	$(INSTALL) -e .
	@touch $@

$(VENV)/.ready-dev: $(INPUTS) | $(VENV)/bin/python
	@echo "Installing didsim and its development tools into $(VENV) ..."
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.ready

reproduce: $(VENV)/.ready
	$(BIN)/didsim reproduce

# two processes of one thread each; a file's tests stay together, since they share fixtures
test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not llm" --numprocesses 2 --dist loadfile

test-all: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or llm" --numprocesses 2 --dist loadfile

check: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.ready-dev
	$(BIN)/python benchmarks/bench_grid.py
	$(BIN)/python benchmarks/bench_objectives.py

bench-llm: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_llm.py

figures: $(VENV)/.ready-dev
	$(BIN)/didsim reproduce --all
	cp didsim-out/*.svg didsim-out/*.pdf didsim-out/*.png didsim-out/*.csv didsim-out/*.json figures/
	$(BIN)/python figures/readme_table.py
	$(BIN)/python figures/gallery.py

# MkDocs 1.6 is what the site is for; the theme's maker warns of another program's version 2
docs: $(VENV)/.ready-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist site
