PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-engines lint bench bench-own bench-peers pictures inspector-pictures coverage coverage-check clean

demo: .venv/ready
	$(BIN)/undertow demo -o demo --overwrite

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not engine"

# Real engines start processes of their own, so these run one after another.
test-engines: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m engine tests/engines

lint: .venv/ready
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

# Everything; bench-own needs no network, bench-peers installs the other tools, each in an environment of its own.
bench: bench-peers bench-own

bench-own: build/benchmarks/material/material.json
	$(BIN)/python benchmarks/scaling.py --json build/benchmarks/scaling.json
	$(BIN)/python benchmarks/replay.py --json build/benchmarks/replay.json
	$(BIN)/python benchmarks/routing.py --json build/benchmarks/routing.json
	$(BIN)/python benchmarks/guard.py --json build/benchmarks/guard.json
	$(BIN)/python benchmarks/flat.py --json build/benchmarks/flat.json
	$(BIN)/python benchmarks/startup.py --json build/benchmarks/startup.json
	$(BIN)/python benchmarks/serve.py --json build/benchmarks/serve.json --write docs/serve.md
	$(BIN)/python benchmarks/soak.py --write docs/serve.md
	$(BIN)/python benchmarks/engines.py --json build/benchmarks/engines.json --write docs/scale.md
	$(BIN)/python benchmarks/plan.py build/benchmarks/engines.json --write docs/scale.md
	test -f build/benchmarks/peers.json || $(BIN)/python benchmarks/compare.py \
		--tools bare undertow transformers loop --json build/benchmarks/own.json
	$(BIN)/python benchmarks/cost.py --write docs/cost.md
	$(BIN)/python benchmarks/table.py build/benchmarks docs/benchmarks.md

bench-peers: build/benchmarks/material/material.json
	$(BIN)/python benchmarks/environments.py
	$(BIN)/python benchmarks/compare.py --json build/benchmarks/peers.json
	$(BIN)/python benchmarks/table.py build/benchmarks docs/benchmarks.md

build/benchmarks/material/material.json: .venv/ready benchmarks/material.py benchmarks/common.py
	$(BIN)/python benchmarks/material.py build/benchmarks/material

coverage: .venv/ready
	$(BIN)/python benchmarks/zoo.py docs/coverage.md

coverage-check: .venv/ready
	$(BIN)/python benchmarks/zoo.py docs/coverage.md --check

pictures: demo
	$(BIN)/python docs/pictures.py demo/report.html demo/pictures
	cp demo/pictures/belief-map-1280-light.png demo/pictures/belief-map-1280-dark.png docs/images
	$(BIN)/python docs/readme.py demo/findings.json README.md

inspector-pictures: .venv/ready
	$(BIN)/python docs/inspector_pictures.py docs/images

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .mypy_cache
