"""Runs the commands of docs/download.md in their order, on a local mirror."""

import glob
import os
import pathlib
import re
import shlex
import string

import in_process
import pytest
from conftest import REPOSITORY
from mirror import serving

from data_tools.download_plan import Shard, local_name

PAGE = (REPOSITORY / "docs" / "download.md").read_text()
TEXT = " ".join(PAGE.split())
LETTERS = string.ascii_letters + string.digits


def commands() -> list[list[str]]:
  """The words of each command of the page, variables expanded."""
  blocks = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
  lines = "".join(blocks).replace("\\\n", " ").splitlines()
  return [shlex.split(os.path.expandvars(line)) for line in lines]


def remote_names(split, count) -> list[str]:
  """Names of files, the first of them in the first hundredth."""
  names = [
    f"{split}{first}{second}.tfrecord"
    for first in LETTERS
    for second in LETTERS
  ]
  return sorted(names, key=lambda name: not Shard(1, 100).keeps(name))[:count]


def hold(mirror, partition, pattern) -> None:
  """Lets the mirror hold the files of a pattern as a partition."""
  contents = [pathlib.Path(path).read_bytes() for path in glob.glob(pattern)]
  names = remote_names(partition.rpartition("/")[2], len(contents))
  mirror.add_partition(partition, dict(zip(names, contents, strict=True)))


@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch, data_dir, segment_files):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  monkeypatch.chdir(tmp_path)
  ran = []
  with serving() as mirror:
    for level in ("frame", "video"):
      for split in ("train", "validate", "test"):
        pattern = f"{data_dir}/{level}/{split}*.tfrecord"
        hold(mirror, f"2/{level}/{split}", pattern)
    hold(mirror, "3/frame/validate", segment_files)
    for python, *arguments in commands():
      assert python == "python"
      program = arguments.pop(0)
      if program == "-m":
        program = arguments.pop(0)
        arguments.append(f"--base_url={mirror.url}")
      program = program.removesuffix(".py")
      if program == "train":
        arguments.append("--max_steps=2")
      in_process.run(program, *arguments)
      ran.append(program)
  assert set(ran) == {"data_tools.download", "train", "eval", "inference"}
  assert (tmp_path / "predictions.csv").exists()
  # Three files of each split, and two with segments.
  yt8m = tmp_path / "yt8m"
  assert len(list(yt8m.glob("2/*/*.tfrecord"))) == 2 * 9
  assert len(list(yt8m.glob("3/frame/validate*.tfrecord"))) == 2


def test_the_numbers_of_files_of_a_hundredth():
  train, validate, test = (
    sum(map(Shard(1, 100).keeps, remote_names(split, 3844)))
    for split in ("train", "validate", "test")
  )
  assert (
    f"{train} of the train split, {validate} of validate, {test} of test"
    in TEXT
  )


def test_the_names_of_the_page():
  named = re.findall(r"(\w+\.tfrecord) is (\w+\.tfrecord)", TEXT)
  assert len(named) == 3
  for remote, local in named:
    assert local_name(remote) == local
