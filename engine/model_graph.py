"""A model as a graph that TensorBoard can draw."""

import keras
import tensorflow as tf

import models


def model_graph(model: keras.Model) -> tf.compat.v1.GraphDef:
  """The layers of a model: a node for each, with the shapes between them.

  This takes milliseconds. To trace the model takes up to some seconds, and
  shows hundreds of operations that nobody has written.

  Args:
    model: result of models.build_model.

  Returns:
    A graph whose nodes have the names of the layers and of operations between
    them. What they do is the name of their class; they know how many parameters
    they have. Where Keras does not say publicly what goes where, as for a layer
    that is called twice and for a model in the model, the graph is that of a
    traced prediction, in which a layer's operations have its name before
    theirs.
  """
  # {id of a tensor: how a graph calls it}.
  names = {
    id(tensor): f"{operation.name}:{number}" if number else operation.name
    for operation in model.operations
    for number, tensor in enumerate(_outputs(operation))
  }
  graph = tf.compat.v1.GraphDef()
  for operation in model.operations:
    inputs = keras.tree.flatten(operation.input)
    if any(id(tensor) not in names for tensor in inputs):
      return _traced(model)
    node = graph.node.add(name=operation.name, op=type(operation).__name__)
    node.input.extend(names[id(tensor)] for tensor in inputs)
    node.attr["_output_shapes"].list.shape.extend(
      tf.TensorShape(tensor.shape).as_proto() for tensor in _outputs(operation)
    )
    if isinstance(operation, keras.layers.Layer):
      node.attr["parameters"].i = models.num_parameters(operation)
  if any(id(tensor) not in names for tensor in model.outputs):
    return _traced(model)
  return graph


def _outputs(operation) -> list:
  return keras.tree.flatten(operation.output)


def _traced(model: keras.Model) -> tf.compat.v1.GraphDef:
  """The graph of a prediction."""
  function = tf.function(
    lambda inputs: model(inputs, training=False), autograph=False
  )
  inputs = {
    name: tf.TensorSpec(tensor.shape, tensor.dtype, name)
    for name, tensor in model.input.items()
  }
  return function.get_concrete_function(inputs).graph.as_graph_def()
