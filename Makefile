# Everything a developer or a newcomer needs. `make help` lists it.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# uv is taken from the PATH, else fetched from PyPI into the project's own folder.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
UV_VERSION := 'uv>=0.13,<1'
# Inexact: what `make setup-dev` or an extra brought is not taken away again.
SYNC := UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --frozen --quiet --inexact

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev up check test bench bench-setup compare audit format places clean

help: ## list the commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.uv/bin/uv:
	@echo "fetching uv into .uv" >&2
	@$(PYTHON) -c 'import sys; sys.exit("crossfade needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .uv >/dev/null 2>&1 && .uv/bin/pip install --quiet --disable-pip-version-check $(UV_VERSION) \
	  || { mkdir -p .uv && $(PYTHON) -m pip install --quiet --disable-pip-version-check --prefix .uv --ignore-installed $(UV_VERSION); } \
	  || { rm -rf .uv; echo "uv could not be installed: Python needs pip (on Debian: apt install python3-venv)" >&2; exit 1; }

setup: $(filter .uv/bin/uv,$(UV)) ## install crossfade and its example into .venv
	@echo "installing packages (the first time takes a minute or two)" >&2
	@$(SYNC) $(addprefix --extra ,$(EXTRAS))
	@$(BIN)/python deploy/examples/quantize_filetype.py

setup-dev: $(filter .uv/bin/uv,$(UV)) ## install what tests, checks and benchmarks need as well
	@$(SYNC) --group dev --group bench
	@$(BIN)/python deploy/examples/quantize_filetype.py

up: setup ## serve a real model behind the gateway (Ctrl-C ends it)
	@$(BIN)/crossfade up -f deploy/examples/filetype.yaml

check: setup-dev ## format, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

test: setup-dev ## run all tests
	@$(BIN)/pytest

bench: setup-dev ## measure the gateway side by side with Ray Serve and a plain gRPC server
	@$(BIN)/python -m benchmarks.gateway

bench-setup: setup-dev ## install the other model servers, each into an environment of its own
	@$(BIN)/python -m benchmarks.environments

compare: setup-dev ## measure beside other model servers and ONNX Runtime alone (about 15 minutes)
	@$(BIN)/python -m benchmarks.compare

audit: $(filter .uv/bin/uv,$(UV)) ## look up every locked package among the known vulnerabilities (asks osv.dev; fails when one is there)
	@$(UV) audit --frozen --quiet $(addprefix --service-url ,$(AUDIT_URL)) || { code=$$?; \
	  if [ $$code -eq 1 ]; then echo "audit: raise the packages above in pyproject.toml, then: uv lock" >&2; \
	  else echo "audit: nothing was looked up. Run it where $(or $(AUDIT_URL),https://api.osv.dev) answers: from a host that" \
	    "may reach it, through a proxy (HTTPS_PROXY=...), or at a mirror of it (make audit AUDIT_URL=https://...)" >&2; fi; \
	  exit $$code; }

format: setup-dev ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

places: setup-dev ## assemble what counts requests under way in Envoy
	@$(BIN)/python -c 'import pathlib, wasmtime; at = pathlib.Path("router/xds/places.wat"); \
	  at.with_suffix(".wasm").write_bytes(wasmtime.wat2wasm(at.read_text()))'

clean: ## remove environments, caches and the data directory
	@rm -rf $(VENV) .venv-peers .test-servers .uv .crossfade .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache deploy/examples/build
