"""Trains, evaluates and predicts on records as AudioSet released them."""

import json
import re

import in_process
import numpy as np
import pytest
from conftest import REPOSITORY
from make_records import frame_record, write_records

NUM_CLIPS = 24
FORMATS = (REPOSITORY / "docs" / "formats.md").read_text()


def clip(number) -> bytes:
  """A record of 10 s, the last one of 7 s."""
  length = 7 if number == NUM_CLIPS - 1 else 10
  frames = np.random.default_rng(number).integers(
    256, size=(length, 128), dtype=np.uint8
  )
  return frame_record(
    f"clip{number}",
    [number % 5, 526],
    id_name="video_id",
    context={
      "start_time_seconds": np.float32([30.0]),
      "end_time_seconds": np.float32([40.0]),
    },
    audio_embedding=frames,
  )


@pytest.fixture
def clips(tmp_path):
  """Pattern of two files."""
  records = [clip(number) for number in range(NUM_CLIPS)]
  write_records(tmp_path / "0a.tfrecord", records[:10])
  write_records(tmp_path / "zZ.tfrecord", records[10:])
  return f"{tmp_path}/*.tfrecord"


def flags_of_page() -> list[str]:
  """The flags that docs/formats.md names for AudioSet."""
  (row,) = re.findall(r"^\| \[AudioSet\].*\| `(.*)` \|$", FORMATS, re.MULTILINE)
  return row.split()


def test_embeddings_are_trained_on_and_scored(clips, tmp_path):
  train_dir = tmp_path / "model"
  record_flags = [
    flag for flag in flags_of_page() if not flag.startswith("--max_frames")
  ]
  verified = in_process.run("data_tools.verify_data", clips, *record_flags)
  assert "7 at least, 9.9 on average, 10 at most" in verified
  assert "Classes: 6 of 527 occur, the largest is 526." in verified

  in_process.run(
    "train",
    f"--train_data_pattern={clips}",
    f"--train_dir={train_dir}",
    *flags_of_page(),
    "--model=FrameLevelLogisticModel",
    "--batch_size=8",
    "--num_epochs=3",
  )
  in_process.run(
    "eval",
    f"--eval_data_pattern={clips}",
    f"--train_dir={train_dir}",
    "--run_once",
  )
  predictions = tmp_path / "predictions.csv"
  in_process.run(
    "inference",
    f"--input_data_pattern={clips}",
    f"--train_dir={train_dir}",
    f"--output_file={predictions}",
    "--top_k=3",
  )

  metrics = json.loads((train_dir / "eval" / "metrics-9.json").read_text())
  assert metrics["num_examples"] == NUM_CLIPS
  lines = predictions.read_text().splitlines()[1:]
  assert [line.split(",")[0] for line in lines] == [
    f"clip{number}" for number in range(NUM_CLIPS)
  ]
  # Class 526 is a label of every clip.
  assert all(line.split(",")[1].startswith("526 ") for line in lines)
