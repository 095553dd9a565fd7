# Two commands on a fresh machine: `make demo` and `make test`. Everything is installed into .venv by pip.
PYTHON ?= python3
VENV ?= .venv
# torch and torchvision are installed as a pair that import together; override both or neither.
TORCH ?= torch==2.14.1 torchvision==0.29.1
# Processes that run tests, each with one thread.
WORKERS ?= 2
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: setup demo demo-yolo test test-slow check format clean help

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed  ## make the environment in .venv

demo: setup  ## slim a VGG on handwritten digits: train, prune 70 %, prove, fine-tune, report
	$(VENV)/bin/secateur demo --save demo

demo-yolo: setup  ## train, prune and fine-tune a small YOLO on scenes of digits; table and pictures
	$(VENV)/bin/secateur darknet demo --save demo-yolo

test: $(VENV)/.installed-dev  ## run the tests and the examples in the documentation
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.installed-dev  ## run the tests that take over five seconds
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(VENV)/bin/python -m pytest -m slow -n $(WORKERS) --dist loadfile

check: $(VENV)/.installed-dev  ## format, lint, types, layers, generated pages
	VENV=$(VENV) scripts/check

format: $(VENV)/.installed-dev  ## mend what can be mended by itself
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/python scripts/generate

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) demo demo-yolo

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "secateur needs Python 3.11 or newer; run make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch (the download is large, about 3 minutes) ..."
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@
