# Two commands do all the set-up: `make demo` and `make test`. The README has them as plain pip commands too.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint mutants fuzz

demo: .venv/installed
	$(BIN)/fedsim run scenarios/quickstart.yaml

# One thread a process, two processes: the tests are many small tensors, thread pools on the same processors fight, and
# those that wait for Ray leave a processor idle.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-slow: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

# How much the tests notice: small wrong changes of the code, drawn by a seed, and which of them no quick test finds.
MUTANTS ?= 300
SEED ?= 0
mutants: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py --mutants $(MUTANTS) --seed $(SEED) --table docs/mutants.md

# Damaged and made-up files of every kind that fedsim reads: no traceback, no hang, nothing written elsewhere.
CASES ?= 10000
fuzz: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --cases $(CASES) --seed $(SEED)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The stamps: a second call installs nothing again unless pyproject.toml has changed.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ .venv/installed
