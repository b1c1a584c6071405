"""Tests of benchmarks/matrix_work.py."""

import pytest
import tensorflow as tf

from benchmarks import matrix_work


def program(function, *shapes):
  """XLA's optimized program of a function of float32 tensors."""
  compiled = tf.function(function, jit_compile=True, autograph=False)
  arguments = [tf.zeros(shape) for shape in shapes]
  return compiled.experimental_get_compiler_ir(*arguments)(
    stage="optimized_hlo"
  )


def test_only_products_count():
  """2 m k n for each; a sum of 10^4 numbers does not count."""

  def function(a, b, c):
    return tf.matmul(tf.matmul(a, b), c) + tf.reduce_sum(a)

  hlo = program(function, (50, 200), (200, 30), (30, 40))
  wanted = 2 * 50 * 200 * 30 + 2 * 50 * 30 * 40
  assert matrix_work.count_flops(hlo) == wanted


def test_batches_of_products():
  """One product for each."""
  hlo = program(
    lambda a, b: tf.einsum("btk,btd->bkd", a, b), (6, 50, 20), (6, 50, 30)
  )
  assert matrix_work.count_flops(hlo) == 6 * 2 * 50 * 20 * 30


def test_loops_count_as_often_as_they_run():
  """A product in a loop of 17 turns is 17 products."""

  def function(a):
    return tf.while_loop(
      lambda turn, value: turn < 17,
      lambda turn, value: (turn + 1, tf.matmul(value, value)),
      (0, a),
    )[1]

  hlo = program(function, (40, 40))
  assert matrix_work.count_flops(hlo) == 17 * 2 * 40**3


@pytest.mark.parametrize(
  ("model", "wanted"),
  [
    # Forward and the gradient of the weights; not the gradient of the input.
    ("LogisticModel", 2 * 2 * 12 * 20),
    # Gates 3 x 2 and experts 2 of 20 classes.
    ("MoeModel", 2 * 2 * 12 * 20 * 5),
  ],
)
def test_video_level_models(model, wanted):
  """Compares with products counted by hand."""
  flags = {
    "model": model,
    "feature_names": "mean_rgb",
    "feature_sizes": "12",
    "frame_features": False,
    "num_classes": 20,
    "max_frames": 300,
    "label_loss": "CrossEntropyLoss",
  }
  found = matrix_work.gflop_per_video(flags, 64, 1)
  assert found * 1e9 == pytest.approx(wanted, rel=0.1)


def test_recurrent_model():
  """Loops over frames in both directions, with an LSTM's eight products."""
  frames, size, cells = 9, 24, 16
  flags = {
    "model": "LstmModel",
    "feature_names": "rgb",
    "feature_sizes": str(size),
    "frame_features": True,
    "num_classes": 3,
    "max_frames": 300,
    "label_loss": "CrossEntropyLoss",
    "lstm_cells": cells,
    "lstm_layers": 1,
    "video_level_classifier_model": "LogisticModel",
  }
  found = matrix_work.gflop_per_video(flags, 32, frames)
  one = 2 * frames * 4 * cells
  wanted = one * (2 * size + 3 * cells) + 3 * 2 * cells * 3
  assert found * 1e9 == pytest.approx(wanted, rel=0.1)
