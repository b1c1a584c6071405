"""Tests of reports.frameworks.jobs."""

import dataclasses
import json

import pytest
from jobs_for_tests import make_job

from reports.frameworks import jobs


def test_a_job_is_read_as_it_was_written(tmp_path):
  job = make_job(tmp_path, ["a", "b"], compiled=True, max_seconds=1.5)
  job.write(str(tmp_path / "job"))
  assert jobs.read_job(str(tmp_path / "job")) == job
  assert [path.name for path in tmp_path.iterdir()] == ["job"]


def test_processes_divide_a_batch(tmp_path):
  job = make_job(tmp_path, [], batch_size=6, num_processes=3)
  assert [list(range(6))[job.rows(process)] for process in range(3)] == [
    [0, 1],
    [2, 3],
    [4, 5],
  ]


def test_json_is_whole_or_as_before(tmp_path):
  path = tmp_path / "x.json"
  jobs.write_json(str(path), {"a": 1})
  with pytest.raises(TypeError):
    jobs.write_json(str(path), {"a": object()})
  assert json.loads(path.read_text()) == {"a": 1}


def test_a_job_is_plain_data(tmp_path):
  job = make_job(tmp_path, ["a"])
  assert json.loads(json.dumps(dataclasses.asdict(job))) == dataclasses.asdict(
    job
  )
