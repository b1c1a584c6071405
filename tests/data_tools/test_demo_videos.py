"""From video files to a timeline: the demonstration, and the docs' commands."""

import csv
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import in_process
import pytest
from conftest import REPOSITORY, assert_names

from data_tools import sample_clips
from media.parts import PART_ENDING
from records.shards import walk

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def best_classes(path) -> list[tuple[str, str, str]]:
  """Of each window of a timeline: the video, its start, its best class."""
  with open(path, newline="") as file:
    return [
      (row["video_id"], row["start"], row["class_name"])
      for row in csv.DictReader(file)
      if row["rank"] == "1"
    ]


@pytest.mark.slow
def test_the_demonstration_is_right_about_videos_it_has_not_seen(tmp_path):
  ended = subprocess.run(
    ["bash", "data_tools/demo_videos.sh"],
    cwd=REPOSITORY,
    env={**ENVIRONMENT, "PYTHON": sys.executable, "DEMO_DIR": str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert ended.returncode == 0, ended.stderr
  *medley, circle, square, stripes = best_classes(tmp_path / "timeline.csv")
  assert circle == ("unseen_0", "0", "circle")
  assert square == ("unseen_1", "0", "square")
  assert stripes == ("unseen_2", "0", "stripes")
  # Each class for five seconds. Twelve clips are few to learn from.
  wanted = [
    ("medley", "0", "circle"),
    ("medley", "5", "square"),
    ("medley", "10", "stripes"),
  ]
  assert len(medley) == 3
  assert len({*medley} & {*wanted}) >= 2
  assert "data:image/jpeg" in (tmp_path / "gallery.html").read_text()


@pytest.mark.slow
def test_the_three_lines_of_the_docs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  sample_clips.make_clips("clips")
  pathlib.Path("clips/labels.csv").rename("labels.csv")
  pathlib.Path("clips/new").rename("new")
  page = (REPOSITORY / "docs" / "your_own_data.md").read_text()
  block = page.split("```")[1]
  commands = [shlex.split(line)[1:] for line in block.strip().splitlines()]
  assert len(commands) == 3
  for arguments, more in zip(
    commands,
    (["--encoder=random"], ["--num_epochs=2"], []),
    strict=True,
  ):
    program = arguments[1:] if arguments[0] == "-m" else arguments
    name = program[0].removesuffix(".py")
    in_process.run(name, *program[1:], *more)
  found = best_classes("timeline.csv")
  assert [(video, start) for video, start, _ in found] == [
    ("unseen_0", "0"),
    ("unseen_1", "0"),
    ("unseen_2", "0"),
  ]
  assert pathlib.Path("timeline/unseen_2.html").exists()


@pytest.mark.slow
def test_of_three_processes_one_is_killed(tmp_path):
  """The records after the merge are those of one process."""
  sample_clips.make_clips(str(tmp_path / "clips"))
  # Slow enough to be killed in the middle.
  (tmp_path / "slow_encoder.py").write_text(
    "import time\n\n\ndef encode(images):\n"
    "  time.sleep(0.2)\n"
    "  return images.mean(axis=(1, 2), dtype=float)\n"
  )

  def command(output_dir, *more):
    return [
      *(sys.executable, "-m", "data_tools.extract_features"),
      f"--videos={tmp_path}/clips",
      f"--labels={tmp_path}/clips/labels.csv",
      f"--output_dir={tmp_path}/{output_dir}",
      "--encoder=slow_encoder:encode",
      *("--num_workers=1", *more),
    ]

  def run(*arguments):
    return subprocess.run(
      command(*arguments),
      cwd=tmp_path,
      env=ENVIRONMENT,
      capture_output=True,
      text=True,
      check=False,
    )

  shards = [
    subprocess.Popen(
      command("data", f"--shard={number},3"), cwd=tmp_path, env=ENVIRONMENT
    )
    for number in (1, 2, 3)
  ]
  # The largest of the three.
  part = tmp_path / "data.extracted" / f"00001-of-00003{PART_ENDING}"
  until = time.monotonic() + 120
  # Its first record has the settings.
  while time.monotonic() < until and (
    not part.exists() or len(walk(str(part))) < 3
  ):
    time.sleep(0.02)
  shards[0].send_signal(signal.SIGKILL)
  assert [shard.wait() for shard in shards] == [-signal.SIGKILL, 0, 0]
  failed = run("data", "--merge")
  assert failed.returncode == 2
  assert_names(failed.stderr, "all 12 videos", "--merge")
  again = run("data", "--shard=1,3")
  assert_names(again.stdout, "Part 1 of 3 is complete")
  merged, whole = run("data", "--merge"), run("whole")
  assert (merged.returncode, whole.returncode) == (0, 0), whole.stderr
  contents = [
    {
      path.name: path.read_bytes()
      for path in (tmp_path / folder).glob("*.tfrecord")
    }
    for folder in ("data", "whole")
  ]
  assert len(contents[0]) == 3
  assert contents[0] == contents[1]
