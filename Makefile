# Every target builds the environment first if the lock has changed. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= out/demo

.DEFAULT_GOAL := check
.PHONY: help env demo dashboard test test-slow test-gpu test-deployment check fix lint types imports bench bench-loading bench-round bench-private bench-secure bench-precision bench-privacy bench-coverage bench-latency check-looks explanations-table audit-privacy check-deploy proto clean

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

env: $(STAMP)    ## create the environment from the lock

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed: install it, or give PYTHON=/path/to/python3.11"; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "$(PYTHON) is not Python 3.11, which the lock is made for: give PYTHON=/path/to/python3.11"; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	PIP_CONSTRAINT=requirements.lock $(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip check
	@touch $(STAMP)

demo: $(STAMP)   ## five hospitals, three tasks, a few rounds on generated pictures; prints what was learnt
	$(BIN)/fovea simulate configs/experiments/demo.yaml --out out/demo

dashboard: $(STAMP) ## open MLflow on what was run (OUT=out/demo)
	$(BIN)/fovea dashboard $(OUT)

# Three workers for two cores: some tests wait for processes that they have started. A file stays
# with one worker, which builds its fixtures once; tests/conftest.py says what comes first.
test: $(STAMP)   ## the whole suite, three processes
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP) ## tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(STAMP) ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-deployment: $(STAMP) ## real processes, broken in every way: half an hour, needs root and nginx
	$(BIN)/python -m pytest -m deployment -n 2 --dist loadfile

check: lint types imports test ## lint, types, import rules, tests

lint: $(STAMP)   ## formatting and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)  ## mypy --strict
	$(BIN)/mypy

imports: $(STAMP) ## who may import whom
	$(BIN)/lint-imports

fix: $(STAMP)    ## format and apply safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## speed and memory of a training step; writes out/bench.json
	$(BIN)/python tests/benchmarks/step.py --out out/bench.json

bench-loading: $(STAMP) ## pictures per second from the prepared shard and from raw files; writes out/bench-loading.json
	$(BIN)/python tests/benchmarks/loading.py --out out/bench-loading.json

bench-round: $(STAMP) ## what a round costs beside training, against a plain Flower app; writes out/bench-round.json
	$(BIN)/python tests/benchmarks/round.py --out out/bench-round.json

bench-private: $(STAMP) ## what a step of private training costs beside a plain one; writes out/bench-private.json
	$(BIN)/python tests/benchmarks/private.py --out out/bench-private.json

bench-secure: $(STAMP) ## what the secure sum costs against updates in the open; writes out/bench-secure.json
	$(BIN)/python tests/benchmarks/secure.py --out out/bench-secure.json

bench-precision: $(STAMP) ## accuracy beside bytes of smaller updates; writes out/bench-precision.json
	$(BIN)/python tests/benchmarks/precision.py --out out/bench-precision.json

bench-privacy: $(STAMP) ## accuracy and localisation under masks and noise, a quarter of an hour; writes out/bench-privacy.json
	$(BIN)/python tests/benchmarks/privacy.py --out out/bench-privacy.json

bench-coverage: $(STAMP) ## do prediction sets hold at each hospital, and at one left out; writes out/bench-coverage.json
	$(BIN)/python tests/benchmarks/coverage.py --out out/bench-coverage.json

bench-latency: $(STAMP) ## one picture with its explanation beside the prediction alone, and through ONNX Runtime; writes out/bench-latency.json
	PYTHONPATH=tests/explanations $(BIN)/python tests/benchmarks/latency.py --out out/bench-latency.json

bench-watching: $(STAMP) ## what looking at every round's maps adds to central evaluation
	$(BIN)/python tests/benchmarks/watching.py

check-looks: $(STAMP) ## does the model look at the lesion, or only say so? SLOW=1: all variants, three seeds
	$(BIN)/python -m common.studies.looks --out out/looks $(if $(SLOW),--slow)

explanations-table: $(STAMP) ## every explanation method measured; DATA=folder adds real pictures, MODEL=run instead of training
	$(BIN)/python tests/benchmarks/explanations.py --out out/explanations $(if $(DATA),--data $(DATA)) $(if $(MODEL),--model $(MODEL))

audit-privacy: $(STAMP) ## attack updates and models, with and without protection, a quarter of an hour
	$(BIN)/fovea audit-privacy --out out/audit

check-deploy: $(STAMP) ## validate deploy/ with whatever validators this machine has
	bash deploy/validate.sh

proto: $(STAMP)  ## write client/door/site_pb2.py anew from client/door/site.proto
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. client/door/site.proto

clean:           ## remove what runs and tools wrote, not the environment
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
