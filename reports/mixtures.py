"""Weighted means of several models' predictions, and what weights are best.

Weights are fitted on one half of the labeled videos, so that the other half can
judge them. A video's half depends on its id alone.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

import errors
import losses
from engine import model_building
from engine.data import records_of
from engine.prediction_file import Predictions, VideoIndex, stored_ids
from engine.progress_bar import Progress
from engine.skipped import Policy, SkippedRecords
from records import contents, messages, selection

# Videos whose predictions are computed with together.
_BLOCK_VIDEOS = 512
# Predictions that weights are fitted on: 512 MB, and few weights need no more.
_MOST_FITTED = 1 << 27
# Nats a video that better weights could still gain, at most.
_TOLERANCE = 1e-6
_MOST_STEPS = 1000
_SMALLEST_STEP = 1e-9

_Read = TypeVar("_Read")


# --------------------------------------------------------------------------
# Labeled videos, in two halves


class LabeledVideos(NamedTuple):
  """The ids and labels of videos.

  Attributes:
    video_ids: (videos,) bytes, see prediction_file.stored_ids.
    offsets: (videos + 1,) int64, where the labels of each begin.
    columns: (labels,) int32, the columns of the labels, video by video.
  """

  video_ids: np.ndarray
  offsets: np.ndarray
  columns: np.ndarray

  def labels(self, rows: np.ndarray, num_columns: int) -> np.ndarray:
    """The labels of some videos, (rows, columns) bool."""
    labels = np.zeros((len(rows), num_columns), bool)
    for place, row in enumerate(rows):
      begin, end = self.offsets[row : row + 2]
      labels[place, self.columns[begin:end]] = True
    return labels


def read_labeled_videos(
  files: list[str], num_classes: int, classes: np.ndarray, policy: Policy
) -> LabeledVideos:
  """Reads the ids and labels of records of either level, without features.

  Args:
    files: TFRecord files.
    num_classes: classes of the data.
    classes: the class index of each column. If these are not all classes,
      videos without any of them are left out, as in an evaluation.
    policy: what to do about records that cannot be used.

  Raises:
    errors.UserError: a record cannot be used, a video is there twice, or there
      are none.
  """
  column_of = np.full(num_classes, -1, np.int32)
  column_of[classes] = np.arange(len(classes))
  video_ids, counts, columns = [], [], []

  def columns_in(context) -> np.ndarray:
    found = column_of[contents.labels(context, num_classes)]
    return np.unique(found[found >= 0])

  for video_id, found in _read_contexts(files, columns_in, policy):
    if not len(found) and len(classes) < num_classes:
      continue
    video_ids.append(video_id)
    counts.append(len(found))
    columns.append(found)
  if not video_ids:
    raise errors.UserError(
      "Expected labeled videos in the files of --eval_data_pattern, received"
      " none. Name other files."
    )
  ids = stored_ids(video_ids)
  if again := VideoIndex(ids).repeated():
    raise errors.UserError(
      "Expected each video once in the files of --eval_data_pattern, received"
      f" {again.decode(errors='replace')} twice. Name other files; python -m"
      " data_tools.inspect_dataset lists such videos."
    )
  return LabeledVideos(
    ids, np.cumsum([0, *counts]), np.concatenate(columns).astype(np.int32)
  )


def read_video_ids(
  files: list[str], policy: Policy, flag_name: str
) -> np.ndarray:
  """Reads the ids of records of either level, which need no labels.

  Args:
    files: TFRecord files.
    policy: what to do about records that cannot be used.
    flag_name: of the flag that names them.

  Returns:
    (videos,) bytes, in the order of the records, see
    prediction_file.stored_ids.

  Raises:
    errors.UserError: a record cannot be used, or there are none.
  """
  found = _read_contexts(files, lambda context: None, policy)
  ids = [video_id for video_id, _ in found]
  if not ids:
    raise errors.UserError(
      f"Expected videos in the files of --{flag_name}, received none."
      " Name other files."
    )
  return stored_ids(ids)


def _read_contexts(
  files: list[str], read: Callable[[dict], _Read], policy: Policy
) -> Iterator[tuple[bytes, _Read]]:
  """Goes through records of either level, without features.

  Args:
    files: TFRecord files.
    read: gets what is wanted from the context of a record; it may raise
      BadRecordError.
    policy: what to do about records that cannot be used.

  Yields:
    The id of each video, and what was wanted.
  """
  skipped = SkippedRecords(policy)
  place_of = {file: place for place, file in enumerate(files)}
  progress = Progress("Read")
  num_videos = 0
  for file, number, data in records_of(files, skipped.add):
    if progress.is_due():
      done = place_of[file] / len(files)
      progress.show(done, f"{num_videos} videos")
    try:
      context = selection.context_of(data)
      found = contents.video_id(context), read(context)
    except messages.BadRecordError as error:
      skipped.add(file, number, error)
      continue
    num_videos += 1
    yield found
  progress.end()


def hash_of(name: bytes) -> int:
  """A number of 64 bits that depends on a video's id or another name alone."""
  return int.from_bytes(hashlib.sha256(name).digest()[:8])


def halves(video_ids: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
  """Divides videos by the last bit of the hashes of their ids.

  Args:
    video_ids: in any order, on which the halves do not depend.

  Returns:
    The rows to fit on and the rows to score on, ascending.

  Raises:
    errors.UserError: there are too few videos.
  """
  is_scored = np.array([hash_of(video_id) % 2 for video_id in video_ids], bool)
  fitted, scored = np.flatnonzero(~is_scored), np.flatnonzero(is_scored)
  if not len(fitted) or not len(scored):
    raise errors.UserError(
      "Expected videos to fit weights on and others to score them on, received"
      f" {len(is_scored)} in all. Name more files as --eval_data_pattern."
    )
  return fitted, scored


# --------------------------------------------------------------------------
# Predictions of several models for the same videos


class JoinedPredictions:
  """What several models say about the same videos, joined by their ids.

  Args:
    sources: of each model.
    video_ids: of the wanted videos, in the order of the rows here.

  Attributes:
    missing: (videos,) bool, those that a model did not predict. They must not
      be asked for.
  """

  def __init__(self, sources: Sequence[Predictions], video_ids: np.ndarray):
    self._predictions = [source.predictions for source in sources]
    self._rows = np.stack(
      [VideoIndex(source.video_ids).rows_of(video_ids) for source in sources]
    )
    self.missing = (self._rows < 0).any(axis=0)

  @property
  def num_models(self) -> int:
    """How many models there are."""
    return len(self._predictions)

  @property
  def num_classes(self) -> int:
    """How many classes each predicts."""
    return self._predictions[0].shape[1]

  def of(self, rows: np.ndarray) -> np.ndarray:
    """The predictions for some videos.

    Args:
      rows: of the wanted videos.

    Returns:
      (models, rows, classes) float32.

    Raises:
      errors.UserError: some are not probabilities.
    """
    found = np.stack(
      [
        predictions[of_source[rows]].astype(np.float32)
        for predictions, of_source in zip(
          self._predictions, self._rows, strict=True
        )
      ]
    )
    model_building.check_probabilities(found, "a model of the ensemble")
    if np.isnan(found).any():
      raise errors.UserError(
        "Expected probabilities of all models, received NaN. Predict again with"
        " inference.py --all_classes."
      )
    return found

  def blocks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Goes through some videos.

    Args:
      rows: of the videos.

    Yields:
      The next of the rows, and their predictions (models, rows, classes).
    """
    for begin in range(0, len(rows), _BLOCK_VIDEOS):
      part = rows[begin : begin + _BLOCK_VIDEOS]
      yield part, self.of(part)


def mix(weights: np.ndarray, predictions: np.ndarray) -> np.ndarray:
  """The weighted mean over models.

  Args:
    weights: (models,), with a sum of 1.
    predictions: (models, ...) floats.
  """
  return np.tensordot(weights.astype(predictions.dtype), predictions, axes=1)


# --------------------------------------------------------------------------
# Weights


def rows_to_fit_on(
  rows: np.ndarray, video_ids: np.ndarray, values_a_video: int
) -> np.ndarray:
  """Chooses videos to fit weights on, as many as the memory should hold.

  Args:
    rows: of the videos that may be chosen.
    video_ids: of all videos.
    values_a_video: predictions of all models.

  Returns:
    All of the rows, or those with the smallest hashes.
  """
  most = max(_MOST_FITTED // values_a_video, 1)
  if len(rows) <= most:
    return rows
  hashes = [hash_of(bytes(video_ids[row])) for row in rows]
  return rows[np.sort(np.argsort(hashes)[:most])]


def fit_weights(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Finds the weights whose weighted mean has the least cross entropy.

  GAP would be what is wanted, but it changes in steps, and its best weights on
  few videos are those of chance. The cross entropy is smooth and, since the
  logarithm of a weighted mean is concave in the weights, convex: it has one
  minimum over the weights that are at least 0 and sum to 1. Exponentiated
  gradient descent stays within these: each weight is multiplied by the
  exponential of its downward slope. A step is as long as is safe: the new loss
  must be below the bound of mirror descent, that is the tangent plus the
  relative entropy of the new weights, divided by the length of the step. It
  ends when the duality gap says that no weights are better by 1e-6.

  Sources: Kivinen and Warmuth 1997, Exponentiated gradient versus gradient
  descent for linear predictors; Beck and Teboulle 2003, Mirror descent and
  nonlinear projected subgradient methods.

  Args:
    predictions: (models, videos, classes) floats, probabilities.
    labels: (videos, classes) bool.

  Returns:
    (models,) float64, at least 0, with a sum of 1.
  """
  weights = np.full(len(predictions), 1.0 / len(predictions))
  loss, slopes = _loss_and_slopes(weights, predictions, labels)
  step = 1.0
  for _ in range(_MOST_STEPS):
    if slopes.max() - weights @ slopes < _TOLERANCE:
      break
    tried = weights * np.exp(step * (slopes - slopes.max()))
    tried /= tried.sum()
    new_loss, new_slopes = _loss_and_slopes(tried, predictions, labels)
    bound = loss - slopes @ (tried - weights)
    bound += _relative_entropy(tried, weights) / step
    if new_loss <= bound:
      weights, loss, slopes = tried, new_loss, new_slopes
      step *= 2
    else:
      step /= 2
      if step < _SMALLEST_STEP:  # what is left is rounding
        break
  return weights


def _relative_entropy(new: np.ndarray, old: np.ndarray) -> float:
  """The sum of new log(new / old); a weight of 0 stays 0."""
  some = new > 0
  return float(np.sum(new[some] * np.log(new[some] / old[some])))


def _loss_and_slopes(
  weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> tuple[float, np.ndarray]:
  """The cross entropy of a weighted mean, and how it falls with each weight.

  Returns:
    The loss, a mean over the videos; (models,) the negative gradient.
  """
  loss, slopes = 0.0, np.zeros(len(weights))
  num_videos = predictions.shape[1]
  for begin in range(0, num_videos, _BLOCK_VIDEOS):
    part = predictions[:, begin : begin + _BLOCK_VIDEOS]
    is_label = labels[begin : begin + _BLOCK_VIDEOS]
    mixed = mix(weights, part)
    likelihood = np.where(is_label, mixed, 1 - mixed) + part.dtype.type(
      losses.EPSILON
    )
    loss -= np.log(likelihood).sum(dtype=np.float64)
    ratio = np.where(is_label, 1 / likelihood, -1 / likelihood)
    slopes += part.reshape(len(part), -1) @ ratio.ravel()
  return loss / num_videos, slopes / num_videos
