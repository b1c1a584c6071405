"""Tests of program_flags: command lines of the original and of its forks."""

import ast
import dataclasses
import pathlib
import re
import shlex

import in_process
import numpy as np
import pytest
import tensorflow as tf
from absl import flags, logging
from absl.testing import flagsaver
from conftest import assert_names
from make_records import frame_record, video_record, write_records
from tiny_runs import TINY_FLAGS, TINY_FRAME_FLAGS

import eval as eval_program
import export_model
import inference
import models
import program_flags
import segment_eval_inference
import train
import training_flags
import video_level_models
from data_tools import sample_data
from engine.checkpoints import Checkpoints, fingerprint, latest_checkpoint
from engine.dataset_card import DatasetCard
from engine.model_archive import write_model_tgz
from engine.model_flags import require_model_flags, write_model_flags
from engine.settings import Settings

REPOSITORY = pathlib.Path(__file__).parents[1]

GRU_FLAGS = {
  **TINY_FRAME_FLAGS,
  "model": "GruModel",
  "gru_cells": 3,
  "gru_layers": 2,
  "video_level_classifier_model": "MoeModel",
  "moe_num_mixtures": 2,
  "moe_output_gating": False,
}
HINGE_FLAGS = {**TINY_FLAGS, "label_loss": "HingeLoss", "hinge_margin": 2.0}

# Flags that a well-known fork passes to all three programs, with other sizes.
GRU_LINE = (
  '--model=GruModel --frame_features=True --feature_names="rgb, audio"'
  ' --feature_sizes="4, 3" --num_classes=6 --gru_cells=3'
)


def make_run(folder, model_flags, **state):
  """A folder as training leaves it, with untrained weights."""
  model = models.build_model(model_flags, quantized=True)
  write_model_flags(str(folder), model_flags)
  Checkpoints(str(folder), 1, model=model, **state).save(3)
  return folder


@pytest.fixture(scope="module")
def gru_run(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp("gru"), GRU_FLAGS)


@pytest.fixture(scope="module")
def hinge_run(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp("hinge"), HINGE_FLAGS)


@pytest.fixture(scope="module")
def gru_tgz(gru_run, tmp_path_factory):
  path = str(tmp_path_factory.mktemp("tgz") / "model.tgz")
  checkpoint = latest_checkpoint(str(gru_run))
  write_model_tgz(str(gru_run), checkpoint, path)
  return path


# --------------------------------------------------------------------------
# Presets


@pytest.fixture
def quick_preset(monkeypatch):
  """LogisticModel with a preset."""
  settings = {
    "max_steps": 3,
    "batch_size": 4,
    "learning_rate_schedule": "constant",
    "feature_sizes": "4,3",
  }
  monkeypatch.setattr(
    video_level_models.LogisticModel, "presets", {"quick": settings, "b": {}}
  )


def train_with_preset(train_dir, files, *more):
  return in_process.call(
    "train",
    f"--train_dir={train_dir}",
    f"--train_data_pattern={','.join(files)}",
    "--feature_names=mean_rgb,mean_audio",
    "--num_classes=6",
    *more,
  )


def test_a_preset_stands_for_flags_and_typed_ones_win(
  tiny_files, tmp_path, quick_preset
):
  code, log = train_with_preset(
    tmp_path, tiny_files, "--preset=quick", "--max_steps=2"
  )
  assert code == 0, log
  assert (
    "Preset quick of LogisticModel: --max_steps=2 --batch_size=4"
    " --learning_rate_schedule=constant --feature_sizes=4,3" in log
  )
  assert "Done at step 2, after 8 examples" in log
  model_flags = require_model_flags(str(tmp_path))
  assert model_flags["feature_sizes"] == "4,3"
  assert model_flags["preset"] == "quick"
  assert model_flags["preset_settings"] == {
    "max_steps": 2,
    "batch_size": 4,
    "learning_rate_schedule": "constant",
  }


def test_an_unknown_preset_lists_those_there_are(
  tiny_files, tmp_path, quick_preset
):
  code, log = train_with_preset(tmp_path, tiny_files, "--preset=slow")
  assert code == 2
  assert log.splitlines()[-1] == (
    "ERROR: Expected --preset to name a preset of LogisticModel, received"
    " 'slow'. Available: b, quick."
  )
  assert not list(tmp_path.iterdir())


def test_a_model_without_presets_says_so(tiny_files, tmp_path, monkeypatch):
  monkeypatch.setattr(video_level_models.LogisticModel, "presets", {})
  code, log = train_with_preset(tmp_path, tiny_files, "--preset=published")
  assert code == 2
  assert log.splitlines()[-1] == (
    "ERROR: Expected --preset to name a preset of LogisticModel, received"
    " 'published'. It has none: leave --preset out."
  )


@pytest.mark.parametrize("name", models.class_names())
def test_every_preset_has_flags_of_its_model_or_of_training(name):
  training = {field.name for field in dataclasses.fields(Settings)}
  of_model = {"max_frames", "input_transform"}
  of_model |= models.resolve_hyperparameters(name).keys()
  with flagsaver.flagsaver():
    train.define_flags()
    for preset, settings in models.find_class_by_name(name).presets.items():
      unknown = settings.keys() - of_model - training
      assert not unknown, preset
      for flag, value in settings.items():
        assert flags.FLAGS[flag].parser.parse(value) == value, (preset, flag)


PUBLISHED = [
  name
  for name in models.class_names()
  if "published" in models.find_class_by_name(name).presets
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_preset_is_complete(name):
  """Defaults that change later do not change it."""
  settings = models.find_class_by_name(name).presets["published"]
  needed = set(models.resolve_hyperparameters(name)) | {
    "input_transform",
    "max_frames",
    "batch_size",
    "base_learning_rate",
    "learning_rate_schedule",
    "optimizer",
    "clip_gradient_norm",
    "num_epochs",
  }
  if settings.get("learning_rate_schedule") == "exponential":
    needed |= {"learning_rate_decay", "learning_rate_decay_examples"}
  assert not needed - settings.keys()
  assert settings["num_epochs"] or settings["max_steps"]


# --------------------------------------------------------------------------
# Command lines of forks


def test_eval_takes_a_forks_line(gru_run, tiny_frame_files):
  log = in_process.run(
    "eval",
    f"--eval_data_pattern={','.join(tiny_frame_files)}",
    f"--train_dir={gru_run}",
    *shlex.split(GRU_LINE),
    "--batch_size=1024",
    "--base_learning_rate=0.0002",
    "--learning_rate_decay=0.9",
    "--run_once=True",
  )
  assert log.count("No effect") == 1
  assert_names(
    log,
    "No effect in this program: --base_learning_rate, --learning_rate_decay.",
    "epoch/eval number 3 | ",
  )


@pytest.mark.parametrize("packed", [False, True])
def test_inference_takes_a_forks_line(
  gru_run, gru_tgz, tiny_frame_files, tmp_path, packed
):
  model = [f"--train_dir={gru_run}"]
  if packed:
    model = [f"--input_model_tgz={gru_tgz}", f"--untar_model_dir={tmp_path}/u"]
  log = in_process.run(
    "inference",
    f"--output_file={tmp_path}/predictions.csv",
    f"--input_data_pattern={','.join(tiny_frame_files)}",
    *model,
    *shlex.split(GRU_LINE),
    "--batch_size=1024",
    "--base_learning_rate=0.0002",
    "--run_once=True",
    "--top_k=5",
  )
  assert log.count("No effect") == 1
  assert "No effect in this program: --base_learning_rate, --run_once." in log
  assert (tmp_path / "predictions.csv").read_text().count("\n") == 23


def test_flags_of_other_models_have_no_effect(hinge_run, tmp_path):
  log = in_process.run(
    "export_model",
    f"--train_dir={hinge_run}",
    f"--output_dir={tmp_path}/export",
    "--gru_cells=7",
    "--netvlad_cluster_size=8",
    "--asymmetric_margin=0.1",
    "--hinge_margin=2",
  )
  assert "No effect on LogisticModel: --gru_cells, --netvlad_clust" in log
  assert "No effect on HingeLoss: --asymmetric_margin." in log
  assert "hinge_margin" not in log


def test_no_line_where_all_flags_have_an_effect(hinge_run, tmp_path):
  log = in_process.run(
    "export_model",
    f"--train_dir={hinge_run}",
    f"--output_dir={tmp_path}/export",
    "--feature_sizes=4, 3",
  )
  assert "No effect" not in log


@pytest.mark.parametrize("program", [eval_program, inference])
def test_all_flags_of_training_and_evaluation_are_known(program):
  wanted = flags.FlagValues()
  train.define_flags(wanted)
  eval_names = flags.FlagValues()
  eval_program.define_flags(eval_names)
  of_models = {
    name
    for model_name in models.class_names()
    for name in models.resolve_hyperparameters(model_name)
  }
  with flagsaver.flagsaver():
    program.define_flags()
    program.accept_flags()
    missing = {*wanted, *eval_names, *of_models} - set(flags.FLAGS)
  assert not missing


# --------------------------------------------------------------------------
# Flags that differ from the model


@pytest.mark.parametrize(
  ("typed", "shown"),
  [
    (
      ["--model=NetVladModel", "--gru_cells=1200"],
      "--model=NetVladModel instead of GruModel, --gru_cells=1200 instead of"
      " 3.",
    ),
    (["--noframe_features"], "--frame_features=False instead of True."),
    (
      ["--feature_names=rgb", "--feature_sizes=4"],
      "--feature_names=rgb instead of rgb,audio, --feature_sizes=4 instead of"
      " 4,3.",
    ),
    (["--num_classes=3862"], "--num_classes=3862 instead of 6."),
    (["--max_frames=20"], "--max_frames=20 instead of 300."),
    (["--moe_output_gating"], "--moe_output_gating=True instead of False."),
    (
      ["--label_loss=HingeLoss"],
      "--label_loss=HingeLoss instead of CrossEntropyLoss.",
    ),
  ],
)
def test_both_values_of_each_flag_are_shown(gru_run, typed, shown):
  for program, *more in (
    ("eval", "--run_once"),
    ("inference",),
    ("export_model",),
  ):
    error = in_process.run_into_error(
      program, f"--train_dir={gru_run}", *more, *typed
    )
    assert error == (
      "ERROR: Expected the flags of the trained model of"
      f" --train_dir={gru_run}, received {shown} Leave these flags out, or name"
      " the model that has them."
    )


def test_an_archive_is_named_by_its_flag(gru_tgz, tmp_path):
  error = in_process.run_into_error(
    "inference",
    f"--input_model_tgz={gru_tgz}",
    f"--untar_model_dir={tmp_path}",
    "--model=MoeModel",
  )
  assert_names(
    error, f"model of --input_model_tgz={gru_tgz}, received --model="
  )
  assert "train_dir" not in error


def test_a_setting_of_the_loss_counts_too(hinge_run):
  error = in_process.run_into_error(
    "eval", f"--train_dir={hinge_run}", "--run_once", "--hinge_margin=0.5"
  )
  assert "--hinge_margin=0.5 instead of 2.0." in error


# --------------------------------------------------------------------------
# Flags that do not exist


def test_all_unknown_flags_are_named_at_once():
  error = in_process.run_into_error(
    "train",
    "--model=NetVLADModelLF",
    "--gating=True",
    "--max_step=700000",
    "--nosuch",
    "--netvlad_relu=False",
    "--lightvlad",
  )
  assert error == (
    "ERROR: Expected flags of this program, received --gating, --max_step (did"
    " you mean --max_steps?), --nosuch, --netvlad_relu, --lightvlad. python"
    " train.py --help lists the flags."
  )


@pytest.mark.parametrize(
  ("typed", "near"),
  [
    ("--modle=MoeModel", "did you mean --model?"),
    ("--bach_size=3", "did you mean --batch_size?"),
    ("--framefeatures", "did you mean --frame_features?"),
    ("--model=StreamLstm", "Did you mean StreamLstmModel?"),
    ("--model=moemodel", "Did you mean MoeModel?"),
    ("--label_loss=CrossEntropy", "Did you mean CrossEntropyLoss?"),
    ("--video_level_classifier_model=MoeModl", "Did you mean MoeModel?"),
    ("--preset=publishd", "Did you mean published?"),
  ],
)
def test_names_that_were_meant(typed, near):
  line = in_process.run_into_error("train", "--model=GruModel", typed)
  assert near in line


def test_metrics_that_were_meant(tmp_path):
  given = ("eval", f"--train_dir={tmp_path}", "--run_once")
  line = in_process.run_into_error(*given, "--metrics=accurracy")
  assert "Did you mean accuracy?" in line
  line = in_process.run_into_error(*given, "--best_metric=GAP")
  assert "Did you mean gap?" in line


def test_an_unknown_flag_of_a_program_in_a_folder():
  error = in_process.run_into_error("data_tools.sample_data", "--num_video=3")
  assert_names(error, "(did you mean --num_videos?)")
  assert error.endswith(
    "python -m data_tools.sample_data --help lists the flags."
  )


@pytest.mark.parametrize(
  ("typed", "shown"),
  [
    ("--num_classes=many", "received --num_classes=many: "),
    ("--mixed_precision=fp16", "received --mixed_precision=fp16: value should"),
    ("--max_steps", "received Missing value for flag --max_steps"),
    ("--learning_rate_decay_examples=1.5", "=1.5: 1.5 is not a whole number. "),
    ("--learning_rate_decay_examples=0.0", "=0.0: 0 is not a positive integer"),
  ],
)
def test_a_value_that_a_flag_does_not_take(typed, shown):
  error = in_process.run_into_error("train", typed)
  assert_names(error, "Expected values that the flags take, ", shown)


@pytest.mark.parametrize(
  ("typed", "number"),
  [
    ("4e6", 4000000),
    ("4000000.0", 4000000),
    ("4000000", 4000000),
    (4e6, 4000000),
    (17, 17),
    # No float has this value.
    ("9007199254740993", 9007199254740993),
  ],
)
def test_a_whole_number_may_be_written_as_a_float(typed, number):
  parsed = program_flags.WholeNumberParser(1).parse(typed)
  assert parsed == number
  assert type(parsed) is int


@pytest.mark.parametrize(
  "typed",
  [
    "1.5",
    "many",
    "",
    "inf",
    "nan",
    "1e400",
    "1e30",
    "9" * 20,
    "0",
    "-4e6",
    0.5,
  ],
)
def test_what_is_no_whole_number_is_refused(typed):
  with pytest.raises(ValueError, match="is not a"):
    program_flags.WholeNumberParser(1).parse(typed)


def flags_in_strings(path) -> set[str]:
  """The --names in the strings of a file, except for its docstrings."""
  tree = ast.parse(path.read_text())
  docstrings = {
    ast.get_docstring(node, clean=False)
    for node in ast.walk(tree)
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
  }
  texts = [
    node.value
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant)
    and isinstance(node.value, str)
    and node.value not in docstrings
  ]
  return {name for text in texts for name in re.findall(r"--([a-z]\w+)", text)}


def test_every_flag_that_a_text_names_exists():
  found = {
    name
    for folder in (".", "engine", "records", "layers", "frame_models")
    for path in (REPOSITORY / folder).glob("*.py")
    for name in flags_in_strings(path)
  }
  assert {"start_new_model", "segment_labels", "train_dir"} <= found
  for program in (
    train,
    eval_program,
    inference,
    export_model,
    segment_eval_inference,
  ):
    own = flags.FlagValues()
    program.define_flags(own)
    found -= set(own)
  # Those of the models and of absl; what every program answers; "--name=value".
  found -= {*flags.FLAGS, "help", "helpfull", "version", "undefok", "name"}
  # Those of Git in engine/machine.py, and one of XLA.
  found -= {"abbrev", "always", "dirty", "exclude", "git", "work"}
  assert found == {"xla_cpu_copy_insertion_use_region_analysis"}


# --------------------------------------------------------------------------
# Records that a trained model cannot read: no flag would help


@pytest.fixture(scope="module")
def other_records(tmp_path_factory):
  """Files of the other level, without audio, of other sizes, classes."""
  folder = tmp_path_factory.mktemp("other")

  def frames(size):
    return np.zeros((2, size), np.uint8)

  records = {
    "level": video_record("v", [1], mean_rgb=np.zeros(4, np.float32)),
    "feature": frame_record("v", [1], rgb=frames(4)),
    "size": frame_record("v", [1], rgb=frames(4), audio=frames(128)),
    "class": frame_record("v", [6], rgb=frames(4), audio=frames(3)),
  }
  return {
    name: write_records(folder / name, [record])
    for name, record in records.items()
  }


@pytest.mark.parametrize("program", ["eval", "inference"])
@pytest.mark.parametrize("kind", ["level", "feature", "size", "class"])
def test_records_of_another_kind(
  gru_run, other_records, tmp_path, program, kind
):
  path = other_records[kind]
  if program == "inference" and kind == "class":
    return  # it reads no labels
  more = {
    "eval": [f"--eval_data_pattern={path}", "--run_once"],
    "inference": [
      f"--input_data_pattern={path}",
      f"--output_file={tmp_path}/x",
    ],
  }
  error = in_process.run_into_error(
    program, f"--train_dir={gru_run}", *more[program]
  )
  assert error.startswith(f"ERROR: {path}, record 0: expected ")
  assert error.endswith("name files like those that the model was trained on.")
  assert not re.search(r"(add|change|set|leave out) --", error)


@pytest.mark.parametrize("program", ["eval", "inference"])
def test_segments_of_a_model_on_whole_videos(hinge_run, tiny_files, program):
  option = "eval_data_pattern" if program == "eval" else "input_data_pattern"
  error = in_process.run_into_error(
    program,
    f"--train_dir={hinge_run}",
    f"--{option}={','.join(tiny_files)}",
    "--segment_labels",
    *(["--run_once"] if program == "eval" else []),
  )
  assert_names(error, "a video-level model", "leave out --segment_labels.")


def test_a_model_and_a_loss_that_no_longer_exist(tmp_path, tiny_files):
  for name, gone in (("model", "GoneModel"), ("label_loss", "GoneLoss")):
    folder = make_run(tmp_path / name, TINY_FLAGS)
    write_model_flags(str(folder), {**TINY_FLAGS, name: gone})
    error = in_process.run_into_error(
      "eval",
      f"--train_dir={folder}",
      f"--eval_data_pattern={','.join(tiny_files)}",
      "--run_once",
    )
    assert_names(error, f"Expected --{name} to name", gone, "Available: ")


@pytest.mark.parametrize("program", ["eval", "inference"])
def test_start_new_model_is_advised_only_for_train_py(tmp_path, program):
  folder = make_run(tmp_path / "run", TINY_FLAGS)
  (folder / "model_flags.json").write_text("{}")
  error = in_process.run_into_error(
    program,
    f"--train_dir={folder}",
    *(["--run_once"] if program == "eval" else []),
  )
  assert "train.py --start_new_model" in error


# --------------------------------------------------------------------------
# The sample data instead of the user's own


@pytest.fixture
def warnings_of_data(data_dir, monkeypatch):
  """Calls data_or_sample with a typed pattern; returns it and the warnings."""
  shown = []
  monkeypatch.setattr(sample_data, "ensure_sample_data", lambda: str(data_dir))
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: shown.append(text % values)
  )

  def call(run, typed=""):
    with flagsaver.flagsaver():
      eval_program.define_flags()
      flags.FLAGS(["eval.py", f"--eval_data_pattern={typed}"])
      pattern = program_flags.data_or_sample(
        "eval_data_pattern",
        "validate",
        False,
        latest_checkpoint(str(run)),
      )
    return pattern, shown

  return call


def trained_on(folder, files):
  """A run with a checkpoint that says what it was trained on."""
  of_files = tf.Variable(fingerprint(files), dtype=tf.int64)
  return make_run(folder, TINY_FLAGS, data_fingerprint=of_files)


def test_the_sample_data_for_a_model_trained_on_other_files(
  warnings_of_data, data_dir, tmp_path
):
  run = trained_on(tmp_path / "run", ["/data/yt8m/train00.tfrecord"])
  pattern, shown = warnings_of_data(run)
  assert pattern == f"{data_dir}/video/validate*.tfrecord"
  assert shown == [
    "Reading the built-in sample data, but this model was trained on other"
    " files. Set --eval_data_pattern=PATTERN to read yours."
  ]


def test_the_sample_data_for_its_own_model(
  warnings_of_data, data_dir, tmp_path
):
  files = sorted(map(str, (data_dir / "video").glob("train*.tfrecord")))
  pattern, shown = warnings_of_data(trained_on(tmp_path / "run", files))
  assert pattern == f"{data_dir}/video/validate*.tfrecord"
  assert not shown


def test_named_data_for_a_model_of_other_files(warnings_of_data, tmp_path):
  run = trained_on(tmp_path / "run", ["/data/yt8m/train00.tfrecord"])
  assert warnings_of_data(run, "/data/validate*") == ("/data/validate*", [])


def test_the_sample_data_for_a_model_of_unknown_data(
  warnings_of_data, hinge_run
):
  _, shown = warnings_of_data(hinge_run)
  assert not shown


# --------------------------------------------------------------------------
# Ranges of bytes

CARD = DatasetCard(
  frame_features=True,
  feature_names=["rgb", "audio"],
  feature_sizes=[4, 3],
  feature_dtypes=["uint8", "uint8"],
  num_classes=6,
  splits={"train": {"videos": 1, "files": 1}},
  made_by={},
  feature_ranges=[[-1.0, 2.0], [0.0, 5.0]],
)


def parse(*typed):
  """Sets flags for a test inside flagsaver."""
  train.define_flags()
  flags.FLAGS(["train.py", *typed])


@pytest.mark.parametrize(
  ("typed", "ranges"),
  [
    ([], {"feature_ranges": "-1.0:2.0,0.0:5.0"}),
    (
      ["--feature_names=audio", "--feature_sizes=3"],
      {"feature_ranges": "0.0:5.0"},
    ),
    (
      ["--feature_names=audio, x", "--feature_sizes=3,4"],
      {"feature_ranges": "0.0:5.0,"},
    ),
    (["--feature_names=audio"], {"feature_ranges": "0.0:5.0"}),
    (["--feature_ranges=0:1,"], {"feature_ranges": "0.0:1.0,"}),
    (["--feature_ranges="], {}),
  ],
)
def test_training_takes_the_ranges_of_the_card(tmp_path, typed, ranges):
  CARD.write(str(tmp_path))
  with flagsaver.flagsaver():
    parse(f"--dataset_dir={tmp_path}", *typed)
    program_flags.apply_dataset_dir("train", "train_data_pattern")
    found = training_flags.model_flags_from_flags()
  if typed == ["--feature_names=audio"]:
    assert found["feature_sizes"] == "3"
  assert {k: v for k, v in found.items() if k == "feature_ranges"} == ranges


def test_ranges_that_do_not_fit_end_in_one_line(tiny_files):
  for typed, words in (
    ("0:1,0:1", "2 ranges"),
    ("1:0", "LOW below HIGH"),
    ("0,1", "2 ranges"),
  ):
    error = in_process.run_into_error(
      "train",
      f"--train_data_pattern={tiny_files[0]}",
      f"--feature_ranges={typed}",
    )
    assert_names(error, words, f"--feature_ranges={typed}")


@pytest.mark.parametrize(
  ("typed", "card", "ranges"),
  [
    ([], None, None),
    ([], CARD, "0.0:5.0,-1.0:2.0"),
    (["--feature_ranges=0:1,"], CARD, "0:1,"),
    (["--feature_ranges="], CARD, ""),
    ([], dataclasses.replace(CARD, feature_ranges=[]), ""),
  ],
)
def test_data_may_have_other_ranges_than_the_training_data(typed, card, ranges):
  model_flags = {"feature_names": "audio,rgb"}
  with flagsaver.flagsaver():
    parse(*typed)
    assert program_flags.ranges_of_data(model_flags, card) == ranges


def test_other_ranges_must_fit_the_model(gru_run, tiny_frame_files):
  given = f"--train_dir={gru_run}"
  for program, *more in (
    ("eval", "--run_once", f"--eval_data_pattern={tiny_frame_files[0]}"),
    ("inference", f"--input_data_pattern={tiny_frame_files[0]}"),
    ("export_model",),
  ):
    error = in_process.run_into_error(
      program, given, *more, "--feature_ranges=0:1"
    )
    assert_names(error, "1 ranges", "2 features")
