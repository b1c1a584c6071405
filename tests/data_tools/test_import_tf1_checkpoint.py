"""Tests of data_tools.import_tf1_checkpoint: the original's runs go on here."""

import json
import re
import shlex

import in_process
import numpy as np
import pytest
from conftest import (
  assert_names,
  assert_same_state,
  checkpoint_steps,
  checkpoint_values,
  folder_content,
  load_model,
)
from original_checkpoints import (
  SHAPES,
  original_flags,
  random_variables,
  with_adam,
  write_original,
)
from tiny_runs import train_tiny

from engine import files as engine_files
from engine.checkpoints import checkpoint_step, require_checkpoint
from engine.run import Run

PROGRAM = "data_tools.import_tf1_checkpoint"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def import_original(tmp_path, model_flags, variables, *more, step=None):
  """Imports a checkpoint to the folder new; returns it and the log."""
  path = write_original(tmp_path / "old", model_flags, variables, step)
  train_dir = tmp_path / "new"
  log = in_process.run(
    PROGRAM, f"--checkpoint={path}", f"--train_dir={train_dir}", *more
  )
  return train_dir, log


def refused(tmp_path, model_flags, variables, *more, **changes) -> str:
  """The line that refuses an import, which leaves nothing behind."""
  path = write_original(tmp_path / "old", model_flags, variables)
  given = {"checkpoint": path, "train_dir": tmp_path / "new", **changes}
  before = sorted(path.name for path in tmp_path.iterdir())
  line = in_process.run_into_error(
    PROGRAM, *(f"--{name}={value}" for name, value in given.items()), *more
  )
  assert sorted(path.name for path in tmp_path.iterdir()) == before
  return line


def noted_flags(train_dir) -> dict:
  """model_flags.json, without what only export needs."""
  model_flags = json.loads((train_dir / "model_flags.json").read_text())
  assert model_flags.pop("feature_dtypes")
  return model_flags


# --------------------------------------------------------------------------
# Predictions


@pytest.mark.parametrize(
  ("name", "flags"),
  [
    ("LogisticModel", {}),
    ("MoeModel", {"moe_num_mixtures": 3}),
    ("FrameLevelLogisticModel", {}),
    (
      "DbofModel",
      {
        "iterations": 6,
        "dbof_cluster_size": 20,
        "dbof_hidden_size": 14,
        "dbof_pooling_method": "max",
        "dbof_activation": "sigmoid",
        "dbof_add_batch_norm": True,
        "video_level_classifier_model": "MoeModel",
        "moe_num_mixtures": 3,
      },
    ),
    (
      "LstmModel",
      {
        "lstm_cells": 12,
        "lstm_layers": 2,
        "video_level_classifier_model": "MoeModel",
        "moe_num_mixtures": 3,
      },
    ),
    (
      "LstmModel_Logistic",
      {"lstm_cells": 12, "video_level_classifier_model": "LogisticModel"},
    ),
  ],
)
def test_predictions_are_those_of_the_original(
  shared_dir, tmp_path, name, flags
):
  golden = np.load(shared_dir / "golden" / "starter_models.npz")
  prefix = f"{name}/var/"
  variables = {
    key.removeprefix(prefix): golden[key]
    for key in golden.files
    if key.startswith(prefix)
  }
  frame_features = golden[f"{name}/input"].ndim == 3
  model_flags = {
    "model": name.partition("_")[0],
    "feature_names": "rgb,audio",
    "feature_sizes": "16,8",
    "frame_features": frame_features,
    "label_loss": "CrossEntropyLoss",
  }
  typed = ["--iterations=6"] if name == "DbofModel" else []

  train_dir, _ = import_original(
    tmp_path, model_flags, variables, *typed, step=7
  )

  noted = noted_flags(train_dir)
  assert noted["num_classes"] == 17
  assert noted["max_frames"] == 300
  assert {flag: noted[flag] for flag in flags} == flags
  model = load_model(train_dir, quantized=False)
  batch = {"video_matrix": golden[f"{name}/input"].astype(np.float32)}
  batch["num_frames"] = np.ones(len(batch["video_matrix"]), np.int32)
  if frame_features:
    batch["num_frames"] = golden[f"{name}/num_frames"].astype(np.int32)
  np.testing.assert_allclose(
    model(batch)["predictions"].numpy(),
    golden[f"{name}/predictions"],
    atol=1e-5,
  )


# --------------------------------------------------------------------------
# The state of Adam


@pytest.mark.parametrize("name", SHAPES)
def test_adam_keeps_what_it_knew_of_each_weight(tmp_path, name):
  variables = with_adam(random_variables(name), 50)
  train_dir, log = import_original(tmp_path, original_flags(name), variables)
  assert_names(log, "after step 50", "with the state of Adam")

  values = checkpoint_values(train_dir / "model.ckpt-50")
  assert values[f"optimizer/_iterations{VALUE}"] == 50
  assert values[f"global_step{VALUE}"] == 50
  assert values[f"examples_seen{VALUE}"] == 50 * 1024
  model = load_model(train_dir)
  kept = optimizer_values(values)
  for index, variable in enumerate(model.trainable_variables):
    weight = variable.numpy()
    if variable.path.startswith("lstm") and variable.path.endswith("bias"):
      weight[3:6] -= 1.0  # the forget gates of three cells
    mean, square = kept[2 * index : 2 * index + 2]
    np.testing.assert_allclose(mean, 2.0 * weight, atol=1e-6)
    np.testing.assert_allclose(square, weight * weight, atol=1e-6)
  assert len(kept) == 2 * (index + 1)
  counters = [
    variable.numpy()
    for variable in model.variables
    if variable.path.endswith("num_updates")
  ]
  assert counters == [50] * (3 if name == "DbofModel" else 0)


def optimizer_values(values) -> list:
  """What an Adam of Keras keeps: of each weight a mean, then a mean square."""
  pattern = rf"optimizer/_variables/(\d+){VALUE}"
  found = {
    int(match[1]): value
    for name, value in values.items()
    if (match := re.fullmatch(pattern, name))
  }
  return [found[number] for number in sorted(found)]


def adam_step_by_hand(variables, vectors, labels, learning_rate, updates):
  """LogisticModel's weights after a step of TensorFlow 1's Adam, in float64.

  Args:
    variables: see with_adam.
    vectors: (videos, features), before they are divided by their lengths.
    labels: (videos, classes) of 0 and 1.
    learning_rate: of the step.
    updates: how many Adam has made before.
  """
  names = {
    "kernel": "tower/fully_connected/weights",
    "bias": "tower/fully_connected/biases",
  }
  inputs = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  logits = inputs @ variables[names["kernel"]] + variables[names["bias"]]
  p = 1.0 / (1.0 + np.exp(-logits))
  # -y log(p + 1e-5) - (1 - y) log(1 - p + 1e-5), through the sigmoid.
  slopes = (1 - labels) / (1 - p + 1e-5) - labels / (p + 1e-5)
  slopes *= p * (1 - p) / len(vectors)
  gradients = {"kernel": inputs.T @ slopes, "bias": slopes.sum(axis=0)}
  step = learning_rate * np.sqrt(1 - 0.999 ** (updates + 1))
  step /= 1 - 0.9 ** (updates + 1)
  after = {}
  for weight, name in names.items():
    gradient = gradients[weight]
    mean = 0.9 * variables[f"{name}/Adam"] + 0.1 * gradient
    square = 0.999 * variables[f"{name}/Adam_1"] + 0.001 * gradient**2
    after[weight] = variables[name] - step * mean / (np.sqrt(square) + 1e-8)
  return after


def test_the_next_step_is_that_of_the_original(
  tiny_files, tiny_vectors, tmp_path
):
  variables = with_adam(random_variables("LogisticModel"), 10)
  train_dir, _ = import_original(
    tmp_path, original_flags("LogisticModel"), variables, "--batch_size=1000"
  )
  train_tiny(
    train_dir,
    tiny_files,
    noted_flags(train_dir),
    batch_size=22,
    max_steps=11,
    regularization_penalty=0.0,
    clip_gradient_norm=0.0,
    # Twice in the 10,000 videos that the original has seen.
    learning_rate_decay_examples=4000,
  )

  labels = np.zeros((22, 6))
  for number in range(22):
    labels[number, [number % 6, number * number % 5]] = 1
  variables = {
    name: np.asarray(value, np.float64) for name, value in variables.items()
  }
  expected = adam_step_by_hand(
    variables, tiny_vectors.astype(np.float64), labels, 0.01 * 0.95**2, 10
  )
  layer = load_model(train_dir).get_layer("fully_connected")
  for name in ("kernel", "bias"):
    np.testing.assert_allclose(
      getattr(layer, name).numpy(), expected[name], atol=1e-6
    )


# --------------------------------------------------------------------------
# Training goes on


@pytest.mark.parametrize(
  "name",
  [
    "MoeModel",
    # Each compiles training three times.
    pytest.param("DbofModel", marks=pytest.mark.slow),
    pytest.param("LstmModel", marks=pytest.mark.slow),
  ],
)
def test_an_imported_run_goes_on_and_resumes_exactly(
  tiny_files, tiny_frame_files, tmp_path, name
):
  given = original_flags(name)
  variables = with_adam(random_variables(name), 50)
  files = tiny_frame_files if given["frame_features"] else tiny_files
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  for folder in (whole, parts):
    folder.mkdir()
    import_original(folder, given, variables)
  whole, parts = whole / "new", parts / "new"
  assert_same_state(whole, parts)

  # 22 videos in batches of 5.
  model_flags = noted_flags(whole)
  settings = {"num_epochs": 1}
  assert train_tiny(whole, files, model_flags, **settings) == 55
  assert train_tiny(parts, files, model_flags, **settings, max_steps=52) == 52
  assert train_tiny(parts, files, model_flags, **settings) == 55
  assert checkpoint_steps(parts) == {50, 52, 55}
  assert_same_state(whole / "model.ckpt-55", parts / "model.ckpt-55")
  before, after = (
    checkpoint_values(whole / f"model.ckpt-{step}") for step in (50, 55)
  )
  assert after[f"optimizer/_iterations{VALUE}"] == 55
  assert after[f"finished_epochs{VALUE}"] == 1
  assert after[f"examples_seen{VALUE}"] == 50 * 1024 + 22
  weight = f"optimizer/_trainable_variables/0{VALUE}"
  assert (before[weight] != after[weight]).any()


def test_without_the_state_of_adam_any_optimizer_goes_on(tiny_files, tmp_path):
  variables = random_variables("LogisticModel")
  train_dir, log = import_original(
    tmp_path, original_flags("LogisticModel"), variables, step=50
  )
  assert "without the state of Adam" in log
  values = checkpoint_values(train_dir)
  assert not [name for name in values if name.startswith("optimizer")]

  settings = {"optimizer": "MomentumOptimizer", "num_epochs": 1}
  model_flags = noted_flags(train_dir)
  assert train_tiny(train_dir, tiny_files, model_flags, **settings) == 55
  # The next start finds the optimizer.
  settings["num_epochs"] = 2
  assert train_tiny(train_dir, tiny_files, model_flags, **settings) == 60
  values = checkpoint_values(train_dir)
  assert values[f"optimizer/_iterations{VALUE}"] == 10


def test_the_programs_take_what_was_imported(tiny_files, tmp_path):
  name = "MoeModel"
  variables = with_adam(random_variables(name), 50)
  train_dir, log = import_original(tmp_path, original_flags(name), variables)
  data = ",".join(tiny_files)
  commands = [
    shlex.split(line.partition("python ")[2])
    for line in log.splitlines()
    if "python " in line
  ]
  assert [command[0] for command in commands] == ["eval.py", "train.py"]
  score, train_on = commands

  log = in_process.run("eval", *score[1:], f"--eval_data_pattern={data}")
  assert "GAP" in log
  metrics = json.loads((train_dir / "eval" / "metrics-50.json").read_text())
  assert metrics["num_examples"] == 22
  log = in_process.run(
    "train",
    *train_on[1:],
    f"--train_data_pattern={data}",
    "--num_epochs=1",
    "--xla=False",
  )
  assert "Done at step 51" in log
  assert "changed: epochs count from here" not in log
  output = tmp_path / "predictions.csv"
  in_process.run(
    "inference",
    f"--train_dir={train_dir}",
    f"--input_data_pattern={data}",
    f"--output_file={output}",
  )
  assert len(output.read_text().splitlines()) == 1 + 22
  in_process.run(
    "export_model",
    f"--train_dir={train_dir}",
    f"--checkpoint_file={train_dir}/model.ckpt-50",
  )
  exported = train_dir / "export" / "step_50" / "assets" / "model_flags.json"
  assert json.loads(exported.read_text())["feature_dtypes"] == "float32,float32"


def test_a_schedule_that_has_ended_is_refused(tiny_files, tmp_path):
  variables = with_adam(random_variables("LogisticModel"), 50)
  train_dir, log = import_original(
    tmp_path, original_flags("LogisticModel"), variables
  )
  command = shlex.split(log.splitlines()[-1].partition("train.py ")[2])
  line = in_process.run_into_error(
    "train",
    *command,
    f"--train_data_pattern={','.join(tiny_files)}",
    "--learning_rate_schedule=cosine",
  )
  # 50 steps of 1024 videos; 5 epochs of 22.
  assert_names(line, "seen 51200 examples", "while 110 are planned")
  assert_names(line, "--init_checkpoint")
  assert checkpoint_steps(train_dir) == {50}

  log = in_process.run(
    "train",
    *(part for part in command if not part.startswith("--train_dir=")),
    f"--train_dir={tmp_path}/again",
    f"--init_checkpoint={train_dir}",
    f"--train_data_pattern={','.join(tiny_files)}",
    "--learning_rate_schedule=cosine",
    "--xla=False",
  )
  assert_names(log, "2 of 2 variables", "Done at step 1,")


# --------------------------------------------------------------------------
# Flags


def test_flags_say_what_the_weights_do_not_show(tmp_path):
  name = "DbofModel without batch normalization"
  train_dir, log = import_original(
    tmp_path,
    original_flags(name),
    random_variables(name),
    "--iterations=12",
    "--dbof_activation=relu6",
    "--dbof_cluster_size=5",  # as the weights say
    "--lstm_cells=3",
  )
  noted = noted_flags(train_dir)
  assert noted["iterations"] == 12
  assert noted["dbof_activation"] == "relu6"
  assert noted["dbof_pooling_method"] == "max"
  assert noted["feature_names"] == "rgb,audio"
  assert noted["feature_sizes"] == "4,3"
  assert_names(
    log,
    "--iterations=12 --sample_random_frames=True --dbof_pooling_method=max"
    " --dbof_activation=relu6",
    "No effect on DbofModel: --lstm_cells.",
  )


def test_a_flag_that_contradicts_the_weights(tmp_path):
  line = refused(
    tmp_path,
    original_flags("LstmModel"),
    random_variables("LstmModel"),
    "--lstm_layers=3",
  )
  assert_names(line, "--lstm_layers=2", "received --lstm_layers=3")


@pytest.mark.parametrize("name", ["checkpoint", "train_dir"])
def test_required_flags(tmp_path, name):
  given = original_flags("LogisticModel"), random_variables("LogisticModel")
  line = refused(tmp_path, *given, **{name: ""})
  assert f"Expected --{name}, received none" in line


# --------------------------------------------------------------------------
# What cannot be taken over


def changed(variables, **changes) -> dict:
  """Variables, of which some are left out (None) or replaced."""
  return {
    name: value
    for name, value in {**variables, **changes}.items()
    if value is not None
  }


@pytest.mark.parametrize(
  ("variable", "value", "parts"),
  [
    ("tower/experts/biases", None, ["tower/experts/biases", "without it"]),
    ("tower/gates/weights", None, ["tower/gates/weights", "without it"]),
    (
      "tower/experts/biases",
      np.zeros(17, np.float32),
      ["tower/experts/biases", "[18]", "[17]"],
    ),
    (
      # As of a model of 8 features.
      "tower/gates/weights",
      np.zeros((8, 24), np.float32),
      ["tower/gates/weights", "[7, 24]", "[8, 24]"],
    ),
    (
      "tower/gates/weights/Adam",
      np.zeros((7, 23), np.float32),
      ["tower/gates/weights/Adam", "[7, 24]", "[7, 23]"],
    ),
    (
      "tower/gates/biases",
      np.zeros(24, np.float32),
      ["tower/gates/biases", "Without it"],
    ),
    (
      "tower/experts/biases",
      np.full(18, np.inf, np.float32),
      ["tower/experts/biases", "infinity"],
    ),
  ],
)
def test_variables_that_do_not_fit(tmp_path, variable, value, parts):
  variables = with_adam(random_variables("MoeModel"), 50)
  variables = changed(variables, **{variable: value})
  line = refused(tmp_path, original_flags("MoeModel"), variables)
  assert_names(line, *parts)


def test_what_else_there_is_is_listed(tmp_path):
  variables = with_adam(random_variables("LogisticModel"), 50)
  variables["tower/fully_connected/biases/Momentum"] = np.zeros(6, np.float32)
  variables["counter"] = np.float32(1)
  _, log = import_original(tmp_path, original_flags("LogisticModel"), variables)
  assert "Not taken over: counter, tower/fully_connected/biases/Momentum" in log


def test_a_part_of_the_state_of_adam_is_left_out(tmp_path):
  variables = with_adam(random_variables("LogisticModel"), 50)
  del variables["tower/fully_connected/biases/Adam_1"]
  train_dir, log = import_original(
    tmp_path, original_flags("LogisticModel"), variables
  )
  assert "without tower/fully_connected/biases/Adam_1" in log
  values = checkpoint_values(train_dir)
  assert not [name for name in values if name.startswith("optimizer")]


@pytest.mark.parametrize(
  ("changes", "parts"),
  [
    ({"model": "NetVLADModelLF"}, ["'NetVLADModelLF'", "LstmModel"]),
    ({"model": None}, ["Expected model in", "received 'none'"]),
    ({"frame_features": "True"}, ["Expected frame_features in", "'True'"]),
    ({"feature_sizes": "4"}, ["one size for each feature"]),
    ({"label_loss": "FocalLoss"}, ["'FocalLoss'", "model_flags.json"]),
    ({"model": "LogisticModel"}, ["tower/fully_connected/weights"]),
    ({"frame_features": True}, ["takes whole videos"]),
  ],
)
def test_model_flags_that_do_not_fit(tmp_path, changes, parts):
  model_flags = changed(original_flags("MoeModel"), **changes)
  line = refused(tmp_path, model_flags, random_variables("MoeModel"))
  assert_names(line, *parts)


def test_model_flags_that_are_missing_or_damaged(tmp_path):
  variables = random_variables("MoeModel")
  line = refused(tmp_path, None, variables)
  assert_names(line, f"found no {tmp_path}/old/model_flags.json")
  for content in ("{", "[" * 100_000):
    (tmp_path / "old" / "model_flags.json").write_text(content)
    line = refused(tmp_path, None, variables)
    assert_names(line, "Expected JSON in", f"{tmp_path}/old/model_flags.json")


# --------------------------------------------------------------------------
# The folder


def test_an_existing_run_stays(tmp_path):
  given = original_flags("LogisticModel"), random_variables("LogisticModel")
  train_dir, _ = import_original(tmp_path, *given, step=5)
  before = folder_content(train_dir)
  line = refused(tmp_path, *given)
  assert_names(line, f"received {train_dir}, which has")
  assert folder_content(train_dir) == before


def test_a_file_stays(tmp_path):
  (tmp_path / "new").write_text("mine")
  given = original_flags("LogisticModel"), random_variables("LogisticModel")
  assert "received the file" in refused(tmp_path, *given)
  assert (tmp_path / "new").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path):
  (tmp_path / "new").mkdir()
  given = original_flags("LogisticModel"), random_variables("LogisticModel")
  train_dir, _ = import_original(tmp_path, *given, step=5)
  assert checkpoint_step(require_checkpoint(str(train_dir))) == 5
  assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_link_to_an_empty_folder_stays(tmp_path):
  (tmp_path / "disk").mkdir()
  (tmp_path / "new").symlink_to("disk")
  given = original_flags("LogisticModel"), random_variables("LogisticModel")
  import_original(tmp_path, *given, step=5)
  assert (tmp_path / "new").is_symlink()
  assert checkpoint_step(require_checkpoint(str(tmp_path / "disk"))) == 5


def test_a_run_that_begins_in_between_stays(tmp_path, monkeypatch):
  put_in_place = engine_files.put_in_place

  def begin_first(aside, path):
    if path == str(tmp_path / "new"):
      (tmp_path / "new").mkdir()
      (tmp_path / "new" / "checkpoint").write_text("another")
    put_in_place(aside, path)

  path = write_original(
    tmp_path / "old",
    original_flags("LogisticModel"),
    random_variables("LogisticModel"),
  )
  monkeypatch.setattr(engine_files, "put_in_place", begin_first)
  line = in_process.run_into_error(
    PROGRAM, f"--checkpoint={path}", f"--train_dir={tmp_path}/new"
  )
  assert f"received {tmp_path}/new, which has" in line
  assert folder_content(tmp_path / "new") == {"checkpoint": b"another"}
  assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_nothing_is_left_if_it_cannot_be_saved(tmp_path, monkeypatch):
  def fail(run):
    raise OSError("It cannot be saved")

  monkeypatch.setattr(Run, "save", fail)
  given = original_flags("LogisticModel"), random_variables("LogisticModel")
  assert "It cannot be saved" in refused(tmp_path, *given)


def test_the_message_of_train_names_this_program(tmp_path):
  write_original(tmp_path, original_flags("LogisticModel"), {"a": 1.0}, 5)
  line = in_process.run_into_error("eval", f"--train_dir={tmp_path}")
  assert_names(line, "TensorFlow 1", f"python -m {PROGRAM}")
