# Every target sets itself up: a virtual environment in .venv, made once and again when pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: help install demo test test-fast check bench tables docs clean

help:  ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## Pretrain, align and adapt on Fashion-MNIST; ends with a table and out/fashion-mnist/report.html
	$(BIN)/crosstask run fashion-mnist

install: $(READY)  ## Only set up: .venv/bin/crosstask

test: $(READY)  ## All tests, six to nine minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(READY)  ## The tests of about a minute
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

check: $(READY)  ## Lint, format and types
	$(BIN)/ruff check src tests tools runs examples
	$(BIN)/ruff format --check src tests tools runs examples
	$(BIN)/mypy

bench: $(READY)  ## What a step, corrupted images and records cost, each beside its yardstick
	$(BIN)/python -m crosstask.bench.cost
	$(BIN)/python -m crosstask.bench.corruption_cost
	$(BIN)/python -m crosstask.bench.overhead

tables: $(READY)  ## Write the tables of README.md anew from results/
	$(BIN)/python tools/tables.py

docs: $(READY)  ## Write docs/methods.md anew from the docstrings
	$(BIN)/python tools/methods.py

clean:  ## Remove the environment and everything made
	rm -rf .venv out
