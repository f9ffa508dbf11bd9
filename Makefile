# The commands of the project. Each makes what it needs: a virtual environment with pinned packages.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check bench golden clean

setup: .venv/dev.done

demo: .venv/run.done  ## the whole chain in minutes: runs/demo/report.html
	$(BIN)/isoflop run demo

test: .venv/dev.done  ## all tests, documentation included; no network, no GPU
	$(BIN)/python -m pytest

check: .venv/dev.done  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev.done  ## speed against transformers, both in one run
	$(BIN)/isoflop bench train

golden: .venv/dev.done  ## record the golden files again; review the diff like code
	$(BIN)/python -m pytest tests/golden --record-golden

clean:
	rm -rf .venv

.venv/python.done:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "isoflop needs Python 3.11 or later; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

.venv/run.done: .venv/python.done requirements/run.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --requirement requirements/run.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv/dev.done: .venv/run.done requirements/dev.txt
	$(BIN)/python -m pip install --quiet --requirement requirements/dev.txt
	touch $@
