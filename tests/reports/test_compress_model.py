"""Tests of the program that copies a model: averaged, or in half the bytes."""

import re
import shutil

import in_process
import numpy as np
import pytest
from conftest import error_of, folder_content
from tiny_runs import (
  NUM_TINY,
  TINY_FLAGS,
  TINY_LABELS,
  tiny_dataset,
  train_tiny,
)

import eval_util
import models
from engine import best_checkpoint
from engine.checkpoints import load_weights
from reports import bootstrap, compress_model


@pytest.fixture(scope="module", autouse=True)
def _few_resamples():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(bootstrap, "num_resamples", lambda videos: 100)
    yield


@pytest.fixture(scope="module")
def run(tiny_files, tmp_path_factory):
  """A train_dir with checkpoints of the steps 4, 8 and 12."""
  train_dir = tmp_path_factory.mktemp("run")
  train_tiny(
    train_dir,
    tiny_files,
    max_steps=12,
    export_model_steps=4,
    base_learning_rate=0.2,
  )
  return train_dir


def compress(run, tiny_files, folder, *flags) -> str:
  return in_process.run(
    "reports.compress_model",
    f"--train_dir={run}",
    f"--eval_data_pattern={','.join(tiny_files)}",
    f"--output_dir={folder}",
    "--top_k=4",
    *flags,
  )


def weights_of(train_dir, step) -> list[np.ndarray]:
  model = models.build_model(TINY_FLAGS)
  load_weights(model, f"{train_dir}/model.ckpt-{step}")
  return [variable.numpy() for variable in model.variables]


def gap_of(weights, vectors) -> float:
  """GAP of a logistic regression, by hand."""
  kernel, bias = weights
  inputs = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  predictions = 1 / (1 + np.exp(-(inputs @ kernel + bias)))
  return eval_util.calculate_gap(predictions, TINY_LABELS, top_k=4)


def rows_of(log) -> dict[str, list[str]]:
  """The cells of each row of the printed table, by its name."""
  lines = [re.split(r"  +", line.strip()) for line in log.splitlines()]
  return {cells[0]: cells[1:] for cells in lines if len(cells) > 6}


def test_the_mean_of_two_checkpoints(run, tiny_files, tiny_vectors, tmp_path):
  new = tmp_path / "new"
  log = compress(run, tiny_files, new, "--average_checkpoints=2")
  each = [weights_of(run, step) for step in (8, 12)]
  expected = [
    (one.astype(np.float64) + other) / 2
    for one, other in zip(*each, strict=True)
  ]
  for value, mean in zip(weights_of(new, 12), expected, strict=True):
    np.testing.assert_allclose(value, mean, atol=1e-6)
  rows = rows_of(log)
  assert list(rows) == ["model", "newest checkpoint", "mean of 2, in float32"]
  gaps = [gap_of(weights, tiny_vectors) for weights in (each[1], expected)]
  cells = [rows["newest checkpoint"], rows["mean of 2, in float32"]]
  assert [row[0] for row in cells] == [f"{gap:.4f}" for gap in gaps]
  assert cells[1][8].startswith(f"{gaps[1] - gaps[0]:+.4f} [")
  # 48 weights of 4 bytes.
  assert [row[5] for row in cells] == ["0.000192", "0.000192"]
  assert all(float(row[7]) > 0 for row in cells)
  assert "statistics of batch normalization, if there are any" in log


def test_a_checkpoint_before_training_is_not_averaged(tmp_path):
  for step in (0, 5, 10):
    (tmp_path / f"model.ckpt-{step}.index").touch()
  wanted = [f"{tmp_path}/model.ckpt-{step}" for step in (5, 10)]
  assert compress_model.find_checkpoints(str(tmp_path), 2) == wanted
  text = error_of(compress_model.find_checkpoints, str(tmp_path), 3)
  assert "received 2, by their steps 5, 10." in text


def test_float16(run, tiny_files, tiny_vectors, tmp_path):
  new = tmp_path / "new"
  log = compress(run, tiny_files, new, "--float16")
  kernel, bias = weights_of(run, 12)
  found = weights_of(new, 12)
  rounded = kernel.astype(np.float16).astype(np.float32)
  np.testing.assert_array_equal(found[0], rounded)
  np.testing.assert_array_equal(found[1], bias)
  (cells,) = (row for name, row in rows_of(log).items() if name == "in float16")
  assert cells[0] == f"{gap_of(found, tiny_vectors):.4f}"
  assert cells[5] == "0.000108"  # 42 halves and 6 floats
  assert "statistics" not in log


@pytest.mark.slow
def test_both(run, tiny_files, tmp_path):
  log = compress(
    run, tiny_files, tmp_path / "new", "--average_checkpoints=3", "--float16"
  )
  assert "mean of 3, in float16" in rows_of(log)
  means = [
    np.mean(values, axis=0, dtype=np.float64)
    for values in zip(
      *(weights_of(run, step) for step in (4, 8, 12)), strict=True
    )
  ]
  found = weights_of(tmp_path / "new", 12)
  np.testing.assert_allclose(found[0], means[0], rtol=1e-3, atol=1e-6)
  np.testing.assert_allclose(found[1], means[1], rtol=1e-6, atol=1e-7)


@pytest.fixture(scope="module")
def small(run, tiny_files, tmp_path_factory):
  """A copy in float16."""
  folder = tmp_path_factory.mktemp("small") / "model"
  compress(run, tiny_files, folder, "--float16")
  return folder


@pytest.mark.slow
def test_a_copy_is_evaluated_predicts_and_is_exported(
  small, tiny_files, tmp_path
):
  pattern = ",".join(tiny_files)
  log = in_process.run(
    "eval",
    f"--train_dir={small}",
    f"--eval_data_pattern={pattern}",
    "--run_once",
  )
  assert "epoch/eval number 12" in log
  for name, more in (
    ("one", [f"--output_model_tgz={tmp_path}/model.tgz"]),
    ("two", []),
  ):
    model = [f"--train_dir={small}"]
    if name == "two":
      model = [
        f"--input_model_tgz={tmp_path}/model.tgz",
        f"--untar_model_dir={tmp_path}/unpacked",
      ]
    in_process.run(
      "inference",
      *model,
      f"--input_data_pattern={pattern}",
      f"--output_file={tmp_path}/{name}.csv",
      *more,
    )
  lines = (tmp_path / "one.csv").read_text().splitlines()
  assert len(lines) == 1 + NUM_TINY
  assert (tmp_path / "two.csv").read_text().splitlines() == lines
  in_process.run(
    "export_model", f"--train_dir={small}", f"--output_dir={tmp_path}/export"
  )
  assert (tmp_path / "export" / "saved_model.pb").exists()


def test_a_copy_can_be_copied(small, tiny_files, tmp_path):
  log = compress(small, tiny_files, tmp_path / "again", "--float16")
  gain = rows_of(log)["in float16"][8]
  assert gain.startswith("+0.0000 [+0.0000, +0.0000] no difference shown")


def test_the_best_checkpoint_of_a_data_set(run, tiny_files, tmp_path):
  old = shutil.copytree(run, tmp_path / "old")
  best_checkpoint.consider(
    str(old),
    f"{old}/model.ckpt-8",
    *("gap", 0.5),
    {"files": "", "pattern": f"{tmp_path}/data/val*"},
  )
  (tmp_path / "data").mkdir()
  log = in_process.run(
    "reports.compress_model",
    f"--train_dir={old}",
    f"--dataset_dir={tiny_dataset(tmp_path / 'data', tiny_files)}",
    f"--output_dir={tmp_path}/new",
    "--checkpoint=best",
    "--float16",
  )
  assert f"Scoring on {tmp_path}/data/validate*.tfrecord" in log
  assert "was chosen by gap on 2 of the 2 scored files" in log
  assert list(rows_of(log)) == ["model", "best checkpoint", "in float16"]
  kernel, _ = weights_of(run, 8)
  found, _ = weights_of(tmp_path / "new", 8)
  rounded = kernel.astype(np.float16).astype(np.float32)
  np.testing.assert_array_equal(found, rounded)


@pytest.mark.parametrize(
  ("flags", "part"),
  [
    (["--float16", "--output_dir="], "Expected --output_dir"),
    ([], "received --average_checkpoints=0"),
    (["--average_checkpoints=1"], "received --average_checkpoints=1"),
    (
      ["--average_checkpoints=4"],
      "Expected at least 4 checkpoints after step 0 in --train_dir={run} for"
      " --average_checkpoints=4, received 3, by their steps 4, 8, 12.",
    ),
    (["--float16", "--train_dir={run}/no"], "--train_dir={run}/no"),
    (["--float16", "--checkpoint=best"], "Expected a best checkpoint in"),
    (
      ["--average_checkpoints=2", "--checkpoint=8"],
      "Expected --checkpoint=latest with --average_checkpoints",
    ),
    (["--float16", "--num_classes=7"], "--num_classes"),
    (["--float16", "--dataset_dir={run}"], "--dataset_dir={run}"),
    (["--float16", "--output_dir={run}"], "Expected a new folder"),
    (
      ["--float16", "--eval_data_pattern=/no/such*"],
      "--eval_data_pattern=/no/such*",
    ),
  ],
)
def test_what_cannot_be_made(run, tiny_files, tmp_path, flags, part):
  before = folder_content(run)
  line = in_process.run_into_error(
    "reports.compress_model",
    f"--train_dir={run}",
    f"--eval_data_pattern={','.join(tiny_files)}",
    f"--output_dir={tmp_path}/new",
    *(flag.format(run=run) for flag in flags),
  )
  assert part.format(run=run) in line
  assert folder_content(run) == before
  assert not list(tmp_path.iterdir())
