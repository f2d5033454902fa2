# Needs Python 3.11 or newer and make. Everything is installed into .venv, once.
#
#   make train                     the main job: train the default SAGAN, two to five minutes on two cores
#   make train ARGS="-p seed 1"    any parameters of notebooks/train.ipynb
#   make lab                       JupyterLab with copies of the notebooks, in outputs/notebooks/
#   make test                      all tests, by three processes (they often wait);  make test ARGS="-m 'not slow'"  the quick ones
#   make docs                      documentation with the API reference, in site/
#   make bench                     how fast training is, against a plain reference;  make bench ARGS="--size 32"  for other sizes
#   make faults                    kills, full disks, damage, signals, clocks: what survives;  make faults ARGS="kill --share 0.1"  a part of it
#   make soak                      ten minutes of the same: does memory grow;  make soak ARGS="--minutes 60"
#   make lint                      ruff, mypy, and oxlint for the JavaScript
#   make cells                     write the parameters cells of the notebooks anew, from the package's dataclasses

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: train lab test bench faults soak lint cells
.DEFAULT_GOAL := train

train: .venv/installed
	@$(BIN)/workbench train $(ARGS)

lab: .venv/installed
	@$(BIN)/workbench lab

test: .venv/installed
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

bench: .venv/installed
	$(BIN)/python -m workbench.bench $(ARGS)

faults: .venv/installed
	$(BIN)/python tests/faults/campaign.py $(ARGS)

soak: .venv/installed
	$(BIN)/python tests/faults/soak.py $(ARGS)

lint: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/oxlint --quiet --deny-warnings workbench && $(BIN)/mypy

cells: .venv/installed
	$(BIN)/workbench cells

.PHONY: docs
docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

# Torch and torchvision come together, newest of both: a CPU-only torch does not fit the registry's torchvision.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -e '.[test]'
	touch $@
