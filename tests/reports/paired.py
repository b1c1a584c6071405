"""The paired bootstrap of two models, from its parts."""

import numpy as np

from reports import bootstrap


def paired_difference(a, b, resamples, seed):
  """How much better a is than b.

  Args:
    a: the Ranked predictions of one model, one item for each seed.
    b: those of another, with the same seeds in the same order.
    resamples: number of draws.
    seed: decides the draws.

  Returns:
    {"gap": Interval, "map": Interval}, of a minus b.
  """
  runs = [*a, *b]
  drawn = bootstrap.resampled_scores(runs, resamples, seed)
  ones = np.ones(runs[0].num_videos, np.int64)
  of_all = np.array([run.scores(ones) for run in runs])
  return bootstrap.difference_of_resamples(
    drawn[: len(a)], drawn[len(a) :], of_all[: len(a)], of_all[len(a) :], seed
  )
