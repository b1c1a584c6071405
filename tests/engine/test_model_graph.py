"""Tests of engine.model_graph: the graph that TensorBoard draws."""

import keras
import pytest
from every_model import make_model_flags, model_classes

import models
from engine.model_graph import model_graph


def nodes_of(model) -> dict:
  """The nodes of a model's graph, by name."""
  graph = model_graph(model)
  nodes = {node.name: node for node in graph.node}
  assert len(nodes) == len(graph.node)
  return nodes


def shapes(node) -> list:
  """The shapes of a node's outputs; None for a size that is not fixed."""
  return [
    [size.size if size.size >= 0 else None for size in shape.dim]
    for shape in node.attr["_output_shapes"].list.shape
  ]


def test_a_model_by_hand():
  frames = keras.Input((None, 6), name="video_matrix")
  count = keras.Input((), dtype="int32", name="num_frames")
  left, right = keras.ops.split(frames, 2, axis=-1)
  dense = keras.layers.Dense(4, name="dense")(right)
  dense = keras.layers.BatchNormalization(name="norm")(dense)
  both = keras.layers.Concatenate(name="both")([dense, left])
  model = keras.Model(
    {"video_matrix": frames, "num_frames": count},
    {"predictions": both, "count": count},
  )
  nodes = nodes_of(model)
  (split,) = nodes.keys() - {
    "video_matrix",
    "num_frames",
    "dense",
    "norm",
    "both",
  }
  assert {name: list(node.input) for name, node in nodes.items()} == {
    "video_matrix": [],
    "num_frames": [],
    split: ["video_matrix"],
    "dense": [f"{split}:1"],
    "norm": ["dense"],
    "both": ["norm", split],
  }
  assert {nodes[name].op for name in ("video_matrix", "num_frames")} == {
    "InputLayer"
  }
  assert nodes[split].op == "Split"
  assert nodes["both"].op == "Concatenate"
  assert shapes(nodes[split]) == [[None, None, 3], [None, None, 3]]
  assert shapes(nodes["dense"]) == [[None, None, 4]]
  assert shapes(nodes["num_frames"]) == [[None]]
  assert nodes["dense"].attr["parameters"].i == 3 * 4 + 4
  assert nodes["norm"].attr["parameters"].i == 2 * 4  # not the statistics
  assert nodes["both"].attr["parameters"].i == 0


@pytest.mark.parametrize(
  "model_class", model_classes(), ids=lambda value: value.__name__
)
def test_the_layers_of_every_model(model_class):
  model = models.build_model(make_model_flags(model_class))
  nodes = nodes_of(model)
  # Not the operations of a traced prediction.
  assert "InputLayer" in {node.op for node in nodes.values()}
  for node in nodes.values():
    sources = [name.partition(":")[0] for name in node.input]
    assert set(sources) <= nodes.keys()
    assert bool(sources) == (node.op != "InputLayer")
  assert sum(node.attr["parameters"].i for node in nodes.values()) == (
    models.num_parameters(model)
  )


def shared_layer():
  frames = keras.Input((6,), name="video_matrix")
  layer = keras.layers.Dense(6, name="shared")
  return keras.Model(
    {"video_matrix": frames}, {"predictions": layer(layer(frames))}
  )


def model_within():
  inputs = keras.Input((6,))
  inside = keras.Model(inputs, keras.layers.Dense(6)(inputs))
  frames = keras.Input((6,), name="video_matrix")
  hidden = keras.layers.Dense(6, name="shared")(frames)
  return keras.Model({"video_matrix": frames}, {"predictions": inside(hidden)})


@pytest.mark.parametrize("make", [shared_layer, model_within])
def test_what_keras_does_not_tell_is_traced(make):
  nodes = nodes_of(make())
  products = [node for node in nodes.values() if node.op == "MatMul"]
  assert len(products) == 2
  assert "shared" in products[0].name
  assert nodes["video_matrix"].op == "Placeholder"
