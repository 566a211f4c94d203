# `make help` lists what there is. Each target sets up what it needs in .venv; a fresh machine needs
# python3.11 (or a newer python3) and make, nothing else.

VENV := .venv
BIN := $(VENV)/bin

# The first Python that runs and is new enough: a name on the PATH may be the empty shim of a
# version manager. `make PYTHON=…` chooses another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; \
	then echo "$$python"; break; fi; done)

# PostgreSQL of its own unless DATABASE_URL names another.
WITH_SERVER := $(BIN)/python example_project/embedded_postgres.py run

# Interpreters are the machine's affair.
export UV_PYTHON_DOWNLOADS := never

TEST_ARGS ?=
CHAOS_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
PACKAGE_ARGS ?=

.PHONY: help demo test chaos soak bench lint docs package dev clean
.DEFAULT_GOAL := help

# `exec` below: Ctrl+C must not end the shell between make and the command, which is still busy
# stopping what it started.

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.has-example ## run the example site with its worker (DEMO_ARGS=--once: run a batch and end)
	@exec $(WITH_SERVER) --data .demo/postgres -- $(BIN)/python example_project/demo.py $(DEMO_ARGS)

test: $(VENV)/.has-test ## run the tests (TEST_ARGS="-k name -n 0": some of them, in one process)
	@exec $(WITH_SERVER) --fast -- $(BIN)/python -m pytest -n 2 --dist loadfile $(TEST_ARGS)

chaos: $(VENV)/.has-test ## kill, cut, suspend and poison workers for an hour (CHAOS_ARGS="--scale 0.05": less)
	@exec $(BIN)/python -m tests.chaos full $(CHAOS_ARGS)

soak: $(VENV)/.has-test ## do so for hours, each round by another chance (CHAOS_ARGS="--hours 2")
	@exec $(BIN)/python -m tests.chaos soak $(CHAOS_ARGS)

bench: $(VENV)/.has-example ## measure against a raw-SQL loop of the same statements (BENCH_ARGS=…)
	@exec $(WITH_SERVER) -- $(BIN)/python -m benchmarks $(BENCH_ARGS)

lint: $(VENV)/.has-lint ## check style, types, layers, files, and what the documentation cannot run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.docs --lint
	@if git rev-parse --git-dir > /dev/null 2>&1; then \
		PATH="$(CURDIR)/$(BIN):$$PATH" SKIP=ruff-check,ruff-format,mypy,import-linter \
			$(BIN)/pre-commit run --all-files; \
	else \
		echo "make: no git repository here, so the pre-commit hooks were left out"; \
	fi

docs: $(VENV)/.has-docs ## build the documentation in docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	@echo "make: open docs/_build/html/index.html"

package: $(VENV)/.has-package ## build sdist and wheel, and try them in empty environments (PACKAGE_ARGS="--out dist")
	@exec $(WITH_SERVER) --fast -- $(BIN)/python -m tests.packaging $(PACKAGE_ARGS)

dev: $(VENV)/.has-dev ## install everything, for an editor or for tox

clean: ## remove what the other targets made, the demo's database too
	@if test -d .demo/postgres && test -x $(BIN)/python; then \
		$(BIN)/python example_project/embedded_postgres.py stop --data .demo/postgres --remove; fi
	rm -rf .demo $(VENV) .tox docs/_build build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# One stamp per extra, so that the demo does not wait for the linters.
$(VENV)/.has-%: pyproject.toml $(VENV)/.made
	@echo "make: installing django_taskq with [$*] into $(VENV) (once, and when pyproject.toml changes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
		&& $(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[$*]' \
		|| { echo "make: uv did not do it, so pip does"; \
		     $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'; }
	@touch $@

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer was found"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "make: this Python has no venv module; on Debian and Ubuntu: apt install python3-venv"; \
		exit 1; }
	@echo "make: creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@
