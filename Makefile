# Each chore sets itself up: `make demo` or `make test` is all that a fresh clone needs.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

.PHONY: help demo demo-doll test check bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        a whole experiment and a sweep on chest X-ray phantoms, in ./workspace"
	@echo "make demo-doll   explanations as pre-training, in ./workspace"
	@echo "make test        checks, unit and integration tests"
	@echo "make check       lint, format and types only"
	@echo "make bench       benchmarks (one of them: make bench ONLY=saliency)"

$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "Python 3.11 or newer is needed, and there is no $(PYTHON): install it," \
	       "or name another with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  echo "Making .venv ..."; $(PYTHON) -m venv --clear .venv; }
	@echo "Installing chexseg-platform and what it needs into .venv (once, some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/chexseg-platform run experiments/demo.yaml --workspace workspace
	$(BIN)/chexseg-platform tune experiments/demo.yaml --workspace workspace
	@echo
	@echo "Next:"
	@echo "  $(BIN)/chexseg-platform report demo        all of it on one HTML page, report.html"
	@echo "  $(BIN)/chexseg-platform ui                 every run, curve, table and overlay in MLflow"
	@echo "  ls workspace/comparison/*/parts          the comparison's tables and pictures"
	@echo "  $(BIN)/chexseg-platform config show experiments/demo.yaml"
	@echo "  make demo                                  again: it finds everything finished"
	@echo "Your own data: copy experiments/chexseg.yaml, change its paths, then check and run it."

demo-doll: $(READY)
	$(BIN)/chexseg-platform finetune experiments/doll-demo.yaml --workspace workspace
	@echo
	@echo "Next:"
	@echo "  $(BIN)/chexseg-platform ui                 curves, tables and every training in MLflow"
	@echo "  ls workspace/finetuning/*/parts          tables and curves"
	@echo "  $(BIN)/chexseg-platform finetune experiments/doll-phantom.yaml   the whole experiment, hours"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -n auto tests/unit
	$(BIN)/python -m pytest tests/integration

bench: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m tests.benchmarks $(ONLY)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
