"""Tests of input_flags: what is done to the features."""

import json
import re

import in_process
import pytest
from absl import flags, logging
from absl.testing import flagsaver
from conftest import assert_names
from tiny_runs import TINY_FLAGS

import errors
import eval as eval_program
import input_flags
import models
import program_flags
import train
import video_level_models
from engine.dataset_card import DatasetCard
from layers import whitening

RGB = {"feature_names": "mean_rgb,mean_audio", "feature_sizes": "1024,128"}
FACES = {"feature_names": "faces,voices", "feature_sizes": "2,3"}
DEWHITENED = {
  **TINY_FLAGS,
  "input_transform": "dewhiten",
  "dewhiten_scales": [[1.0, 2.0, 3.0, 4.5], []],
}


@pytest.fixture
def resolved(monkeypatch):
  """A function: resolve for typed flags and a model that declares one."""

  def call(declared, features, *typed, card=None):
    model_class = video_level_models.LogisticModel
    monkeypatch.setattr(model_class, "input_transform", declared)
    with flagsaver.flagsaver():
      train.define_flags()
      flags.FLAGS(["train.py", *typed])
      return input_flags.resolve(features, card)

  return call


@pytest.fixture
def faces_file(tmp_path):
  (tmp_path / "faces.txt").write_text("2 0.5")
  return tmp_path / "faces.txt"


@pytest.mark.parametrize("declared", models.INPUT_TRANSFORMS)
def test_a_model_declares_its_input_and_a_typed_flag_wins(resolved, declared):
  assert resolved(declared, RGB) == {"input_transform": declared}
  for name in models.INPUT_TRANSFORMS:
    typed = f"--input_transform={name}"
    assert resolved(declared, RGB, typed) == {"input_transform": name}


def test_features_without_scales_are_normalized(resolved, monkeypatch):
  shown = []
  monkeypatch.setattr(
    logging, "info", lambda text, *values: shown.append(text % values)
  )
  assert resolved("dewhiten", FACES) == {"input_transform": "l2"}
  assert shown == [
    "LogisticModel dewhitens its features, but none of faces, voices is known"
    " to be whitened: --input_transform is l2."
  ]


@pytest.mark.parametrize(
  ("extraction", "dtype", "transform"),
  [
    ({}, "uint8", "dewhiten"),
    ({"encoder": "inception_2015", "pca_dir": "/pca"}, "uint8", "dewhiten"),
    ({"encoder": "clip:ViT-L-14", "pca_dir": ""}, "float32", "l2"),
    # PCAs that were fitted on another data set, which do not whiten.
    ({"encoder": "clip:ViT-L-14", "pca_dir": "/pca"}, "float32", "l2"),
    ({"encoder": "inception_2015", "pca_dir": "/pca"}, "float32", "l2"),
  ],
)
def test_rgb_that_youtube8ms_pca_did_not_make_is_not_whitened(
  resolved, extraction, dtype, transform
):
  card = DatasetCard(
    *(True, ["rgb"], [1024], [dtype], 3, {}, {}), extraction=extraction
  )
  features = {"feature_names": "rgb", "feature_sizes": "1024"}
  found = resolved("dewhiten", features, card=card)
  assert found == {"input_transform": transform}


def test_means_of_whitened_frames_are_whitened(resolved):
  card = DatasetCard(
    *(False, ["mean_rgb"], [1024], ["float32"], 3, {}, {}),
    extraction={"encoder": "inception_2015", "pca_dir": "/pca"},
  )
  found = resolved("dewhiten", RGB, card=card)
  assert found == {"input_transform": "dewhiten"}


def test_typed_scales_are_kept_as_numbers(resolved, faces_file):
  typed = (f"--dewhiten_scales={faces_file},", "--input_transform=dewhiten")
  assert resolved("l2", FACES, *typed) == {
    "input_transform": "dewhiten",
    "dewhiten_scales": [[2.0, 0.5], []],
  }
  with_rgb = {"feature_names": "rgb,faces", "feature_sizes": "1024,2"}
  found = resolved("dewhiten", with_rgb, f"--dewhiten_scales=,{faces_file}")
  known, typed = found["dewhiten_scales"]
  assert known == list(whitening.youtube8m_scales())
  assert typed == [2.0, 0.5]
  json.dumps(found)


@pytest.mark.parametrize(
  ("typed", "complaint"),
  [
    (
      ["--input_transform=dewhiten"],
      "such as YouTube-8M's rgb of 1024 numbers, received faces, voices.",
    ),
    (
      ["--dewhiten_scales=a.npy,"],
      "Expected --dewhiten_scales with --input_transform=dewhiten, received it"
      " with none",
    ),
    (
      ["--dewhiten_scales=,", "--input_transform=dewhiten"],
      "received faces, voices.",
    ),
  ],
)
def test_transformations_that_do_not_fit(resolved, typed, complaint):
  with pytest.raises(errors.UserError, match=re.escape(complaint)):
    resolved("none", FACES, *typed)


def differing_input(model_flags, *typed):
  """What check_typed_flags says of typed flags, without what is around it."""
  with flagsaver.flagsaver():
    eval_program.define_flags()
    flags.FLAGS(["eval.py", *typed])
    try:
      program_flags.check_typed_flags(model_flags, "--train_dir=x", "x")
    except errors.UserError as error:
      return re.search("received (.*). Leave these", str(error))[1]
  return ""


def test_the_input_of_a_trained_model(tmp_path):
  assert differing_input(TINY_FLAGS, "--input_transform=l2") == ""
  assert (
    differing_input(TINY_FLAGS, "--input_transform=none")
    == "--input_transform=none instead of l2"
  )
  assert differing_input(DEWHITENED, "--input_transform=dewhiten") == ""
  path = tmp_path / "scales.txt"
  typed = f"--dewhiten_scales={path},"
  path.write_text("1 2 3 4.5")
  assert differing_input(DEWHITENED, typed) == ""
  path.write_text("1 2 3 4")
  assert (
    differing_input(DEWHITENED, typed)
    == f"{typed} instead of 4 numbers of sum 10.5, none"
  )
  assert differing_input(TINY_FLAGS, typed) == f"{typed} instead of none"
  # Its card said that the model's rgb was that of another encoder.
  without = {
    **DEWHITENED,
    "feature_names": "rgb,faces",
    "feature_sizes": "1024,4",
    "dewhiten_scales": [[], [1.0, 2.0, 3.0, 4.0]],
  }
  assert differing_input(without, f"--dewhiten_scales=,{path}") == ""


def test_a_run_keeps_its_input(tiny_files, tmp_path):
  """Training, resuming, evaluation and prediction agree on it."""
  (tmp_path / "scales.txt").write_text("1 2 3 4.5")
  line = (
    f"--train_data_pattern={','.join(tiny_files)}",
    f"--train_dir={tmp_path}/run",
    "--feature_names=mean_rgb,mean_audio",
    "--feature_sizes=4,3",
    "--num_classes=6",
    "--batch_size=11",
    "--xla=False",
    "--input_transform=dewhiten",
  )
  scales = f"--dewhiten_scales={tmp_path}/scales.txt,"
  log = in_process.run("train", *line, scales, "--max_steps=1")
  assert "Input transform: dewhiten" in log
  kept = json.loads((tmp_path / "run" / "model_flags.json").read_text())
  assert {name: kept.get(name) for name in DEWHITENED} == DEWHITENED
  in_process.run("train", *line, scales, "--max_steps=2")
  (tmp_path / "scales.txt").unlink()
  given = f"--train_dir={tmp_path}/run"
  log = in_process.run(
    "eval", given, f"--eval_data_pattern={tiny_files[0]}", "--run_once"
  )
  assert "epoch/eval number 2 | " in log
  error = in_process.run_into_error("train", *line[:-1])
  assert_names(error, "--input_transform was 'dewhiten' and is now 'l2'")
