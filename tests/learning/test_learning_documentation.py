"""Tests of benchmarks/learning/documentation.py."""

import inspect

import pytest

import models
import video_level_models
from benchmarks.learning import documentation

PAGE = """
| model | cost |
|---|---|
| [A](#a) | 1 |

text
| model | level | order |
|---|---|---|
| [AModel](#amodel) | video | no |
| [BModel](#bmodel) (new) | frame | yes |
"""


def test_the_table_that_tells_the_order():
  assert documentation.model_table(PAGE) == {
    "AModel": {"model": "[AModel](#amodel)", "level": "video", "order": "no"},
    "BModel": {
      "model": "[BModel](#bmodel) (new)",
      "level": "frame",
      "order": "yes",
    },
  }
  with pytest.raises(ValueError, match="Expected a table"):
    documentation.model_table("| model |\n|---|\n| A |\n")


def test_models_by_level_and_order():
  every = set(documentation.frame_level_models())
  ordered = set(documentation.frame_level_models(order=True))
  blind = set(documentation.frame_level_models(order=False))
  assert ordered | blind == every
  assert not ordered & blind
  assert {"LstmModel", "TransformerModel"} <= ordered
  assert {"FrameLevelLogisticModel", "NetVladModel"} <= blind
  assert set(documentation.video_level_models()) == {
    name
    for name, value in vars(video_level_models).items()
    if inspect.isclass(value) and issubclass(value, models.BaseModel)
  }


def test_the_command_of_a_model():
  words = documentation.command("LstmModel")
  assert "--model=LstmModel" in words
  assert all(word.startswith("--") for word in words)
  with pytest.raises(ValueError, match="section NoModel"):
    documentation.command("NoModel")
