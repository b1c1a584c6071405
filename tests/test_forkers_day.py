"""Typical changes of a fork, each a patch to a copy of the checkout.

A model, a loss, a metric and a schedule are each a few lines in one file; a
feature needs only flags. Then training, evaluation and prediction work with it,
and the tests of the docs pass without an edit.
"""

import csv
import json
import re

import numpy as np
import pytest
from checkout_copy import CheckoutCopy
from conftest import checkpoint_values, event_tags
from make_records import (
  SMALL_NUM_CLASSES,
  bytes_of,
  small_frames,
  small_video,
  write_records,
)

NUM_VIDEOS = 8
LABELS = {
  f"v{number}": sorted({number % SMALL_NUM_CLASSES, number // 3})
  for number in range(NUM_VIDEOS)
}
VIDEO_FLAGS = ("--feature_names=mean_rgb,mean_audio", "--feature_sizes=3,2")
FRAME_FLAGS = (
  "--frame_features",
  "--feature_names=rgb,audio",
  "--feature_sizes=3,2",
)
TRAINING_FLAGS = (
  f"--num_classes={SMALL_NUM_CLASSES}",
  "--batch_size=4",
  "--num_epochs=3",
  "--seed=1",
  "--xla=False",
)
NUM_STEPS = 6

# The fast tests of the docs that start no programs, and the import rules.
TESTS = (
  "tests/docs",
  "--ignore=tests/docs/test_porting_a_fork.py",
  "tests/test_readme.py",
  "tests/test_rooms.py",
)
START_PROGRAMS = "commands"  # in the names of tests


@pytest.fixture(scope="module")
def video_files(tmp_path_factory):
  """A file of 8 video-level records."""
  random = np.random.default_rng(1)
  return write_records(
    tmp_path_factory.mktemp("videos") / "videos.tfrecord",
    [
      small_video(
        video_id,
        labels,
        mean_rgb=random.normal(size=3),
        mean_audio=random.normal(size=2),
      )
      for video_id, labels in LABELS.items()
    ],
  )


@pytest.fixture(scope="module")
def frame_files(tmp_path_factory):
  """A file of 8 frame-level records with rgb, audio and clip."""
  return write_records(
    tmp_path_factory.mktemp("frames") / "frames.tfrecord",
    [
      small_frames(
        video_id, 2 + number, labels, clip=bytes_of(2 + number, 6, 9 * number)
      )
      for number, (video_id, labels) in enumerate(LABELS.items())
    ],
  )


class Fork:
  """A patched copy of the checkout, with what its programs left behind.

  Args:
    folder: an empty folder.
    patch: as `git diff` writes it; "" for none.
  """

  def __init__(self, folder, patch=""):
    self.train_dir = folder / "model"
    self.predictions_file = folder / "predictions.csv"
    self.copy = CheckoutCopy(folder / "checkout")
    if patch:
      self.copy.apply(patch)
      self.copy.check_style()

  def run(self, files, *flags, tests=TESTS, chosen=f"not {START_PROGRAMS}"):
    """Trains, evaluates and predicts; then runs tests of the copy.

    Args:
      files: TFRecord files for all three programs.
      *flags: of train.py, in addition to TRAINING_FLAGS.
      tests: files of tests.
      chosen: which of their tests, as pytest's -k takes it.
    """
    train_dir = f"--train_dir={self.train_dir}"
    patterns = [
      f"--{name}_data_pattern={files}" for name in ("train", "eval", "input")
    ]
    output = f"--output_file={self.predictions_file}"
    log = self.copy.run(
      [
        [False, "train", train_dir, patterns[0], *TRAINING_FLAGS, *flags],
        [False, "eval", train_dir, patterns[1], "--run_once"],
        [False, "inference", train_dir, patterns[2], output],
      ],
      [*tests, "-k", chosen],
    )
    assert re.search(r"^\d+ passed", log, re.MULTILINE), log

  @property
  def model_flags(self) -> dict:
    return json.loads((self.train_dir / "model_flags.json").read_text())

  @property
  def metrics(self) -> dict:
    path = self.train_dir / "eval" / f"metrics-{NUM_STEPS}.json"
    return json.loads(path.read_text())

  def predictions(self) -> dict:
    """The probability of each class, by video."""
    found = {}
    with self.predictions_file.open() as file:
      for row in csv.DictReader(file):
        words = row["LabelConfidencePairs"].split()
        probabilities = np.zeros(SMALL_NUM_CLASSES)
        probabilities[[int(word) for word in words[::2]]] = [
          float(word) for word in words[1::2]
        ]
        found[row["VideoId"]] = probabilities
    assert found.keys() == LABELS.keys()
    return found


# --------------------------------------------------------------------------
# A model with a flag

MODEL = '''
diff --git a/frame_models/bottleneck.py b/frame_models/bottleneck.py
new file mode 100644
--- /dev/null
+++ b/frame_models/bottleneck.py
@@ -0,0 +1,21 @@
+"""A fork's model."""
+
+import keras
+from absl import flags
+
+import models
+from layers import classifiers
+
+flags.DEFINE_integer(
+  "bottleneck_units", 64, "BottleneckModel: units of its layer.", lower_bound=1
+)
+
+
+class BottleneckModel(models.BaseModel):
+  """A narrow layer on the mean frame, then a logistic classifier."""
+
+  def create_model(
+    self, model_input, vocab_size, mean_frame, bottleneck_units=64, **unused
+  ):
+    units = keras.layers.Dense(bottleneck_units, activation="tanh")(mean_frame)
+    return {"predictions": classifiers.classify_logistic(units, vocab_size)}
'''


@pytest.mark.slow
def test_a_model_with_a_flag(tmp_path, frame_files):
  fork = Fork(tmp_path, MODEL)

  fork.run(
    frame_files,
    *FRAME_FLAGS,
    "--model=BottleneckModel",
    "--bottleneck_units=7",
    tests=[*TESTS, "tests/test_model_contract.py"],
    chosen=f"not {START_PROGRAMS} and (docs or readme or rooms or bottleneck)",
  )

  assert fork.copy.changes() == {"frame_models/bottleneck.py": (21, 0)}
  assert fork.model_flags["model"] == "BottleneckModel"
  assert fork.model_flags["bottleneck_units"] == 7
  shapes = [value.shape for value in checkpoint_values(fork.train_dir).values()]
  assert (5, 7) in shapes
  assert len(fork.predictions()) == NUM_VIDEOS


# --------------------------------------------------------------------------
# A loss

LOSS = '''
diff --git a/losses.py b/losses.py
--- a/losses.py
+++ b/losses.py
@@ -2,1 +2,9 @@
+class SquaredHingeLoss(HingeLoss):
+  """sum_c max(0, b - s p)^2, with b and s as in HingeLoss."""
+
+  def per_class_loss(self, predictions, labels):
+    """See BaseLoss."""
+    return ops.square(super().per_class_loss(predictions, labels))
+
+
 def _subclasses(loss_class):
'''


@pytest.mark.slow
def test_a_loss(tmp_path, video_files):
  fork = Fork(tmp_path, LOSS)

  fork.run(
    video_files,
    *VIDEO_FLAGS,
    "--label_loss=SquaredHingeLoss",
    "--hinge_margin=2",
  )

  assert fork.copy.changes() == {"losses.py": (8, 0)}
  assert fork.model_flags["label_loss"] == "SquaredHingeLoss"
  assert fork.model_flags["hinge_margin"] == 2.0
  losses = []
  for video_id, probabilities in fork.predictions().items():
    sign = np.full(SMALL_NUM_CLASSES, -1.0)
    sign[LABELS[video_id]] = 1.0
    losses.append(np.sum(np.maximum(0.0, 2.0 - sign * probabilities) ** 2))
  assert fork.metrics["avg_loss"] == pytest.approx(np.mean(losses), abs=1e-4)
  # Of the first step, where probabilities are about 0.5; 1 + 1 with a margin
  # of 1.
  tags = event_tags(fork.train_dir)
  assert tags["label_loss"][min(tags["label_loss"])] > 15.0


# --------------------------------------------------------------------------
# A metric

METRIC = '''
diff --git a/eval_util.py b/eval_util.py
--- a/eval_util.py
+++ b/eval_util.py
@@ -2,1 +2,6 @@
+def hits_at_two(ranked):
+  """Whether one of each video's best two classes is one of its labels."""
+  return ranked.actuals[:, :2].any(axis=1)
+
+
 def precisions_at_equal_recall(ranked):
@@ -10,2 +15,3 @@
   Metric("hit_at_one", "Hit@1", per_video=hits_at_one),
+  Metric("hit_at_two", "Hit@2", per_video=hits_at_two),
   Metric("perr", "Perr", per_video=precisions_at_equal_recall),
'''


@pytest.mark.slow
def test_a_metric(tmp_path, video_files):
  fork = Fork(tmp_path, METRIC)

  fork.run(video_files, *VIDEO_FLAGS)

  assert fork.copy.changes() == {"eval_util.py": (6, 0)}
  hits = [
    bool(set(np.argsort(-probabilities)[:2]) & set(LABELS[video_id]))
    for video_id, probabilities in fork.predictions().items()
  ]
  assert 0 < fork.metrics["avg_hit_at_two"] == pytest.approx(np.mean(hits))
  tags = event_tags(fork.train_dir / "eval")
  for tag in ("GlobalStep/Eval_Hit@2", "Epoch/Eval_Avg_Hit@2"):
    assert tags[tag][NUM_STEPS] == pytest.approx(np.mean(hits))
  training = event_tags(fork.train_dir)["model/Training_Hit@2"]
  assert NUM_STEPS in training


# --------------------------------------------------------------------------
# A schedule

SCHEDULE = '''
diff --git a/engine/schedules.py b/engine/schedules.py
--- a/engine/schedules.py
+++ b/engine/schedules.py
@@ -2,1 +2,7 @@
+def linear(examples_seen, settings: Settings, horizon):
+  """A straight line, from the base rate to 0 at the horizon."""
+  left = tf.cast((horizon - examples_seen) / horizon, tf.float32)
+  return settings.base_learning_rate * left
+
+
 SCHEDULES = {
@@ -10,2 +16,3 @@
   "constant": constant,
+  "linear": linear,
 }
'''


@pytest.mark.slow
def test_a_schedule(tmp_path, video_files):
  fork = Fork(tmp_path, SCHEDULE)

  fork.run(
    video_files,
    *VIDEO_FLAGS,
    "--learning_rate_schedule=linear",
    "--base_learning_rate=0.3",
  )

  assert fork.copy.changes() == {"engine/schedules.py": (7, 0)}
  rates = event_tags(fork.train_dir)["learning_rate"]
  # 24 examples in total, in batches of 4.
  assert rates == {
    step: pytest.approx(0.3 * (1 - (step - 1) / NUM_STEPS)) for step in rates
  }
  assert NUM_STEPS in rates


# --------------------------------------------------------------------------
# A feature of another name and size


@pytest.mark.slow
def test_a_feature_of_another_name_and_size(tmp_path, frame_files):
  fork = Fork(tmp_path)

  fork.run(
    frame_files,
    "--frame_features",
    "--feature_names=clip",
    "--feature_sizes=6",
    "--model=FrameLevelLogisticModel",
  )

  assert fork.copy.changes() == {}
  assert fork.model_flags["feature_names"] == "clip"
  assert fork.model_flags["feature_sizes"] == "6"
  shapes = [value.shape for value in checkpoint_values(fork.train_dir).values()]
  assert (6, SMALL_NUM_CLASSES) in shapes
  assert len(fork.predictions()) == NUM_VIDEOS
