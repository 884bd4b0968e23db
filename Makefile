# Two targets for people: `make demo` and `make test`. Both set everything up first, from nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt

.PHONY: demo test check clean

demo: $(VENV)/.demo
	$(BIN)/edgedeploy demo -o out/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

# lint, formatting and types
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) out dist build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone: with it there, no other requirement brings in another build of it
$(VENV)/.torch: $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -q -c $(CONSTRAINTS) torch
	touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -e '.[dev]'
	touch $@
