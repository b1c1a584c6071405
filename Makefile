# make demo           sample data -> training -> evaluation -> predictions.csv
# make yt8m-video     downloads YouTube-8M's video-level data, 22 GB, trains and
#                     scores two models on it; SHARD=1,50 for a fiftieth, see
#                     docs/download.md
# make demo-videos    small video files -> features -> training -> timeline
# make test           lint and the fast tests
# make lint           ruff, types; .pre-commit-config.yaml runs it too
# make docs           writes docs/flags.md and docs/troubleshooting.md from the
#                     flags and the messages of the programs
# make test-pythons   the fast tests on each installed Python of PYTHONS
# make test-slow      the tests that take minutes
# make test-backends  of these only the models on JAX and PyTorch
# make learn          what each model can learn, an hour and a half at most;
#                     prints tables of all rows in LEARNING_RESULTS=<folder>;
#                     PYTEST_FLAGS="-k NextVladModel" for a part of it, "-n 8"
#                     for a larger machine
# make recommended    compares --preset=recommended with the defaults of eight
#                     models; RECOMMENDED_FLAGS="--jobs=8 --models=MoeModel"
# make compare        trains the thesis's models and compares them; writes the table
#                     and the picture in README.md; report in COMPARE_DIR
# make compare-frameworks
#                     trains four of them in TensorFlow, PyTorch and JAX; writes
#                     the tables in docs/frameworks.md; report in FRAMEWORKS_DIR
# make two-workers    trains as two machines would, on this one
# make bench          the benchmarks, 25 to 50 minutes; results in benchmarks/results/

PYTHON ?= python3
PYTHONS ?= 3.11 3.12 3.13
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO_DIR ?= /tmp/yt8m_demo
YT8M_DIR ?= $(HOME)/yt8m
SHARD ?= 1,1
MIRROR ?= us
BASE_URL ?=
VIDEO_DEMO_DIR ?= /tmp/yt8m_video_demo
LEARNING_RESULTS ?= /tmp/yt8m_learning
RECOMMENDED_FLAGS ?=
COMPARE_DIR ?= /tmp/yt8m_compare
COMPARE_FLAGS ?= --budget=steps:300 --seeds=2
FRAMEWORKS_DIR ?= /tmp/yt8m_frameworks
FRAMEWORKS_FLAGS ?= --backends=tensorflow,torch,jax
PIP_INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check

# Extra options for pytest: `make test PYTEST_FLAGS="-k export"`.
PYTEST_FLAGS ?=
FAST_TESTS = $(RUN) -m pytest --numprocesses=2 --dist=worksteal --durations=25 \
  $(PYTEST_FLAGS)

.PHONY: demo demo-videos yt8m-video test test-pythons fast-tests test-slow \
  test-backends learn recommended compare compare-frameworks lint docs \
  two-workers bench clean

$(VENV)/bin/activate:
	@echo "== Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/activate requirements.txt \
    requirements/constraints.txt
	@echo "== Installing requirements.txt into $(VENV)"
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements/dev.txt \
    requirements/embeddings.txt requirements/inspect.txt \
    requirements/notebook.txt requirements/report.txt requirements/videos.txt
	@echo "== Installing requirements/dev.txt into $(VENV)"
	@$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

# TensorFlow imports JAX if it is installed, so each backend has its own
# environment, where tests/test_backends.py looks for it.
$(VENV)/%/.installed: requirements/%.txt \
    requirements/constraints.txt | $(VENV)/bin/activate
	@echo "== Installing $< into $(VENV)/$*"
	@$(PYTHON) -m venv $(VENV)/$*
	@$(VENV)/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# tests/media/test_torch_encoders.py runs itself there.
$(VENV)/clip/.installed-tests: $(VENV)/clip/.installed requirements/dev.txt
	@$(VENV)/clip/bin/pip install --quiet --disable-pip-version-check \
	  $$(grep ^pytest== requirements/dev.txt)
	@touch $@

# tests/engine/test_export_formats.py runs itself there.
$(VENV)/export/.installed-tests: $(VENV)/export/.installed requirements.txt \
    requirements/dev.txt
	@$(VENV)/export/bin/pip install --quiet --disable-pip-version-check \
	  -r requirements.txt $$(grep ^pytest== requirements/dev.txt)
	@touch $@

# tests/data_tools/test_ray_engine.py runs itself there, and whole programs.
$(VENV)/ray/.installed-tests: $(VENV)/ray/.installed requirements.txt \
    requirements/videos.txt requirements/dev.txt
	@$(VENV)/ray/bin/pip install --quiet --disable-pip-version-check \
	  -r requirements.txt -r requirements/videos.txt \
	  $$(grep ^pytest== requirements/dev.txt)
	@touch $@

demo: $(VENV)/.installed
	@PYTHON=$(RUN) DEMO_DIR=$(DEMO_DIR) bash data_tools/demo.sh

yt8m-video: $(VENV)/.installed
	@PYTHON=$(RUN) YT8M_DIR="$(YT8M_DIR)" SHARD="$(SHARD)" \
	  MIRROR="$(MIRROR)" BASE_URL="$(BASE_URL)" bash data_tools/yt8m_video.sh

$(VENV)/.installed-videos: $(VENV)/.installed requirements/videos.txt
	@echo "== Installing requirements/videos.txt into $(VENV)"
	@$(PIP_INSTALL) -r requirements/videos.txt
	@touch $@

demo-videos: $(VENV)/.installed-videos
	@PYTHON=$(RUN) DEMO_DIR=$(VIDEO_DEMO_DIR) bash data_tools/demo_videos.sh

lint: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/basedpyright --pythonpath $(RUN)

docs: $(VENV)/.installed
	@$(RUN) -m docs.make_flags_page
	@$(RUN) -m docs.make_troubleshooting_page

test: lint
	@$(FAST_TESTS)

# Each Python has its own environment (.venv-3.12, ...), without JAX. python3.12
# on the PATH may be a pyenv shim that fails unless this version is selected;
# then the interpreters in pyenv's folder are tried.
test-pythons:
	@for version in $(PYTHONS); do \
	  found=; \
	  for python in python$$version \
	      "$$(pyenv root 2>/dev/null)"/versions/$$version.*/bin/python; do \
	    "$$python" -c "import venv" 2>/dev/null && found=$$python && break; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "== Python $$version is not installed: skipped"; \
	    continue; \
	  fi; \
	  echo "== Python $$version: $$found"; \
	  $(MAKE) --no-print-directory fast-tests VENV=.venv-$$version \
	    PYTHON="$$found" || exit 1; \
	done

fast-tests: $(VENV)/.installed-dev
	@$(FAST_TESTS)

test-slow: $(VENV)/.installed-dev \
    $(VENV)/jax/.installed $(VENV)/torch/.installed \
    $(VENV)/clip/.installed-tests $(VENV)/ray/.installed-tests \
    $(VENV)/export/.installed-tests
	@YT8M_BACKENDS="jax torch" $(RUN) -m pytest -m "slow and not learn"

test-backends: $(VENV)/.installed-dev $(VENV)/jax/.installed \
    $(VENV)/torch/.installed
	@YT8M_BACKENDS="jax torch" $(RUN) -m pytest -m "" tests/test_backends.py

# The tables are also printed if a model has not learned what it must.
learn: $(VENV)/.installed-dev
	@LEARNING_RESULTS="$(LEARNING_RESULTS)" $(RUN) -m pytest -m learn -s \
	  $(PYTEST_FLAGS) tests/learning; status=$$?; \
	$(RUN) -m benchmarks.learning.tables "$(LEARNING_RESULTS)" || status=1; \
	exit $$status

recommended: $(VENV)/.installed
	@$(RUN) -m benchmarks.learning.recommended $(RECOMMENDED_FLAGS)

$(VENV)/.installed-report: $(VENV)/.installed requirements/report.txt
	@echo "== Installing requirements/report.txt into $(VENV)"
	@$(PIP_INSTALL) -r requirements/report.txt
	@touch $@

compare: $(VENV)/.installed-report
	@$(RUN) -m reports.compare_models --output_dir="$(COMPARE_DIR)" \
	  $(COMPARE_FLAGS)
	@$(RUN) -m docs.put_comparison "$(COMPARE_DIR)"

compare-frameworks: $(VENV)/.installed-report $(VENV)/jax/.installed \
    $(VENV)/torch/.installed
	@$(RUN) -m reports.compare_frameworks --output_dir="$(FRAMEWORKS_DIR)" \
	  $(FRAMEWORKS_FLAGS)
	@$(RUN) -m docs.put_frameworks "$(FRAMEWORKS_DIR)"

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
	@rm -rf $(VENV) .venv-* .pytest_cache .ruff_cache .hypothesis
