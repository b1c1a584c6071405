"""A folder of CLIP embeddings of videos: import, train, evaluate.

The data are made here and have the character of public ones: 100 frames of 512
numbers for each of 1,728 videos of 4 categories, frames of unit length, most of
which they have in common. A video is a row of shots; a shot shows one of some
scenes of a category, usually but not always the video's own. So one frame does
not tell the category of a video, which a test checks.
"""

import json
import shlex

import in_process
import numpy as np
import pytest
from conftest import REPOSITORY

CATEGORIES = ("cooking", "music", "sports", "travel")
OWN_SHOTS = 0.85  # part of the shots that show the video's own category
SCENES = 6
SHOTS = 10


def make_videos(number, frames, size, seed=0):
  """Yields (id, category, (frames, size) float32) of videos."""
  rng = np.random.default_rng(seed)

  def noise(*shape):
    return rng.standard_normal((*shape, size)) / np.sqrt(size)

  common = 2.0 * noise()
  scenes = noise(len(CATEGORIES), SCENES)
  for index in range(number):
    category = int(rng.integers(len(CATEGORIES)))
    array = common + 0.8 * noise() + noise(frames)
    cuts = np.sort(rng.integers(1, frames, SHOTS - 1))
    for shot in np.split(np.arange(frames), cuts):
      shown = category
      if rng.random() > OWN_SHOTS:
        shown = rng.integers(len(CATEGORIES))
      array[shot] += scenes[shown, rng.integers(SCENES)] + 0.6 * noise()
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    name = f"video{index:05}"
    yield name, CATEGORIES[category], array.astype(np.float32)


def write_folder(folder, **shape):
  """ID.json of each video in embeddings/, and config.json."""
  (folder / "embeddings").mkdir(parents=True)
  labels = {}
  for name, category, array in make_videos(**shape):
    text = json.dumps(array.astype(float).round(6).tolist())
    (folder / "embeddings" / f"{name}.json").write_text(text)
    labels[name] = category
  (folder / "config.json").write_text(json.dumps(labels))


def run_example(models) -> dict[str, float]:
  """Runs the commands of the page's example in this folder.

  Args:
    models: those to train, of the two on the page.

  Returns:
    The Hit@1 on the test split by model, as eval.py logs it.
  """
  page = (REPOSITORY / "docs" / "your_own_data.md").read_text()
  block = page.partition("### An example")[2].split("```")[1]
  found, model = {}, None
  for line in block.replace("\\\n", " ").strip().splitlines():
    python, *words = shlex.split(line)
    assert python == "python"
    program, *flags = words[1:] if words[0] == "-m" else words
    program = program.removesuffix(".py")
    if program == "train":
      (model,) = (flag[8:] for flag in flags if flag.startswith("--model="))
    if model in (None, *models):
      log = in_process.run(program, *flags)
    if program == "eval" and model in models:
      found[model] = float(log.rpartition("Avg_Hit@1: ")[2].split()[0])
  return found


def test_a_small_folder_is_learned(tmp_path, monkeypatch):
  write_folder(tmp_path, number=400, frames=20, size=64)
  monkeypatch.chdir(tmp_path)
  found = run_example(["FrameLevelLogisticModel"])
  assert found["FrameLevelLogisticModel"] >= 0.75  # by chance 0.25


def test_one_frame_does_not_tell_the_category():
  """By least squares on one frame of each video, then on their means."""
  videos = list(make_videos(800, 30, 64))
  wanted = np.array([CATEGORIES.index(category) for _, category, _ in videos])
  arrays = np.stack([array for _, _, array in videos])
  scores = []
  for inputs in (arrays[:, 10], arrays.mean(axis=1)):
    inputs = np.c_[inputs, np.ones(len(inputs))]
    one_hot = np.eye(len(CATEGORIES))[wanted]
    weights = np.linalg.lstsq(inputs[:640], one_hot[:640], rcond=None)[0]
    found = (inputs[640:] @ weights).argmax(axis=1)
    scores.append((found == wanted[640:]).mean())
  assert scores[0] < 0.8
  assert scores[1] > scores[0] + 0.1


@pytest.mark.slow
def test_1728_videos_are_learned(tmp_path, monkeypatch):
  """At least 0.95 of the test videos, by each of the two models."""
  write_folder(tmp_path, number=1728, frames=100, size=512)
  monkeypatch.chdir(tmp_path)
  found = run_example(["FrameLevelLogisticModel", "TransformerModel"])
  assert len(found) == 2
  assert min(found.values()) >= 0.95, found
