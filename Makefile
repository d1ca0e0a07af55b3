# The graph of forecastbook. `make` alone prints help; `make -n forecast` says what would run.
#   JOB        a file in params/                       AS_OF  YYYY-MM-DD, default the last date the source has
#   OUT        where runs land                         PARAMS extra yaml overlays, separated by spaces
#   WAREHOUSE  duckdb:PATH or bigquery:PROJECT.DATASET FORCE  1: a finished run whose inputs changed is made anew, the old one kept
#   RAY_ADDRESS a running Ray cluster, for make tune   DRY_RUN 1: make warehouse prints its statements and changes nothing
.DEFAULT_GOAL := help
ifneq ($(shell true)$(.SHELLSTATUS),0)# that it knows since 4.2
$(error GNU Make 4.2 or newer is needed, this is $(MAKE_VERSION))
endif
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL := /bin/sh

JOB       ?= prices
OUT       ?= outputs
WAREHOUSE ?= duckdb:$(OUT)/warehouse.duckdb
PARAMS    ?=
JOBS      := $(basename $(notdir $(shell grep -l "^source:" params/*.yaml)))# the others are overlays
PYTHON    ?= python3
PY        := .venv/bin/python
export OMP_NUM_THREADS ?= 2
export PYTHONHASHSEED := 0
export JUPYTER_PREFER_ENV_PATH := 1# a kernel of .venv, whatever kernels its user has
KNOWN     := JOB AS_OF OUT WAREHOUSE PARAMS FORCE DRY_RUN RAY_ADDRESS JOBS PYTHON PY OMP_NUM_THREADS SHELL
GIVEN     := $(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name)))
ifneq ($(filter-out $(KNOWN),$(GIVEN)),)
$(error unknown variable $(filter-out $(KNOWN),$(GIVEN)): it would have no effect; known are $(wordlist 1,8,$(KNOWN)))
endif

# --- the environment: .venv from the lock, made anew when the lock is newer. Make reads ready.mk, so it is built before anything else.
ALONE := help clean setup lock
GOALS := $(or $(MAKECMDGOALS),help)
ifneq ($(and $(filter clean,$(GOALS)),$(filter-out clean,$(GOALS))),)
$(error make clean stands alone: it removes what the other targets need)
endif
DRY   := $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS))))
quote = '$(subst ','\'',$(1))'# a value as one word for the shell, whatever is in it
# a copied or moved checkout would run the code of the old place: its .venv is not ready
BUILT := $(shell grep -sxF $(call quote,READY := $(CURDIR)) .venv/ready.mk)
ifeq ($(or $(BUILT),$(DRY)),)
$(shell rm -f .venv/ready.mk)
endif
ifneq ($(filter-out $(ALONE),$(GOALS)),)
ifeq ($(and $(DRY),$(if $(BUILT),,bare)),bare)
$(info .venv is not there yet: without -n it would first be built from requirements.lock)
else
include .venv/ready.mk
endif
endif

.venv/ready.mk: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "building .venv from requirements.lock (once; about two minutes)" >&2
	@rm -f $@
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@echo $(call quote,READY := $(CURDIR)) > $@

ifneq ($(and $(filter forecast tune warehouse all smoke,$(GOALS)),$(filter-out 1,$(FORCE) $(DRY_RUN))),)
$(error FORCE and DRY_RUN are 1 or left out, got '$(FORCE)' and '$(DRY_RUN)')
endif

# --- the run: its as-of date is known only to the source, so it is asked once, before the graph is drawn
CHAINED := $(filter forecast tune,$(GOALS))
ASK     := --job $(call quote,$(JOB)) --out $(call quote,$(OUT)) --warehouse $(call quote,$(WAREHOUSE)) --params $(call quote,$(PARAMS))
ifneq ($(and $(READY),$(CHAINED)),)
ifneq ($(words $(OUT)),1)
$(error OUT must be one path without spaces, got '$(OUT)')
endif
PLANNED := $(shell $(PY) -m forecastbook.chain plan $(ASK) --as-of $(call quote,$(AS_OF)) $(if $(FORCE),--force) $(if $(DRY),--dry))
ifneq ($(.SHELLSTATUS),0)
$(error $(JOB) was not started: see the message above)
endif
RUN  := $(OUT)/$(JOB)/$(firstword $(PLANNED))
STEP := $(PY) -m forecastbook.chain step $(ASK) --as-of $(firstword $(PLANNED)) --run '$(if $(DRY),,$(word 2,$(PLANNED)))'

# one rule executes any notebook; a line a step says what it follows. exec: a signal to make reaches the step, not a shell around it
$(RUN)/%.ipynb: notebooks/%.ipynb
	@exec $(STEP) $<
$(RUN)/02_tune.ipynb: | $(RUN)/01_ingest.ipynb
$(RUN)/03_finetune.ipynb: $(RUN)/01_ingest.ipynb
$(RUN)/04_forecast.ipynb: $(RUN)/03_finetune.ipynb
$(RUN)/05_evaluate.ipynb: $(RUN)/04_forecast.ipynb
# make -n makes no new run in place of one whose inputs have changed: it shows every step of it
ifneq ($(and $(DRY),$(word 2,$(PLANNED))),)
$(RUN)/01_ingest.ipynb $(RUN)/02_tune.ipynb: anew
.PHONY: anew
endif
endif

.PHONY: forecast tune score warehouse doctor all setup test lab report smoke bench pretrain lint lock clean help

forecast: $(if $(RUN),$(RUN)/05_evaluate.ipynb) ## ingest, fine-tune, forecast, evaluate; publish; reports in outputs/
tune: $(if $(RUN),$(RUN)/02_tune.ipynb) ## search hyperparameters; the winner is used by the next forecasts

score: ## how published forecasts did against what has come since; brings ForecastScore up to date
	@exec $(PY) -m forecastbook.chain score $(ASK) --as-of $(call quote,$(AS_OF))

warehouse: ## make or migrate WAREHOUSE: dataset, tables, views; DRY_RUN=1 prints the statements
	@exec $(PY) -m forecastbook.doctor migrate $(ASK) $(if $(DRY_RUN),--dry-run)

doctor: ## look JOB and WAREHOUSE over before a first run: rights, tables, freshness, cost; writes nothing
	@exec $(PY) -m forecastbook.doctor check $(ASK) --as-of $(call quote,$(AS_OF))

all: ## tune and forecast for every job in params/
	@for job in $(JOBS); do $(MAKE) --no-print-directory tune JOB=$$job && $(MAKE) --no-print-directory forecast JOB=$$job || exit 1; done

smoke: ## a tiny run of every job, two at a time, in outputs/smoke
	@printf '%s\n' $(JOBS) | xargs -P 2 -I{} $(MAKE) --no-print-directory forecast JOB={} OUT=$(OUT)/smoke PARAMS="params/smoke.yaml $(PARAMS)"

setup: .venv/ready.mk ## only the environment: .venv from requirements.lock

test: ## the whole test suite, notebooks included
	$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lab: ## JupyterLab on the notebooks
	$(PY) -m jupyterlab --notebook-dir=notebooks

report: ## render the HTML of all runs and outputs/index.html again
	$(PY) -m forecastbook.report "$(OUT)"

bench: ## accuracy and speed against named peers; tables in outputs/bench/
	$(PY) tests/bench.py --out "$(OUT)/bench"
	$(PY) tests/bench_sales.py --out "$(OUT)/bench"
	$(PY) tests/bench_tide.py > "$(OUT)/bench/tide.txt" && cat "$(OUT)/bench/tide.txt"
	$(PY) tests/bench_bigquery.py > "$(OUT)/bench/bigquery.txt" && cat "$(OUT)/bench/bigquery.txt"

pretrain: ## make the base network that the package carries, from generated price processes
	$(PY) -m forecastbook.pretrain

lint: ## ruff on code and notebooks; notebooks stripped of outputs
	$(PY) -m ruff check lib tests notebooks
	$(PY) -m ruff format --check lib tests
	$(PY) -m nbstripout --verify notebooks/*.ipynb

lock: ## resolve pyproject.toml again into requirements.lock
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check ".[test]"
	.venv-lock/bin/python -m pip freeze --all --exclude forecastbook --exclude pip | sed -E 's/\+cpu$$//' | grep -vE '^(nvidia-|triton)' > requirements.lock
	rm -rf .venv-lock

clean: ## remove the environment and caches; outputs are kept
	rm -rf .venv .venv-lock .emulator .pytest_cache .ruff_cache .hypothesis lib/*.egg-info
	find lib tests -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  variables: JOB=$(JOB) AS_OF=(latest) OUT=$(OUT) WAREHOUSE=$(WAREHOUSE) PARAMS= FORCE= DRY_RUN= RAY_ADDRESS="
