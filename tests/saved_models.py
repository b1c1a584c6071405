"""A small video-level model, and what a SavedModel of it predicts."""

import numpy as np
import tensorflow as tf

VIDEO_FLAGS = {
  "model": "MoeModel",
  "feature_names": "mean_rgb,mean_audio",
  "feature_sizes": "6,2",
  "frame_features": False,
  "num_classes": 25,
  "max_frames": 10,
  "label_loss": "CrossEntropyLoss",
  "moe_num_mixtures": 2,
}
BATCH = {
  "video_matrix": np.random.default_rng(5)
  .normal(size=(2, 8))
  .astype("float32"),
  "num_frames": np.ones(2, np.int32),
}


def randomize(model, seed=1):
  """Sets all float variables at random; those of batch norm to positive."""
  generator = np.random.default_rng(seed)
  for variable in model.variables:
    if variable.dtype == "float32":
      variable.assign(abs(generator.normal(1.0, 1.0, variable.shape)) - 0.5)
    if variable.path.endswith("moving_variance"):
      variable.assign(variable + 0.6)


def predict(model, batch):
  """The predictions of a batch of readers.py, as an array."""
  inputs = {name: batch[name] for name in ("video_matrix", "num_frames")}
  return model(inputs, training=False)["predictions"].numpy()


def saved_predictions(folder):
  """What the SavedModel in a folder predicts of BATCH."""
  signatures = tf.saved_model.load(str(folder)).signatures
  batch = {key: tf.constant(value) for key, value in BATCH.items()}
  return signatures["predict_arrays"](**batch)["predictions"].numpy()
