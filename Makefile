# On a fresh clone, with python3 (3.11 or newer) and make: `make demo` or `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
RUN ?= runs/demo-train

.PHONY: help setup demo demo-train test faults lint docs package benchmark clean

help:
	@echo "make demo       draw emoji with the model that comes with the package, in a minute (runs/demo)"
	@echo "make demo-train train a small model on procedural pictures and sample from it, in minutes (runs/demo-train)"
	@echo "make test       run all tests"
	@echo "make faults     kill, corrupt and starve small runs, and see that nothing is lost (minutes)"
	@echo "make lint       style, types and import rules, and every link of the documents"
	@echo "make docs       build the documentation site (site/index.html)"
	@echo "make package    build wheel and sdist (dist), and use them in clean environments of PYTHONS (minutes)"
	@echo "make benchmark  print the figures of docs/benchmarks.md"
	@echo "make clean      remove the environment and the demo's run"

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "scalespace needs Python 3.11 or newer, and $(PYTHON) is %d.%d; give another with make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: setup
	@rm -rf $(DEMO)
	$(BIN)/scalespace demo --output $(DEMO)

demo-train: setup
	@rm -rf $(RUN)
	$(BIN)/scalespace train --preset tiny --data synthetic:shapes --output-dir $(RUN) --max-steps 400 --batch-size 32 \
		--learning-rate 1e-3 --warmup-steps 50 --ema-decay 0.99 --change-share 0.03 --checkpoint-every 200 --sample-every 0
	$(BIN)/scalespace sample $(RUN)/model --num-images 64 --batch-size 32 --steps 50 --trajectory --output $(RUN)/pictures

# One process a core with one thread each: torch's threads of several processes would wait for each other.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults

lint: docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Every warning is an error: a link that leads nowhere, a page in no menu. (With --quiet none would be noticed.)
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The tests use the wheel too, but with the packages that are here; this installs them anew: make package PYTHONS="python3.11 python3.14"
PYTHONS ?= $(PYTHON)
package: setup
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	for python in $(PYTHONS); do .ci/try-package $$python dist || exit 1; done

benchmark: setup
	$(BIN)/python -m pytest benchmarks

clean:
	rm -rf $(VENV) $(DEMO) $(RUN) site dist
