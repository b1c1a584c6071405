"""Runs the commands of docs/training.md, and looks for flags that it lacks."""

import re
import shlex

import in_process
import pytest
from absl import flags
from conftest import REPOSITORY, warn_of_missing

import program_flags
import train
from data_tools import sample_data
from data_tools.sample_videos import Settings

PAGE = (REPOSITORY / "docs" / "training.md").read_text()


def commands() -> list[str]:
  """The commands of the page's code blocks, continued lines joined."""
  blocks = re.findall(r"^```(.*?)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
  texts = [text for language, text in blocks if not language]
  return "".join(texts).replace("\\\n", " ").splitlines()


@pytest.mark.parametrize(
  "command",
  [
    pytest.param(
      command, marks=[pytest.mark.slow] if "NextVladModel" in command else []
    )
    for command in commands()
  ],
)
def test_commands_train(command, tmp_path):
  python, program, *arguments = shlex.split(command)

  log = in_process.run(
    "train", *arguments, "--max_steps=2", f"--train_dir={tmp_path}/run"
  )

  assert (python, program) == ("python", "train.py")
  if "--check" in arguments:
    assert "\nmemory       " in log
    assert not (tmp_path / "run").exists()
    return
  assert "Done at step 2" in log


def test_the_commands_for_long_videos(tmp_path, monkeypatch):
  (text,) = (
    text
    for text in re.findall(
      r"^```text\n(python .*?)^```", PAGE, re.DOTALL | re.M
    )
    if "--min_frames" in text
  )
  settings = Settings(
    num_videos=12,
    num_classes=60,
    num_active_classes=20,
    min_frames=80,
    max_frames=120,
    num_shards=2,
    levels=("frame",),
  )
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "yt8m").mkdir()
  sample_data.make_sample_data(str(tmp_path / "yt8m" / "2"), settings)
  _, program, *arguments = shlex.split(text.replace("\\\n", " "))
  assert program == "train.py"

  log = in_process.run(
    "train",
    *arguments,
    "--num_classes=60",
    "--max_steps=2",
    f"--train_dir={tmp_path}/run",
  )

  (left,) = re.search(r"Using (\d+) of the 12 videos", log).groups()
  assert 0 < int(left) < 12


def test_flags_about_training_are_on_the_page():
  flag_values = flags.FlagValues()
  train.define_flags(flag_values)
  about_training = {
    flag.name
    for flag in flag_values.flags_by_module_dict()[program_flags.TRAINING]
  }
  # Of other programs, with their own flags.
  of_others = r"`(?:python -m|eval\.py|export_model\.py) [^`]*`|^python eval.*"
  page = re.sub(of_others, "", PAGE.replace("\\\n", " "), flags=re.MULTILINE)
  named = set(re.findall(r"--(\w+)", page))

  warn_of_missing(about_training - named, "docs/training.md")
  by_module = flags.FLAGS.flags_by_module_dict()
  hyperparameters = {
    flag.name
    for module in program_flags.hyperparameter_modules()
    for flag in by_module[module]
  }
  assert named - {"model"} - hyperparameters <= set(flag_values)
