"""A layer that picks some frames of each video.

Shapes in comments: B videos, T frames, D features, K frames picked.
"""

import keras
from keras import ops

from layers import random_numbers


@keras.saving.register_keras_serializable("layers")
class SampleFrames(keras.layers.Layer):
  """Picks the same number of valid frames from each video.

  In training at random, otherwise evenly spaced, so that predictions depend
  neither on chance nor on the other videos of the batch.

  Args:
    num_samples: K, frames to pick.
    random_frames: in training, True picks K frames independently of each
      other, with repetition; "in_order" the same, sorted by time; "jittered"
      one frame from each of K equal parts of the video, which are its evenly
      spaced frames with a random shift each; False picks K consecutive frames
      (from a shorter video all frames, the last one repeated).

  Input shape: frames (B, T, D), num_frames (B,) int.
  Output shape: (B, K, D).
  """

  def __init__(self, num_samples, random_frames: bool | str = True, **kwargs):
    super().__init__(**kwargs)
    self.num_samples = num_samples
    self.random_frames = random_frames
    self.seed_generator = keras.random.SeedGenerator()

  def call(self, frames, num_frames, training=None):
    batch, length, features = ops.shape(frames)
    valid = ops.cast(num_frames, "float32")[:, None]
    steps = ops.arange(self.num_samples, dtype="float32")[None, :]
    if not training:
      index = (steps + 0.5) * valid / self.num_samples
    elif self.random_frames:
      random = random_numbers.uniform(
        (batch, self.num_samples), self.seed_generator
      )
      if self.random_frames == "jittered":
        random = (steps + random) / self.num_samples
      elif self.random_frames == "in_order":
        random = ops.sort(random, axis=1)
      index = valid * random
    else:
      room = ops.maximum(valid - self.num_samples + 1.0, 1.0)
      first = ops.floor(
        room * random_numbers.uniform((batch, 1), self.seed_generator)
      )
      index = first + steps
    index = ops.minimum(index, valid - 1.0)
    # A product just below a whole number may be rounded up to it.
    index = ops.cast(ops.maximum(index, 0.0), "int32")  # (B, K)
    start = ops.arange(batch, dtype="int32")[:, None] * length
    picked = ops.take(
      ops.reshape(frames, (-1, features)),
      ops.reshape(start + index, (-1,)),
      axis=0,
    )
    return ops.reshape(picked, (batch, self.num_samples, features))

  def compute_output_spec(self, frames, num_frames, training=None):
    return keras.KerasTensor(
      (frames.shape[0], self.num_samples, frames.shape[2]), frames.dtype
    )
