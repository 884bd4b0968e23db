# Two targets for people: `make demo` and `make test`. Both set everything up first, from nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt

# What some tests run for real, and skip without: an ssh server, the adb client, a browser.
SYSTEM := adb chromium openssh-client openssh-server

.PHONY: demo test check clean

demo: $(VENV)/.demo
	$(BIN)/edgedeploy demo -o out/demo

test: $(VENV)/.dev $(VENV)/.system
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

# as root on Debian, which is how containers run; anybody else installs them, or has those tests skipped
$(VENV)/.system: | $(BIN)/python
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! (command -v adb && command -v chromium && command -v sshd) >/dev/null; then \
	  (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(SYSTEM)) >/dev/null 2>&1 \
	  || echo "$(SYSTEM) could not be installed: the tests that need one are skipped" >&2; fi
	touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -e '.[dev]'
	touch $@
