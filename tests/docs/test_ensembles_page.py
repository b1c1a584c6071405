"""Runs the commands of docs/ensembles.md, and looks for flags that it names."""

import importlib
import json
import re
import shlex

import in_process
import pytest
from absl import flags
from absl.testing import flagsaver
from conftest import FRAME_DATA_FLAGS, REPOSITORY, VIDEO_DATA_FLAGS

from reports import bootstrap

PAGE = (REPOSITORY / "docs" / "ensembles.md").read_text()


def commands() -> list[tuple[str, list[str]]]:
  """(module, flags) of the commands of the page's code blocks."""
  blocks = re.findall(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
  found = []
  for line in "".join(blocks).replace("\\\n", " ").splitlines():
    _, *words = shlex.split(line)
    name, *arguments = words[1:] if words[0] == "-m" else words
    found.append((name.removesuffix(".py"), arguments))
  return found


def flags_of(program) -> set[str]:
  module = importlib.import_module(program)
  with flagsaver.flagsaver():  # removes new flags at the end
    module.define_flags()
    getattr(module, "accept_flags", lambda: None)()
    return set(flags.FLAGS)


def test_every_command_has_flags_of_its_program():
  programs = [program for program, _ in commands()]
  assert sorted(set(programs)) == [
    "inference",
    "reports.compress_model",
    "reports.ensemble",
    "train",
  ]
  known = {program: flags_of(program) for program in set(programs)}
  for program, arguments in commands():
    typed = {word.split("=")[0].lstrip("-") for word in arguments}
    assert typed <= known[program], (program, typed - known[program])
  named = set(re.findall(r"--(\w+)", PAGE))
  assert named <= set().union(*known.values())


@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch, data_dir):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setattr(bootstrap, "num_resamples", lambda videos: 200)
  (tmp_path / "yt8m").mkdir()
  (tmp_path / "yt8m" / "2").symlink_to(data_dir)
  for level, names in (
    ("video", ["moe"]),
    ("frame", ["dbof", "gru", "nextvlad"]),
  ):
    is_frame_level = level == "frame"
    data = FRAME_DATA_FLAGS if is_frame_level else VIDEO_DATA_FLAGS
    model = "FrameLevelLogisticModel" if is_frame_level else "LogisticModel"
    for name in names:
      in_process.run(
        "train",
        f"--train_dir=models/{name}",
        f"--train_data_pattern={data_dir}/{level}/train*.tfrecord",
        *data,
        f"--model={model}",
        "--batch_size=8",
        "--num_epochs=1",
        "--export_model_steps=1",
      )
  for program, arguments in commands():
    words = [word.replace("$HOME", str(tmp_path)) for word in arguments]
    if "--predictions=moe.npz,theirs.npz" in words:
      content = (tmp_path / "moe.npz").read_bytes()
      (tmp_path / "theirs.npz").write_bytes(content)
    if "--distill_to=NextVladModel" in words:
      words.append("--distill_to=FrameLevelLogisticModel")  # which is faster
    if program == "train" or "--teacher_weight=0.5" in words:
      words += ["--num_classes=40", "--max_steps=2", "--batch_size=8"]
    in_process.run(program, *words)
  found = json.loads((tmp_path / "models/ensemble/ensemble.json").read_text())
  assert "student" in found
  lines = (tmp_path / "predictions.csv").read_text().splitlines()
  assert lines[0] == "VideoId,LabelConfidencePairs"
  assert len(lines) > 1
  assert (tmp_path / "models/gru_small/model_flags.json").exists()
