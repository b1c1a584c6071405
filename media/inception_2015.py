"""The network with which YouTube-8M was made, from its frozen graph.

The graph classify_image_graph_def.pb was published in December 2015 in
http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz.
It is an Inception-v3 whose weights are not those of Keras or timm. Section 3.3
of the YouTube-8M paper (https://arxiv.org/abs/1609.08675) describes its use.
"""

import numpy as np

import errors
from media import encoders

_WEIGHTS = (
  "the file classify_image_graph_def.pb of http://download.tensorflow.org/"
  "models/image/imagenet/inception-2015-12-05.tgz"
)
# In the graph: DecodeJpeg -> Cast -> ExpandDims -> ResizeBilinear -> Sub -> Mul
# -> convolutions -> pool_3 -> pool_3/_reshape -> classifier.
_IMAGES = "ExpandDims:0"  # (1, height, width, 3), float32 from 0 to 255
_FEATURES = "pool_3/_reshape"  # (1, 2048)


class Inception2015(encoders.Encoder):
  """The 2048 numbers before the classifier.

  The graph decodes one JPEG. Images are fed after the place where it adds the
  dimension of the batch, and features taken before the one where it reshapes
  them to (1, 2048), so that it takes many at once. All between works on each
  image by itself.
  """

  name = "inception_2015"
  size = 2048
  image_size = (299, 299)
  # The graph itself resizes images to this size without keeping their shape.
  fit = "stretch"

  def __init__(self, weights: str):
    """Reads the graph.

    Args:
      weights: the path of classify_image_graph_def.pb.

    Raises:
      errors.UserError: it is missing, or another file.
    """
    if not weights:
      raise errors.UserError(
        "Expected --encoder_weights=FILE with --encoder=inception_2015:"
        f" {_WEIGHTS}, received none."
      )
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
      images = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
      try:
        graph_def = tf.compat.v1.GraphDef()
        with open(weights, "rb") as file:
          graph_def.ParseFromString(file.read())
        # Shapes are inferred with the batch that the placeholder has.
        tf.import_graph_def(graph_def, {_IMAGES: images}, name="")
        pooled = graph.get_operation_by_name(_FEATURES).inputs[0]
        if pooled.shape[-1] != self.size:
          raise ValueError(f"{_FEATURES} has the shape {pooled.shape}")
      except Exception as error:  # DecodeError, ValueError, KeyError, ...
        raise errors.UserError(
          f"Expected {_WEIGHTS}, received --encoder_weights={weights}"
          f" ({encoders.first_line(error)})."
        ) from error
    self._images, self._pooled = images, pooled
    self._session = tf.compat.v1.Session(graph=graph)

  def encode_batch(self, images: np.ndarray) -> np.ndarray:
    """Runs the graph; shapes as in `Encoder.encode_batch`."""
    pooled = self._session.run(
      self._pooled, {self._images: images.astype(np.float32)}
    )
    return pooled.reshape(len(images), -1)
