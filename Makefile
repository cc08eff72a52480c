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
	mkdir -p build/benchmarks
	$(BIN)/python benchmarks/capture.py --json build/benchmarks/capture.json
	$(BIN)/python benchmarks/guard.py --json build/benchmarks/guard.json
	$(BIN)/python benchmarks/replay.py --json build/benchmarks/replay.json
	$(BIN)/python benchmarks/table.py build/benchmarks docs/benchmarks.md

pictures: demo
	$(BIN)/python docs/pictures.py demo/report.html demo/pictures
	cp demo/pictures/belief-map-1280-light.png demo/pictures/belief-map-1280-dark.png docs/images
	$(BIN)/python docs/readme.py demo/findings.json README.md

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .mypy_cache
