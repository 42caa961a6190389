# Every target sets up what it needs: a virtual environment in .venv, by pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
TOOLS := .venv-orchestrators
CHECKS := tests/test_readme.py tests/test_docs.py tests/test_docstrings.py tests/test_architecture.py tests/test_style.py

.PHONY: setup orchestrators demo quick test fuzz check mutants bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	touch $(STAMP)

# Tools that the examples of pipelines/ are run by, apart from the rest: tests find them there, or skip.
orchestrators: $(TOOLS)/.set-up

$(TOOLS)/.set-up: pyproject.toml
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet dvc dagster snakemake apache-airflow
	touch $(TOOLS)/.set-up

demo: $(STAMP)
	$(BIN)/python pipelines/demo.py

# The tests that are quick, for use while working; `make test` runs all of them.
quick: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow"

# All tests; CHECKED=1 leaves out those that `make check` runs.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(if $(CHECKED),$(addprefix --ignore=,$(CHECKS)))

# Random programs, until Ctrl-C: whatever featcache gets wrong in silence is printed as a script.
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run --processes 2

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md docs featcache pipelines benchmarks data
	$(BIN)/python -m pytest --numprocesses 2 $(CHECKS)

# Small changes at random to the rooms that decide what is stale; SEED=… makes the same ones again.
COUNT ?= 20
LEAST ?= 0.9
mutants: $(STAMP)
	$(BIN)/python -m tests.mutants.run --count $(COUNT) --least $(LEAST) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only '$(ONLY)')

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet zarr lmdb webdataset joblib
	$(BIN)/python data/make_digits.py
	$(BIN)/python benchmarks/run.py

# The site, in build/site; every link and anchor is checked.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) $(TOOLS) features build dist *.egg-info data/digits data/mnist5k data/photos
