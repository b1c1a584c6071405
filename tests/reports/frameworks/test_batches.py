"""Tests of reports.frameworks.batches, against the batches of train.py."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from jobs_for_tests import first_batches, make_frame_job, make_job
from make_records import frame_record, write_records

import errors
from engine.data import Data
from reports.frameworks import batches


def batches_of_training(job, number):
  """The first batches as train.py has them."""
  data = Data(job.model_flags, job.files, True, min_frames=job.min_frames)
  dataset = data.training_batches(
    job.batch_size, seed=job.seed, window_shards=job.window_shards
  )
  return list(itertools.islice(dataset.as_numpy_iterator(), number))


def test_vectors_come_as_in_training(tiny_files, tmp_path):
  job = make_job(tmp_path, tiny_files)
  # 22 videos: the fourth batch spans two epochs.
  for one, other in zip(
    first_batches(job, 6), batches_of_training(job, 6), strict=True
  ):
    assert set(one) == {"video_matrix", "num_frames", "labels"}
    for name, values in one.items():
      np.testing.assert_array_equal(values, other[name])
      assert values.dtype == other[name].dtype


@pytest.mark.parametrize("min_frames", [1, 8])
def test_frames_come_as_in_training(tiny_frame_files, tmp_path, min_frames):
  job = make_frame_job(tmp_path, tiny_frame_files, min_frames=min_frames)
  for one, other in zip(
    first_batches(job, 6), batches_of_training(job, 6), strict=True
  ):
    length = other["video_matrix"].shape[1]
    frames = one["video_matrix"]
    assert frames.shape == (6, 14, 7)
    assert frames.dtype == np.uint8
    common = min(length, 14)
    np.testing.assert_array_equal(
      frames[:, :common], other["video_matrix"][:, :common]
    )
    assert not frames[:, common:].any()
    np.testing.assert_array_equal(one["num_frames"], other["num_frames"])
    np.testing.assert_array_equal(one["labels"], other["labels"])


def test_processes_have_the_parts_of_a_batch(tiny_frame_files, tmp_path):
  whole = first_batches(make_frame_job(tmp_path, tiny_frame_files), 3)
  job = make_frame_job(tmp_path, tiny_frame_files, num_processes=2)
  parts = [batches.training_batches(job, process) for process in range(2)]
  for batch in whole:
    found = [next(part) for part in parts]
    for name, values in batch.items():
      np.testing.assert_array_equal(
        np.concatenate([one[name] for one in found]), values
      )


def test_the_checksum_is_of_all_of_the_batches(tiny_frame_files, tmp_path):
  one, other = first_batches(make_frame_job(tmp_path, tiny_frame_files), 2)
  both = batches.checksum(other, batches.checksum(one))
  assert both != batches.checksum(one, batches.checksum(other))
  for name in other:
    changed = {key: values.copy() for key, values in other.items()}
    changed[name].reshape(-1).view(np.uint8)[-1] ^= 1
    assert batches.checksum(changed, batches.checksum(one)) != both


def test_the_longest_video(tiny_frame_files):
  # Lengths are 1 + 3 n % 14 for n < 22.
  assert batches.longest_video(tiny_frame_files, "rgb", 300) == 14
  assert batches.longest_video(tiny_frame_files, "rgb", 9) == 9
  assert batches.longest_video(tiny_frame_files, "other", 300) == 1


def test_a_bad_record_is_named(tmp_path):
  frames = np.zeros((2, 4), np.uint8)
  records = [
    frame_record(f"v{number}", [label], rgb=frames, audio=frames[:, :3])
    for number, label in enumerate([1, 2, 77])
  ]
  path = write_records(tmp_path / "a", records)
  job = make_frame_job(tmp_path, [path], batch_size=3)
  with pytest.raises(errors.UserError) as caught:
    first_batches(job, 1)
  assert f"{path}, record 2: " in str(caught.value)
  assert "77" in str(caught.value)


def test_no_framework_is_imported(tiny_files, tiny_frame_files, tmp_path):
  make_job(tmp_path, tiny_files).write(f"{tmp_path}/a")
  make_frame_job(tmp_path, tiny_frame_files).write(f"{tmp_path}/b")
  code = (
    "import sys, reports.frameworks.worker;"
    "from reports.frameworks.batches import training_batches;"
    "from reports.frameworks.jobs import read_job;"
    "print(*(next(training_batches(read_job(path), 0))['labels'].sum()"
    " for path in sys.argv[1:]));"
    "assert not {'tensorflow', 'keras', 'torch', 'jax'} & set(sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, f"{tmp_path}/a", f"{tmp_path}/b"],
    cwd=REPOSITORY,
    check=True,
    capture_output=True,
    text=True,
  )
  assert all(int(labels) > 0 for labels in done.stdout.split())
