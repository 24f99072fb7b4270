# `make demo` on a new machine sets everything up first. Every check of CI is a target here.

PYTHON ?= python3
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
READY  := $(VENV)/.ready
BENCH  := $(VENV)/.ready-bench
DOCS   := $(VENV)/.ready-docs

# Static tools do not follow the package-dir mapping of an editable install: they read the wheel, unpacked here.
WHEEL   := build/wheel
SOURCES := $(shell find txgraph passes backends -not -path '*__pycache__*' \( -type d -o -type f \))

EXAMPLES := $(patsubst examples/%,run-%,$(wildcard examples/*.py))

.PHONY: $(EXAMPLES) run-notebooks help demo test lint format typecheck contracts examples docs site serve gallery check bench bench-cpu bench-cuda gpu gpu-packages clean .venv
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z.]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: $(READY) ## set up .venv (PYTHON=python3.12 chooses another Python)

$(READY): pyproject.toml setup.py constraints.txt scripts/system_deps.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "txgraph needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	PYTHON='$(PYTHON)' bash scripts/system_deps.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(BENCH): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	@touch $@

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

$(WHEEL)/.ready: $(READY) $(SOURCES)
	rm -rf $(WHEEL) build/lib build/bdist.* build/dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/dist .
	$(BIN)/python -m pip install --quiet --no-deps --no-compile --target $(WHEEL) build/dist/txgraph-*.whl
	@touch $@

demo: $(READY) ## optimize a model and show what was done
	$(BIN)/python examples/demo.py

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -q -n auto --dist worksteal

lint: $(READY) ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## ruff: repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(WHEEL)/.ready ## mypy --strict on the built wheel
	cd $(WHEEL) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p txgraph

contracts: $(WHEEL)/.ready ## import-linter on the built wheel
	cd $(WHEEL) && $(BIN)/lint-imports --no-cache --config $(CURDIR)/pyproject.toml

examples: $(EXAMPLES) run-notebooks ## run every example and notebook (-j2: two at a time)

# One thread each: threads of two at a time would wait for each other.
$(EXAMPLES): run-%: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python examples/$*

run-notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/run_notebooks.py

docs: $(READY) site ## links, code blocks, doctests, the site, and whether what is generated is up to date
	$(BIN)/python scripts/generate_pass_docs.py --check
	$(BIN)/python scripts/make_gallery.py --check
	$(BIN)/python scripts/check_docs.py

site: $(DOCS) $(WHEEL)/.ready ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

serve: $(DOCS) $(WHEEL)/.ready ## show the documentation on http://127.0.0.1:8000 while it is written
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --livereload

gallery: $(READY) ## draw docs/gallery/ anew
	$(BIN)/python scripts/make_gallery.py

check: test lint typecheck contracts examples docs ## all that CI runs

bench: $(BENCH) ## compare with eager and torch.compile on this machine
	$(BIN)/python -m benchmarks.compare

bench-cpu: $(BENCH) ## all rows and competitors on the CPU, then docs/benchmarks.md: half an hour on a quiet machine
	$(BIN)/python -m benchmarks.compare --suite cpu
	$(BIN)/python -m benchmarks.page

bench-cuda: $(BENCH) ## the rows for an NVIDIA GPU, then docs/benchmarks.md
	$(BIN)/python -m benchmarks.compare --suite cuda
	$(BIN)/python -m benchmarks.page

gpu-packages: ## what `make gpu` needs in Python alone, to be brought along to a machine without a network
	$(PYTHON) -m pip install --quiet --target build/gpu-packages rich graphviz

gpu: ## the tests and benchmarks that need an NVIDIA GPU, with the packages of PYTHON as they are
	$(PYTHON) scripts/gpu.py

clean: ## remove what the other targets made, except .venv
	rm -rf build dist out txgraph.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
