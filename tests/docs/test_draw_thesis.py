"""Tests of docs.draw_thesis, and of the committed pictures."""

import itertools
import re

import pytest

from docs import draw_thesis

# The parameters of the thesis's networks.
EXPECTED = {
  "DeepNnModel": 193_596_166,
  "BiLstmModel": 201_095_942,
  "StreamLstmModel": 65_343_270,
  "NnStreamLstmModel": 429_937_568,
}


@pytest.mark.parametrize("name", draw_thesis.MODELS)
def test_the_pictures_are_those_of_the_built_models(name):
  picture = draw_thesis.path_of(name).read_text()
  assert picture == draw_thesis.draw(draw_thesis.thesis_model(name)), (
    "The picture is out of date: run `python -m docs.draw_thesis`"
  )
  weights = [
    int(number.replace(",", ""))
    for number in re.findall(r">([\d,]+) weights<", picture)
  ]
  # No layer with weights is missing.
  assert sum(weights) == EXPECTED[name]
  assert f"{EXPECTED[name]:,} weights</title>" in picture


def test_boxes_and_lines_of_bi_lstm_model():
  boxes = draw_thesis.boxes_of(draw_thesis.thesis_model("BiLstmModel"))
  blocks = [
    part
    for direction in ("forward", "backward", "forward", "backward")
    for part in ("ReLU 2304 on each frame", f"LSTM 2304, {direction}", "sum")
  ]
  texts = [
    "frames, 1152",
    "length 1",
    *blocks[:-1],
    "largest over time",
    "ReLU 2048",
    "sigmoid 3846",
  ]
  assert [box.text for box in boxes] == texts
  assert [box.row for box in boxes] == list(range(len(boxes)))
  for before, box in itertools.pairwise(boxes):
    if box.text == "sum":
      dense, lstm = box.parents
      assert dense.text.startswith("ReLU")
      assert lstm is before
    else:
      assert box.parents == [before]
  assert [box.on_frames for box in boxes] == [True] * 13 + [False] * 3


def test_features_lie_beside_each_other():
  boxes = draw_thesis.boxes_of(draw_thesis.thesis_model("StreamLstmModel"))
  width = draw_thesis.place(boxes)
  rgb, audio = (
    next(box for box in boxes if box.text == text)
    for text in ("rgb, 1024", "audio, 128")
  )
  assert rgb.row == audio.row
  assert rgb.x < audio.x < width
  joined = next(box for box in boxes if box.text == "side by side, 32")
  assert joined.x == pytest.approx((rgb.x + audio.x) / 2)
