# Each target works alone on a fresh machine with Python >= 3.11, make and git.

# What Python compiles is kept, whatever the environment says: the tests start hundreds
# of processes, which would each compile all they import.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
# The newest Python of this machine: on PATH, then among those of pyenv, whose shims
# on PATH may stand for a version that was not chosen: only what runs counts.
NEWEST ?= $(shell for minor in 14 13 12; do \
	for python in python3.$$minor \
		$${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.$$minor.*/bin/python; do \
		$$python -c '' 2>/dev/null && echo $$python && exit; done; done)
TAG := import sys; print(sys.implementation.cache_tag)
EXTRA ?= dev
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# Files of tests run two by two: most of their time is waiting. In their order, so that
# a long one does not come last, alone.
JOBS ?= 2
TWO_BY_TWO := -n $(JOBS) --dist loadfile --no-loadscope-reorder
# Plain mode leaves times, ports and pids out of what notebooks show.
PLAIN := MPREG_NB_PLAIN=1

.PHONY: venv demo test test-newest test-notebooks test-versions history large-values \
	many-submits rolling-restart soak simulation simulation-long lint lab notebooks \
	test-plain-ways growth bench peers dist docs constraints

venv: $(STAMP)

$(BIN)/uv:
	@test -n "$(PYTHON)" || { echo "mpreg_nb needs Python 3.11 or newer: make PYTHON=..."; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt

$(STAMP): pyproject.toml constraints.txt | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[$(EXTRA)]' -c constraints.txt
	@touch $@

demo: $(STAMP)
	$(BIN)/mpreg-nb demo

# mpreg_nb and other libraries at the same work, each in an environment of its own:
# a table. About ten minutes on an idle machine, and ROUNDS decides.
ROUNDS ?= 5
peers: $(STAMP)
	$(BIN)/python -m tests.benchmarks.peers --rounds $(ROUNDS)

bench: $(STAMP)
	$(BIN)/mpreg-nb bench

lab: $(STAMP)
	$(BIN)/jupyter lab --notebook-dir=notebooks

TUTORIALS := $(PLAIN) $(BIN)/pytest $(TWO_BY_TWO) -p nbval.plugin notebooks --nbval \
	--nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg \
	--nbval-cell-timeout=60

test: $(STAMP)
	$(BIN)/pytest $(TWO_BY_TWO)
	$(TUTORIALS)

# The tutorials and the pages in browsers alone, for another Python than that of `test`:
# make test-notebooks PYTHON=python3.13 VENV=build/cpython-313
test-notebooks: $(STAMP)
	$(TUTORIALS)
	$(BIN)/pytest $(TWO_BY_TWO) -m browser

# What depends on the version of Python, on the newest one of this machine: how
# functions and values travel, tracebacks, cells that are read as code, processes.
test-newest: $(STAMP)
	@tag=$$($(or $(NEWEST),$(BIN)/python) -c '$(TAG)'); \
	if [ "$$tag" = "$$($(BIN)/python -c '$(TAG)')" ]; then \
		echo "test-newest: no other Python than $$tag to test on; make test runs there"; \
	else \
		$(MAKE) --no-print-directory test-versions EXTRA=test \
			PYTHON=$(NEWEST) VENV=build/$$tag; \
	fi

# Left out: browsers, notebooks and their kernels, the protocols of membership and
# routing (arithmetic that no version changes), drawings and tables, the rules of the
# house, nodes and clients, and the tests of whole clusters but for those of functions
# and values.
VERSIONED := mpreg_nb $(addprefix tests/,protocol serialize worker transport workflows notebook \
	$(addprefix test_,cures.py errors.py names.py packaging.py) \
	$(addprefix live/test_,named_in_functions.py present_code.py values.py))

test-versions: $(STAMP)
	$(BIN)/pytest $(TWO_BY_TWO) $(VERSIONED) -m 'not browser'

# All tests with the fast ways switched off: every call goes through its node, a map
# sends each call by itself, and large values go through sockets.
PLAIN_WAYS := MPREG_NB_DIRECT_CALLS=0 MPREG_NB_MAP_CHUNK_MS=0 MPREG_NB_CHAIN_MS=0 \
	MPREG_NB_SHARED_MEMORY_MB=0
test-plain-ways: $(STAMP)
	$(PLAIN_WAYS) $(BIN)/pytest $(TWO_BY_TWO) $(ROOMS)

# What one more function, node, step, item, call or run costs where there are many: a
# table, and the page docs/growth.md with its figure. About ten minutes.
growth: $(STAMP)
	$(BIN)/python -m tests.benchmarks.growth --page --save build/growth.json

# Calls under faults, about two minutes a seed: did each end as its caller was told?
# Over TLS: make history SEEDS=1 TLS=1. On hosts of ssh: SSH=1; TLS=1 with it, or tunnels.
# On workers of Dask: DASK=1.
SEEDS ?= 1 2 3
history: $(STAMP)
	$(BIN)/python -m tests.live.history $(if $(TLS),--tls) $(if $(SSH),--ssh) \
		$(if $(DASK),--dask) $(SEEDS)

# Five nodes are restarted one after the other under load, RUNS times: nothing is lost.
RUNS ?= 10
rolling-restart: $(STAMP)
	$(BIN)/python -m tests.live.rolling_restart $(RUNS)

# Work and churn for so long: a table, build/soak.png, and an error if anything grew.
MINUTES ?= 10
soak: $(STAMP)
	$(BIN)/python -m tests.live.soak $(MINUTES)

# 1,000 round trips of 100 MB, and kills meanwhile: is any memory left?
large-values: $(STAMP)
	$(BIN)/python -m tests.live.large_values

# Membership in simulated time: a table, build/simulation.png, and an error if a bound
# is missed. The long one takes an hour or two.
simulation: $(STAMP)
	$(BIN)/python -m tests.membership.report quick

simulation-long: $(STAMP)
	$(BIN)/python -m tests.membership.report long

# So many small calls at once: none is Overloaded, and the kernel stays small.
CALLS ?= 200000
many-submits: $(STAMP)
	$(BIN)/python -m tests.live.many_submits $(CALLS)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: $(STAMP)
	$(PLAIN) $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.timeout=60 \
		--ExecutePreprocessor.record_timing=False $(NOTEBOOKS)

# The documentation, into build/docs; a broken link or reference is an error.
docs: $(STAMP)
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

dist: $(STAMP)
	$(BIN)/uv build --no-build-isolation --python $(BIN)/python

# Needs uv alone, so that it also mends pins that pyproject.toml has outgrown.
constraints: | $(BIN)/uv
	echo '# Versions that are tested together. Remade by: make constraints' > constraints.new
	$(BIN)/uv pip compile --quiet --universal --all-extras --no-emit-index-url \
		--no-header --no-annotate pyproject.toml >> constraints.new
	mv constraints.new constraints.txt
