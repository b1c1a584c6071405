"""Runs data_tools/yt8m_video.sh on a mirror with sample data."""

import glob
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from mirror import serving

from data_tools.download_plan import Shard

ROW = r"^(\w+) +\| (0\.\d{3}) \| (0\.\d{3}) \| (0\.\d{3}) \| (0\.\d{3}) \|"


@pytest.fixture
def mirror(data_dir, monkeypatch):
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  with serving() as mirror:
    for split in ("train", "validate"):
      paths = sorted(glob.glob(f"{data_dir}/video/{split}*.tfrecord"))
      files = {
        f"{split}{end}.tfrecord": pathlib.Path(path).read_bytes()
        for end, path in zip(("aa", "Zb", "9z"), paths, strict=True)
      }
      mirror.add_partition(f"2/video/{split}", files)
    yield mirror


def start(mirror, folder, **more):
  """The script, as make starts it."""
  return subprocess.Popen(
    ["bash", "data_tools/yt8m_video.sh"],
    cwd=REPOSITORY,
    env={
      **os.environ,
      "PYTHON": sys.executable,
      "YT8M_DIR": str(folder),
      "BASE_URL": mirror.url,
      **more,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def run(mirror, folder, exit_code=0, **more) -> str:
  process = start(mirror, folder, **more)
  log, _ = process.communicate(timeout=600)
  assert process.returncode == exit_code, log
  return log


def rows(log) -> dict[str, list[float]]:
  return {
    name: list(map(float, scores))
    for name, *scores in re.findall(ROW, log, re.MULTILINE)
  }


@pytest.mark.slow
def test_from_the_download_to_the_table(mirror, tmp_path):
  folder = tmp_path / "my data, 1"
  lacking = "/2/video/validate/validate9z.tfrecord"
  content = mirror.files.pop(lacking)
  log = run(mirror, folder, exit_code=1)
  assert "validate3807.tfrecord" in log.splitlines()[-1]
  assert not (folder / "models").exists()

  mirror.files[lacking] = content
  mirror.requests.clear()
  log = run(mirror, folder)
  assert mirror.fetched() == ["validate9z.tfrecord"]
  scores = rows(log)
  assert list(scores) == ["LogisticModel", "MoeModel"]
  assert all(0 < score <= 1 for of in scores.values() for score in of)
  assert "on 20 videos; the models are in" in log

  mirror.requests.clear()
  again = run(mirror, folder)
  assert rows(again) == scores
  assert not mirror.fetched()
  assert "Training" not in again
  assert "Evaluating" not in again


@pytest.mark.slow
def test_a_part_and_a_stop_by_ctrl_c(mirror, tmp_path):
  more = {"SHARD": "1, 2"}
  process = start(mirror, tmp_path, **more)
  log = ""
  for line in process.stdout:
    log += line
    if "A new run in" in line:
      break
  # To the whole group, as a terminal does.
  os.killpg(process.pid, signal.SIGINT)
  rest, _ = process.communicate(timeout=600)
  assert process.returncode == 130, log + rest
  runs = tmp_path / "models" / "video_1_of_2"
  assert not list(runs.glob("*.trained"))

  log = run(mirror, tmp_path, **more)
  assert list(rows(log)) == ["LogisticModel", "MoeModel"]
  kept = {
    name
    for split in ("train", "validate")
    for name in (f"{split}{end}.tfrecord" for end in ("aa", "Zb", "9z"))
    if Shard(1, 2).keeps(name)
  }
  data = tmp_path / "2" / "video_1_of_2"
  assert len(list(data.glob("*.tfrecord"))) == len(kept) < 6
  assert (runs / "LogisticModel.seconds").read_text().count("\n") == 2


def test_make_passes_what_is_typed():
  line = subprocess.run(
    ["make", "-n", "-o", ".venv/.installed", "yt8m-video", "SHARD=1,50"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, "HOME": "/home/me"},
  ).stdout
  for part in (
    "PYTHON=.venv/bin/python ",
    'YT8M_DIR="/home/me/yt8m" SHARD="1,50"',
    'MIRROR="us" BASE_URL=""',
    "bash data_tools/yt8m_video.sh",
  ):
    assert part in line
