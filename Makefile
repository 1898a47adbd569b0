# Two commands are all a newcomer needs: `make run` and `make test`.
.DEFAULT_GOAL := help
.PHONY: help install run test check lint types unit unit-flows unit-io unit-science whole-flows whole-science gpu-test bench-distill bench-rl bench-rl-students bench-samplers bench-steering clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# dvc.yaml says `python -m flows ...`: that python is ours.
export PATH := $(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
# Hundreds of processes import the project, here and in the clones that tests make: what Python compiled is kept.
unexport PYTHONDONTWRITEBYTECODE
experiment ?= digits

help: ## Explain every target
	@awk 'BEGIN {FS = ":.*## "; print "usage: make <target>\n"} /^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make run experiment=smoke    another preset of params/experiment/"

install: $(VENV)/.installed ## Create .venv from requirements.lock (run by the others when needed)

$(VENV)/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "fewstep needs Python 3.11: install it, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked packages into $(VENV) (a few minutes, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: install ## Run the pipeline on `experiment` (default: digits), print the results, stop what was started
	@$(BIN)/fewstep run experiment=$(experiment)

test: check ## The fast lane, then every method and pairing, and real DVC, Prefect, Ray, MLflow, S3, clusters and kills
	@$(MAKE) --no-print-directory -j 2 whole-flows whole-science

# Beyond the fast lane, in the order of tests/conftest.py: only the files that have such tests, since what the others
# import takes longer. What starts servers waits for them now and then; the rest computes meanwhile, and afterwards.
WHOLE := --dist loadscope --no-loadscope-reorder -p no:randomly -m "(integration or slow) and not gpu"
WHOLE_FILES := $(shell grep -rlE "mark\.(slow|integration)" tests --include "test_*.py")
WHOLE_FLOWS := $(filter tests/flows/% tests/deploy/%,$(WHOLE_FILES))

whole-flows: install
	@$(BIN)/pytest -n 2 $(WHOLE) $(WHOLE_FLOWS)

whole-science: install
	@nice -n 19 $(BIN)/pytest -n 2 $(WHOLE) $(filter-out $(WHOLE_FLOWS),$(WHOLE_FILES))

check: install ## The fast lane: linter, types and quick tests, beside each other
	@$(MAKE) --no-print-directory -j 5 lint types unit-flows unit-io unit-science

lint: install ## Ruff, and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: install ## The type checker
	@$(BIN)/basedpyright

unit: install ## The tests that take seconds at most
	@$(MAKE) --no-print-directory -j 3 unit-flows unit-io unit-science

# A process for what starts tools, one for what waits for stores and two for the rest: each imports a part of the
# libraries, and that takes longer than most tests.
FAST := -m "not gpu and not slow and not integration"
# Files of other lanes' tests alone are not even imported.
FAST += $(patsubst %,--ignore=%,$(shell grep -rlE "^pytestmark = .*mark\.(slow|integration)" tests --include "test_*.py"))
FLOWS := tests/flows tests/deploy
IO := tests/io tests/test_architecture.py tests/test_params.py

unit-flows: install
	@$(BIN)/pytest -q $(FAST) $(FLOWS)

unit-io: install
	@$(BIN)/pytest -q $(FAST) $(IO)

unit-science: install
	@$(BIN)/pytest -q -n 2 $(FAST) $(FLOWS:%=--ignore=%) $(IO:%=--ignore=%)

bench-distill: install ## Every distiller on one teacher with one budget, three trainings each: docs/distillers.md
	@$(BIN)/fewstep run experiment=bench_distill
	@$(BIN)/python benchmarks/distill.py

bench-rl: install ## Every policy with one reward and one budget, three trainings each: docs/policies.md
	@$(BIN)/fewstep run experiment=bench_rl
	@$(BIN)/python benchmarks/rl.py

bench-rl-students: install ## The same of those that can align a student, on one of four calls: docs/few_step_rl.md
	@$(BIN)/fewstep run experiment=bench_rl_students
	@$(BIN)/python benchmarks/rl.py --students

bench-steering: install ## Every search at inference at equal network calls, on a teacher and an RL arm: docs/steering.md
	@$(BIN)/fewstep run experiment=digits
	@$(BIN)/python benchmarks/steering.py

bench-samplers: install ## Every step rule and schedule with equal calls, on three teachers: docs/samplers.md
	@$(BIN)/fewstep run experiment=bench_samplers
	@$(BIN)/python benchmarks/samplers.py
	@$(BIN)/python benchmarks/samplers.py --guided

gpu-test: install ## Tests that need a CUDA device
	@$(BIN)/pytest -m gpu

clean: ## Remove .venv and work folders; results under data/ and mlruns/ stay
	rm -rf $(VENV) .fewstep build *.egg-info
