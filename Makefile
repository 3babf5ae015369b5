# The front door. Both `demo` and `test` work on a machine with python3, make and a C compiler.
PYTHON ?= python3
PIP := .venv/bin/pip --disable-pip-version-check
BIN := .venv/bin

.PHONY: demo test test-slow lint format bench docs clean

demo: .venv/.core  ## set up the core and train a small Mixer on real digits
	$(BIN)/mixonomy train --out runs/demo

test: .venv/.all lint  ## set up everything; lint, types and tests, a process for each core
	$(BIN)/pytest -n auto --dist loadfile
	$(BIN)/pytest -m alone

test-slow: .venv/.all  ## the tests that take minutes
	$(BIN)/pytest -m very_slow

lint: .venv/.all
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/pyright

format: .venv/.all
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

bench: .venv/.all  ## training beside timm, on this machine
	$(BIN)/python benchmarks/train.py

docs: .venv/.all  ## generated tables, then the site in site/
	$(BIN)/python benchmarks/tables.py
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.core: pyproject.toml | .venv/bin/python
	$(PIP) install --editable .
	touch $@

.venv/.all: pyproject.toml | .venv/bin/python
	$(PIP) install --editable '.[dev]'
	touch $@ .venv/.core
