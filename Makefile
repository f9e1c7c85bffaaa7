# Every target sets itself up in a fresh clone, with a Python from 3.9 to 3.13. Its version
# chooses the lane: 3.9 to 3.11 the classic one (TensorFlow 2.15 and TensorFlow Addons),
# 3.12 and 3.13 the current one (today's TensorFlow). LANE=classic or LANE=current asks for
# one, with an environment of its own; the current lane then takes Python 3.11 too.

LANE ?=
pyenv = $(wildcard $(HOME)/.pyenv/versions/3.$(1).*/bin/python)
CLASSIC = python3.11 python3.10 python3.9 $(call pyenv,11) $(call pyenv,10) $(call pyenv,9)
CURRENT = python3.13 python3.12 $(call pyenv,13) $(call pyenv,12)

ifeq ($(LANE),)
VENV = .venv
PYTHON ?= python3 python $(CLASSIC) $(CURRENT)
VERSIONS = (3, 9) <= version <= (3, 13)
KNOWN = 3.9 to 3.13
else ifeq ($(LANE),classic)
VENV = .venv-classic
PYTHON ?= python3 python $(CLASSIC)
VERSIONS = (3, 9) <= version <= (3, 11)
KNOWN = 3.9, 3.10 or 3.11
else ifeq ($(LANE),current)
VENV = .venv-current
PYTHON ?= $(CURRENT) python3 python $(CLASSIC)
VERSIONS = (3, 11) <= version <= (3, 13)
KNOWN = 3.13, 3.12 or 3.11
else
$(error LANE=$(LANE) is unknown; use LANE=classic or LANE=current)
endif

# Asked of the interpreter itself: a pyenv shim may bear a name and not run.
SUITABLE = import sys, ensurepip; version = sys.version_info[:2]; sys.exit(not $(VERSIONS))
IS_CURRENT = import sys; sys.exit("$(LANE)" != "current" and sys.version_info < (3, 12))
READY = $(VENV)/.ready
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
# The site's tools and TensorFlow pin some packages to different versions.
DOCS = .venv-docs
# The theme announces on each start that MkDocs may have a successor.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs
# Much of a test is TensorFlow tracing graphs, on one core. With an arena for each thread
# the system's allocator keeps several GiB of what was freed.
PYTEST = env MALLOC_ARENA_MAX=2 $(VENV)/bin/python -m pytest -q --numprocesses 2 --dist loadfile
COMPILE = uv pip compile --quiet --universal --no-annotate \
	--custom-compile-command "make constraints"
# Extras that are pinned, though nothing here installs them.
MORE = faiss hub wandb mlflow notebooks
# What `make test` runs: all that is fast, or the files named. XLA keeps what it compiled
# as long as its process lives, so that one pair for all files comes to 23 GiB.
TESTS ?= $(sort $(wildcard tests/test_*.py))

.PHONY: help python ready demo test test-slow lint docs docs-serve constraints clean

help:  ## Print this.
	@echo "make TARGET [LANE=classic|current] [PYTHON=...], where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1|\2/p' Makefile \
		| awk -F'|' '{printf "  %-11s %s\n", $$1, $$2}'

demo: $(READY)  ## Train MoCo v2 on the embedded glyphs: minutes on two CPU cores.
	@$(VENV)/bin/python train.py --config configs/demo.yaml

test: $(READY)  ## Run the fast tests.
	@echo $(TESTS) | xargs -n 50 $(PYTEST)

test-slow: $(READY)  ## Run the slow tests.
	@$(VENV)/bin/python -m pytest -q -m slow $(TESTS)

lint: $(READY)  ## Check the style and the types.
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m mypy

docs: $(DOCS)/.ready  ## Build the site into site/; a broken link fails.
	@$(MKDOCS) build --strict

docs-serve: $(DOCS)/.ready  ## Show the site at http://127.0.0.1:8000, as it is written.
	@$(MKDOCS) serve

constraints:  ## Renew the pinned versions; needs uv and a python3 from 3.11.
	@python3 .ci/requirements.py classic gpu $(MORE) \
		| $(COMPILE) --python-version 3.9 --output-file constraints.txt -
	@python3 .ci/requirements.py current gpu $(MORE) \
		| $(COMPILE) --python-version 3.11 --output-file constraints-current.txt -
	@python3 .ci/requirements.py docs \
		| $(COMPILE) --python-version 3.9 --output-file constraints-docs.txt -

clean:  ## Remove the environments and caches; runs/ stays.
	@rm -rf .venv .venv-classic .venv-current $(DOCS) site .pytest_cache .ruff_cache .mypy_cache dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:  ## Print the Python of which an environment would be made.
	@for python in $(PYTHON); do \
		if "$$python" -c '$(SUITABLE)' 2>/dev/null; then echo "$$python"; exit; fi; \
	done; \
	echo "error: no Python $(KNOWN) with venv was found; install one, or name it with" \
		"make PYTHON=/path/to/python." >&2; \
	exit 1

$(DOCS)/.ready: constraints-docs.txt
	@python=$$($(MAKE) --silent --no-print-directory python) || exit 1; \
		echo "Creating $(DOCS) with $$("$$python" --version)."; \
		"$$python" -m venv --clear $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r constraints-docs.txt
	@touch $@

ready: $(READY)  ## Only set the environment up.

$(READY): pyproject.toml constraints.txt constraints-current.txt .ci/requirements.py
	@$(VENV)/bin/python -c '$(SUITABLE)' 2>/dev/null || { \
		python=$$($(MAKE) --silent --no-print-directory python) || exit 1; \
		echo "Creating $(VENV) with $$("$$python" --version)."; \
		"$$python" -m venv --clear $(VENV); }
	@# The pip that comes with an early 3.9 or 3.10 cannot install from pyproject.toml alone.
	@$(PIP) "pip>=21.3"
	@if $(VENV)/bin/python -c '$(IS_CURRENT)'; then \
		echo "Installing the current lane (constraints-current.txt) into $(VENV);" \
			"this takes minutes, once."; \
		$(VENV)/bin/python .ci/requirements.py current > $(VENV)/requirements.txt; \
		$(PIP) --constraint constraints-current.txt -r $(VENV)/requirements.txt && \
			$(PIP) --no-deps -e .; \
	else \
		echo "Installing the classic lane (constraints.txt) into $(VENV);" \
			"this takes minutes, once."; \
		$(PIP) --constraint constraints.txt -e ".[dev]"; \
	fi
	@touch $@
