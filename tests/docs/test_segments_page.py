"""Runs the commands of docs/segments.md, and looks for flags that it lacks."""

import re
import shlex

import in_process
import pytest
from absl import flags
from conftest import REPOSITORY

import inference
import segment_eval_inference
from data_tools import sample_data
from data_tools.sample_videos import Settings

PAGE = (REPOSITORY / "docs" / "segments.md").read_text()

SMALL_SEGMENTS = Settings(
  num_videos=20,
  num_validate_videos=10,
  num_test_videos=3,
  num_active_classes=20,
  min_frames=10,
  max_frames=14,
  num_shards=2,
  levels=("segment",),
)


def commands() -> list[str]:
  """The commands of the page's code blocks, continued lines joined."""
  blocks = re.findall(r"^```(.*?)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
  texts = [text for language, text in blocks if not language]
  return "".join(texts).replace("\\\n", " ").splitlines()


@pytest.fixture
def small_data(data_dir, tmp_path, monkeypatch):
  """Lets small data sets stand for the built-in ones."""
  make = sample_data.ensure_sample_data
  monkeypatch.setattr(
    sample_data, "SEGMENT_FOLDER", f"{tmp_path}/yt8m_sample_segments"
  )
  monkeypatch.setattr(sample_data, "SEGMENT_SETTINGS", SMALL_SEGMENTS)
  monkeypatch.setattr(
    sample_data,
    "ensure_sample_data",
    lambda *given: make(*given) if given else str(data_dir),
  )


@pytest.mark.slow
@pytest.mark.usefixtures("small_data")
def test_commands_in_their_order(tmp_path):
  logs = []
  for command in commands():
    python, program, *arguments = shlex.split(
      command.replace("/tmp/", f"{tmp_path}/")
    )
    assert python == "python"
    more = ["--max_steps=3"] if program == "train.py" else []
    logs.append(in_process.run(program.removesuffix(".py"), *arguments, *more))
  training = [log for log in logs if "Done at step 3" in log]
  assert len(training) == 4
  assert ["Starting with the weights of" in log for log in training] == [
    *(False, True),
    *(False, True),
  ]
  assert "epoch/eval number 3" in logs[2]
  assert "classes that the records have ratings of" in logs[3]
  assert re.search(r"Num classes: \d+ \| mAP@100000: 0\.\d{6}$", logs[4], re.M)


def test_flags_are_on_the_page():
  named = set(re.findall(r"--(\w+)", PAGE))
  of_scoring = flags.FlagValues()
  segment_eval_inference.define_flags(of_scoring)
  own = set(of_scoring) - {*("help", "helpfull", "helpshort", "helpxml")}
  of_prediction = flags.FlagValues()
  inference.define_flags(of_prediction)
  assert own | {name for name in of_prediction if "segment" in name} <= named
