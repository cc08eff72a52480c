PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench pictures clean

demo: .venv/ready
	$(BIN)/undertow demo -o demo --overwrite

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/python benchmarks/capture.py
	$(BIN)/python benchmarks/guard.py
	$(BIN)/python benchmarks/replay.py

pictures: demo
	$(BIN)/python docs/pictures.py demo/report.html docs/images

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .mypy_cache
