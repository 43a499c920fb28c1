PYTHON ?= python3
PROFILE ?= tiny
BIN := .venv/bin
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help env run test test-full test-gpu test-peers test-browser bench bench-chunking bench-scale bench-perplexity bench-training bench-batch bench-gpu lab wheelhouse kit notebooks pictures exercises slides check lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

env:  ## make .venv with all that tests need, if it is not there or the locks have changed
	@$(PYTHON) start.py env --dev

run:  ## run the six notebooks (PROFILE=tiny) into runs/PROFILE
	@$(PYTHON) start.py run --profile $(PROFILE)

test:  ## every quick test, the notebooks among them
	@$(PYTHON) start.py test

test-full:  ## every test that needs no GPU, with a thousand generated cases for each property
	@$(PYTHON) start.py test --full

test-gpu: env  ## the notebooks and the device paths on a CUDA GPU
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make test-gpu needs a CUDA GPU, and torch sees none on this machine.")'
	@$(BIN)/python -m pytest -q notebooks && $(BIN)/python -m pytest -q -m gpu tests

test-peers: env build/peers  ## our numbers against lm-evaluation-harness, which is installed into build/ for it
	@PYTHONPATH=build/peers $(BIN)/python -m pytest -q -m peers tests/peers

build/peers: tests/peers/requirements.txt
	@rm -rf $@ && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ -r $<

test-browser: env build/browser  ## the notebooks in JupyterLab, in Chromium; screenshots go to build/screenshots
	@command -v chromium chromium-browser >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || true
	@PYTHONPATH=build/browser $(BIN)/python -m pytest -q -m browser tests/browser

build/browser: tests/browser/requirements.txt
	@rm -rf $@ && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ -r $<

bench: bench-chunking bench-perplexity bench-training bench-batch  ## speed and memory beside other libraries, into tests/benchmarks/RESULTS.md

bench-chunking: env  ## the same for chunking alone
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/bench -r tests/benchmarks/requirements.txt
	@export PYTHONPATH=build/bench && $(BIN)/python -m tests.benchmarks.chunking && $(BIN)/python -m tests.benchmarks.scale && \
	  $(BIN)/python -m tests.benchmarks.tokenization

bench-scale: env  ## steps 01 to 03 on up to a million documents, beside other libraries (half an hour)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/bench -r tests/benchmarks/requirements.txt
	@PYTHONPATH=build/bench $(BIN)/python -m tests.benchmarks.steps

bench-perplexity: env build/peers  ## the same for perplexity alone
	@PYTHONPATH=build/peers $(BIN)/python -m tests.benchmarks.perplexity

bench-training: env  ## the same for training alone
	@$(BIN)/python -m tests.benchmarks.training

bench-batch: env  ## what the runner itself costs, in one run and in a sweep of 12; trainings beside each other
	@$(BIN)/python -m tests.benchmarks.batch

bench-gpu: env  ## the same for training on a CUDA GPU
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make bench-gpu needs a CUDA GPU, and torch sees none on this machine.")'
	@$(BIN)/python -m tests.benchmarks.training cuda

lab:  ## open JupyterLab in work/, copies of the notebooks
	@$(PYTHON) start.py lab

wheelhouse:  ## fetch all packages into wheelhouse/ for machines without a network (SYSTEMS="win_amd64 3.12")
	@$(PYTHON) start.py wheelhouse $(SYSTEMS)

kit:  ## one zip for machines without a network: build/clm-notebooks-kit.zip (KIT_FOR=win_amd64,3.12,smollm2)
	@$(PYTHON) start.py kit $(KIT_FOR)

notebooks: env  ## execute the notebooks from their defaults, clean and check them, write them in place
	@$(BIN)/python -m tools.notebooks

pictures: env run build/browser  ## the screenshots of README and guide, of JupyterLab and of a report, into docs/pictures
	@PICTURES=1 PYTHONPATH=build/browser $(BIN)/python -m pytest -q -m browser tests/browser/test_pictures.py

exercises: env  ## write workshop/exercises from workshop/solutions
	@$(BIN)/python -m tools.exercises

slides: env  ## write build/slides.html from workshop/slides.md and the notebooks' pictures
	@$(BIN)/python -m tools.slides

check: env  ## style of code and notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

lock:  ## resolve pyproject.toml anew, for every system, and write both locks
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip install --quiet uv && \
	  PATH="$$PWD/.venv-lock/bin:$$PATH" $(PYTHON) -m tools.lock; rm -rf .venv-lock

# Models from packages; tokenized data, and copies of data files, which the library datasets keeps.
HUGGING_FACE := $(or $(HF_HOME),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/huggingface)
CACHES = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/clm-notebooks $(or $(HF_DATASETS_CACHE),$(HUGGING_FACE)/datasets)

clean:  ## remove the environment, the runs and every cache in this folder, and name those elsewhere
	rm -rf .venv .venv.lock .venv-lock runs build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	@echo "Kept, since other folders and projects may use it; delete it by hand to free room (sizes in MB):"
	@du -sm $(CACHES) 2>/dev/null || true
