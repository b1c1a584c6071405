"""What the three inputs do where variance tells: see tasks.make_variance.

Whether dewhitened features help is concluded from all rows together, by
benchmarks/learning/conclusions.py.
"""

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

from benchmarks.learning import conclusions, tasks

pytestmark = LEARN

TRAINING = ("--batch_size=20", "--num_epochs=30")
# NextVladModel's own sizes would take minutes, and there are 200 videos.
MODELS = (
  ("FrameLevelLogisticModel", (), SEEDS),
  (
    "NextVladModel",
    ("--nextvlad_cluster_size=16", "--nextvlad_hidden_size=256"),
    SEEDS,
  ),
)


@pytest.fixture(scope="module")
def variance_data(tmp_path_factory):
  folder = made_data(tmp_path_factory, "variance", tasks.make_variance)
  return tasks.variance(folder)


@pytest.fixture(scope="module")
def floor(variance_data):
  """GAP of only label frequencies."""
  return add_floor("variance", variance_data)


@pytest.mark.parametrize(
  ("model", "flags", "seed", "input_transform"),
  cases(
    (model, (*flags, f"--input_transform={name}"), number, name)
    for model, flags, number in MODELS
    for name in conclusions.INPUTS
  ),
)
def test_variance(
  tmp_path, variance_data, floor, model, flags, seed, input_transform
):
  trained = learn(
    tmp_path / "run", variance_data, model, [*TRAINING, *flags], seed
  )
  add_row("variance", name_of(model, flags), seed, trained)
  if input_transform == "dewhiten":
    assert trained.gap() >= floor + 0.2
