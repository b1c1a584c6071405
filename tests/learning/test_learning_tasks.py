"""Tests of benchmarks/learning/tasks.py: what the data of each task holds."""

import numpy as np
import pytest

import quantization
from benchmarks.learning import tasks
from engine.data import Data


def read(data, split="train"):
  """{video id: (its frames or vector as stored, its labels)}."""
  flags = dict(flag.removeprefix("--").split("=") for flag in data.flags)
  is_frame = "max_frames" in flags and "mean" not in flags["feature_names"]
  model_flags = {
    "feature_names": flags["feature_names"],
    "feature_sizes": flags["feature_sizes"],
    "num_classes": int(flags["num_classes"]),
    "frame_features": is_frame,
    "max_frames": int(flags.get("max_frames", 1)),
  }
  found = {}
  for batch in Data(
    model_flags, data.files(split), with_labels=True
  ).evaluation_batches(64):
    frames = batch["video_matrix"].numpy()
    for index, video in enumerate(batch["video_ids"].numpy()):
      length = int(batch["num_frames"][index]) if is_frame else None
      values = frames[index][:length] if is_frame else frames[index]
      labels = np.flatnonzero(batch["labels"].numpy()[index])
      found[video.decode()] = values, labels
  return found


def test_twins_show_the_same_frames(tmp_path):
  tasks.make_pairs(tmp_path)
  videos = read(tasks.pairs(tmp_path))
  assert len(videos) == 2 * tasks.NUM_PAIRS * tasks.TRAIN_TWINS * 2
  for name in videos:
    if not name.endswith("-0"):
      continue
    first, (label,) = videos[name]
    second, (other,) = videos[f"{name[:-2]}-1"]
    assert other == label + 1
    if label < 2 * tasks.NUM_PAIRS:
      np.testing.assert_array_equal(first, second[::-1])
    else:
      np.testing.assert_array_equal(first[:, :64], second[:, :64])
      assert (first[:, 64:] != second[:, 64:]).any()


def test_the_video_level_records_are_the_means(tmp_path):
  tasks.make_pairs(tmp_path)
  frames = read(tasks.pairs(tmp_path, streams=1), "test")
  vectors = read(tasks.pairs(tmp_path, "video", streams=1), "test")
  assert frames.keys() == vectors.keys()
  for name, (values, labels) in frames.items():
    mean = quantization.dequantize(values.astype(np.float64)).mean(axis=0)
    np.testing.assert_allclose(vectors[name][0], mean, atol=1e-6)
    np.testing.assert_array_equal(vectors[name][1], labels)


def test_a_needle_is_shown_in_few_frames(tmp_path):
  needle = tasks.Needle(frames=40, shown=3, scenes=(6, 8), train=16, test=8)
  needle.make(tmp_path)
  videos = list(read(needle.data(tmp_path)).values())
  assert len(videos) == 16
  same = {}
  for frames, (label,) in videos:
    assert frames.shape == (40, 64)
    same.setdefault(label, []).append(frames.astype(float) - 128)
  assert len(same) == 8
  for first, second in same.values():
    # Frames of the two videos that show the same: the needle, and only it.
    alike = np.corrcoef(first, second)[:40, 40:] > 0.7
    assert alike.any(axis=1).sum() == 3
    assert alike.any(axis=0).sum() == 3


def test_variance_of_whitened_frames(tmp_path):
  """Each number has variance 1, clipped at 2; the first ones tell the class."""
  tasks.make_variance(tmp_path)
  videos = list(read(tasks.variance(tmp_path), "test").values())
  means = np.array(
    [
      quantization.dequantize(frames.astype(float)).mean(axis=0)
      for frames, _ in videos
    ]
  )
  labels = np.array([label for _, (label,) in videos])
  frames = np.concatenate([frames for frames, _ in videos[:60]])
  values = quantization.dequantize(frames.astype(float))
  # Of a normal distribution that is clipped at 2 standard deviations: 0.921.
  informative = values[:, : tasks.INFORMATIVE].var(axis=0).mean()
  assert values[:, tasks.INFORMATIVE :].var(axis=0).mean() == pytest.approx(
    0.921, abs=0.03
  )
  assert informative == pytest.approx(0.921, abs=0.1)
  of_class = np.array([means[labels == label].mean(0) for label in range(20)])
  between = of_class.var(axis=0)
  assert between[: tasks.INFORMATIVE].mean() > 0.2
  # 30 videos of each class: 0.8 / 30 is chance.
  assert between[tasks.INFORMATIVE :].mean() < 0.04


def test_labels_are_shown_in_scenes(tmp_path):
  tasks.make_shown(tmp_path)
  videos = read(tasks.shown(tmp_path), "test").values()
  numbers = [len(labels) for _, labels in videos]
  assert set(numbers) == {1, 2, 3}
  counts = np.bincount(np.concatenate([labels for _, labels in videos]))
  assert counts[:10].sum() > 2 * counts[30:40].sum()


def test_co_occurring_labels_are_of_one_or_two_groups(tmp_path):
  tasks.make_co_occurrence(tmp_path)
  videos = read(tasks.co_occurrence(tmp_path), "test").values()
  groups = [len(set(labels // 5)) for _, labels in videos]
  assert set(groups) == {1, 2}
  mean = np.mean([len(labels) for _, labels in videos])
  assert mean == pytest.approx(5 * 0.8 * 1.5, abs=0.2)


def test_label_sets_from_a_file_and_made_up(tmp_path):
  path = tmp_path / "sets.txt"
  path.write_text("3 1\n0\n")
  assert [of.tolist() for of in tasks.read_label_sets(path)] == [[3, 1], [0]]
  made_up = tasks.made_up_label_sets(500, 100)
  assert {len(of) for of in made_up} == {1, 2, 3, 4, 5}
  assert all(len(set(of)) == len(of) for of in made_up)
  counts = np.bincount(np.concatenate(made_up), minlength=100)
  assert counts[:20].sum() > 2 * counts[60:80].sum()


def test_data_is_made_once(tmp_path):
  made = []

  def make(folder):
    made.append(folder)
    (folder / "train.tfrecord").write_text("")

  for _ in range(2):
    folder = tasks.made_once(tmp_path / "data", make)
    assert (folder / "train.tfrecord").exists()
  assert len(made) == 1


def test_data_is_made_beside_what_a_killed_process_left(tmp_path):
  (tmp_path / "data.being_made").mkdir()
  kept = tmp_path / "data" / "train.tfrecord"

  def make(folder):
    (folder / "train.tfrecord").write_text("slower")
    if not kept.exists():  # another process is faster
      kept.parent.mkdir()
      kept.write_text("faster")

  assert tasks.made_once(tmp_path / "data", make) == kept.parent
  assert kept.read_text() == "faster"
  assert len(list(tmp_path.iterdir())) == 2

  def fail(folder):
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    tasks.made_once(tmp_path / "other", fail)
  assert len(list(tmp_path.iterdir())) == 2
