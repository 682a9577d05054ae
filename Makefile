# Every target does its own set-up: Python 3.11+ and make are all it counts on.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PINS   := deploy/requirements
UV     := $(BIN)/uv

# Of the images: what builds them, what they stand on (pin it by digest for production), their tag.
ENGINE ?= docker
BASE   ?= python:3.13-slim-bookworm
TAG    ?= dev
SOURCE ?= unknown
IMAGE   = $(ENGINE) build $(IMAGE_OPTIONS) --file deploy/image/Dockerfile --build-arg BASE=$(BASE) --build-arg SOURCE=$(SOURCE) \
  --build-arg VERSION=$(shell sed -n 's/__version__ = "\(.*\)"/\1/p' moderation/__init__.py) \
  --build-arg REVISION=$(shell git rev-parse HEAD)

.PHONY: demo test unit chaos soak misbehaving hostile test-kubernetes test-containers lint format protos bench baseline pins images clean
.DELETE_ON_ERROR:

demo: $(VENV)/dev.ok ## A local Kafka, a worker and an API; sample posts in, verdicts out
	@$(BIN)/moderation demo

test: lint $(VENV)/dev.ok ## Everything that CI runs
	$(BIN)/pytest

unit: $(VENV)/dev.ok ## The tests that need nothing, in seconds
	$(BIN)/pytest tests/unit

chaos: $(VENV)/dev.ok ## Exactly once under fire, the long run: half an hour, a table
	$(BIN)/python -m tests.chaos --runs 60 --json chaos.json

soak: $(VENV)/dev.ok ## One worker and 300,000 posts, throttled and not: a quarter of an hour, a table
	$(BIN)/python -m tests.chaos --rows 20,20q --scale 7.5 --json soak.json

misbehaving: $(VENV)/dev.ok ## A model that misbehaves in real workers: the rows of tests/misbehaving with thousands of posts each
	MODERATION_TEST_FULL=1 $(BIN)/pytest tests/misbehaving

hostile: $(VENV)/dev.ok ## Hostile clients of the API with a good caller beside them: a quarter of an hour, a table
	$(BIN)/python -m tests.hostile --json hostile.json

test-kubernetes: $(VENV)/dev.ok ## The service on a cluster that KUBECONFIG names, or one of its own: deploy/README.md
	$(BIN)/pytest tests/kubernetes -s

lint: $(VENV)/dev.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint protos
	$(BIN)/buf breaking protos --against protos/baseline.binpb
	$(BIN)/python protos/generate.py --check
	$(BIN)/python deploy/reference.py --check
	$(BIN)/moderation policies check policies

format: $(VENV)/dev.ok
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(VENV)/dev.ok ## Generate moderation/v1 from protos/
	$(BIN)/python protos/generate.py

bench: $(VENV)/dev.ok ## Ratios measured in one run
	$(BIN)/moderation bench engine --policies 5
	$(BIN)/moderation bench agreement --batches 50

baseline: $(VENV)/dev.ok ## The protos as released: what `make lint` holds later ones to. Renew it at a release, never to silence it
	$(BIN)/buf build protos --exclude-source-info --output protos/baseline.binpb

pins: $(UV) ## Renew the hashed pins from pyproject.toml's ranges; what ships is what the tests run with
	$(foreach extras,dev:dev api:postgres+otel worker:worker+otel,\
	  $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	    --output-file $(PINS)/$(firstword $(subst :, ,$(extras))).txt pyproject.toml \
	    $(if $(filter-out dev:%,$(extras)),--constraint $(PINS)/dev.txt) \
	    $(addprefix --extra ,$(subst +, ,$(word 2,$(subst :, ,$(extras))))) $(COMPILE) &&) true
	echo 'hatchling>=1.27' | $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --quiet --constraint $(PINS)/dev.txt --output-file $(PINS)/build.txt - # what builds our wheel in an image

images: ## The API's and the worker's, and a worker's without what only a GPU needs
	$(IMAGE) --target api --tag moderation-api:$(TAG) .
	$(IMAGE) --target worker --tag moderation-worker:$(TAG) .
	$(IMAGE) --target worker --build-arg DEVICE=cpu --tag moderation-worker:cpu .

test-containers: $(VENV)/dev.ok ## The images as black boxes against a real Kafka: needs a Docker engine here, and `make images`
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

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
