# make book   run the quick experiments and build the book
# make test   run the whole test suite
# Everything else is set up on the way: a virtual environment in .venv, with the exact packages of requirements.lock.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:                # targets share .venv and the machine's cores: with -j too, one after the other
.PHONY: help book test bench lint clean clean-all
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?=
PYTEST_ARGS ?=

help:  ## show this list
	@echo "slimlib: network widths from PCA of the filters. Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | awk -F@ '{printf "%-16s %s\n", $$1, $$2}'
	@echo "The first one that needs packages creates $(VENV). Another Python: make book PYTHON=python3.12"

book: $(READY)  ## run the quick notebooks, build the book in _build/html
	@$(BIN)/python -m slimlib book

# two processes of one thread each are sooner done than one of two threads
test: $(READY)  ## run the whole test suite
	@$(BIN)/python -m pytest --durations=15 --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: $(READY)  ## measure the speed of slimlib on this machine, beside limits and rivals
	@$(BIN)/python -m slimlib bench

lint: $(READY)  ## check the style of the code
	@$(BIN)/ruff check .

clean:  ## remove the built book and the executed notebooks (records of long runs stay)
	rm -rf _build book/results .pytest_cache .ruff_cache

clean-all: clean  ## the same, and the virtual environment
	rm -rf $(VENV)

# Runs once, and again whenever the lock changes or PYTHON names another version than .venv has. `.ready` is touched last, so
# that an interrupted install starts again. Python 3.14.1 is passed over: networkx, which is in the lock, refuses it.
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
ifneq ($(PYTHON),)
ifneq ($(shell $(PYTHON) -c '$(VERSION)' 2>/dev/null),$(shell $(BIN)/python -c '$(VERSION)' 2>/dev/null))
.PHONY: $(READY)
endif
endif
$(READY): requirements.lock pyproject.toml
	@set -e; \
	python=''; seen=''; \
	for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python); do \
	  version=$$("$$candidate" -c '$(VERSION)' 2>/dev/null) || continue; \
	  seen="$$seen $$candidate ($$("$$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'))"; \
	  if "$$candidate" -c 'import sys; v = sys.version_info[:3]; sys.exit(v < (3, 11) or v == (3, 14, 1))'; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: needs Python 3.11 or newer, and not 3.14.1; found:$${seen:- none}. Install one, or name it: make book PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "make: $$python has no venv/ensurepip module. On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; fi; \
	there=$$($(BIN)/python -c 'import pip; $(VERSION)' 2>/dev/null || true); \
	if [ -z "$$there" ] || { [ -n "$(PYTHON)" ] && [ "$$there" != "$$version" ]; }; then \
	  echo "Creating $(VENV) with $$python"; \
	  "$$python" -m venv --clear $(VENV) || { echo "make: $$python could not create $(VENV). On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }; fi; \
	echo "Installing the packages of requirements.lock into $(VENV): once, some minutes"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock \
	  || { echo "make: the packages of requirements.lock could not be installed (pip's reason is above). The first run needs a network and 3 GB of disk; run make again to go on." >&2; exit 1; }; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . \
	  || { echo "make: slimlib itself could not be installed (pip's reason is above)." >&2; exit 1; }; \
	touch $(READY)
