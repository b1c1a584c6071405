"""Runs the commands of docs/many_machines.md."""

import pathlib
import re
import shlex

import in_process
import pytest
import small_clips
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "many_machines.md").read_text()


def commands_after(heading, **values) -> list[list[str]]:
  """The commands that start a program, of a section.

  Args:
    heading: of the section.
    **values: of the variables of the shell in it.
  """
  (section,) = re.findall(
    rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S
  )
  found = []
  for block in section.split("```")[1::2]:
    joined = re.sub(r"\\\n\s*", "", block)
    for line in re.findall(r"^ *python (.*)", joined, re.M):
      line = re.sub(
        r"\$\(\((\w+) \+ 1\)\)", lambda of: str(values[of[1]] + 1), line
      )
      line = re.sub(r"\$(\w+)", lambda of: str(values[of[1]]), line)
      found.append(shlex.split(line))
  return found


def run(command, *more) -> str:
  name, *flags = command[1:] if command[0] == "-m" else command
  return in_process.run(name.removesuffix(".py"), *flags, *more)


@pytest.fixture
def clips(tmp_path, monkeypatch):
  """The working directory: clips/ and labels.csv."""
  monkeypatch.chdir(tmp_path)
  labels = small_clips.make_folder("clips", each=2, seconds=1)
  small_clips.write_labels("labels.csv", labels)


ENCODER = "--encoder=random"


def test_job_arrays(clips):
  for number in (1, 2, 3):
    slurm, merge, kubernetes = commands_after(
      "Job arrays",
      SLURM_ARRAY_TASK_ID=number,
      SLURM_ARRAY_TASK_COUNT=3,
      JOB_COMPLETION_INDEX=number - 1,
    )
    assert f"Part {number} of 3 is complete" in run(slurm, ENCODER)
    assert kubernetes[-1] == f"--shard={number},100"
    assert kubernetes[:-1] == slurm[:-1] == merge[:-1]
  assert "6 videos, 3 classes" in run(merge, ENCODER)
  assert pathlib.Path("my_data/dataset.json").exists()


def test_prediction(clips):
  _, merge, _ = commands_after(
    "Job arrays",
    SLURM_ARRAY_TASK_ID=1,
    SLURM_ARRAY_TASK_COUNT=3,
    JOB_COMPLETION_INDEX=0,
  )
  run(merge[:-1], ENCODER, "--splits=train:1")
  in_process.run(
    "train",
    "--dataset_dir=my_data",
    "--train_dir=my_model",
    "--model=FrameLevelLogisticModel",
    "--num_epochs=1",
  )
  pathlib.Path("clips/red").rename("new")
  first, second, last = commands_after("Prediction")
  for number, command in enumerate((first, second), 1):
    assert f"Part {number} of 2 is complete" in run(command)
  assert "Extracted" not in run(last)
  lines = pathlib.Path("predictions.csv").read_text().splitlines()
  assert [line.split(",")[0] for line in lines[1:]] == ["red0", "red1"]
  assert pathlib.Path("timeline.csv").exists()


def test_ray_is_told_the_cluster_that_was_started():
  local, cluster = commands_after("Ray")
  assert cluster[:-1] == local
  assert local[-1] == "--engine=ray"
  address = cluster[-1].removeprefix("--ray_address=")
  assert f"ray start --address={address} " in PAGE
  assert f"ray start --head --port={address.partition(':')[2]} " in PAGE
