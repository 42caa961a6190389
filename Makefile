# Every target sets up what it needs: a virtual environment in .venv, by pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up

.PHONY: setup demo test check bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python pipelines/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest tests/test_readme.py

bench: $(STAMP)
	$(BIN)/python benchmarks/epoch.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python data/make_photos.py
	$(BIN)/python benchmarks/codecs.py

clean:
	rm -rf $(VENV) features build dist *.egg-info data/digits data/mnist5k data/photos
