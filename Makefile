# Every target sets itself up in a fresh clone; it needs a Python 3.9, 3.10 or 3.11.

PYTHON ?= python3.11 python3.10 python3.9 python3 python \
	$(wildcard $(HOME)/.pyenv/versions/3.11.*/bin/python) \
	$(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python) \
	$(wildcard $(HOME)/.pyenv/versions/3.9.*/bin/python)
# Asked of the interpreter itself: a pyenv shim may bear a name and not run.
SUITABLE = import sys, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))
VENV = .venv
READY = $(VENV)/.ready
# Much of a test is TensorFlow tracing graphs, on one core.
PYTEST = $(VENV)/bin/python -m pytest -q --numprocesses 2 --dist loadfile

.PHONY: help demo test test-slow lint clean

help:  ## Print this.
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1|\2/p' Makefile \
		| awk -F'|' '{printf "  %-11s %s\n", $$1, $$2}'

demo: $(READY)  ## Train MoCo v2 on the embedded glyphs: minutes on two CPU cores.
	@$(VENV)/bin/python train.py --config configs/demo.yaml

test: $(READY)  ## Run the fast tests.
	@$(PYTEST)

test-slow: $(READY)  ## Run the slow tests.
	@$(VENV)/bin/python -m pytest -q -m slow

lint: $(READY)  ## Check the style.
	@$(VENV)/bin/python -m ruff check .

clean:  ## Remove the virtual environment and caches; runs/ stays.
	@rm -rf $(VENV) .pytest_cache .ruff_cache build moco_tf.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(VENV)/bin/python -c '$(SUITABLE)' 2>/dev/null || { \
		for python in $(PYTHON); do \
			if "$$python" -c '$(SUITABLE)' 2>/dev/null; then \
				echo "Creating $(VENV) with $$("$$python" --version)."; \
				exec "$$python" -m venv --clear $(VENV); \
			fi; \
		done; \
		echo "error: no Python 3.9, 3.10 or 3.11 with venv was found;" \
			"install one, or name it with make PYTHON=/path/to/python3.11." >&2; \
		exit 1; }
	@echo "Installing the pinned packages into $(VENV); this takes minutes, once."
	@# The pip that comes with an early 3.9 or 3.10 cannot install from pyproject.toml alone.
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=21.3"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt -e ".[dev]"
	@touch $@
