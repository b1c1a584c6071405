# make demo   sample data -> training -> evaluation -> predictions.csv
# make test   lint and the fast tests
# make test-slow   the tests that take minutes
# make test-backends   the models on JAX and PyTorch, a part of the two above
# make learn  what each model can learn; an hour. Tables to the terminal,
#             with LEARNING_RESULTS=<file> as JSON too
# make two-workers   trains as two machines would, both of them this one
# make bench  the benchmarks, 50 minutes; results to benchmarks/results/

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO_DIR ?= /tmp/yt8m_demo
SAMPLE_DIR := /tmp/yt8m_sample_data
PIP_INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow test-backends learn lint two-workers bench clean

$(VENV)/bin/activate:
	@echo "== Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/activate requirements.txt constraints.txt
	@echo "== Installing requirements.txt into $(VENV)"
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	@echo "== Installing requirements-dev.txt into $(VENV)"
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

# TensorFlow imports JAX where it finds it, so each backend has its own Python,
# where tests/test_backends.py looks for it.
$(VENV)/%/.installed: requirements-%.txt constraints.txt | $(VENV)/bin/activate
	@echo "== Installing $< into $(VENV)/$*"
	@$(PYTHON) -m venv $(VENV)/$*
	@$(VENV)/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

demo: $(VENV)/.installed
	@PYTHON=$(RUN) DEMO_DIR=$(DEMO_DIR) SAMPLE_DIR=$(SAMPLE_DIR) \
	  bash data_tools/demo.sh

lint: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

test: lint $(VENV)/jax/.installed
	@YT8M_BACKENDS=jax $(RUN) -m pytest --numprocesses=2 --dist=loadfile

test-slow: $(VENV)/.installed-dev $(VENV)/torch/.installed
	@YT8M_BACKENDS=torch $(RUN) -m pytest -m "slow and not learn"

test-backends: $(VENV)/.installed-dev $(VENV)/jax/.installed \
    $(VENV)/torch/.installed
	@YT8M_BACKENDS="jax torch" $(RUN) -m pytest -m "" tests/test_backends.py

learn: $(VENV)/.installed-dev
	@$(RUN) -m pytest -m learn -s tests/test_learning.py

WORKERS := "127.0.0.1:20001", "127.0.0.1:20002"
WORKER = TF_CONFIG='{"cluster": {"worker": [$(WORKERS)]}, \
  "task": {"type": "worker", "index": $(1)}}' \
  $(RUN) train.py --train_dir=/tmp/yt8m_two_workers --num_epochs=2 \
  --batch_size=32

two-workers: $(VENV)/.installed
	@$(call WORKER,1) & $(call WORKER,0); wait $$!

bench: $(VENV)/.installed-dev
	@$(RUN) -m benchmarks.run_all

clean:
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
