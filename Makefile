# Every task of the project; `make` without arguments lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
NODE := node_modules/.bin
PYTHON ?= python3
PROTOS := $(wildcard protos/sightline/*/*.proto)
LOCK := protos/lock.binpb
GRAPHS := .venv/share/sightline/graphs
# If one of these changes, pip installs again, which also generates the stubs.
INSTALLED_FROM := pyproject.toml services/pyproject.toml hatch_build.py .venv/versions.txt
SOURCES := $(wildcard sightline services tests tools bench) hatch_build.py

.PHONY: help
help: ## List the tasks
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

##
## Setup. Each step leaves a stamp and runs again only when its inputs have changed.
##

.PHONY: setup-run
setup-run: ## Install what is needed to run: .venv with the command, the services and nats-server
	@tools/system-packages run
	@$(MAKE) --silent --no-print-directory .venv/installed-run $(BIN)/.stubs $(GRAPHS)/.traced

.PHONY: setup-check
setup-check: ## Install what checks need
	@tools/system-packages run dev
	@$(MAKE) --silent --no-print-directory .venv/installed-dev node_modules/.installed $(BIN)/.stubs

.PHONY: setup
setup: setup-check ## Install everything that running, checks and tests need
	@$(MAKE) --silent --no-print-directory .venv/checkov/.installed .venv/tritonclient/.installed \
	  .venv/azure-clients/.installed $(GRAPHS)/.traced

$(BIN)/python:
	@tools/make-venv $(PYTHON)

# constraints.txt without its hashes, because pip accepts no hashes when it installs a package from a folder.
.venv/versions.txt: constraints.txt | $(BIN)/python
	@sed -E '/^ +--hash=/d; s/ \\$$//' $< > $@

.venv/installed-run: $(INSTALLED_FROM) | $(BIN)/python
	@echo "Installing Sightline into .venv; the first time this fetches several gigabytes (torch)."
	@$(BIN)/pip install --quiet -c .venv/versions.txt -e . -e './services[all]'
	@touch $@ $(BIN)/.stubs

.venv/installed-dev: $(INSTALLED_FROM) | $(BIN)/python
	@echo "Installing Sightline and its tools into .venv; the first time this fetches several gigabytes (torch)."
	@$(BIN)/pip install --quiet -c .venv/versions.txt -e . -e './services[all]' --group dev
	@touch .venv/installed-run $@ $(BIN)/.stubs

.venv/checkov/.installed: tools/checkov.txt | $(BIN)/python
	@$(PYTHON) -m venv --clear .venv/checkov
	@.venv/checkov/bin/python -m pip install --quiet --disable-pip-version-check -r tools/checkov.txt
	@touch $@

.venv/tritonclient/.installed: tools/tritonclient.txt | $(BIN)/python
	@$(PYTHON) -m venv --clear .venv/tritonclient
	@.venv/tritonclient/bin/python -m pip install --quiet --disable-pip-version-check -r tools/tritonclient.txt
	@touch $@

.venv/azure-clients/.installed: tools/azure-clients.txt tools/make-azure-clients .venv/installed-dev
	@tools/make-azure-clients .venv .venv/azure-clients
	@touch $@

node_modules/.installed: package.json package-lock.json
	@npm ci --ignore-scripts --silent --no-audit --no-fund
	@touch $@

$(BIN)/.stubs: $(PROTOS) hatch_build.py .venv/versions.txt | $(BIN)/python
	@$(BIN)/pip install --quiet -c .venv/versions.txt --group build
	@$(BIN)/python hatch_build.py
	@touch $@

# Tracing a network takes seconds, which would count against a training's budget.
$(GRAPHS)/.traced: $(wildcard services/vision/*.py) .venv/versions.txt
	@echo "Preparing the networks' graphs for prediction, once; about a minute."
	@$(BIN)/python -m services.vision.graph_tracing $(GRAPHS)
	@touch $@

.PHONY: proto
proto: $(BIN)/python ## Generate the Python stubs from protos/
	@rm -f $(BIN)/.stubs
	@$(MAKE) --silent --no-print-directory $(BIN)/.stubs

##
## Working
##

.PHONY: check
check: setup-check ## Check formatting, lint, types, import rules, protos and docs
	@tools/check

.PHONY: fmt
fmt: setup ## Format Python and protos, and fix what the linter can fix
	@$(BIN)/ruff format --quiet $(SOURCES)
	@$(BIN)/ruff check --quiet --fix-only $(SOURCES)
	@$(NODE)/buf format --write protos

# Without restarts, as with --dist loadfile pytest-xdist 3.8 waits for ever for what a crashed process had finished.
.PHONY: test
test: setup ## Run every test, files side by side in two processes (PROCESSES=4)
	@$(BIN)/python -m pytest -n $(or $(PROCESSES),2) --dist loadfile --max-worker-restart 0

.PHONY: test-long
test-long: setup ## Run the tests that `make test` leaves out because they take minutes
	@$(BIN)/python -m pytest -m long

.PHONY: test-fast
test-fast: setup ## Run the tests without I/O
	@$(BIN)/python -m pytest tests/unit

.PHONY: campaign
campaign: setup ## Simulate 500 trainings in which everything dies at random
	@SIGHTLINE_CAMPAIGN=500 $(BIN)/python -m pytest -q tests/unit/trainer/test_campaign.py

.PHONY: chaos
chaos: setup ## Disturb a real suite; SEED=1 MINUTES=10 CALLERS=4 PACE=1 MODELS=1 ONLY=zombie,kill-server; STORY=records for NATS alone
	@$(BIN)/python -m tests.chaos.campaign.run $(or $(STORY),suite) --seed $(or $(SEED),1) --minutes $(or $(MINUTES),10) \
	  --lanes $(or $(CALLERS),4) --pace $(or $(PACE),1) --models $(or $(MODELS),1) --only "$(ONLY)"

.PHONY: coverage
coverage: setup ## Run every test, and print the lines that none of them ran in its own process
	@status=0; $(BIN)/coverage run -m pytest || status=$$?; $(BIN)/coverage report; exit $$status

.PHONY: attack
attack: setup ## Attack a dataset api and a predictor in every known way; BEFORE=folder has the source of a version to compare with
	@$(BIN)/python -m tests.attack $(if $(BEFORE),--before $(BEFORE))

.PHONY: fuzz
fuzz: setup ## Feed hostile input to everything that parses; EXECUTIONS= of each target, TARGET= some of them, SEED=, FIRST= to repeat one
	@$(BIN)/python -W ignore -m tests.fuzz $(if $(EXECUTIONS),--executions $(EXECUTIONS)) $(if $(TARGET),--target $(TARGET)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(FIRST),--first $(FIRST))

.PHONY: test-images
test-images: setup ## Build the container images for real and run them; needs root
	@tools/system-packages images
	@$(BIN)/python -m pytest tests/images

.PHONY: manifests
manifests: $(BIN)/python ## Copy the alert rules and the dashboard to where kustomize finds them, and write custom resource definitions and Helm charts
	@$(BIN)/python tools/manifests.py
	@$(BIN)/python tools/crds.py
	@$(BIN)/python -m tools.chart

.PHONY: proto-lock
proto-lock: setup ## Add new parts of the protos to the lock; refuses changes that break callers
	@$(NODE)/buf breaking protos --against $(LOCK)
	@$(NODE)/buf build protos --exclude-source-info -o $(LOCK)

.PHONY: lock
lock: $(BIN)/python ## Update constraints.txt after a change in a pyproject.toml; UPGRADE="a b" upgrades those packages
	@$(BIN)/pip install --quiet --group lock
	@printf -- '-e .\n-e ./services[all]\n' | $(BIN)/uv pip compile --quiet - --group dev \
	  --generate-hashes --universal --python-version 3.11 --no-annotate --custom-compile-command 'make lock' \
	  --no-emit-package sightline --no-emit-package sightline-services \
	  $(addprefix --upgrade-package ,$(UPGRADE)) -o constraints.txt

.PHONY: dist
dist: setup ## Build the wheels of both distributions into dist/, and check their contents
	@$(BIN)/python -m tools.wheels dist

.PHONY: sbom
sbom: setup ## Write a bill of materials of each image into build/sbom
	@$(BIN)/python -m tools.sbom build/sbom

.PHONY: release-check
release-check: setup ## Check that this tree can be released: version, changelog, proto lock, wheels
	@$(BIN)/python -m tools.release_check

.PHONY: bench
bench: setup ## Run the benchmarks; each prints ratios measured side by side
	@for file in $(filter-out bench/bench_autogluon.py bench/bench_gpu.py bench/bench_serving_gpu.py bench/bench_peers.py,$(wildcard bench/bench_*.py)); do \
	  $(BIN)/python "$$file"; done

.PHONY: bench-gpu
bench-gpu: setup ## On a GPU, in under twenty minutes: training and serving against bare loops, memory, and the tests that need one
	@$(BIN)/python bench/bench_gpu.py
	@$(BIN)/python bench/bench_serving_gpu.py

AUTOGLUON ?= build/autogluon
$(AUTOGLUON)/.installed:
	@$(PYTHON) -m venv $(AUTOGLUON)
	@$(AUTOGLUON)/bin/pip install --quiet 'autogluon.multimodal==1.6.3' 'torch==2.12.1' 'torchvision==0.27.1' # of one build
	@touch $@

.PHONY: bench-autogluon
bench-autogluon: setup $(AUTOGLUON)/.installed ## Compare with AutoGluon MultiModal, in an environment of its own (AUTOGLUON=folder)
	@$(BIN)/python bench/bench_autogluon.py --python $(AUTOGLUON)/bin/python

PEERS ?= build/peers
$(PEERS)/.installed: .venv/versions.txt
	@$(PYTHON) -m venv --clear $(PEERS)/served
	@$(PEERS)/served/bin/pip install --quiet -c $< -e . -e './services[serve]' 'mosec==0.9.8' 'litserve==0.2.19'
	@$(PYTHON) -m venv --clear $(PEERS)/torchserve
	@$(PEERS)/torchserve/bin/pip install --quiet -c $< torch torchvision captum pyyaml setuptools 'torchserve==0.12.0' 'torch-model-archiver==0.12.0'
	@touch $@

.PHONY: bench-peers
bench-peers: setup $(PEERS)/.installed ## Compare with mosec, LitServe and TorchServe (which needs Java), in environments of their own (PEERS=folder)
	@$(BIN)/python bench/bench_peers.py --peers $(PEERS)

##
## Running
##

.PHONY: demo
demo: setup-run ## Register, train, evaluate and predict on real images, in about five minutes
	@$(BIN)/python -m sightline.demo

.PHONY: demo-detection
demo-detection: setup-run ## Register, train, evaluate and predict boxes on real images, in under ten minutes
	@$(BIN)/python -m sightline.demo detection

.PHONY: clean
clean: ## Remove what was installed and generated
	rm -rf .venv node_modules sightline/v1 sightline/inference dist build .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
