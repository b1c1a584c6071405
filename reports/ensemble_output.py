"""Writes what an ensemble predicts, for a submission or for other programs."""

import os

import numpy as np
from absl import logging

import errors
import eval_util
import inference
from engine import prediction_file
from engine import train_dir as train_dirs
from engine.data_files import is_local
from engine.files import read_json, text_written_aside
from reports.mixtures import JoinedPredictions, mix

RESULTS_FILE = "ensemble.json"
_CSV_ENDING = ".csv"


def check_results(output_dir: str) -> None:
  """Checks that the numbers of an ensemble replace nothing but earlier ones.

  Args:
    output_dir: folder of RESULTS_FILE.

  Raises:
    errors.UserError: another file has this name.
  """
  read_json(
    os.path.join(output_dir, RESULTS_FILE),
    ("videos_to_score_on", "systems"),
    "Name another --output_dir.",
  )


def check_path(path: str) -> None:
  """Checks the name of the file to write, before long work.

  Args:
    path: value of --output_file.

  Raises:
    errors.UserError: it has another ending, or belongs to something else.
  """
  is_file = path.endswith((_CSV_ENDING, prediction_file.ENDING))
  if not is_file or not is_local(path) or os.path.isdir(path):
    raise errors.UserError(
      f"Expected the name of a local file that ends in {_CSV_ENDING} or"
      f" {prediction_file.ENDING} as --output_file, received {path}. Name it"
      f" predictions{_CSV_ENDING}, for example."
    )
  train_dirs.check_no_own_file(path, "output_file")


def write_mean(
  path: str,
  joined: JoinedPredictions,
  video_ids: np.ndarray,
  weights: np.ndarray,
  classes: np.ndarray,
  top_k: int,
) -> None:
  """Writes a weighted mean; the file appears when it is complete.

  Args:
    path: a CSV as inference.py writes it, with the best classes of each video,
      or an .npz with all of them, see engine/prediction_file.py.
    joined: predictions of the models.
    video_ids: (videos,) bytes, those of joined, see prediction_file.stored_ids.
      A video that a model did not predict is left out.
    weights: (models,), with a sum of 1.
    classes: (classes,) the class index of each column.
    top_k: classes for each video of a CSV.

  Raises:
    errors.UserError: predictions are no probabilities.
  """
  batches = (
    (prediction_file.original_ids(video_ids[part]), mix(weights, predictions))
    for part, predictions in joined.blocks(np.flatnonzero(~joined.missing))
  )
  if path.endswith(prediction_file.ENDING):
    prediction_file.write_predictions(path, batches, classes)
  else:
    with text_written_aside(path) as file:
      file.write(inference.CSV_HEADER)
      for ids, predictions in batches:
        columns, best = eval_util.top_k_classes(predictions, top_k)
        file.write(inference.format_lines(ids, classes[columns], best))
  logging.info("Predictions of the weighted mean: %s", path)
