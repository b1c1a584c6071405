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

TRAINING = ("--batch_size=20",)
MODELS = (
  ("FrameLevelLogisticModel", ("--num_epochs=60",), SEEDS),
  ("NextVladModel", ("--num_epochs=20",), 2),
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
