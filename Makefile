# The whole contributor workflow. On Linux without a graphics card, `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# make setup` spares you the CUDA libraries.
.PHONY: help setup demo test check lint types format clean
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := runs/demo

help:
	@echo "make setup   install zsem and its development tools into $(VENV); quick when nothing changed"
	@echo "make demo    render faces, train for five minutes, encode and decode held-out faces (12 minutes)"
	@echo "make test    everything that is not marked slow, after the checks (6 minutes)"
	@echo "make check   formatting, lint, layer contract, types"
	@echo "make format  put the code into the house's format"
	@echo "make clean   remove $(VENV), caches and $(DEMO)"

setup: $(INSTALLED)

# torch comes first and by itself: its version is pinned, and nothing that follows may replace it
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "zsem needs Python 3.11 or later; name one: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[avatars,dev]'
	@touch $@

demo: setup
	$(BIN)/zsem data avatars --number 2000 --size 32 --out $(DEMO)/avatars
	@rm -rf $(DEMO)/model
	$(BIN)/zsem train $(DEMO)/avatars --preset nano --minutes 5 --out $(DEMO)/model
	$(BIN)/zsem reconstruct $(DEMO)/model $(DEMO)/avatars --split val --limit 64 --compare --out $(DEMO)/reconstruction
	@echo "Look at $(DEMO)/reconstruction/reconstruction.png: original, exact, and what the semantic code alone says."

# The tests run even where a check has failed, so that one run tells everything. Their networks are too small for
# threads, which wait for each other where a machine is shared
test: setup
	@status=0; \
	$(MAKE) --no-print-directory check || status=1; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not browser" || status=1; \
	exit $$status

check: lint types

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports

types: setup
	$(BIN)/pyright

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .ruff_cache .import_linter_cache .hypothesis
