"""Runs the commands of docs/training.md, and looks for flags that it lacks."""

import re
import shlex

import in_process
import pytest
from absl import flags
from conftest import REPOSITORY, warn_of_missing

import program_flags
import train

PAGE = (REPOSITORY / "docs" / "training.md").read_text()


def commands() -> list[str]:
  """The commands of the page's code blocks, continued lines joined."""
  blocks = re.findall(r"^```(.*?)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
  texts = [text for language, text in blocks if not language]
  return "".join(texts).replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("command", commands())
def test_commands_train(command, tmp_path):
  python, program, *arguments = shlex.split(command)

  log = in_process.run(
    "train", *arguments, "--max_steps=2", f"--train_dir={tmp_path}/run"
  )

  assert (python, program) == ("python", "train.py")
  assert "Done at step 2" in log


def test_flags_about_training_are_on_the_page():
  flag_values = flags.FlagValues()
  train.define_flags(flag_values)
  about_training = {
    flag.name
    for flag in flag_values.flags_by_module_dict()[program_flags.TRAINING]
  }
  named = set(re.findall(r"--(\w+)", PAGE))

  warn_of_missing(about_training - named, "docs/training.md")
  models_own = {"model"}
  assert named - models_own <= set(flag_values)
