"""The model contract, and the one place where the whole Keras graph is built.

This file and the model files import keras and absl.flags only, so that a model
runs on each of Keras's backends (TensorFlow, JAX, PyTorch).
"""

import importlib
import inspect

import keras
from absl import flags
from keras import ops

import model_utils

FLAGS = flags.FLAGS

_MODEL_FILES = ("video_level_models", "frame_level_models")

# Keys of model_flags.json that are not hyper-parameters of a model.
GRAPH_FLAGS = (
  "model",
  "feature_names",
  "feature_sizes",
  "frame_features",
  "num_classes",
  "max_frames",
  "label_loss",
)


class BaseModel:
  """What every model in the model files is.

  Attributes:
    batch_size: videos a step; holds unless --batch_size is typed.
    base_learning_rate: likewise for --base_learning_rate.
    xla: whether the training step is compiled with XLA, and predictions as
      compiles_predictions says. It fuses what lies between the matrix products;
      a recurrent network's many small steps gain little and take long to
      compile.
  """

  batch_size = 1024
  base_learning_rate = 0.01
  xla = True

  def create_model(self, model_input, vocab_size, num_frames, **unused_params):
    """Builds the graph of the model from symbolic Keras tensors.

    Args:
      model_input: (batch, features) float at video level, or (batch, frames,
        features) float at frame level: each vector L2-normalised, frames past
        num_frames zero.
      vocab_size: number of classes.
      num_frames: (batch,) int32, the valid frames of each video.
      **unused_params: hyper-parameters, one keyword with a default for each,
        named as their flags; and what build_model knows besides:
        feature_sizes, the list of the features' sizes in model_input, and
        mean_frame, (batch, features) float, the mean of the valid frames of
        model_input (frame level only).

    Returns:
      A dict with "predictions", (batch, vocab_size) probabilities; perhaps
      "regularization_loss", a scalar that joins those of kernel regularizers;
      perhaps "auxiliary_losses", {tag: scalar}, already weighted, which are
      added to the loss and written to TensorBoard.
    """
    raise NotImplementedError


def find_class_by_name(name: str) -> type[BaseModel]:
  """Finds a model class in the model files.

  Raises:
    ValueError: no model file has such a class.
  """
  names = []
  for file in _MODEL_FILES:
    module = importlib.import_module(file)
    for class_name, value in vars(module).items():
      if inspect.isclass(value) and issubclass(value, BaseModel):
        if class_name == name:
          return value
        names.append(class_name)
  raise ValueError(
    f"Expected --model to name a class in {' or '.join(_MODEL_FILES)},"
    f" received {name!r}. There are: {', '.join(sorted(names))}."
  )


def compiles_predictions(model_flags: dict) -> bool:
  """Whether XLA shall compile what predicts, in eval.py and inference.py.

  At video level that takes longer than it saves.

  Args:
    model_flags: see build_model.
  """
  return bool(
    model_flags["frame_features"]
    and find_class_by_name(model_flags["model"]).xla
  )


def _keywords(model_class: type[BaseModel]) -> dict:
  """The keyword defaults of a model's create_model, by name."""
  parameters = inspect.signature(model_class.create_model).parameters
  return {
    name: parameter.default
    for name, parameter in parameters.items()
    if parameter.default is not inspect.Parameter.empty
  }


def resolve_hyperparameters(model_name: str) -> dict:
  """Collects the hyper-parameters of a model from flags and its defaults.

  A keyword of create_model that is also a flag of a model file takes the flag's
  value if it was typed or if the flag has a default of its own; else the
  keyword's default holds. The keywords of the model's own
  video_level_classifier_model belong to it.

  Args:
    model_name: a class in the model files.

  Returns:
    {keyword: value}, to be passed to create_model and kept in model_flags.json.

  Raises:
    ValueError: no such model or classifier.
  """
  find_class_by_name(model_name)  # registers the flags of the model files
  modules = FLAGS.flags_by_module_dict()
  model_flags = {
    flag.name: flag.value
    for file in _MODEL_FILES
    for flag in modules.get(file, [])
  }
  resolved = {}
  pending = [model_name]
  while pending:
    for name, default in _keywords(find_class_by_name(pending.pop())).items():
      if name not in model_flags:
        continue
      value = model_flags[name]
      # A model's own default goes before that of the classifier it ends with.
      resolved.setdefault(name, default if value is None else value)
      if name == "video_level_classifier_model":
        classifier = find_class_by_name(resolved[name])
        if name in _keywords(classifier):
          raise ValueError(
            f"Expected --{name} to name a class in video_level_models, received"
            f" {resolved[name]!r}, which ends with a classifier itself."
          )
        pending.append(resolved[name])
  return resolved


def build_model(
  model_flags: dict, quantized: bool | None = None
) -> keras.Model:
  """Builds the Keras model that training, evaluation and export share.

  Args:
    model_flags: the content of model_flags.json: the GRAPH_FLAGS and the
      hyper-parameters of the model.
    quantized: whether frame features arrive as bytes; by default they do at
      frame level.

  Returns:
    A keras.Model with the inputs `video_matrix` ((batch, frames, features)
    uint8 or float32 at frame level, else (batch, features) float32) and
    `num_frames` ((batch,) int32), and create_model's dict as its output.

  Raises:
    ValueError: no such model, or it refuses its hyper-parameters.
  """
  model_class = find_class_by_name(model_flags["model"])
  sizes = [int(size) for size in model_flags["feature_sizes"].split(",")]
  hyperparameters = {
    name: value
    for name, value in model_flags.items()
    if name not in GRAPH_FLAGS
  }
  num_frames = keras.Input((), dtype="int32", name="num_frames")
  at_hand = {"feature_sizes": sizes}
  if model_flags["frame_features"]:
    if quantized is None:
      quantized = True
    video_matrix = keras.Input(
      (None, sum(sizes)),
      dtype="uint8" if quantized else "float32",
      name="video_matrix",
    )
    model_input = model_utils.NormalizeFrames(name="normalize")(
      video_matrix, num_frames
    )
    at_hand["mean_frame"] = model_utils.MeanNormalizedFrame(name="mean_frame")(
      video_matrix, num_frames
    )
  else:
    video_matrix = keras.Input((sum(sizes),), name="video_matrix")
    model_input = model_utils.L2Normalize(name="normalize")(video_matrix)
  outputs = model_class().create_model(
    model_input=model_input,
    vocab_size=model_flags["num_classes"],
    num_frames=num_frames,
    **at_hand,
    **hyperparameters,
  )
  return keras.Model(
    {"video_matrix": video_matrix, "num_frames": num_frames},
    outputs,
    name=model_flags["model"],
  )


def mixup_partners(values):
  """The values of the video that each video is mixed with: the one before it.

  Batches are shuffled, so that this one is as good as any.

  Args:
    values: (batch, ...).

  Returns:
    The same shape.
  """
  return ops.roll(values, 1, axis=0)


def add_mixup(model: keras.Model) -> keras.Model:
  """The same model, the same weights, on weighted means of two videos.

  The normalised features x become w x + (1 - w) x', where x' is another video
  of the batch and a video without a frame at some time counts as zeros there;
  num_frames becomes the longer of the two. Source: Zhang et al. 2018, mixup.

  Args:
    model: as from build_model.

  Returns:
    A keras.Model with one more input, `mixup_weight`, (batch,) float32.
  """
  weight = keras.Input((), dtype="float32", name="mixup_weight")
  num_frames = model.input["num_frames"]
  longer = ops.maximum(num_frames, mixup_partners(num_frames))

  def mix(values):
    share = ops.reshape(weight, (-1,) + (1,) * (len(values.shape) - 1))
    share = ops.cast(share, values.dtype)
    return share * values + (1.0 - share) * mixup_partners(values)

  replaced, mixed = [num_frames], [longer]
  for layer in model.layers:
    if layer.name == "normalize":
      replaced.append(layer.output)
      mixed.append(mix(layer.output))
    elif layer.name == "mean_frame":
      # The mean is over the frames of the longer video.
      valid = [
        ops.cast(ops.maximum(frames, 1), layer.output.dtype)[:, None]
        for frames in (num_frames, longer)
      ]
      replaced.append(layer.output)
      mixed.append(mix(layer.output * valid[0]) / valid[1])
  rest = keras.Model(replaced, model.output)
  return keras.Model({**model.input, "mixup_weight": weight}, rest(mixed))


def regularization_loss(model: keras.Model, outputs: dict):
  """Sums the losses of kernel regularizers and the model's own.

  Args:
    model: as from build_model.
    outputs: what calling it gave.

  Returns:
    A float32 scalar.
  """
  losses = list(model.losses)
  if "regularization_loss" in outputs:
    losses.append(outputs["regularization_loss"])
  return sum(losses, ops.zeros((), "float32"))
