# Everything a contributor runs. Each target makes .venv itself when it is missing or older than pyproject.toml.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tried in this order; PYTHON=/path/to/python puts another one first.
PYTHON ?=
CANDIDATES := $(PYTHON) python3.13 python3.12 python3.11 python3

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint types torture mutants bench soak clients pictures schemas docs build clean

# The tests of several files at a time, those of one file in one process.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile

# A Python that has passed the suite already: test-all leaves its version out.
TESTED ?=

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP)  ## replay a recorded event stream, show one task's history, run a job
	@$(BIN)/taskfold demo

test: $(STAMP)  ## run the tests and the doctests
	@$(BIN)/python tests/support/postgres.py
	@$(BIN)/python tests/support/chromium.py
	$(BIN)/python -m pytest $(PARALLEL)

test-all: $(STAMP)  ## run the tests with the lowest versions admitted, and on every supported Python there is
	@$(BIN)/python tests/support/postgres.py
	@$(BIN)/python tests/support/chromium.py
	$(BIN)/python tools/all_versions.py --tested "$(TESTED)" $(PARALLEL)

lint: $(STAMP)  ## check rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## check the types with mypy (strict) and pyright
	$(BIN)/python -m mypy
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

torture: $(STAMP)  ## kill and interrupt writers, flip bits, read beside writers, explore (an hour; not part of test)
	TASKFOLD_KILLS=300 $(BIN)/python -m pytest tests/log/test_sqlite.py tests/log/test_postgres.py tests/cli/test_cli_run.py tests/cli/test_cli_follow.py -k kill
	TASKFOLD_RECORDERS=1000 $(BIN)/python -m pytest tests/recording -k whatever
	TASKFOLD_STATES=500 $(BIN)/python -m pytest tests/live/test_ended_allocations.py
	TASKFOLD_INTERRUPTIONS=200 TASKFOLD_ALARMS=400 $(BIN)/python -m pytest tests/live/test_interrupted.py
	TASKFOLD_FLIPS=3000 TASKFOLD_CHECKS=300 $(BIN)/python -m pytest tests/log/test_bit_flips.py tests/log/test_beside_a_writer.py
	TASKFOLD_TRIPLES=500 $(BIN)/python -m pytest tests/sources/test_sources.py
	$(BIN)/python -m pytest tests --hypothesis-profile explore -k "folding or whatever or begins_again or scan or counting or policy"

mutants: $(STAMP) $(VENV)/.mutants  ## change the rules and see which change no test notices (hours; ONLY=fold/task.py SAMPLE=50)
	$(BIN)/python -m tools.mutants $(ONLY) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(if $(PART),--part $(PART))

$(VENV)/.mutants: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutants]'
	@touch $@

bench: $(STAMP)  ## run the benchmarks beside their rivals
	$(BIN)/python -m benchmarks

soak: $(STAMP)  ## ten minutes of simulated clusters without a violation, and a scheduler whose process does not grow
	PYTHONPATH=engine $(BIN)/python -m benchmarks.simulating
	PYTHONPATH=engine $(BIN)/python -m benchmarks.soak

pictures: $(STAMP)  ## draw the pictures of the documents anew, from the recordings
	@$(BIN)/python tests/support/chromium.py
	PYTHONPATH=engine:tests $(BIN)/python -m tools.pictures

clients: $(STAMP)  ## have clients of Nomad ask a server, and write the table of what they get (installs them; minutes)
	PYTHONPATH=engine $(BIN)/python -m tools.clients

schemas: $(STAMP)  ## write anew what is generated and committed: schemas/, the face for type checkers
	$(BIN)/python -m tools.schemas --write schemas
	$(BIN)/python -m tools.openapi --write schemas
	$(BIN)/python -m tools.face

docs: $(STAMP) $(VENV)/.docs  ## build the documentation into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean --quiet --site-dir site

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

build: $(STAMP)  ## build the wheel and the sdist into dist/
	$(BIN)/python -m build --no-isolation --outdir dist

clean:  ## remove what the other targets made, except .venv
	rm -rf dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis .venvs
	find engine tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# A name on PATH may be a stub that fails when run, or a Python without venv: a candidate has to prove itself.
$(STAMP): pyproject.toml
	@for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        python="$$candidate"; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "taskfold needs Python 3.11 or newer with the venv module; none of these runs: $(strip $(CANDIDATES))." >&2; \
	    echo "Name one with: make PYTHON=/path/to/python ..." >&2; \
	    exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$($$python --version)" && "$$python" -m venv --clear $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
