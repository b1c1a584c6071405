"""Who learns the order of frames, and who hears: see tasks.make_pairs."""

import math

import pytest
from conftest import event_tags
from learning_runs import (
  LEARN,
  SEEDS,
  add_row,
  cases,
  learn,
  made_data,
  name_of,
  presets_of,
  small_preset,
)

from benchmarks.learning import documentation, tasks, training

pytestmark = LEARN

# How far from 0.5 an accuracy may be by chance: 4 standard deviations of the
# mean of that many independent guesses. A model that cannot distinguish twins
# gives them opposite answers, so its accuracy is even closer to 0.5.
CHANCE = 4 * math.sqrt(0.25 / (tasks.NUM_PAIRS * tasks.TEST_TWINS * 2))
LEARNED = 0.95

# 480 videos of up to 8 frames: batches of 128 and more would give few steps,
# and 300 samples from a video would repeat most frames 40 times.
PAIR_TRAINING = ("--batch_size=32", "--num_epochs=6", "--iterations=30")
# The epochs of models that learn more slowly at their own learning rates.
LONGER = {"StreamLstmModel": 12}
# Those of the small networks of the thesis, which are deeper.
THESIS_TRAINING = ("--num_epochs=30", "--min_frames=0")  # all are shorter
# Of models that take half a minute, or more than one.
FEWER_SEEDS = {
  "AttentionLstmModel": 1,
  "AutoencoderConcatModel": 2,
  "BiLstmModel": 2,
  "DbofModel": 2,
  "GruModel": 2,
  "LatentPoolingModel": 2,
  "LstmModel": 2,
  "MixNextVladModel": 1,
  "SoftDbowModel": 2,
  "StreamLstmModel": 2,
}
ORDER_MODELS = documentation.frame_level_models(order=True)
# The preset "thesis" of each, with small layers.
THESIS_MODELS = [
  model
  for model in (*documentation.video_level_models(), *ORDER_MODELS)
  if "thesis" in presets_of(model)
]


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory):
  return made_data(tmp_path_factory, "pairs", tasks.make_pairs)


def reconstruction(train_dir) -> dict[str, float]:
  """The sum of the reconstruction losses at their first and last report."""
  losses = [
    [value for _, value in sorted(steps.items())]
    for tag, steps in event_tags(train_dir).items()
    if tag.startswith("reconstruction_loss")
  ]
  if not losses:
    return {}
  return {
    "first reconstruction loss": sum(values[0] for values in losses),
    "last reconstruction loss": sum(values[-1] for values in losses),
  }


def train_on_pairs(
  train_dir, folder, model, seed, flags=(), level="frame", streams=2, name=""
) -> dict:
  """Trains a model, adds its rows; returns its accuracies and facts."""
  longer = [f"--num_epochs={LONGER[model]}"] if model in LONGER else []
  data = tasks.pairs(folder, level, streams)
  trained = learn(
    train_dir,
    data,
    model,
    [*PAIR_TRAINING, *longer, *flags],
    seed,
    facts=reconstruction,
  )
  found = dict(trained.facts)
  for task, (accuracy, gap) in training.pair_accuracies(trained).items():
    add_row(task, name or model, seed, trained, accuracy, gap)
    found[task] = accuracy
  return found


def assert_learned(found, order, sound=True):
  """Checks what was learned, and that the rest was not."""
  for task, expected in (("order", order), ("sound", sound)):
    if expected:
      assert found[task] >= LEARNED
    else:
      assert found[task] == pytest.approx(0.5, abs=CHANCE)


@pytest.mark.parametrize(
  ("model", "flags", "seed"),
  cases(
    (model, (), FEWER_SEEDS.get(model, SEEDS))
    for model in documentation.frame_level_models()
  ),
)
def test_pairs_that_differ_in_order_or_sound(
  tmp_path, pair_folder, model, flags, seed
):
  found = train_on_pairs(tmp_path / "run", pair_folder, model, seed, flags)
  if model == "AutoencoderConcatModel":
    assert (
      found["last reconstruction loss"]
      < 0.5 * found["first reconstruction loss"]
    )
  assert_learned(found, order=model in ORDER_MODELS)


@pytest.mark.parametrize(
  ("model", "flags", "seed"),
  cases(
    (model, (), FEWER_SEEDS.get(model, SEEDS))
    for model in (
      "FrameLevelLogisticModel",
      "StreamLstmModel",
      "TransformerModel",
    )
  ),
)
def test_pairs_without_sound(tmp_path, pair_folder, model, flags, seed):
  found = train_on_pairs(
    tmp_path / "run",
    pair_folder,
    model,
    seed,
    flags,
    streams=1,
    name=f"{model}, rgb only",
  )
  assert_learned(found, order=model in ORDER_MODELS, sound=False)


@pytest.mark.parametrize(
  ("model", "flags", "seed", "streams"),
  cases(
    [
      *((model, (), SEEDS, 2) for model in documentation.video_level_models()),
      ("LogisticModel", (), SEEDS, 1),
    ]
  ),
)
def test_pairs_at_video_level(
  tmp_path, pair_folder, model, flags, seed, streams
):
  name = f"{model}, video level" + (", rgb only" if streams == 1 else "")
  found = train_on_pairs(
    tmp_path / "run",
    pair_folder,
    model,
    seed,
    flags,
    "video",
    streams,
    name=name,
  )
  assert_learned(found, order=False, sound=streams == 2)


@pytest.mark.parametrize(
  ("model", "flags", "seed"),
  cases((model, ("--preset=thesis",), 2) for model in THESIS_MODELS),
)
def test_pairs_by_the_networks_of_the_thesis(
  tmp_path, pair_folder, model, flags, seed
):
  level = "frame" if model in ORDER_MODELS else "video"
  found = train_on_pairs(
    tmp_path / "run",
    pair_folder,
    model,
    seed,
    [*small_preset(model, "thesis"), *THESIS_TRAINING],
    level,
    name=f"{name_of(model, flags)}, small",
  )
  assert_learned(found, order=level == "frame")
