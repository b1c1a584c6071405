"""Scores of an ensemble: each model, the plain mean and the weighted mean.

Weights are fitted and the best model is chosen on one half of the videos;
everything is scored on the other half.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from absl import logging

import errors
from data_tools.text_table import aligned
from engine.prediction_file import Predictions
from engine.progress_bar import Progress
from engine.skipped import STOP
from reports.mixtures import (
  JoinedPredictions,
  LabeledVideos,
  fit_weights,
  mix,
  rows_to_fit_on,
)
from reports.model_predictions import Predicted, check_missing
from reports.video_scores import (
  SCORE_HEADS,
  PairedScores,
  VideoScores,
  gain_text,
  megabytes,
  score_cells,
)

# Of weights: more would be rounding, and a model with less would cost more than
# it gives.
_DECIMALS = 3


@dataclasses.dataclass(frozen=True)
class Source:
  """A model of an ensemble, or a student.

  Attributes:
    name: to show.
    predicted: what it says about the labeled videos.
  """

  name: str
  predicted: Predicted

  @property
  def predictions(self) -> Predictions:
    """See Predicted."""
    return self.predicted.predictions


@dataclasses.dataclass(frozen=True)
class Fit:
  """What was decided on one half of the videos.

  Attributes:
    weights: of each model, with a sum of 1.
    best: the place of the model with the highest GAP.
    num_videos: of the half.
    num_fitted: of them, how many the weights were fitted on.
  """

  weights: np.ndarray
  best: int
  num_videos: int
  num_fitted: int


@dataclasses.dataclass(frozen=True)
class System:
  """A row of the results.

  Attributes:
    name: to show.
    scores: on the half to score on.
    weights: of each model; None for a student.
    weight_bytes: of all its models; None if they are not known.
    videos_per_second: of all its models, one after the other; None likewise.
  """

  name: str
  scores: VideoScores
  weights: np.ndarray | None
  weight_bytes: int | None
  videos_per_second: float | None


def names_of(paths: Sequence[str]) -> list[str]:
  """Short names of folders or files: their last parts, if these differ."""
  last = [os.path.basename(os.path.normpath(path)) for path in paths]
  return last if len(set(last)) == len(last) else list(paths)


def check_same_classes(
  names: Sequence[str], classes_of: Sequence[Sequence[int] | np.ndarray]
) -> None:
  """Checks that models can be averaged.

  Args:
    names: of the models.
    classes_of: of each, the class index of each of its columns.

  Raises:
    errors.UserError: they predict different classes.
  """
  first = classes_of[0]
  for name, classes in zip(names, classes_of, strict=True):
    if not np.array_equal(classes, first):
      raise errors.UserError(
        f"Expected models of the same classes, received {len(first)} of"
        f" {names[0]} and {len(classes)} of {name}, which are not the same."
        " Average models with the same --num_classes and --label_subset."
      )


def score(
  joined: JoinedPredictions,
  labeled: LabeledVideos,
  rows: np.ndarray,
  mixtures: Sequence[np.ndarray],
  top_k: int,
) -> list[VideoScores]:
  """Scores weighted means.

  Args:
    joined: predictions of the models.
    labeled: the videos.
    rows: of the videos to score on.
    mixtures: weights (models,) of each mean.
    top_k: see --top_k.
  """
  num_classes = joined.num_classes
  found = [VideoScores(num_classes, top_k) for _ in mixtures]
  progress = Progress("Scored")
  done = 0
  for part, predictions in joined.blocks(rows):
    labels = labeled.labels(part, num_classes)
    for scores, weights in zip(found, mixtures, strict=True):
      scores.add(mix(weights, predictions), labels)
    done += len(part)
    if progress.is_due():
      progress.show(done / len(rows), f"{done} of {len(rows)} videos")
  progress.end()
  return found


def fit(
  joined: JoinedPredictions,
  labeled: LabeledVideos,
  rows: np.ndarray,
  top_k: int,
) -> Fit:
  """Fits weights, and chooses the best model, on one half of the videos.

  Args:
    joined: predictions of the models.
    labeled: the videos.
    rows: of the half.
    top_k: see --top_k.
  """
  number = joined.num_models
  each = score(joined, labeled, rows, list(np.eye(number)), top_k)
  best = int(np.argmax([scores.scores()["gap"] for scores in each]))
  values_a_video = number * joined.num_classes
  chosen = rows_to_fit_on(rows, labeled.video_ids, values_a_video)
  logging.info("Fitting weights on %d videos.", len(chosen))
  weights = fit_weights(
    joined.of(chosen), labeled.labels(chosen, joined.num_classes)
  )
  return Fit(_rounded(weights), best, len(rows), len(chosen))


def _rounded(weights: np.ndarray) -> np.ndarray:
  """Weights with few decimals; the largest makes their sum 1 again."""
  weights = np.round(weights, _DECIMALS)
  weights[np.argmax(weights)] += 1 - weights.sum()
  return np.round(weights, _DECIMALS)


def score_systems(
  sources: Sequence[Source],
  joined: JoinedPredictions,
  labeled: LabeledVideos,
  rows: np.ndarray,
  fitted: Fit,
  top_k: int,
) -> list[System]:
  """Scores each model, the plain and the weighted mean.

  Args:
    sources: the models.
    joined: their predictions.
    labeled: the videos.
    rows: of the videos to score on, none of which was fitted on.
    fitted: what was decided on the others.
    top_k: see --top_k.

  Returns:
    The models in their order, then the two means.
  """
  number = len(sources)
  mixtures = [*np.eye(number), np.full(number, 1 / number), fitted.weights]
  names = [*(source.name for source in sources), "plain mean", "weighted mean"]
  found = score(joined, labeled, rows, mixtures, top_k)
  return [
    _system(name, scores, weights, sources)
    for name, scores, weights in zip(names, found, mixtures, strict=True)
  ]


def _system(name, scores, weights, sources) -> System:
  """A row of a weighted mean, with what all its models cost together."""
  used = [sources[place] for place in np.flatnonzero(weights)]
  sizes = [source.predicted.weight_bytes for source in used]
  rates = [source.predicted.videos_per_second for source in used]
  known = [rate for rate in rates if rate]
  return System(
    name,
    scores,
    weights,
    None if None in sizes else sum(sizes),
    1 / sum(1 / rate for rate in known) if len(known) == len(rates) else None,
  )


def score_student(
  source: Source,
  labeled: LabeledVideos,
  rows: np.ndarray,
  top_k: int,
) -> System:
  """Scores a student on the same videos; see score_systems."""
  video_ids = labeled.video_ids[rows]
  wanted = JoinedPredictions([source.predictions], video_ids)
  check_missing(wanted, video_ids, STOP)
  joined = JoinedPredictions([source.predictions], labeled.video_ids)
  (scores,) = score(joined, labeled, rows, [np.ones(1)], top_k)
  predicted = source.predicted
  return System(
    source.name,
    scores,
    None,
    predicted.weight_bytes,
    predicted.videos_per_second,
  )


# --------------------------------------------------------------------------
# Text and JSON


def fit_text(fitted: Fit, names: Sequence[str], num_scored: int) -> str:
  """What was decided, and on how many videos.

  Args:
    fitted: what was decided.
    names: of the models.
    num_scored: videos that were scored.
  """
  shown = ", ".join(
    f"{name} {weight:.3f}"
    for name, weight in zip(names, fitted.weights, strict=True)
  )
  return (
    f"Two halves of the videos, by a hash of their ids: {fitted.num_videos} to"
    f" fit on, {num_scored} to score on.\nWeights with the least cross entropy"
    f" of the mean on {fitted.num_fitted} videos of the first half: {shown}.\n"
    f"Best model on the first half: {names[fitted.best]}. Scores on the second"
    " half:\n"
  )


def table(
  systems: Sequence[System], comparison: PairedScores, baseline: int
) -> list[str]:
  """The lines of a table.

  Args:
    systems: its rows.
    comparison: of them, in this order.
    baseline: the place of the one that all are compared with.
  """
  heads = ["", *SCORE_HEADS, "weights, MB", "videos/s"]
  rows = [[*heads, f"GAP gained over {systems[baseline].name} (95%)"]]
  for place, system in enumerate(systems):
    rate = system.videos_per_second
    gain = comparison.gain(place, baseline)["gap"]
    rows.append(
      [
        system.name,
        *score_cells(system.scores.scores()),
        megabytes(system.weight_bytes),
        "-" if rate is None else f"{rate:.0f}",
        "" if place == baseline else gain_text(gain),
      ]
    )
  return aligned(rows, texts=(0, -1))


def as_json(
  systems: Sequence[System],
  comparison: PairedScores,
  baseline: int,
  names: Sequence[str],
) -> list[dict]:
  """The same numbers as JSON.

  Args:
    systems: see table.
    comparison: see table.
    baseline: see table.
    names: of the models that have weights.
  """
  found = []
  for place, system in enumerate(systems):
    content = {
      "name": system.name,
      **system.scores.scores(),
      "weight_bytes": system.weight_bytes,
      "videos_per_second": system.videos_per_second,
      "gains": {
        metric: gain._asdict()
        for metric, gain in comparison.gain(place, baseline).items()
      },
    }
    if system.weights is not None:
      weights = system.weights.tolist()
      content["weights"] = dict(zip(names, weights, strict=True))
    found.append(content)
  return found
