# Every target makes its own virtual environment in .venv: uv when present, else venv and pip.
PYTHON ?= python3
BIN    := .venv/bin
ARGS   ?=
PEERS  ?=

.PHONY: setup demo test check chaos bench docs clean help

help:
	@sed -n 's/^## //p' Makefile

## make setup    everything for development into .venv
setup: .venv/.dev

## make demo     the whole loop, live; ARGS="--headless --json FILE" and more: see --help
demo: .venv/.demo
	@$(BIN)/edge-runtime demo $(ARGS)

## make test     the tests, one worker a core; ARGS are pytest's
test: .venv/.dev
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not hardware and not mosquitto and not arm64" $(ARGS)

## make check    lint, types, floors
check: .venv/.dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/check.py

## make chaos    kill everything again and again, and count the rows; ARGS="--seed 7 --seconds 300"
chaos: .venv/.dev
	@$(BIN)/edge-runtime simulate chaos $(ARGS)

## make bench    measure this machine; PEERS=1 installs the peers; ARGS="--only ID --quick"
bench: .venv/.dev
	@[ -z "$(PEERS)" ] || PYTHON="$(PYTHON)" sh benchmarks/peers/setup.sh
	@$(BIN)/python benchmarks/run.py $(ARGS)

## make docs     run every example in the documentation
docs: .venv/.dev
	@$(BIN)/python -m pytest tests/docs README.md docs $(ARGS)

clean:
	rm -rf .venv dist build demo .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A stamp file per set of extras; made again when the dependencies change.
.venv/.demo .venv/.dev: .venv/.%: pyproject.toml tools/setup.sh
	@PYTHON="$(PYTHON)" sh tools/setup.sh $*
