"""Tests of reports.compare_models: the program as a whole, on tiny data.

Training and scoring take place in this process, so that a whole comparison
takes seconds; slow tests start real processes, and kill them.
"""

import csv
import json
import re
import shlex
import sys

import in_process
import pytest
import tiny_runs
from conftest import (
  REPOSITORY,
  VIDEO_DATA_FLAGS,
  Program,
  run_program,
)
from small_comparison import made_up_comparison

from engine.data_files import find_files
from reports import (
  bootstrap,
  compare_models,
  comparison_estimate,
  comparison_runs,
  score_run,
)
from reports.comparison_estimate import Facts

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


@pytest.fixture
def flags(tiny_files, tmp_path):
  """The data and the folder of a comparison, without models."""
  files = ",".join(tiny_files)
  return (
    f"--train_data_pattern={files}",
    f"--eval_data_pattern={files}",
    "--feature_names=mean_rgb,mean_audio",
    "--feature_sizes=4,3",
    "--num_classes=6",
    "--budget=steps:12",
    f"--output_dir={tmp_path}/out",
  )


@pytest.fixture
def in_this_process(monkeypatch):
  """Trains and scores here; collects what would have been started."""
  started = []

  def run(arguments, log, lock, workers=1):
    started.append(arguments)
    given = dict(
      argument.removeprefix("--").split("=", 1)
      for argument in arguments
      if "=" in argument
    )
    if arguments[0] == "train.py":
      if given["model"] == "DeepNnModel":
        raise comparison_runs.StepError("Expected a finite loss")
      tiny_runs.train_tiny(
        given["train_dir"],
        find_files(given["train_data_pattern"], "train_data_pattern"),
        {**tiny_runs.TINY_FLAGS, "model": given["model"]},
        num_epochs=0,
        max_steps=int(given["max_steps"]),
        seed=int(given["seed"]),
        keep_checkpoints=1,
      )
    else:
      score_run.score_run(
        given["train_dir"],
        find_files(given["eval_data_pattern"], "eval_data_pattern"),
        given["output_dir"],
      )

  monkeypatch.setattr(comparison_runs, "run_process", run)
  monkeypatch.setattr(
    comparison_estimate,
    "look_at_entries",
    lambda runs: {
      run.entry.name: Facts(90, 22, 1e-6, 5, model_flags=tiny_runs.TINY_FLAGS)
      for run in runs
    },
  )
  monkeypatch.setattr(score_run, "_BATCH_SIZES", (1, 2))
  monkeypatch.setattr(score_run, "_REPEATS", 1)
  monkeypatch.setattr(score_run, "_SECONDS_A_SIZE", 0.0)
  monkeypatch.setattr(bootstrap, "RESAMPLES", 40)
  monkeypatch.setattr(bootstrap, "_FEWEST_RESAMPLES", 40)
  return started


def rows_of(tmp_path):
  with (tmp_path / "out" / "report.csv").open() as file:
    return list(csv.DictReader(file))


def test_a_whole_comparison(flags, in_this_process, tmp_path):
  given = (*flags, "--models=MoeModel:batch_size=5", "--seeds=2")
  in_process.run("reports.compare_models", *given)
  # Two models with two seeds, trained and scored.
  assert len(in_this_process) == 8
  rows = rows_of(tmp_path)
  assert [row["model"] for row in rows] == [
    "MoeModel:batch_size=5",
    "mean-frame logistic",
    "majority class",
    "label frequencies",
  ]
  scores = sorted((tmp_path / "out" / "runs").glob("MoeModel_*/scores.json"))
  gaps = [json.loads(path.read_text())["gap"] for path in scores]
  assert len(gaps) == 2
  assert float(rows[0]["gap"]) == pytest.approx(sum(gaps) / 2)
  out = tmp_path / "out"
  names = {path.name for path in out.iterdir()}
  assert {
    "report.md",
    "report.html",
    "table.md",
    "pictures",
    "hparams",
  } <= names
  pictures = {path.stem for path in (out / "pictures").iterdir()}
  assert {"cost_parameters", "frequency", "reliability"} <= pictures
  page = (out / "report.html").read_text()
  command = next(
    shlex.join(["python", *arguments])
    for arguments in in_this_process
    if "--model=MoeModel" in arguments
  )
  assert command in (out / "report.md").read_text()
  assert "MoeModel:batch_size=5" in page
  # Once more: nothing is trained, the report is the same but for its command.
  first = (out / "table.md").read_text()
  older = out / "pictures" / "workers.svg"
  older.write_text("of a report with workers")
  logo = out / "pictures" / "mylogo.svg"
  logo.write_text("mine")
  in_process.run("reports.compare_models", *given)
  assert len(in_this_process) == 8
  assert (out / "table.md").read_text() == first
  assert not older.exists()
  assert logo.read_text() == "mine"
  assert {path.stem for path in older.parent.iterdir()} == {*pictures, "mylogo"}
  # Another model: only this one is left to be trained.
  log = in_process.run(
    "reports.compare_models",
    *flags,
    "--models=MoeModel:batch_size=5,MoeModel:batch_size=5:moe_num_mixtures=1",
    "--seeds=1",
    "--dry_run",
  )
  assert "1 of 3: MoeModel:batch_size=5, seed 0: finished" in log
  assert "1 of 3 runs to train" in log


def test_labels_are_looked_at_before_any_training(
  flags, in_this_process, tmp_path
):
  video = tiny_runs.video_record("other", [0], mean_rgb=[1.0] * 4)
  other = tiny_runs.write_records(tmp_path / "other", [video])
  line = in_process.run_into_error(
    "reports.compare_models",
    *flags,
    f"--models=MoeModel,MoeModel:eval_data_pattern={other}",
    "--seeds=1",
  )
  assert "22 and 1 videos of MoeModel and MoeModel:eval" in line
  assert in_this_process == []


def test_parts_of_the_data(flags, in_this_process, tmp_path):
  in_process.run(
    "reports.compare_models",
    *flags,
    "--models=LogisticModel",
    "--seeds=1",
    "--data_fractions=0.3,1",
  )
  rows = rows_of(tmp_path)
  assert [(row["table"], row["fraction"]) for row in rows] == [
    *[("main", "1")] * 3,
    ("fraction", "0.3"),
    ("fraction", "1"),
  ]
  assert (tmp_path / "out" / "pictures" / "fractions.svg").exists()
  assert len(in_this_process) == 4


def test_a_run_that_fails_is_in_the_report(flags, in_this_process, tmp_path):
  line = in_process.run_into_error(
    "reports.compare_models",
    *flags,
    "--models=DeepNnModel",
    "--seeds=1",
  )
  assert "Expected 2 runs to end, of which 1 failed" in line
  text = (tmp_path / "out" / "report.md").read_text()
  assert "- DeepNnModel, seed 0: Expected a finite loss" in text
  rows = rows_of(tmp_path)
  assert rows[0]["model"] == "mean-frame logistic"


def test_dry_run_shows_the_plan_and_an_estimate(
  flags, in_this_process, tmp_path
):
  log = in_process.run(
    "reports.compare_models",
    *flags,
    "--models=MoeModel:batch_size=5",
    "--seeds=2",
    "--data_fractions=0.5",
    "--workers=2",
    "--dry_run",
  )
  assert in_this_process == []
  assert not (tmp_path / "out").exists()
  assert "1 of 9: MoeModel:batch_size=5, seed 0: 90 parameters" in log
  assert "9 of 9: MoeModel:batch_size=5, seed 0, 2 workers" in log
  assert "9 of 9 runs to train, for 12 steps each: at most about 9 min" in log
  commands = re.findall(r"^  python train.py .*$", log, re.MULTILINE)
  assert len(commands) == 9
  assert "--max_steps=12" in commands[0]


@pytest.mark.parametrize(
  ("more", "part"),
  [
    (("--output_dir=",), "Expected --output_dir"),
    (("--budget=hours:1",), "as --budget"),
    (("--data_fractions=2",), "as --data_fractions"),
    (("--data_fractions=0",), "as --data_fractions"),
    (("--workers=0.5",), "as --workers"),
    (("--seeds=99999999999",), "--seeds"),
    (("--models=Moe",), "of --models"),
    (("--eval_data_pattern=",), "--eval_data_pattern with"),
    (
      ("--train_data_pattern=none/*", "--models=MoeModel"),
      "Expected files that match",
    ),
    (("--model=MoeModel",), "--model"),
  ],
)
def test_mistakes_are_one_line(flags, more, part, in_this_process, tmp_path):
  line = in_process.run_into_error("reports.compare_models", *flags, *more)
  assert part in line
  assert in_this_process == []
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "name", ["report.csv", "pictures/fractions.svg", "hparams/notes.txt"]
)
def test_files_of_another_origin_stay(flags, name, in_this_process, tmp_path):
  file = tmp_path / "out" / name
  file.parent.mkdir(parents=True)
  file.write_text("mine")
  for _ in range(2):
    line = in_process.run_into_error("reports.compare_models", *flags)
    assert f"received {tmp_path}/out, which has a {name.split('/n')[0]}" in line
  assert file.read_text() == "mine"
  assert in_this_process == []


def test_pictures_that_a_link_points_to_stay(tmp_path):
  (tmp_path / "out").mkdir()
  pictures = tmp_path / "linked"
  pictures.mkdir()
  (pictures / "fractions.svg").write_text("mine")
  (tmp_path / "out" / "pictures").symlink_to(pictures)
  compare_models.write_report(made_up_comparison(), f"{tmp_path}/out")
  assert (pictures / "fractions.svg").read_text() == "mine"


def test_notes_among_the_events_of_a_report_stay(flags, tmp_path):
  out = tmp_path / "out"
  (out / "hparams" / "run").mkdir(parents=True)
  (out / "hparams" / "run" / "notes.txt").write_text("mine")
  (out / "label_counts_0123456789abcdef.json").write_text("{}")
  line = in_process.run_into_error("reports.compare_models", *flags)
  assert f"received {out}/hparams/run/notes.txt" in line


def test_missing_packages_are_named_before_any_work(flags, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  line = in_process.run_into_error("reports.compare_models", *flags)
  assert "requirements/report.txt" in line
  assert "matplotlib" in line


def test_typed_flags_are_passed_on(flags, in_this_process):
  log = in_process.run(
    "reports.compare_models",
    *flags,
    "--models=LogisticModel",
    "--seeds=1",
    "--max_frames=7",
    "--label_loss=HingeLoss",
    "--min_frames=3",
    "--moe_num_mixtures=7",
    "--dry_run",
  )
  (train,) = re.findall(r"^  python (train.py .*)$", log, re.MULTILINE)
  train = shlex.split(train)
  assert "--max_frames=7" in train
  assert "--min_frames=3" in train
  assert "--moe_num_mixtures=7" in train
  assert "--label_loss=HingeLoss" in train
  assert "--feature_sizes=4,3" in train
  assert not any(flag.startswith("--input_transform") for flag in train)


def test_defaults_are_the_thesis():
  assert compare_models.comparison_plan.THESIS_MODELS == (
    "DeepNnModel",
    "BiLstmModel",
    "StreamLstmModel",
    "NnStreamLstmModel",
    "AutoencoderConcatModel",
  )
  makefile = (REPOSITORY / "Makefile").read_text()
  assert "reports.compare_models" in makefile


# --------------------------------------------------------------------------
# Real processes


@pytest.fixture
def real_flags(data_dir, tmp_path):
  return (
    "-m",
    "reports.compare_models",
    f"--train_data_pattern={data_dir}/video/train*",
    f"--eval_data_pattern={data_dir}/video/validate*",
    *VIDEO_DATA_FLAGS,
    "--models=MoeModel:batch_size=10",
    "--seeds=1",
    f"--output_dir={tmp_path}/out",
  )


@pytest.mark.slow
def test_two_workers_and_a_budget_of_time(real_flags, tmp_path):
  run_program(*real_flags, "--budget=minutes:0.02", "--workers=2")
  rows = rows_of(tmp_path)
  main, workers = rows[0], rows[-1]
  assert (workers["table"], workers["workers"]) == ("workers", "2")
  for row in (main, workers):
    assert 0.9 <= float(row["training_seconds"]) < 60
    assert float(row["start_seconds"]) > 0
    assert float(row["videos_per_second"]) > 0
    assert float(row["peak_memory_bytes"]) > 1e8


@pytest.mark.slow
def test_kill_and_start_again(real_flags, tmp_path):
  second = "MoeModel:batch_size=10:export_model_steps=100"
  flags = (
    *real_flags,
    f"--models=LogisticModel,{second}",
    "--budget=steps:400",
  )
  log = tmp_path / "log"
  out = tmp_path / "out"

  def checkpoints():
    return sorted(out.glob("runs/MoeModel_*/model/model.ckpt-*.index"))

  with Program(log, *flags, own_group=True) as program:
    # The second run has saved.
    program.wait_for(checkpoints)
    program.kill_group()
    program.wait_for_end()
  (finished,) = out.glob("runs/LogisticModel_*/scores.json")
  before = finished.stat().st_mtime_ns
  assert not list(out.glob("runs/MoeModel_*/scores.json"))
  text = run_program(*flags)
  assert "finished before" in text
  assert finished.stat().st_mtime_ns == before
  assert (out / "report.html").exists()
  assert [row["model"] for row in rows_of(tmp_path)] == [
    "LogisticModel",
    second,
    "majority class",
    "label frequencies",
  ]
  (train_log,) = out.glob("runs/MoeModel_*/train.log")
  # It went on, rather than beginning again.
  assert train_log.read_text().count("training step 1 |") == 1
