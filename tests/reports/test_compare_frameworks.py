"""Tests of reports.compare_frameworks."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import in_process
import pytest
from conftest import run_into_error, run_program

pytest.importorskip("matplotlib")

import stopping
from reports import (
  compare_frameworks,
  comparison_runs,
  framework_comparison,
  framework_runs,
)
from reports.frameworks import recipe

PROGRAM = "reports.compare_frameworks"
FAST = (
  "--models=DeepNnModel:nn_tower_sizes=3:nn_branch_sizes=",
  "--num_classes=40",
  "--batch_size=4",
)


@pytest.fixture
def fake(data_dir, monkeypatch):
  """Flags for processes that compute nothing; see fake_worker.py."""
  monkeypatch.setattr(framework_runs, "_WORKER", "tests.reports.fake_worker")
  return (
    *FAST,
    f"--train_data_pattern={data_dir}/{{level}}/train*.tfrecord",
    "--backends=tensorflow,torch",
    f"--pythons=torch={sys.executable}",
  )


@pytest.fixture
def all_packages(monkeypatch):
  monkeypatch.setattr(framework_runs, "_check_python", lambda *_: None)


def report_of(folder) -> dict:
  return json.loads((Path(folder) / "report.json").read_text())


def test_a_report(fake, all_packages, tmp_path):
  log = in_process.run(PROGRAM, *fake, f"--output_dir={tmp_path}")
  assert "TensorFlow and PyTorch  0.0e+00" in log
  report = report_of(tmp_path)
  (model,) = report["models"]
  assert [result["backend"] for result in model["results"]] == [
    *("tensorflow", "torch")
  ]
  # Batches of 4, steps of half a second.
  assert model["results"][0]["videos_per_second"] == 8
  assert model["results"][0]["how"] == "compiled"
  assert model["videos"] == 60
  assert model["agreements"][0]["holds"]
  for name in ("report.md", "report.html"):
    assert "PyTorch" in (tmp_path / name).read_text()
  assert not list((tmp_path / "runs").glob("*weights*"))


def test_what_is_finished_is_not_run_again(
  fake, all_packages, tmp_path, monkeypatch
):
  in_process.run(PROGRAM, *fake, f"--output_dir={tmp_path}")
  before = report_of(tmp_path)
  monkeypatch.setattr(framework_runs, "_WORKER", "no.such.module")
  log = in_process.run(PROGRAM, *fake, f"--output_dir={tmp_path}")
  assert log.count("done before") == 4
  assert report_of(tmp_path)["models"] == before["models"]


def test_what_is_damaged_is_trained_again(fake, all_packages, tmp_path):
  in_process.run(PROGRAM, *fake, f"--output_dir={tmp_path}")
  (damaged,) = (tmp_path / "runs").glob("*torch*check*.npz")
  os.truncate(damaged, 40)
  log = in_process.run(PROGRAM, *fake, f"--output_dir={tmp_path}")
  assert log.count("done before") == 3
  assert damaged.stat().st_size > 40


@pytest.mark.slow
def test_a_model_in_progress_is_all_that_is_lost(
  fake, all_packages, tmp_path, monkeypatch
):
  flags = [*fake, f"--output_dir={tmp_path}"]
  flags[0] += ",MoeModel"
  real = framework_runs.run_job

  def stopped(job, *arguments):
    if job.model_flags["model"] == "MoeModel":
      raise KeyboardInterrupt
    return real(job, *arguments)

  monkeypatch.setattr(framework_runs, "run_job", stopped)
  code, _ = in_process.call(PROGRAM, *flags)
  assert code == 130
  assert len(report_of(tmp_path)["models"]) == 1
  monkeypatch.setattr(framework_runs, "run_job", real)
  log = in_process.run(PROGRAM, *flags)
  assert log.count("done before") == 4
  assert len(report_of(tmp_path)["models"]) == 2


def test_each_job_can_read_its_weights(
  fake, all_packages, tmp_path, monkeypatch
):
  real = framework_runs.run_job
  built = []

  def reads(job, *arguments):
    recipe.build_model(job)
    built.append(job.is_check)
    return real(job, *arguments)

  monkeypatch.setattr(framework_runs, "run_job", reads)
  flags = [*fake, f"--output_dir={tmp_path}", "--backends=tensorflow"]
  flags.remove(f"--pythons=torch={sys.executable}")
  # Dropout changes the order of the weights of its streams.
  flags[0] = (
    "--models=StreamLstmModel:lstm_cells=3:lstm_layers=1:stream_hidden_sizes=5"
  )
  in_process.run(PROGRAM, *flags)
  assert built == [True, False]
  assert not list((tmp_path / "runs").glob("*weights*"))


def process_of(log) -> int | None:
  """The process that writes to a log, if it has begun."""
  text = log.read_text() if log.exists() else ""
  return int(text.split()[1]) if text.endswith("\n") else None


def test_sigterm_ends_the_processes(fake, all_packages, tmp_path, monkeypatch):
  monkeypatch.setenv("FAKE_WORKER", "Hangs")
  before = signal.getsignal(signal.SIGTERM)
  logs = tmp_path / "runs"

  def stop():
    while not any(map(process_of, logs.glob("*.log"))):
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

  signal.signal(signal.SIGTERM, stopping.handle)
  try:
    threading.Thread(target=stop, daemon=True).start()
    code, _ = in_process.call(PROGRAM, *fake, f"--output_dir={tmp_path}")
  finally:
    signal.signal(signal.SIGTERM, before)
  assert code == 143
  (log,) = logs.glob("*.log")
  number = process_of(log)
  assert number
  with pytest.raises(ProcessLookupError):
    os.kill(number, 0)
  assert not list(logs.glob("*.json"))
  monkeypatch.delenv("FAKE_WORKER")
  log = in_process.run(PROGRAM, *fake, f"--output_dir={tmp_path}")
  assert "done before" not in log
  assert report_of(tmp_path)["models"][0]["agreements"][0]["holds"]


def test_two_do_not_work_in_one_folder(fake, all_packages, tmp_path):
  with comparison_runs.alone_in(str(tmp_path)):
    line = in_process.run_into_error(PROGRAM, *fake, f"--output_dir={tmp_path}")
  assert f"received {tmp_path}" in line
  assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_files_of_another_origin_stay(fake, all_packages, tmp_path, name):
  (tmp_path / name).write_text("mine")
  line = in_process.run_into_error(PROGRAM, *fake, f"--output_dir={tmp_path}")
  assert name in line
  assert "Name another" in line
  assert [path.name for path in tmp_path.iterdir()] == [name]
  assert (tmp_path / name).read_text() == "mine"


def test_a_difference_is_an_error_after_the_report(
  fake, all_packages, tmp_path, monkeypatch
):
  monkeypatch.setattr(framework_comparison, "MOST_LOSSES", -1.0)
  line = in_process.run_into_error(PROGRAM, *fake, f"--output_dir={tmp_path}")
  assert "Expected TensorFlow and PyTorch to train DeepNnModel" in line
  assert not report_of(tmp_path)["models"][0]["agreements"][0]["holds"]
  assert "| NO |" in (tmp_path / "report.md").read_text()


def test_results_are_kept_where_asked(
  fake, all_packages, tmp_path, monkeypatch
):
  from benchmarks import run_all

  monkeypatch.setattr(
    run_all,
    "result_path",
    lambda about: f"{tmp_path}/{about['date'][:2]}_{about['cores']}.json",
  )
  in_process.run(PROGRAM, *fake, f"--output_dir={tmp_path}", "--keep_results")
  (kept,) = tmp_path.glob("20*_frameworks.json")
  assert json.loads(kept.read_text()) == report_of(tmp_path)
  assert "host" not in report_of(tmp_path)["machine"]


@pytest.mark.parametrize(
  ("flag", "part"),
  [
    ("--backends=tensorflow,theano", "tensorflow,theano"),
    ("--backends=jax,jax", "jax,jax"),
    ("--backends=", "received none"),
    ("--models=", "received none"),
    ("--pythons=jax=x", "--pythons"),
    ("--models=NoModel", "NoModel"),
    ("--models=MoeModel,MoeModel", "received MoeModel twice"),
  ],
)
def test_wrong_flags(flag, part, fake, all_packages, tmp_path):
  line = in_process.run_into_error(
    PROGRAM, *fake, f"--output_dir={tmp_path}/x", flag
  )
  assert part in line
  assert not list(tmp_path.iterdir())


def test_each_process_needs_a_gpu(fake, all_packages, tmp_path, monkeypatch):
  real = compare_frameworks.describe_machine
  monkeypatch.setattr(
    compare_frameworks, "describe_machine", lambda: {**real(), "gpus": ["A"]}
  )
  flags = [*fake, f"--output_dir={tmp_path}/x", "--backends=tensorflow"]
  flags.remove(f"--pythons=torch={sys.executable}")
  line = in_process.run_into_error(PROGRAM, *flags, "--processes=2")
  assert "--processes=2, found 1" in line
  assert not list(tmp_path.iterdir())
  in_process.run(PROGRAM, *flags)


def test_models_with_batch_statistics():
  flags = {
    "model": "DbofModel",
    "feature_names": "rgb",
    "feature_sizes": "4",
    "frame_features": True,
    "num_classes": 3,
    "max_frames": 5,
    "label_loss": "CrossEntropyLoss",
    "iterations": 2,
    "dbof_cluster_size": 4,
    "dbof_hidden_size": 3,
  }
  assert compare_frameworks._has_batch_statistics(flags)
  off = {**flags, "dbof_add_batch_norm": False}
  assert not compare_frameworks._has_batch_statistics(off)


# --------------------------------------------------------------------------
# With the frameworks


def require(backend):
  python = Path(sys.prefix) / backend / "bin" / "python"
  if not python.exists():
    pytest.skip(f"{python} is missing; `make test-backends` makes it")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("model", "first"),
  [
    ("LogisticModel", ("XLA", "torch.compile")),
    ("BiLstmModel:lstm_cells=6:lstm_layers=1", ("tf.function", "eager")),
  ],
)
def test_frameworks_and_processes_agree(model, first, data_dir, tmp_path):
  require("torch")
  require("jax")
  log = run_program(
    "-m",
    PROGRAM,
    "--backends=tensorflow,torch,jax",
    f"--models={model}",
    f"--train_data_pattern={data_dir}/{{level}}/train*.tfrecord",
    "--num_classes=40",
    "--batch_size=8",
    "--processes=2",
    "--seconds=0.5",
    f"--output_dir={tmp_path}",
    patience=900,  # 18 processes, each of which starts a framework
  )
  assert "NO" not in log
  (found,) = report_of(tmp_path)["models"]
  assert len(found["results"]) == 6
  assert len(found["agreements"]) == 5
  assert all(pair["holds"] for pair in found["agreements"])
  for result in found["results"]:
    assert result["check_losses"][-1] < result["check_losses"][0]
    assert result["peak_memory_bytes"] > 2**26
  assert [result["how"] for result in found["results"][:3]] == [*first, "jit"]


@pytest.mark.slow
def test_a_model_that_draws_numbers_is_refused(data_dir, tmp_path):
  line = run_into_error(
    "-m",
    PROGRAM,
    "--backends=tensorflow",
    "--models=DbofModel:iterations=2:dbof_cluster_size=4:dbof_hidden_size=3",
    f"--train_data_pattern={data_dir}/{{level}}/train*.tfrecord",
    "--num_classes=40",
    "--batch_size=8",
    f"--output_dir={tmp_path}",
  )
  assert "Expected a model that draws no random numbers" in line
