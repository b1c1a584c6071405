"""Runs the commands of README.md as they stand there."""

import os
import re
import shlex
import subprocess

import pytest
from conftest import REPOSITORY, run_program

README = (REPOSITORY / "README.md").read_text()


def commands() -> list[str]:
  """The lines of the README's code blocks, continued lines joined."""
  blocks = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
  return "".join(blocks).replace("\\\n", " ").splitlines()


def python_commands() -> list[list[str]]:
  """The arguments of `python ...` commands, variables expanded."""
  return [
    shlex.split(os.path.expandvars(command))[1:]
    for command in commands()
    if command.startswith("python ")
  ]


def test_every_command_is_covered():
  names = {shlex.split(command)[0] for command in commands()}

  assert names == {"make", "pip", "python", "tensorboard"}
  assert {arguments[0] for arguments in python_commands()} == {
    "train.py",
    "eval.py",
    "inference.py",
  }
  targets = re.findall(r"make ([\w-]+)", README)
  makefile = (REPOSITORY / "Makefile").read_text()
  for target in targets:
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_commands_without_data_use_the_sample_data(tmp_path):
  for arguments in python_commands():
    if any("yt8m/2/" in argument for argument in arguments):
      continue
    more = [f"--train_dir={tmp_path}/model"]
    if arguments[0] == "train.py":
      more.append("--max_steps=1")
    if arguments[0] == "inference.py":
      more.append(f"--output_file={tmp_path}/predictions.csv")

    log = run_program(*arguments, *more)

    assert "/tmp/yt8m_sample_data/frame/" in log
  lines = (tmp_path / "predictions.csv").read_text().splitlines()
  assert lines[0] == "VideoId,LabelConfidencePairs"
  assert len(lines[1].split(" ")) == 1 + 20 * 2 - 1


def test_commands_on_real_data_run(tmp_path, monkeypatch, data_dir):
  monkeypatch.setenv("HOME", str(tmp_path))
  partition = tmp_path / "yt8m" / "2"
  partition.mkdir(parents=True)
  (partition / "video").symlink_to(data_dir / "video")
  ran = []
  for arguments in python_commands():
    if not any("yt8m/2/" in argument for argument in arguments):
      continue
    arguments = [
      argument.replace("--output_file=", f"--output_file={tmp_path}/")
      for argument in arguments
    ]

    run_program(*arguments)

    ran.append(arguments[0])
  assert ran == ["train.py", "eval.py", "inference.py"]
  assert (tmp_path / "predictions.csv").exists()


def test_files_of_the_tree_are_in_the_readme():
  tracked = subprocess.run(
    ["git", "ls-files"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split()
  for path in tracked:
    if path.endswith(".py"):
      name = path.split("/")[0] + ("/" if "/" in path else "")
      assert f"| {name}" in README or f", {name}" in README, path


@pytest.mark.slow
def test_make_demo(tmp_path):
  log = subprocess.run(
    ["make", "demo", f"DEMO_DIR={tmp_path}/demo"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
  ).stdout

  frequencies, model = map(float, re.findall(r"GAP: ([\d.]+)$", log, re.M))
  assert model > 2 * frequencies
  assert "VideoId,LabelConfidencePairs" in log
