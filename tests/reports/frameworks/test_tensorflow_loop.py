"""Tests of reports.frameworks.tensorflow_loop, against NumPy."""

import dataclasses

import numpy as np
import pytest
from jobs_for_tests import (
  first_batches,
  make_frame_job,
  make_job,
  plain_gradients,
  plain_losses,
  write_plain_weights,
)

import models
from reports.frameworks import recipe
from reports.frameworks.tensorflow_loop import Loop


@pytest.mark.parametrize("compiled", [False, True])
def test_steps_are_those_of_adam(tiny_files, tmp_path, compiled):
  job = make_job(tmp_path, tiny_files, compiled=compiled)
  weights = write_plain_weights(job)
  loop = Loop(job, 0)
  batches = first_batches(job, 8)
  predictions, gradients = loop.gradients(batches[0])
  _, expected, slopes = plain_gradients(weights, batches[0])
  np.testing.assert_allclose(predictions, expected, atol=1e-6)
  for one, other in zip(gradients, slopes, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-6)
  found = [loop.step(batch) for batch in batches]
  np.testing.assert_allclose(found, plain_losses(weights, batches), rtol=1e-5)
  assert loop.how == ("XLA" if compiled else "tf.function")
  assert (loop.device, loop.peak_gpu_bytes()) == ("CPU", None)


def test_a_recurrent_model_is_the_same_with_xla(tiny_frame_files, tmp_path):
  job = make_frame_job(
    tmp_path,
    tiny_frame_files,
    model_flags={
      **make_frame_job(tmp_path, []).model_flags,
      "model": "LstmModel",
      "lstm_cells": 3,
      "lstm_layers": 1,
    },
  )
  recipe.write_weights(models.build_model(job.model_flags), job.weights)
  found = []
  for compiled in (False, True):
    loop = Loop(dataclasses.replace(job, compiled=compiled), 0)
    found.append([loop.step(batch) for batch in first_batches(job, 4)])
  np.testing.assert_allclose(*found, rtol=1e-4)
