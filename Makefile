# Two commands: `make quickstart` runs everything on the embedded sample, `make test` tests it.
# Both set up .venv first; only Python >= 3.11, make and git are assumed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CORES ?= all
# torch-sim wants a newer Python than the rest.
PYTHON_TORCH_SIM ?= python3.12
ENGINES := build/engines
NEWEST := build/newest
# How long `make chaos` tries, and what its faults are drawn from.
SECONDS ?= 600
SEED ?= 1

# Whoever imports a module first writes its bytecode. pip would compile all modules, one after
# another, which takes longer than the rest of an installation. Empty is unset.
PIP := -m pip install --quiet --no-compile
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help install quickstart report docs test test-fast test-all test-newest test-engines chaos lint format schema clean distclean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## Create .venv with the tested versions of everything

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mtlpar needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --upgrade pip
	$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[mpi,workflow,sample,trackers,docs,dev]'
	@touch $@

quickstart: $(STAMP)  ## Download, train nine models and evaluate on the embedded sample
	$(BIN)/snakemake --profile profiles/local --cores $(CORES)
	@$(BIN)/mtlpar report --html report.html
	@$(BIN)/mtlpar report --summary

report: $(STAMP)  ## Write report.html from finished tables and figures
	$(BIN)/mtlpar report --html report.html

# Three processes for two cores: tests of schedulers wait much of the time.
test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Folders without a test for it, which cost seconds to import.
START_OTHERS := engines parity slurm workflow
test-fast: $(STAMP)  ## Run the tests that start neither ranks nor Snakemake and are soon done
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
		-m "not (slow or mpi or workflow or long)" $(patsubst %,--ignore=tests/%,$(START_OTHERS))

test-all: $(STAMP)  ## Run the slow tests and those of the GPU's kernels too
	$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[kernels]'
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m ""

test-newest:  ## Run unit and parity tests with the newest versions that install, torch among them
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python $(PIP) --upgrade pip
	$(NEWEST)/bin/python $(PIP) \
		--upgrade --upgrade-strategy eager \
		--editable '.[mpi,workflow,sample,trackers,docs,dev]'
	$(NEWEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/unit tests/parity

test-engines: $(patsubst %,$(ENGINES)/%.installed,torch-sim nvalchemi others)  ## Run trained models in other engines, in environments of their own
	OMP_NUM_THREADS=1 $(ENGINES)/torch-sim/bin/python -m pytest tests/engines/test_torch_sim.py
	OMP_NUM_THREADS=1 $(ENGINES)/nvalchemi/bin/python -m pytest tests/engines/test_nvalchemi.py
	OMP_NUM_THREADS=1 $(ENGINES)/others/bin/python -m pytest tests/engines/test_lammps.py tests/engines/test_metatomic.py

$(ENGINES)/%.installed: tests/engines/%.txt pyproject.toml
	$(ENGINE_PYTHON) -m venv $(ENGINES)/$*
	$(ENGINES)/$*/bin/python $(PIP) --upgrade pip
	$(ENGINES)/$*/bin/python $(PIP) --requirement $< --editable '.[dev]'
	@touch $@

$(ENGINES)/torch-sim.installed: ENGINE_PYTHON = $(PYTHON_TORCH_SIM)
$(ENGINES)/nvalchemi.installed $(ENGINES)/others.installed: ENGINE_PYTHON = $(PYTHON)

chaos: $(STAMP)  ## Damage, swap, kill and fill up a tiny run for SECONDS; SEED draws the faults
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos.py --seconds $(SECONDS) --seed $(SEED)

docs: $(STAMP)  ## Write the documentation as a site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo 'open build/site/index.html, or with search: $(BIN)/python -m http.server -d build/site'

lint: $(STAMP)  ## Check style, types, the workflow and the documentation
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	MYPYPATH=tools/docs $(BIN)/mypy --explicit-package-bases tools/docs/*.py
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(STAMP)  ## Format all code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile rules

schema: $(STAMP)  ## Write the JSON schema of the config
	$(BIN)/mtlpar schema --out workflow/schemas/config.schema.json

clean:  ## Remove results, keep raw files and .venv
	rm -rf results logs report.html .snakemake

distclean: clean  ## Remove everything that is not in git
	rm -rf data/raw $(VENV) .mypy_cache .ruff_cache .pytest_cache src/*.egg-info build
