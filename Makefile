# make demo, make test: on a fresh machine each sets up what it needs in .venv and goes on from there.
# make PYTHON=python3.13 demo names another interpreter.

VENV := .venv
TESTS ?= tests
EXTRAS ?= embedded,flower,dev

RECENT := import sys; sys.exit(sys.version_info < (3, 11))
VERSION_OF := import sys; print("%d.%d" % sys.version_info[:2])

# Without a PYTHON: what the environment has already, else the first that can make one, else the first
# that is recent enough, so that the message below says what it lacks.
ifndef PYTHON
PYTHON := $(shell \
	for needs in 'import pip' 'import ensurepip' ''; do \
		for python in $(VENV)/bin/python python3 python3.13 python3.12 python3.11; do \
			test "$$needs" != 'import pip' -o $$python = $(VENV)/bin/python || continue; \
			test "$$needs" = 'import pip' -o $$python != $(VENV)/bin/python || continue; \
			$$python -c "$$needs; $(RECENT)" 2>/dev/null && echo $$python && exit; \
		done; \
	done)
endif
READY := $(VENV)/ready-$(shell $(or $(PYTHON),false) -c '$(VERSION_OF)' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean root

help:
	@echo 'make demo   run friendly and hostile scripts through a queue (root)'
	@echo 'make test   run the tests (root); TESTS=tests/unit for some of them'
	@echo 'make lint   check style and types'
	@echo 'make bench  measure (root); BENCH="--only latency --json FILE" for some of it, BENCH=--help for more'
	@echo 'make clean  remove what these made'
	@echo 'PYTHON=python3.13 names another interpreter than python3'

demo: root $(READY)
	@$(VENV)/bin/sandboxed demo

test: root $(READY)
	@$(VENV)/bin/python -m pytest -q $(TESTS)

lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

bench: root $(READY)
	@$(VENV)/bin/python benchmarks/run.py $(BENCH)

root:
	@test "$$(id -u)" = 0 || { echo 'This needs root, which builds the jails: sudo make …' >&2; exit 1; }

# The stamp bears the Python's version, and is the last thing made: another Python makes the environment
# anew, and what was interrupted is done again.
$(READY): pyproject.toml
	@test -n '$(PYTHON)' || { echo \
		'No Python 3.11 or newer here: install one, or name it with make PYTHON=…' >&2; exit 1; }
	@$(PYTHON) -c '$(RECENT)' 2>/dev/null || { echo \
		'$(PYTHON) is no Python 3.11 or newer: name another with make PYTHON=…' >&2; exit 1; }
	@test "$$($(VENV)/bin/python -c 'import pip; $(VERSION_OF)' 2>/dev/null)" = '$(@:$(VENV)/ready-%=%)' || { \
		$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo \
			'$(PYTHON) makes no virtual environments: on Debian, apt-get install python3-venv' >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(VENV); }
	@echo 'Setting up $(VENV), a minute or so …'
	@$(VENV)/bin/pip install -qq --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
