"""Video-level models, and losses, where videos have many labels."""

import pytest
from learning_runs import (
  LEARN,
  SEEDS,
  add_floor,
  add_row,
  cases,
  learn,
  made_data,
  name_of,
)

from benchmarks.learning import tasks

pytestmark = LEARN

OTHER_LOSS = "--label_loss=AsymmetricLoss"
CO_TRAINING = ("--batch_size=128", "--num_epochs=20")
CO_RUNS = (
  ("MoeModel", ("--moe_output_gating=False",), SEEDS),
  ("MoeModel", ("--moe_output_gating=True",), SEEDS),
  ("MoeModel", ("--moe_output_gating=False", OTHER_LOSS), SEEDS),
)
MANY_CLASSES = 3862
# A step of the smaller models is cheaper, and this task is linear, so they are
# also given as much time as DeepNnModel.
MANY_RUNS = (
  ("LogisticModel", ("--num_epochs=20",), SEEDS),
  ("MoeModel", ("--num_epochs=20",), 2),
  ("DeepNnModel", ("--num_epochs=20",), 1),
  ("LogisticModel", ("--num_epochs=200",), 1),
  ("MoeModel", ("--num_epochs=60",), 1),
  ("LogisticModel", ("--num_epochs=20", OTHER_LOSS), SEEDS),
)
# By how much GAP must exceed that of only label frequencies. AsymmetricLoss
# does not claim a good GAP.
MORE = 0.2


@pytest.fixture(scope="module")
def co_occurrence_data(tmp_path_factory):
  return tasks.co_occurrence(
    made_data(tmp_path_factory, "co_occurrence", tasks.make_co_occurrence)
  )


@pytest.fixture(scope="module")
def co_occurrence_floor(co_occurrence_data):
  return add_floor("co-occurrence", co_occurrence_data)


@pytest.fixture(scope="module")
def many_labels_data(tmp_path_factory, shared_dir):
  def make(folder):
    label_sets = tasks.read_label_sets(
      shared_dir / "data" / "real_label_sets.txt"
    )
    tasks.make_many_labels(folder, label_sets, MANY_CLASSES)

  folder = made_data(tmp_path_factory, "many_labels", make)
  return tasks.many_labels(folder, MANY_CLASSES)


@pytest.fixture(scope="module")
def many_labels_floor(many_labels_data):
  return add_floor("many labels", many_labels_data)


def learn_labels(task, train_dir, data, model, flags, seed, setting=()):
  """Trains a model, adds its row; returns its GAP."""
  trained = learn(train_dir, data, model, [*setting, *flags], seed)
  more = {"mAP": trained.mean_average_precision(), **trained.calibration()}
  add_row(task, name_of(model, flags), seed, trained, **more)
  return trained.gap()


@pytest.mark.parametrize(("model", "flags", "seed"), cases(CO_RUNS))
def test_co_occurrence(
  tmp_path, co_occurrence_data, co_occurrence_floor, model, flags, seed
):
  gap = learn_labels(
    "co-occurrence",
    tmp_path / "run",
    co_occurrence_data,
    model,
    flags,
    seed,
    CO_TRAINING,
  )
  if OTHER_LOSS not in flags:
    assert gap >= co_occurrence_floor + MORE


@pytest.mark.parametrize(("model", "flags", "seed"), cases(MANY_RUNS))
def test_many_labels(
  tmp_path, many_labels_data, many_labels_floor, model, flags, seed
):
  gap = learn_labels(
    "many labels", tmp_path / "run", many_labels_data, model, flags, seed
  )
  if OTHER_LOSS not in flags:
    assert gap >= many_labels_floor + MORE
