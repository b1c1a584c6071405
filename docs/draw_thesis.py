"""Draws the networks of the thesis for docs/thesis.md, from the built models.

  python -m docs.draw_thesis

It needs no other packages. A box is a layer, with its number of weights; data
flows from top to bottom.
"""

import dataclasses
import html
import itertools
import pathlib

import keras
import numpy as np
import tensorflow as tf

import models

IMAGES = pathlib.Path(__file__).parent / "images"

# Of the thesis.
NUM_CLASSES = 3846
FEATURE_SIZES = {"rgb": 1024, "audio": 128}

MODELS = (
  "DeepNnModel",
  "BiLstmModel",
  "StreamLstmModel",
  "NnStreamLstmModel",
)

# Layers whose data flow is not drawn: which frames are valid.
_CUT = ("FrameMask",)

_WIDTH, _HEIGHT = 168, 36  # of a box, in pixels
_ACROSS, _DOWN = 196, 60  # from box to box
_MARGIN = 16
_STYLE = (
  "text{font:12px sans-serif;text-anchor:middle;fill:#1f2933}"
  ".small{font-size:10px;fill:#52606d}"
  "rect{fill:#eef2f7;stroke:#7b8794;rx:4px}"
  ".frames rect{fill:#e3f1e8}"
  "path{fill:none;stroke:#7b8794;marker-end:url(#end)}"
)


@dataclasses.dataclass
class Box:
  """A layer in a picture.

  Attributes:
    text: what it does.
    weights: how many trainable numbers it has.
    on_frames: whether its output has one vector for each frame.
    parents: the boxes that it takes.
    row: from the top.
    x: of its center, in pixels.
  """

  text: str
  weights: int
  on_frames: bool
  parents: list["Box"]
  row: int = 0
  x: float = 0.0


def thesis_model(name: str) -> keras.Model:
  """A model with the preset "thesis", which is not allocated.

  Args:
    name: one of MODELS.
  """
  model_class = models.find_class_by_name(name)
  at_frame_level = name != "DeepNnModel"
  prefix = "" if at_frame_level else "mean_"
  # In a graph of TensorFlow variables are noted, and not made.
  with tf.Graph().as_default():
    return models.build_model(
      {
        "model": name,
        "feature_names": ",".join(prefix + name for name in FEATURE_SIZES),
        "feature_sizes": ",".join(map(str, FEATURE_SIZES.values())),
        "frame_features": at_frame_level,
        "num_classes": NUM_CLASSES,
        "max_frames": 100,
        "label_loss": "CrossEntropyLoss",
        **model_class.presets["thesis"],
      }
    )


def num_weights(layer) -> int:
  """The number of trainable numbers of a layer, or of a whole model."""
  return sum(
    int(np.prod(variable.shape)) for variable in layer.trainable_variables
  )


def _text(operation) -> str | None:
  """What a box says; None for an operation that has none."""
  size = keras.tree.flatten(operation.output)[0].shape[-1]
  match type(operation).__name__:
    case "InputLayer" if operation.name == "video_matrix":
      frames = "frames" if len(operation.output.shape) == 3 else "mean frame"
      return f"{frames}, {size}"
    case "NormalizeFrames" | "L2Normalize":
      return "length 1"
    case "MeanFrame" | "MeanNormalizedFrame":
      return "mean of the frames"
    case "GetItem":
      names = {size: name for name, size in FEATURE_SIZES.items()}
      return f"{names[size]}, {size}"
    case "Dense":
      kind = {"relu": "ReLU", "tanh": "tanh", "linear": "sigmoid"}
      activation = kind[operation.activation.__name__]
      each = " on each frame" if len(operation.output.shape) == 3 else ""
      return f"{activation} {operation.units}{each}"
    case "LSTM":
      direction = "backward" if operation.go_backwards else "forward"
      return f"LSTM {operation.units}, {direction}"
    case "Dropout" if operation.rate:
      return f"dropout {operation.rate}"
    case "MaskedMax":
      return "largest over time"
    case "Add" if isinstance(operation, keras.layers.Layer):
      return "sum"
    case "Concatenate":
      return f"side by side, {size}"
  return None


def boxes_of(model: keras.Model) -> list[Box]:
  """The boxes of a picture, in the order of the model's operations."""
  producers = {
    id(tensor): operation
    for operation in model.operations
    for tensor in keras.tree.flatten(operation.output)
  }
  boxes = {}

  def shown_parents(operation):
    found = []
    if isinstance(operation, keras.layers.InputLayer):
      return found
    for tensor in keras.tree.flatten(operation.input):
      parent = producers[id(tensor)]
      if id(parent) in boxes:
        found.append(boxes[id(parent)])
      elif type(parent).__name__ not in _CUT:
        found += shown_parents(parent)
    return list({id(box): box for box in found}.values())

  # Operations stand in an order in which each follows what it takes.
  for operation in model.operations:
    text = _text(operation)
    if text is None:
      continue
    parents = shown_parents(operation)
    is_layer = isinstance(operation, keras.layers.Layer)
    boxes[id(operation)] = Box(
      text,
      num_weights(operation) if is_layer else 0,
      len(keras.tree.flatten(operation.output)[0].shape) == 3,
      parents,
      max((parent.row + 1 for parent in parents), default=0),
    )
  return list(boxes.values())


def place(boxes: list[Box]) -> float:
  """Sets the x of each box: below what it takes, apart from its neighbors.

  Returns:
    The width of the picture.
  """
  for row in range(max(box.row for box in boxes) + 1):
    neighbors = [box for box in boxes if box.row == row]
    for box in neighbors:
      box.x = float(np.mean([parent.x for parent in box.parents] or [0.0]))
    neighbors.sort(key=lambda box: box.x)
    for _ in range(100):
      for left, right in itertools.pairwise(neighbors):
        missing = left.x + _ACROSS - right.x
        if missing > 0:
          left.x -= missing / 2
          right.x += missing / 2
  smallest = min(box.x for box in boxes)
  for box in boxes:
    box.x += _MARGIN + _WIDTH / 2 - smallest
  # Beside the boxes there is room for the lines around them.
  return max(box.x for box in boxes) + _WIDTH / 2 + 2 * _MARGIN


def _top(box: Box) -> float:
  return _MARGIN + box.row * _DOWN


def _line(parent: Box, box: Box) -> str:
  """The line from a box to one below it."""
  start, end = _top(parent) + _HEIGHT, _top(box)
  above = end - (_DOWN - _HEIGHT) / 2
  if box.row > parent.row + 1 and abs(parent.x - box.x) < 1:
    side = parent.x + _WIDTH / 2 + _MARGIN
    return (
      f"M{parent.x + _WIDTH / 2:.0f} {start - _HEIGHT / 2:.0f}H{side:.0f}"
      f"V{end + _HEIGHT / 2:.0f}H{box.x + _WIDTH / 2:.0f}"
    )
  return f"M{parent.x:.0f} {start:.0f}V{above:.0f}H{box.x:.0f}V{end:.0f}"


def draw(model: keras.Model) -> str:
  """The picture of a model as SVG."""
  boxes = boxes_of(model)
  width = place(boxes)
  height = max(_top(box) for box in boxes) + _HEIGHT + _MARGIN
  lines = [
    f'<path d="{_line(parent, box)}"/>'
    for box in boxes
    for parent in box.parents
  ]
  shapes = []
  for box in boxes:
    top = _top(box)
    first = top + (15 if box.weights else 22)
    shapes.append(
      f"<g{' class=' + chr(34) + 'frames' + chr(34) if box.on_frames else ''}>"
      f'<rect x="{box.x - _WIDTH / 2:.0f}" y="{top:.0f}" width="{_WIDTH}"'
      f' height="{_HEIGHT}"/><text x="{box.x:.0f}" y="{first:.0f}">'
      f"{html.escape(box.text)}</text>"
    )
    if box.weights:
      shapes.append(
        f'<text class="small" x="{box.x:.0f}" y="{top + 29:.0f}">'
        f"{box.weights:,} weights</text>"
      )
    shapes.append("</g>")
  total = num_weights(model)
  return "\n".join(
    [
      '<svg xmlns="http://www.w3.org/2000/svg"'
      f' viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
      f' height="{height:.0f}" role="img">',
      f"<title>{model.name} of the thesis, {total:,} weights</title>",
      f"<style>{_STYLE}</style>",
      '<defs><marker id="end" viewBox="0 0 6 6" refX="6" refY="3"'
      ' markerWidth="6" markerHeight="6" orient="auto">'
      '<polygon points="0,0 6,3 0,6" fill="#7b8794"/></marker></defs>',
      '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>',
      *lines,
      *shapes,
      "</svg>",
      "",
    ]
  )


def path_of(name: str) -> pathlib.Path:
  """Where the picture of a model is."""
  return IMAGES / f"thesis_{name}.svg"


if __name__ == "__main__":
  for model_name in MODELS:
    path_of(model_name).write_text(draw(thesis_model(model_name)))
