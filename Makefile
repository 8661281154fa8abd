# Each target works alone on a fresh machine with Python >= 3.11, make and git.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# Plain mode leaves times, ports and pids out of what notebooks show.
PLAIN := MPREG_NB_PLAIN=1

.PHONY: venv demo test lint lab notebooks bench dist constraints

venv: $(STAMP)

$(BIN)/uv:
	@test -n "$(PYTHON)" || { echo "mpreg_nb needs Python 3.11 or newer: make PYTHON=..."; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt

$(STAMP): pyproject.toml constraints.txt | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(STAMP)
	$(BIN)/mpreg-nb demo

bench: $(STAMP)
	$(BIN)/mpreg-nb bench

lab: $(STAMP)
	$(BIN)/jupyter lab --notebook-dir=notebooks

test: $(STAMP)
	$(BIN)/pytest
	$(PLAIN) $(BIN)/pytest notebooks --nbval --nbval-current-env \
		--nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout=60

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: $(STAMP)
	$(PLAIN) $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.timeout=60 \
		--ExecutePreprocessor.record_timing=False $(NOTEBOOKS)

dist: $(STAMP)
	$(BIN)/uv build --no-build-isolation --python $(BIN)/python

# Needs uv alone, so that it also mends pins that pyproject.toml has outgrown.
constraints: | $(BIN)/uv
	echo '# Versions that are tested together. Remade by: make constraints' > constraints.new
	$(BIN)/uv pip compile --quiet --universal --all-extras --no-emit-index-url \
		--no-header --no-annotate pyproject.toml >> constraints.new
	mv constraints.new constraints.txt
