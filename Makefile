# slmflow. `make` explains; `make run` is the road, `make test` the proof.
SHELL := /bin/bash
# The one of .venv, else the first that runs, and is a version that the tests are run on.
PYTHON ?= $(or $(shell for python in .venv/bin/python python3.11 python3.12 python3.13; do \
  $$python -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null && \
  echo $$python && break; done),python3.11)
WORKERS ?= 2
VENV := .venv
ACTIVATE := . $(VENV)/bin/activate
# The embedded store, absolute: a relative sqlite path is another store in another folder.
export MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db
export MLFLOW_DISABLE_TELEMETRY ?= true

INSTALL = command -v $(PYTHON) >/dev/null || { \
  echo "make: $(PYTHON) is not on PATH: install Python 3.11, 3.12 or 3.13, or name one with PYTHON=…" >&2; exit 1; }; \
  $(PYTHON) tools/install.py

# PART=serving: a folder of tests/, or one module of tests/end_to_end/; several in quotes.
PARTS := $(patsubst tests/%/__init__.py,%,$(wildcard tests/*/__init__.py)) \
  $(patsubst tests/%.py,%,$(wildcard tests/end_to_end/test_*.py))
ifneq ($(filter-out $(PARTS),$(PART)),)
$(error PART=$(filter-out $(PARTS),$(PART)) is no part of the tests; there are: $(sort $(PARTS)))
endif
TESTS := $(or $(foreach part,$(PART),tests/$(part)$(if $(wildcard tests/$(part).py),.py)),tests)
PYTEST = $(ACTIVATE) && python -m tools.chromium && env -u MLFLOW_TRACKING_URI \
  pytest -n $(WORKERS) --dist loadscope

.DEFAULT_GOAL := help
.PHONY: help runtime setup setup-all run test test-all lint databricks bench lock clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

runtime:
	@$(INSTALL) requirements.txt

setup:  ## make .venv and install the pinned packages: those of `make run` and of `make test`
	@$(INSTALL) requirements.txt requirements-dev.txt

setup-all:
	@$(INSTALL) requirements.txt requirements-dev.txt requirements-spark.txt

run: runtime  ## the whole workflow on the default model; ARGS='-P model=tiny_phi3' for another
	$(ACTIVATE) && mlflow run . --env-manager local $(ARGS)

lint: setup  ## ruff and mypy
	$(ACTIVATE) && ruff check . && ruff format --check . && mypy

test: lint  ## lint, types, and every test that is not slow; PART=serving for those of one part
	@$(PYTEST) -m "not slow" $(TESTS)

test-all: setup-all lint  ## every test; PART=serving, PART=end_to_end/test_adapter, … for one part of them
	@$(PYTEST) $(TESTS)

databricks: runtime  ## the whole workflow as one job of a workspace; CONFIG=… is its cluster, ARGS='-P model=…'
	@case "$$MLFLOW_TRACKING_URI" in *@*) echo "make: MLFLOW_TRACKING_URI holds a password, which would be part of the job: take it out" >&2; exit 1;; esac; \
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && git archive --format zip -o $$folder/slmflow.zip HEAD && \
	size=$$(stat -c %s $$folder/slmflow.zip) && echo "tracked files of $$(git rev-parse --short HEAD): $$size bytes" && \
	changed=$$(git status --porcelain | wc -l) && { [ $$changed = 0 ] || echo "$$changed changed or new files are not sent"; } && \
	{ [ $$size -le 10000000 ] || { echo "make: more than 10 MB is not sent: take large files out of git" >&2; exit 1; }; } && \
	$(ACTIVATE) && mlflow run $$folder/slmflow.zip -e register -b databricks \
	  --backend-config $(or $(CONFIG),databricks/backend.json) --env-manager $(or $(ENV_MANAGER),uv) $(ARGS)

bench: setup-all  ## benchmarks, an hour at most; one, whole: make bench-<advisories|evaluate|export|gguf|score|serving|upgrade|workflow>
	$(ACTIVATE) && python -m benchmarks

bench-%: setup
	@$(ACTIVATE) && python -m benchmarks $* $(ARGS)
bench-score: setup-all

lock: setup  ## compile requirements*.in to pinned files, and stamp conda.yaml; UPGRADE=1 takes the newest
	$(ACTIVATE) && python tools/lock.py $(if $(UPGRADE),--upgrade)

clean:  ## remove .venv and caches; runs and models (mlflow.db, mlruns) stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
