# Every target does its own set-up. You need Python 3.11 or newer and make. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PINS   := deploy/requirements
UV     := $(BIN)/uv

# For images: the builder, the base image (pin it by digest for production), the tag.
ENGINE ?= docker
BASE   ?= python:3.13-slim-bookworm
TAG    ?= dev
SOURCE ?= unknown
IMAGE   = $(ENGINE) build $(IMAGE_OPTIONS) --file deploy/image/Dockerfile --build-arg BASE=$(BASE) --build-arg SOURCE=$(SOURCE) \
  --build-arg VERSION=$(shell sed -n 's/__version__ = "\(.*\)"/\1/p' moderation/__init__.py) \
  --build-arg REVISION=$(shell git rev-parse HEAD)

# Tests start hundreds of Pythons: each would compile all that it imports, where the environment forbids to keep it.
unexport PYTHONDONTWRITEBYTECODE

# Tests in processes that take a file at a time, in the order of pyproject.toml: most wait more than they compute. Chaos
# runs alone: on a busy machine its mutations are too slow to do wrong.
PROCESSES ?= 2
TOGETHER   = $(BIN)/pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

# A comment behind two hashes, after a target's name, is its help.
.PHONY: help demo test unit chaos soak outage misbehaving hostile test-kubernetes test-containers lint hooks format protos reference bench baseline pins images clean
.DELETE_ON_ERROR:

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

demo: $(VENV)/dev.ok ## Start Kafka, a worker and an API; put sample posts in, show their verdicts
	@$(BIN)/moderation demo

test: lint $(VENV)/dev.ok ## Run everything that CI runs: lint and all tests
	$(TOGETHER) --deselect tests/chaos; together=$$?; $(BIN)/pytest tests/chaos && exit $$together

unit: $(VENV)/dev.ok ## Run the unit tests: no Kafka, a minute or two
	$(TOGETHER) tests/unit

chaos: $(VENV)/dev.ok ## Kill workers, requests and brokers for half an hour, and check exactly-once
	$(BIN)/python -m tests.chaos --runs 60 --json chaos.json

soak: $(VENV)/dev.ok ## Run one worker through 300,000 posts, throttled and not: a quarter of an hour
	$(BIN)/python -m tests.chaos --scenarios 20,20q --scale 7.5 --json soak.json

outage: $(VENV)/dev.ok ## Take the model server of a worker away, for a minute and for an hour, in real time
	$(BIN)/python -m tests.outage --json outage.json

misbehaving: $(VENV)/dev.ok ## Run real workers with a model that misbehaves, with thousands of posts for each case
	MODERATION_TEST_FULL=1 $(BIN)/pytest tests/misbehaving

hostile: $(VENV)/dev.ok ## Attack an API while a well-behaved caller uses it: a quarter of an hour
	$(BIN)/python -m tests.hostile --json hostile.json

test-kubernetes: $(VENV)/dev.ok ## Run the service on the cluster of KUBECONFIG, or on one of its own: deploy/README.md
	$(BIN)/pytest tests/kubernetes -s

lint: $(VENV)/dev.ok ## Check style, types, protos and policies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint protos
	$(BIN)/buf breaking protos --against protos/baseline.binpb
	$(BIN)/python protos/generate.py --check
	$(BIN)/python protos/reference.py --check
	$(BIN)/python deploy/reference.py --check
	$(BIN)/moderation policies check policies

hooks: $(VENV)/dev.ok ## Install the git hook that runs lint before each commit
	$(BIN)/pre-commit install

format: $(VENV)/dev.ok ## Fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(VENV)/dev.ok ## Generate moderation/v1 and the JSON Schemas from protos/
	$(BIN)/python protos/generate.py

reference: $(VENV)/dev.ok ## Write from the code: asyncapi.yaml, reason codes, deploy/reference/, dashboard, PrometheusRule, README's models
	$(BIN)/python protos/reference.py
	$(BIN)/python deploy/reference.py

bench: $(VENV)/dev.ok ## Measure scoring: ratios within one run
	$(BIN)/moderation bench engine --policies 5
	$(BIN)/moderation bench agreement --batches 50

baseline: $(VENV)/dev.ok ## Record the protos as released, for the breaking-change check; at a release only
	$(BIN)/buf build protos --exclude-source-info --output protos/baseline.binpb

pins: $(UV) ## Update the hashed pins from pyproject.toml; images and tests share them
	$(foreach extras,dev:dev api:postgres+otel worker:worker+otel remote:remote+otel,\
	  $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	    --output-file $(PINS)/$(firstword $(subst :, ,$(extras))).txt pyproject.toml \
	    $(if $(filter-out dev:%,$(extras)),--constraint $(PINS)/dev.txt) \
	    $(addprefix --extra ,$(subst +, ,$(word 2,$(subst :, ,$(extras))))) $(COMPILE) &&) true
	echo 'hatchling>=1.27' | $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --quiet --constraint $(PINS)/dev.txt --output-file $(PINS)/build.txt - # builds our wheel in an image

images: ## Build the images: API, worker for model servers, worker, worker without GPU files
	$(IMAGE) --target api --tag moderation-api:$(TAG) .
	$(IMAGE) --target remote --tag moderation-remote:$(TAG) .
	$(IMAGE) --target worker --tag moderation-worker:$(TAG) .
	$(IMAGE) --target worker --build-arg DEVICE=cpu --tag moderation-worker:cpu .

test-containers: $(VENV)/dev.ok ## Test the images against a real Kafka: needs a Docker engine and `make images`
	$(BIN)/pytest tests/containers

$(UV): $(PINS)/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moderation needs Python 3.11 or newer; name one with make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(PINS)/uv.txt
	@touch $@

$(VENV)/dev.ok: $(UV) $(PINS)/dev.txt pyproject.toml
	$(UV) pip sync --quiet --require-hashes --python $(BIN)/python $(PINS)/uv.txt $(PINS)/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
