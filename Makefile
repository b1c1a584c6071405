# make demo   sample data -> training -> evaluation -> predictions.csv
# make test   lint and the fast tests
# make test-slow   the tests that take minutes
# make learn  what each model can learn; 40 minutes. Tables to the terminal, with
#             LEARNING_RESULTS=<file> as JSON too
# make bench  the benchmarks; results to benchmarks/results/

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO_DIR ?= /tmp/yt8m_demo
SAMPLE_DIR := /tmp/yt8m_sample_data
PIP_INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow learn lint bench clean

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

demo: $(VENV)/.installed
	@PYTHON=$(RUN) DEMO_DIR=$(DEMO_DIR) SAMPLE_DIR=$(SAMPLE_DIR) \
	  bash data_tools/demo.sh

lint: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

test: lint
	@$(RUN) -m pytest

test-slow: $(VENV)/.installed-dev
	@$(RUN) -m pytest -m "slow and not learn"

learn: $(VENV)/.installed-dev
	@$(RUN) -m pytest -m learn -s tests/test_learning.py

bench: $(VENV)/.installed-dev
	@$(RUN) -m benchmarks.run_all

clean:
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
