"""Tests of engine.unlikely_flags: when there is a warning, and when not."""

import types

import in_process
import pytest
from absl import logging
from conftest import assert_names, error_of
from make_records import (
  SMALL_FRAME_FLAGS,
  SMALL_VIDEO_FLAGS,
  bytes_of,
  segment_record,
  small_video,
  write_records,
)
from tiny_runs import TINY_FLAGS

from data_tools import sample_data
from engine import unlikely_flags
from engine.data import Data
from engine.dataset_card import DatasetCard
from engine.settings import Settings


@pytest.fixture
def shown(monkeypatch):
  """The warnings so far."""
  texts = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: texts.append(text % values)
  )
  return texts


@pytest.mark.parametrize(
  ("num_videos", "settings", "replicas", "expected"),
  [
    (100, {}, 1, "takes 1 step: a batch has 1024 videos, the data only about"),
    (
      100,
      {},
      1,
      "only about 100. Set a smaller --batch_size, such as --",
    ),
    (100, {}, 1, "--batch_size=10."),
    (400, {}, 1, "takes 2 steps: "),
    (5, {}, 1, "--batch_size=1."),
    (600, {}, 4, "takes 1 step: a batch has 4096 videos"),
    (600, {}, 4, "--batch_size=15."),
    (600, {"accumulate_steps": 2, "num_epochs": 3}, 1, "has 2048 videos"),
    (100, {"max_steps": 5}, 1, "takes 1 step: "),
    (100, {"num_epochs": None, "max_steps": 2}, 1, None),
    # Set by the user.
    (100, {"max_steps": 1}, 1, None),
    (10**6, {"max_steps": 1}, 1, None),
    # Real data, and small data with a batch that fits.
    (5 * 10**6, {}, 8, None),
    (100, {"batch_size": 32}, 1, None),
    (1024, {"num_epochs": 1}, 1, None),
    (600, {}, 1, None),  # three steps
    (100, {"num_epochs": None}, 1, None),  # no end
  ],
)
def test_a_run_of_one_or_two_steps(
  shown, num_videos, settings, replicas, expected
):
  given = {"batch_size": 1024, "base_learning_rate": 0.01, **settings}
  unlikely_flags.warn_of_short_run(num_videos, Settings(**given), replicas)
  assert len(shown) == bool(expected)
  assert (expected or "") in "".join(shown)


@pytest.mark.parametrize(
  ("num_videos", "settings", "expected"),
  [
    # Five epochs of ten videos are 50, which 16 divides into 4 steps.
    (10, {}, "With about 10 videos, the whole training takes 4 steps, "),
    (10, {}, "Read them more often: --num_epochs=320 makes 200 steps."),
    (3, {}, "takes 1 step, "),
    (316, {}, "takes 99 steps"),
    (317, {}, None),  # 1585 videos are 100 steps
    (10, {"num_epochs": 320}, None),
    (10, {"num_epochs": None}, None),  # no end
    (10, {"max_steps": 3}, None),  # set by the user
  ],
)
def test_a_run_of_few_steps(shown, num_videos, settings, expected):
  given = {"batch_size": 16, "base_learning_rate": 0.01, **settings}
  unlikely_flags.warn_of_little_training(num_videos, Settings(**given), 1, True)
  assert len(shown) == bool(expected)
  assert (expected or "") in "".join(shown)


@pytest.mark.parametrize(
  ("largest", "num_classes", "warns"),
  [
    (4, 3862, True),
    (192, 3862, True),
    (193, 3862, False),
    (3861, 3862, False),
    (4, 5, False),
    (0, 5, False),
    (None, 3862, False),  # records without labels
  ],
)
def test_far_more_classes_than_labels(shown, largest, num_classes, warns):
  survey = types.SimpleNamespace(
    num_videos=1000, num_sampled=64, largest_label=largest
  )
  unlikely_flags.warn_of_few_classes(survey, num_classes)
  expected = (
    f"All labels of the first 64 videos are below {(largest or 0) + 1}, but the"
    f" model has {num_classes} classes. If your data has fewer, set"
    " --num_classes to their number."
  )
  assert shown == ([expected] if warns else [])


# --------------------------------------------------------------------------
# By the command line


def warnings_of_training(tmp_path, *arguments) -> str:
  log = in_process.run(
    "train",
    f"--train_dir={tmp_path}/run",
    "--feature_names=mean_rgb,mean_audio",
    "--noxla",
    *arguments,
  )
  return "\n".join(line for line in log.splitlines() if line.startswith("W"))


def test_own_data_with_the_defaults(tiny_files, tmp_path):
  warnings = warnings_of_training(
    tmp_path,
    "--feature_sizes=4,3",
    f"--train_data_pattern={','.join(tiny_files)}",
  )
  assert warnings.count("\n") == 1
  assert_names(
    warnings, "takes 1 step: ", "--batch_size=2.", "set --num_classes"
  )


def test_own_data_with_fitting_flags(tiny_files, tmp_path):
  assert not warnings_of_training(
    tmp_path,
    "--feature_sizes=4,3",
    f"--train_data_pattern={','.join(tiny_files)}",
    "--num_classes=6",
    "--batch_size=5",
  )


def test_the_sample_data(data_dir, tmp_path, monkeypatch):
  # A few active classes of 3862, as the built-in one has.
  monkeypatch.setattr(sample_data, "DEFAULT_FOLDER", str(data_dir))
  monkeypatch.setattr(sample_data, "ensure_sample_data", lambda: str(data_dir))
  assert not warnings_of_training(
    tmp_path, "--feature_sizes=1024,128", "--batch_size=20"
  )


# --------------------------------------------------------------------------
# The survey of the data


def test_segments_are_counted_where_they_are_the_examples(tmp_path):
  frames = {"rgb": bytes_of(30, 3), "audio": bytes_of(30, 2)}
  ratings = (
    [(0, 3, 1.0), (0, 4, 0.0), (5, 2, 1.0)],
    [(10, 1, 0.0)] * 2 + [(15, 1, 0.0), (20, 0, 1.0)],
  )
  records = [segment_record("v", each, **frames) for each in ratings]
  file = write_records(tmp_path / "segments", 10 * records)
  assert Data(SMALL_FRAME_FLAGS, [file], True).num_videos == 20
  # Two of one video, three of the other.
  survey = Data(SMALL_FRAME_FLAGS, [file], True, segment_labels=True)
  assert survey.num_videos == 50
  assert survey.largest_label == 4


def test_records_without_labels(tmp_path):
  file = write_records(tmp_path / "test", [small_video("v", labels=None)])
  assert Data(SMALL_VIDEO_FLAGS, [file], False).largest_label is None


# --------------------------------------------------------------------------
# Ranges of bytes


@pytest.mark.parametrize(
  ("names", "kept", "typed", "expected"),
  [
    ("a,b", "0:2,", None, None),
    ("a,b", "0:2.0,7:9", None, None),  # of b's floats, which have no range
    ("b,c", "", None, None),
    ("b", "1:3", None, None),
    ("a,b", "", None, "YouTube-8M's range, but dataset.json says 0.0:2.0,."),
    ("b,a", "", None, "--feature_ranges=,0.0:2.0."),
    ("a", "0:2", "0:1", "as numbers in 0:1, but dataset.json says 0.0:2.0."),
    ("a", "0:1", "0:2", None),
    ("c", "0:1", None, "in 0:1, but dataset.json says YouTube-8M's range."),
  ],
)
def test_bytes_in_other_ranges_than_the_card_says(
  shown, tmp_path, names, kept, typed, expected
):
  DatasetCard(
    frame_features=True,
    feature_names=["a", "b", "c"],
    feature_sizes=[1, 1, 1],
    feature_dtypes=["uint8", "float16", "uint8"],
    num_classes=1,
    splits={},
    made_by={},
    feature_ranges=[[0.0, 2.0], None, None],
  ).write(str(tmp_path))
  files = [str(tmp_path / "train0000.tfrecord")]
  model_flags = {"feature_names": names, "feature_ranges": kept}
  if typed is not None:  # as the programs do
    model_flags["feature_ranges"] = typed
  unlikely_flags.warn_of_other_ranges(files, model_flags)
  if expected is None:
    assert not shown
  else:
    (text,) = shown
    assert_names(text, expected, f"--dataset_dir={tmp_path}")


def test_files_without_a_card_have_the_ranges_of_the_flags(shown, tmp_path):
  files = [str(tmp_path / "train0000.tfrecord")]
  unlikely_flags.warn_of_other_ranges(files, {"feature_names": "a"})
  (tmp_path / "dataset.json").write_text("{}")
  unlikely_flags.warn_of_other_ranges(files, {"feature_names": "a"})
  assert not shown


def test_files_that_are_trained_and_evaluated_on(shown, tmp_path):
  for name in "abc":
    (tmp_path / name).touch()
  (tmp_path / "link").symlink_to(tmp_path / "b")
  a, b, c, link = (str(tmp_path / name) for name in ("a", "b", "c", "link"))
  unlikely_flags.warn_of_trained_files([a, b], [c])
  assert not shown
  unlikely_flags.warn_of_trained_files([a, b], [c, link])
  (text,) = shown
  assert_names(text, "1 of the files of --eval_data_pattern", f"such as {b}:")


@pytest.mark.parametrize("num_examples", [10, 10**9])
def test_a_batch_that_memory_cannot_hold(tiny_files, num_examples, monkeypatch):
  # Seven numbers of four bytes, five bytes for each of six classes.
  data = Data(TINY_FLAGS, tiny_files, with_labels=True)
  monkeypatch.setattr(
    unlikely_flags.machine, "usable_memory", lambda: 58 * num_examples
  )
  unlikely_flags.check_batch_fits(data, TINY_FLAGS, num_examples)
  error = error_of(
    unlikely_flags.check_batch_fits, data, TINY_FLAGS, num_examples + 1
  )
  assert_names(error, f"one of {num_examples + 1} examples", "--batch_size")
  monkeypatch.setattr(unlikely_flags.machine, "usable_memory", lambda: None)
  unlikely_flags.check_batch_fits(data, TINY_FLAGS, num_examples + 1)


def test_the_largest_batch_of_a_run():
  settings = Settings(100, 0.1, num_epochs=3)
  assert settings.largest_batch(50, 1) == 100
  assert settings.largest_batch(50, 2) == 150
  assert Settings(100, 0.1, num_epochs=0).largest_batch(50, 2) == 200


def test_programs_refuse_a_batch_that_memory_cannot_hold(
  tiny_files, tmp_path, monkeypatch
):
  flags = (
    f"--train_dir={tmp_path}/run",
    "--feature_names=mean_rgb,mean_audio",
    "--feature_sizes=4,3",
    "--num_classes=6",
    "--batch_size=1000000000",
  )
  train = ("train", *flags, f"--train_data_pattern={','.join(tiny_files)}")
  monkeypatch.setattr(unlikely_flags.machine, "usable_memory", lambda: 10**10)
  line = in_process.run_into_error(*train, "--num_epochs=0")
  assert_names(line, "one of 1000000000 examples")
  assert not (tmp_path / "run").exists()
  # Of small data, a batch has no more examples than there are.
  log = in_process.run(*train, "--num_epochs=2")
  assert "Done at step 1, after 44 examples" in log
  monkeypatch.setattr(unlikely_flags.machine, "usable_memory", lambda: 1000)
  files = f"data_pattern={','.join(tiny_files)}"
  for program, more in (
    ("eval", [f"--eval_{files}", "--run_once"]),
    ("inference", [f"--input_{files}", f"--output_file={tmp_path}/out.csv"]),
  ):
    line = in_process.run_into_error(program, *flags, *more)
    assert_names(line, "Expected a batch that fits")
