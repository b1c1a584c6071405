"""Who finds a class that is shown in 5 frames of 300: see tasks.Needle."""

import json
import statistics

import pytest
from learning_runs import (
  LEARN,
  SEEDS,
  add_row,
  cases,
  learn,
  made_data,
  name_of,
  seeds,
)

from benchmarks.learning import documentation, tasks

pytestmark = LEARN

NEEDLE = tasks.Needle()
TRAINING = ("--batch_size=64", "--num_epochs=40")
MEAN_MODEL = "FrameLevelLogisticModel"
# By how much accuracy must exceed the mean model's: 4 standard deviations of a
# difference are at most 0.16 with this number of videos.
CLEARLY = 0.2
# Model, additional flags, seeds, whether it must beat the mean model. DbofModel
# has fewer clusters than its 8192, of which each of 300 frames would take an
# hour; the two rows differ only in the frames that it looks at.
RUNS = (
  ("RandomFrameModel", (), SEEDS, False),
  ("DbofModel", ("--dbof_cluster_size=256",), SEEDS, False),
  ("DbofModel", ("--dbof_cluster_size=256", "--iterations=300"), 2, True),
  ("AttentionClusterModel", (), 1, True),
  ("LatentPoolingModel", ("--batch_size=32", "--num_epochs=4"), 1, True),
  ("NetVladModel", (), 1, True),
  # These take a second per step, or several, and do not need more.
  ("NextVladModel", ("--num_epochs=12",), 1, True),
  ("MixNextVladModel", ("--num_epochs=6",), 1, False),
  ("NetFvModel", (), 1, False),
  ("SoftDbowModel", ("--dbow_cluster_size=256",), 2, False),
  ("TransformerModel", ("--batch_size=32", "--num_epochs=4"), 1, False),
)


@pytest.fixture(scope="module")
def needle_data(tmp_path_factory):
  return NEEDLE.data(made_data(tmp_path_factory, "needle", NEEDLE.make))


def find_needle(train_dir, data, model, flags, seed) -> float:
  """Trains a model, adds its row; returns its accuracy."""
  trained = learn(train_dir, data, model, [*TRAINING, *flags], seed)
  add_row("needle", name_of(model, flags), seed, trained)
  return trained.accuracy()


@pytest.fixture(scope="module")
def accuracy_of_mean(tmp_path_factory, needle_data):
  """The accuracy of a model of the mean of the frames, over its seeds."""

  def make(folder):
    found = [
      find_needle(folder / "run", needle_data, MEAN_MODEL, (), seed)
      for seed in seeds()
    ]
    (folder / "accuracies.json").write_text(json.dumps(found))

  folder = made_data(tmp_path_factory, "needle_of_mean", make)
  return statistics.fmean(json.loads((folder / "accuracies.json").read_text()))


@pytest.mark.parametrize(
  ("model", "flags", "seed", "must_beat_mean"),
  cases(run for run in RUNS if run[0] in documentation.model_table()),
)
def test_needle(
  tmp_path, needle_data, accuracy_of_mean, model, flags, seed, must_beat_mean
):
  accuracy = find_needle(tmp_path / "run", needle_data, model, flags, seed)
  if must_beat_mean:
    assert accuracy >= accuracy_of_mean + CLEARLY
