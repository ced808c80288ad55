# Everything runs in .venv. The first target that needs it makes it; it is made again only when
# pyproject.toml or constraints.txt change. The packages are links into uv's cache, so that a
# second clone on the same disk takes seconds and no space.

PYTHON ?= python3
WORKERS ?= auto
DEMO ?= demo
ARGS ?=
ADDRESS ?= localhost:8000
FUZZ ?= 10000

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
LOCAL_UV := .uv/bin/uv
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(LOCAL_UV))
CODE := src tests benchmarks docs frontend/scripts
# scores.py and ladder.py train for hours; mutants.py and kills.py run tests and commands for hours.
BENCHMARKS := $(filter-out $(addprefix benchmarks/,scores.py ladder.py mutants.py kills.py),$(wildcard benchmarks/*.py))

# Where byte code is not kept, every process that a test starts compiles torch anew, for 10 seconds.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all fuzz mutants check audit lint types format web-types docs docs-serve notebooks wheel runtime-wheel web web-test web-lock bench clean distclean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## Make the environment .venv.

demo: $(STAMP) ## Synthetic rasters, training, map and report in demo/ (or DEMO=folder).
	$(BIN)/terrafuse demo --out $(DEMO)

# One computing thread per process: two processes of two threads each would wait for each other.
test: $(STAMP) ## The tests (ARGS="-k name" for some, WORKERS=n processes).
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal $(ARGS)

test-all: $(STAMP) ## The tests with the slow ones.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal \
		-m "not gpu and not weights and not fuzz" $(ARGS)

# Kinds of inputs are the files in tests/fuzz; FUZZ=2000 tries fewer of each.
fuzz: $(STAMP) ## Mutated inputs of every kind, 10,000 each (FUZZ=n).
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 tests/fuzz -m fuzz \
		--fuzz-inputs $(FUZZ) --show-capture=no -o faulthandler_timeout=0 $(ARGS)

check: lint types test docs ## Everything that must hold before a change is proposed.

notebooks: $(STAMP) ## Execute docs/notebooks, and the page on methods of one's own.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_notebooks.py tests/test_own_method.py \
		-m "not gpu and not weights" $(ARGS)

lint: $(STAMP) ## Format and lint, without changing files.
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

types: $(STAMP) ## mypy, strict.
	$(BIN)/mypy

# What .venv has, and the page's lock file. Asks registries, and so is no test. `--strict`: of a
# registry that knows of no vulnerabilities, "No known vulnerabilities found" would be no news.
audit: $(STAMP) ## Look for published vulnerabilities of what we depend on.
	$(UV) pip freeze --python $(BIN)/python --exclude-editable | sed 's/+[a-z0-9.]*$$//' > $(VENV)/installed.txt
	$(UV) tool run pip-audit --strict --requirement $(VENV)/installed.txt --no-deps --disable-pip
	npm --prefix frontend audit --package-lock-only --audit-level=high

format: $(STAMP) ## Format the code and mend what the linter can.
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

web-types: $(STAMP) ## Write the TypeScript of what the page and the server agree on.
	$(BIN)/python frontend/scripts/contract.py

docs: $(DOCS_STAMP) ## Build the documentation into site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

docs-serve: $(DOCS_STAMP) ## Serve the documentation on ADDRESS, built again when a page changes.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr $(ADDRESS)

wheel: $(STAMP) ## Build the wheel into dist/.
	$(UV) build --wheel --out-dir dist

runtime-wheel: $(STAMP) ## Build the wheel of terrafuse-runtime, which maps without torch, into dist/.
	$(UV) build --wheel --out-dir dist packaging/runtime

# The page's built files are committed: the package needs no Node.
web: frontend/node_modules ## Build the page into src/terrafuse/web/page (Node 20 or later).
	cd frontend && npm run build

web-test: frontend/node_modules ## The page's own tests.
	cd frontend && npm test

# After `npm install` of something: the lock file names no addresses.
web-lock: ## Strip the addresses from the lock file of npm.
	cd frontend && node scripts/lock.mjs

frontend/node_modules: frontend/package.json frontend/package-lock.json
	cd frontend && npm ci
	@touch $@

mutants: $(STAMP) ## Plant faults in copies of the source and name those that no test notices.
	$(BIN)/python benchmarks/mutants.py $(ARGS)

bench: $(STAMP) ## Measure reading and the scene engine.
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## Remove what was built, except the environment and runs/.
	rm -rf build dist site demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the environment as well.
	rm -rf $(VENV) .uv frontend/node_modules

# An interpreter that is too old is not used: uv looks for another one, or fetches it.
$(STAMP): pyproject.toml constraints.txt | $(filter $(LOCAL_UV),$(UV))
	@$(BIN)/python -c '' 2>/dev/null || { \
		rm -rf $(VENV); \
		python=$$($(PYTHON) -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")'); \
		$(UV) venv --python "$${python:->=3.11}" $(VENV); \
	}
	$(UV) pip install --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(UV) pip install --python $(BIN)/python -c constraints.txt -e '.[dev,docs]'
	@touch $@

# `--target` also works where the system's Python refuses to install; without pip, an environment.
$(LOCAL_UV):
	$(PYTHON) -m pip install --quiet --target .uv uv || \
		{ rm -rf .uv; $(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet uv; }
