"""Tests of reports.comparison_plan."""

import pytest
from absl.testing import flagsaver
from conftest import error_of

import command_line
import program_flags
import train
import training_flags
from reports import comparison_plan
from reports.comparison_plan import (
  Budget,
  Given,
  add_baseline,
  data_of,
  make_runs,
  parse_budget,
  parse_entries,
)
from reports.comparison_runs import planned_pattern

STEPS = Budget("steps", 20)


def test_entries_are_models_with_flags():
  entries = parse_entries(
    " LogisticModel, BiLstmModel:lstm_layers=1:lstm_cells=64,"
    "DeepNnModel:preset=thesis"
  )
  assert [(entry.name, entry.model, entry.flags) for entry in entries] == [
    ("LogisticModel", "LogisticModel", {}),
    (
      "BiLstmModel:lstm_layers=1:lstm_cells=64",
      "BiLstmModel",
      {"lstm_layers": "1", "lstm_cells": "64"},
    ),
    ("DeepNnModel:preset=thesis", "DeepNnModel", {"preset": "thesis"}),
  ]
  assert not any(entry.is_baseline for entry in entries)


def test_values_may_have_commas_and_colons():
  (one, other) = parse_entries(
    "DeepNnModel:feature_names=mean_rgb,mean_audio:feature_sizes=1024,128"
    ":train_data_pattern=gs://bucket/a*,gs://bucket/b*,MoeModel"
  )
  assert one.flags == {
    "feature_names": "mean_rgb,mean_audio",
    "feature_sizes": "1024,128",
    "train_data_pattern": "gs://bucket/a*,gs://bucket/b*",
  }
  assert other.model == "MoeModel"


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    ("NoModel", ("'NoModel' of --models", "Available:")),
    ("MoeModel,", ("'MoeModel,' of --models",)),
    ("", ("received none",)),
    ("MoeModel,MoeModel", ("received MoeModel twice", "--seeds")),
    ("MoeModel:seed=3", ("no --seed", "--seeds decides")),
    ("MoeModel:max_steps=3", ("no --max_steps", "--budget decides")),
    ("MoeModel:skip_corrupt=True", ("no --skip_corrupt", "are whole")),
    ("MoeModel:bach_size=3", ("--bach_size (did you mean --batch_size?)",)),
    ("MoeModel:batch_size=x", ("--batch_size", "received 'x'")),
    ("MoeModel:moe_num_mixtures=x", ("--moe_num_mixtures", "received 'x'")),
    ("MoeModel:lstm_layers=1", ("flags that MoeModel takes", "--lstm_layers")),
    ("MoeModel:preset=thesis", ("preset of MoeModel", "'thesis'")),
    ("MoeModel:batch_size", ("Put a colon before each flag",)),
    ("MoeModel:hinge_margin=2", ()),
    ("LstmModel:moe_num_mixtures=3", ()),
  ],
)
def test_mistakes_are_named(text, parts):
  if not parts:
    assert parse_entries(text)
    return
  found = error_of(parse_entries, text)
  for part in parts:
    assert part in found


@pytest.mark.parametrize(
  ("budget", "planned"),
  [("epochs:90000", 900_000), ("steps:400000", 800_000), ("minutes:3", 0)],
)
def test_a_budget_holds_whatever_a_preset_has(budget, planned):
  with flagsaver.flagsaver():
    train.define_flags()
    flags = parse_budget(budget).flags()
    command_line.parse_flags(
      train.main,
      ["train.py", "--model=GruModel", "--preset=published", *flags],
    )
    assert "max_steps" in program_flags.apply_preset()["preset_settings"]
    settings = training_flags.settings_from_flags("GruModel")
  # Of 10 videos, in steps of 2; the preset ends after 300,000.
  assert settings.planned_examples(10, 2) == planned


def test_budgets():
  assert parse_budget("minutes:0.5").flags() == [
    "--num_epochs=0",
    "--max_steps=0",
    "--max_minutes=0.5",
  ]
  assert parse_budget("steps:500").flags() == [
    "--num_epochs=0",
    "--max_steps=500",
  ]
  assert parse_budget("epochs:2").flags() == ["--num_epochs=2", "--max_steps=0"]
  assert parse_budget("steps:1234567").flags()[1] == "--max_steps=1234567"
  assert str(parse_budget("epochs:1")) == "1 epoch"
  assert str(parse_budget("minutes:10")) == "10 minutes"
  for text in (
    "",
    "10",
    "steps",
    "steps:0",
    "steps:1.5",
    "hours:1",
    "steps:-1",
  ):
    assert "as --budget" in error_of(parse_budget, text)
  assert "as --budget" in error_of(parse_budget, "minutes:nan")


@pytest.fixture
def sample(monkeypatch, data_dir):
  """Stands for the built-in sample data."""
  monkeypatch.setattr(
    comparison_plan.sample_data, "ensure_sample_data", lambda: str(data_dir)
  )
  return data_dir


def test_each_model_gets_its_level_of_the_sample_data(sample):
  entries = add_baseline(parse_entries("DeepNnModel,BiLstmModel"), Given())
  assert [entry.model for entry in entries] == [
    "DeepNnModel",
    "BiLstmModel",
    "FrameLevelLogisticModel",
  ]
  assert entries[-1].is_baseline
  found = [data_of(entry, Given()) for entry in entries]
  assert [data.frame_features for data in found] == [False, True, True]
  assert found[0].train_pattern == f"{sample}/video/train*.tfrecord"
  assert found[1].eval_pattern == f"{sample}/frame/validate*.tfrecord"
  assert "--feature_names=mean_rgb,mean_audio" in found[0].flags


def test_the_baseline_is_added_once(sample):
  only = parse_entries("MoeModel")
  assert add_baseline(only, Given())[-1].model == "LogisticModel"
  both = parse_entries("MoeModel,LogisticModel")
  assert add_baseline(both, Given()) == both
  # With flags of its own it is another one.
  other = parse_entries("MoeModel,LogisticModel:optimizer=AdamW")
  assert len(add_baseline(other, Given())) == 3


def test_the_baseline_has_the_data_that_all_share(data_dir):
  video, frame = (
    Given(
      f"{data_dir}/{level}/train*",
      f"{data_dir}/{level}/validate*",
      common={"frame_features": str(level == "frame")},
    )
    for level in ("video", "frame")
  )
  entries = parse_entries(
    "MoeModel,BiLstmModel:frame_features=True:train_data_pattern=t*"
    ":eval_data_pattern=e*"
  )
  baseline = add_baseline(entries, video)[-1]
  assert baseline.model == "LogisticModel"
  assert data_of(baseline, video).train_pattern == video.train_data_pattern
  entries = parse_entries(
    "MoeModel:frame_features=False:train_data_pattern=t*:eval_data_pattern=e*"
  )
  assert add_baseline(entries, frame)[-1].model == "FrameLevelLogisticModel"


def test_all_parts_are_files_or_all_are_videos(tmp_path):
  for number in range(40):
    (tmp_path / f"train{number}").write_bytes(b"1")
  (tmp_path / "few").write_bytes(b"1")
  entries = parse_entries("MoeModel")

  def parts(pattern, fractions, entries=entries):
    given = Given(f"{tmp_path}/{pattern}", f"{tmp_path}/few")
    runs = make_runs(entries, given, STEPS, 1, fractions)
    return {run.part: run.name for run in runs if run.fraction != 1}

  files = parts("train*", [0.25, 0.5])
  videos = parts("train*", [0.2, 0.5])
  assert list(files) == ["fraction0.5_of_files", "fraction0.25_of_files"]
  assert list(videos) == ["fraction0.5_of_videos", "fraction0.2_of_videos"]
  # Not the scores of the other half.
  assert files["fraction0.5_of_files"] != videos["fraction0.5_of_videos"]
  # One entry with few files decides for all.
  other = parse_entries(f"MoeModel,MoeModel:train_data_pattern={tmp_path}/few")
  assert list(parts("train*", [0.5], other)) == ["fraction0.5_of_videos"]


def test_data_of_a_user(data_dir):
  given = Given(
    f"{data_dir}/frame/train*",
    f"{data_dir}/frame/validate*",
    common={"frame_features": "True", "num_classes": "40"},
  )
  bilstm, deep = parse_entries("BiLstmModel,DeepNnModel")
  data = data_of(bilstm, given)
  assert data.train_pattern == f"{data_dir}/frame/train*"
  assert data.frame_features
  assert "DeepNnModel:frame_features=False" in error_of(data_of, deep, given)
  (deep,) = parse_entries(
    "DeepNnModel:frame_features=False:train_data_pattern=a*:eval_data_pattern=b*"
  )
  assert data_of(deep, given).train_pattern == "a*"
  assert data_of(deep, given).eval_pattern == "b*"
  video = Given("a", "b", common={})
  assert "Add --frame_features" in error_of(data_of, bilstm, video)
  assert "--eval_data_pattern with --train" in error_of(Given("a").check)


def test_runs_have_the_flags_of_training(sample):
  entries = add_baseline(
    parse_entries("BiLstmModel:lstm_layers=1,DeepNnModel:batch_size=8"),
    Given(),
  )
  runs = make_runs(entries, Given(), Budget("steps", 20), seeds=2)
  # Seeds take turns.
  assert [(run.entry.model, run.seed) for run in runs] == [
    (model, seed)
    for seed in (0, 1)
    for model in ("BiLstmModel", "DeepNnModel", "FrameLevelLogisticModel")
  ]
  first = runs[0].flags
  assert first[0] == "--model=BiLstmModel"
  for flag in (
    "--frame_features=True",
    "--lstm_layers=1",
    "--batch_size=16",  # as train.py takes on the sample data
    "--max_steps=20",
    "--num_epochs=0",
    "--min_frames=0",
    "--keep_checkpoints=1",
    "--seed=0",
  ):
    assert flag in first
  assert "--batch_size=8" in runs[1].flags
  assert "--batch_size=16" not in runs[1].flags
  assert len({run.name for run in runs}) == len(runs)


def test_fractions_and_workers_add_runs(sample):
  entries = add_baseline(parse_entries("MoeModel"), Given())
  runs = make_runs(entries, Given(), Budget("epochs", 1), 2, [0.1, 1.0], [1, 2])
  assert sum(run.is_main for run in runs) == 4
  assert all(run.is_main for run in runs[:4])
  fractions = [run for run in runs if run.fraction == 0.1]
  assert len(fractions) == 4
  workers = [run for run in runs if run.workers == 2]
  assert [(run.entry.model, run.seed) for run in workers] == [("MoeModel", 0)]
  assert workers[0].describe() == "MoeModel, seed 0, 2 workers"
  assert fractions[0].describe() == "MoeModel, seed 0, 10% of the data"
  assert len({run.name for run in runs}) == len(runs)


def test_other_flags_and_budgets_have_other_folders(sample):
  entries = parse_entries("MoeModel")

  def name(given=None, budget=None):
    budget = budget or Budget("steps", 20)
    return make_runs(entries, given or Given(), budget, 1)[0].name

  assert name() == name()
  assert name(budget=Budget("steps", 21)) != name()
  assert name(Given(common={"moe_num_mixtures": "3"})) != name()


def test_files_of_equal_names_and_sizes_have_folders_of_their_own(
  tmp_path, monkeypatch
):
  for folder in ("clip", "siglip"):
    (tmp_path / folder).mkdir()
    for split in ("train", "val"):
      (tmp_path / folder / split).write_bytes(b"12")
  monkeypatch.chdir(tmp_path)

  def names(folder):
    entries = parse_entries(
      ",".join(
        f"MoeModel:train_data_pattern={of}/train*:eval_data_pattern={of}/val*"
        for of in ("clip", folder)
      )
    )
    return [
      (run.name, planned_pattern(run, "out"))
      for run in make_runs(entries, Given("-", "-"), STEPS, 1, [0.5])
    ]

  found = names("siglip")
  assert len({name for name, _ in found}) == 4
  assert len({pattern for _, pattern in found[2:]}) == 2
  # However they are written.
  one, same = names(f"{tmp_path}/clip")[:2]
  assert one[0] == same[0]
  (tmp_path / "siglip" / "train").write_bytes(b"123")
  assert names("siglip")[1] != found[1]
