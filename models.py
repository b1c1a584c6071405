"""The model contract, and the one place where the whole Keras graph is built.

This file and the model files never import tensorflow, so that a model runs on
each of Keras's backends (TensorFlow, JAX, PyTorch).
"""

import contextlib
import importlib
import inspect
import math
import pkgutil
import types
from collections.abc import Sequence
from typing import ClassVar

import keras
from absl import flags
from keras import ops

import errors
import frame_models
import quantization
from layers import classifiers, preprocessing, whitening

FLAGS = flags.FLAGS

# Besides these, each file of frame_models/ is a model file.
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
# What --preset stood for, which nothing reads.
PRESET_FLAGS = ("preset", "preset_settings")
# Keys that only some have: the classes that a model predicts, if not all;
# whether a video has exactly one; how the numbers of the features are stored,
# and what is done to them.
_OPTIONAL_FLAGS = (
  "label_subset",
  "exclusive_classes",
  "feature_ranges",
  "feature_dtypes",
  "input_transform",
  "dewhiten_scales",
  *PRESET_FLAGS,
)

# The hyper-parameter of a frame-level model that names its last part.
_CLASSIFIER = "video_level_classifier_model"

# What can be done to the features, see BaseModel.
INPUT_TRANSFORMS = ("l2", "none", "dewhiten")

# The layers that build_model puts on the video matrix.
_FROM_VIDEO_MATRIX = (
  preprocessing.L2Normalize,
  preprocessing.MeanFrame,
  preprocessing.NormalizeFrames,
  preprocessing.ScaleFeatures,
)


# The training of the presets named recommended: AdamW, a warm-up, half a cosine
# and moving averages. The learning rates were chosen by measurement, with
# benchmarks/learning/recommended.py.
RECOMMENDED_TRAINING = {
  "optimizer": "AdamW",
  "weight_decay": 0.01,
  "learning_rate_schedule": "cosine",
  "warmup_fraction": 0.1,
  "ema_decay": 0.999,
}


class ContractError(ValueError):
  """What create_model returns is not as BaseModel.create_model describes."""


class BaseModel:
  """Base class of all models.

  Attributes:
    batch_size: videos per step, unless --batch_size is given.
    base_learning_rate: the learning rate, unless --base_learning_rate is given.
    presets: {name: {flag: value}} for --preset: hyper-parameters of the model
      and of the classifier it ends with, and training flags of train.py. Typed
      flags win.
    earlier_defaults: {hyper-parameter: value} that runs of earlier versions,
      whose model_flags.json does not say, were built with.
    xla: whether the training step is compiled with XLA, and predictions too
      where compiles_predictions says so. XLA fuses the operations between the
      matrix products. The many small steps of a recurrent network gain little
      and take long to compile.
    input_transform: what is done to the dequantized features, unless
      --input_transform is given. "l2": the vector of each frame, or video, is
      divided by its length. "none": nothing. "dewhiten": YouTube-8M's rgb gets
      back the variances that whitening took from its numbers, see
      quantization.dewhitened, and other features stay as they are.
  """

  batch_size = 1024
  base_learning_rate = 0.01
  presets: ClassVar[dict[str, dict]] = {}
  earlier_defaults: ClassVar[dict] = {}
  xla = True
  input_transform = "l2"

  def create_model(self, model_input, vocab_size, num_frames, **unused_params):
    """Builds the graph of the model from symbolic Keras tensors.

    Args:
      model_input: (batch, features) float at video level, or (batch, frames,
        features) float at frame level: transformed as input_transform says,
        frames past num_frames zero.
      vocab_size: number of classes.
      num_frames: (batch,) int32, the valid frames of each video.
      **unused_params: the hyper-parameters, each a keyword with a default,
        named like its flag. build_model also passes feature_names and
        feature_sizes, lists of the names and sizes of the features in
        model_input; input_transform, what was done to it; and at frame level
        two (batch, features) float: mean_frame, the mean of the valid frames of
        model_input, and mean_dequantized_frame, that of the dequantized frames
        without a transformation. Both are zero without frames.

    Returns:
      A dict with the key "predictions": (batch, vocab_size) probabilities. They
      must be float32 even if layers compute in bfloat16, as those of
      layers.classifiers.probabilities(logits) are, which also gives the softmax
      that --exclusive_classes needs. Optional keys:
      "regularization_loss", a scalar that is added to the losses of kernel
      regularizers; "auxiliary_losses", {tag: scalar}, already weighted, which
      are added to the loss and written to TensorBoard; and
      "auxiliary_predictions", a list of more predictions of the same kind. The
      label loss of each is added too; TensorBoard shows their sum as
      auxiliary_label_loss.
    """
    raise NotImplementedError


def import_model_files() -> list[types.ModuleType]:
  """Imports all model files, which defines their flags.

  Returns:
    The modules: video_level_models, frame_level_models and each file of
    frame_models/.
  """
  found = pkgutil.iter_modules(frame_models.__path__, "frame_models.")
  names = [*_MODEL_FILES, *sorted(file.name for file in found)]
  return [importlib.import_module(name) for name in names]


def _classes() -> dict[str, type[BaseModel]]:
  """All model classes, by name."""
  return {
    name: value
    for module in reversed(import_model_files())  # the first one counts
    for name, value in vars(module).items()
    if inspect.isclass(value) and issubclass(value, BaseModel)
  }


def class_names() -> list[str]:
  """The names that --model takes, sorted."""
  return sorted(_classes())


def find_class_by_name(name: str) -> type[BaseModel]:
  """Finds a model class in the model files.

  Raises:
    ValueError: no model file has such a class.
  """
  classes = _classes()
  if name not in classes:
    raise ValueError(
      "Expected --model to name a class in video_level_models.py,"
      f" frame_level_models.py or frame_models/, received {name!r}."
      f"{errors.did_you_mean(name, classes)} Available:"
      f" {', '.join(sorted(classes))}."
    )
  return classes[name]


def classify(
  classifier_name: str, features, vocab_size: int, params: dict
) -> dict:
  """Ends a frame-level model with a video-level one.

  Args:
    classifier_name: a class of video_level_models.
    features: (batch, features) float, symbolic.
    vocab_size: number of classes.
    params: hyper-parameters, passed on to the classifier.

  Returns:
    The classifier's dict, see BaseModel.create_model.
  """
  classifier = find_class_by_name(classifier_name)()
  return classifier.create_model(
    model_input=features, vocab_size=vocab_size, num_frames=None, **params
  )


def output_classes(model_flags: dict) -> Sequence[int]:
  """The class index of each output: all classes of the data, or a subset."""
  return model_flags.get("label_subset") or range(model_flags["num_classes"])


def num_outputs(model_flags: dict) -> int:
  """The number of classes that a model predicts; see output_classes."""
  return len(output_classes(model_flags))


def are_exclusive(model_flags: dict) -> bool:
  """Whether each video has exactly one class; see --exclusive_classes."""
  return bool(model_flags.get("exclusive_classes"))


def compiles_predictions(model_flags: dict) -> bool:
  """Whether XLA should compile the forward pass of eval.py and inference.py.

  At video level, compiling takes longer than it saves.

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
  value, or the keyword's default if the flag is None. The keywords of the
  video-level model that a frame-level one ends with are collected too.

  Args:
    model_name: a class in the model files.

  Returns:
    {keyword: value}, to be passed to create_model and kept in model_flags.json.

  Raises:
    ValueError: no such model or classifier.
  """
  modules = FLAGS.flags_by_module_dict()
  model_flags = {
    flag.name: flag.value
    for module in import_model_files()
    for flag in modules.get(module.__name__, [])
  }
  resolved = {}
  pending = [model_name]
  while pending:
    for name, default in _keywords(find_class_by_name(pending.pop())).items():
      if name not in model_flags:
        continue
      value = model_flags[name]
      # A model's default overrides that of the classifier it ends with.
      resolved.setdefault(name, default if value is None else value)
      if name == _CLASSIFIER:
        classifier = find_class_by_name(resolved[name])
        if name in _keywords(classifier):
          raise ValueError(
            f"Expected --{name} to name a class in video_level_models, received"
            f" {resolved[name]!r}, which itself ends with a classifier."
          )
        pending.append(resolved[name])
  return resolved


def default_hyperparameters(model_flags: dict) -> dict:
  """The keyword defaults of a model and of the classifier it ends with.

  Args:
    model_flags: see build_model.

  Raises:
    ValueError: no such model or classifier.
  """
  keywords = _keywords(find_class_by_name(model_flags["model"]))
  classifier = model_flags.get(_CLASSIFIER) or keywords.get(_CLASSIFIER)
  if classifier:
    keywords = {**_keywords(find_class_by_name(classifier)), **keywords}
  return keywords


def with_earlier_defaults(model_flags: dict) -> dict:
  """Completes the flags of a run of an earlier version; leaves others.

  Later versions always note the input_transform.

  Args:
    model_flags: see build_model.
  """
  known = _classes().get(model_flags["model"])
  if known is None or "input_transform" in model_flags:
    return model_flags
  return {"input_transform": "l2", **known.earlier_defaults, **model_flags}


def hyperparameters(model_flags: dict) -> dict:
  """The hyper-parameters in model_flags.json, {keyword of create_model: value}.

  Args:
    model_flags: see build_model.
  """
  others = (*GRAPH_FLAGS, *_OPTIONAL_FLAGS)
  return {
    name: value for name, value in model_flags.items() if name not in others
  }


@contextlib.contextmanager
def _dtype_policy(policy):
  """Sets Keras's global dtype policy, which is thread-local, for a block."""
  before = keras.config.dtype_policy()
  keras.config.set_dtype_policy(policy)
  try:
    yield
  finally:
    keras.config.set_dtype_policy(before)


def build_model(
  model_flags: dict,
  quantized: bool | None = None,
  dtype_policy: str | None = None,
) -> keras.Model:
  """Builds the Keras model that training, evaluation and export share.

  Args:
    model_flags: the content of model_flags.json: the GRAPH_FLAGS, the
      hyper-parameters of the model, feature_ranges where bytes have other
      ranges than YouTube-8M's, input_transform ("l2" without it),
      dewhiten_scales where these are not those of whitening.scales_of, and
      exclusive_classes, which is true where the predictions are one softmax
      over the classes.
    quantized: whether frame features arrive as bytes; None means that they do
      at frame level.
    dtype_policy: of the layers, such as "mixed_bfloat16"; None for float32.

  Returns:
    A keras.Model with the inputs `video_matrix` ((batch, frames, features)
    uint8 or float32 at frame level, else (batch, features) float32) and
    `num_frames` ((batch,) int32), and create_model's dict as its output.

  Raises:
    ContractError: what the model returns is not as BaseModel.create_model
      describes.
    ValueError: there is no such model, it refuses its hyper-parameters,
      feature_ranges are none, or features cannot be transformed as asked for.
  """
  exclusive = are_exclusive(model_flags)
  with _dtype_policy(dtype_policy or "float32"):
    inputs, given = _inputs(model_flags, quantized)
    model = find_class_by_name(model_flags["model"])()
    with classifiers.exclusive_classes(exclusive) as softmaxes:
      outputs = model.create_model(
        vocab_size=num_outputs(model_flags),
        **given,
        **hyperparameters(model_flags),
      )
    _check_outputs(outputs, model_flags)
    if exclusive:
      _check_softmax(inputs, outputs, softmaxes, model_flags["model"])
    # The order of weights follows that of outputs, which PyTorch does not sort.
    outputs = dict(sorted(outputs.items()))
    return keras.Model(inputs, outputs, name=model_flags["model"])


def num_parameters(model: keras.layers.Layer) -> int:
  """How many numbers training changes: moving statistics do not count."""
  return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def _names_and_sizes(model_flags) -> tuple[list[str], list[int]]:
  """The features; readers, which checks them, is not imported by models."""
  names = [name.strip() for name in model_flags["feature_names"].split(",")]
  sizes = [int(size) for size in model_flags["feature_sizes"].split(",")]
  return names, sizes


def _inputs(model_flags, quantized):
  """The inputs of the whole model, and what create_model gets of them.

  Args:
    model_flags: see build_model.
    quantized: see build_model.

  Returns:
    {name: Keras input}, and {keyword of create_model: value}.
  """
  names, sizes = _names_and_sizes(model_flags)
  transform = model_flags.get("input_transform", "l2")
  num_frames = keras.Input((), dtype="int32", name="num_frames")
  given = {
    "num_frames": num_frames,
    "feature_names": names,
    "feature_sizes": sizes,
    "input_transform": transform,
  }
  if model_flags["frame_features"]:
    is_float = quantized is False
    video_matrix = keras.Input(
      (None, sum(sizes)),
      dtype="float32" if is_float else "uint8",
      name="video_matrix",
    )
    ranges = quantization.parse_ranges(
      model_flags.get("feature_ranges", ""), len(sizes)
    )
    of_bytes = quantization.scales_and_biases(ranges, sizes)
    dequantize = (1.0, 0.0) if is_float else of_bytes
    mean = preprocessing.MeanFrame(*dequantize)(video_matrix, num_frames)
    given["mean_dequantized_frame"] = mean
    if transform == "l2":
      layer = preprocessing.NormalizeFrames(*of_bytes)
      mean_layer = preprocessing.MeanNormalizedFrame(*of_bytes)
    else:
      scale_and_bias = _transformed(model_flags, sizes, *dequantize)
      layer = preprocessing.ScaleFeatures(*scale_and_bias)
      mean_layer = preprocessing.MeanFrame(*scale_and_bias)
    given["model_input"] = layer(video_matrix, num_frames)
    given["mean_frame"] = mean_layer(video_matrix, num_frames)
  else:
    video_matrix = keras.Input((sum(sizes),), name="video_matrix")
    layer = preprocessing.L2Normalize()
    if transform != "l2":
      scale_and_bias = _transformed(model_flags, sizes, 1.0, 0.0)
      layer = preprocessing.ScaleFeatures(*scale_and_bias)
    given["model_input"] = layer(video_matrix)
  return {"video_matrix": video_matrix, "num_frames": num_frames}, given


def _transformed(model_flags, sizes, scale, bias):
  """What stored numbers are multiplied by, and what is added then.

  Args:
    model_flags: see build_model.
    sizes: of the features.
    scale: that alone dequantizes the numbers, see quantization.dequantize.
    bias: likewise.

  Returns:
    A scale and a bias that also do as input_transform says, if it is not "l2".

  Raises:
    ValueError: there is no such transformation, or dewhitening has no scales,
      or others than the features have numbers.
  """
  transform = model_flags["input_transform"]
  if transform == "none":
    return scale, bias
  if transform != "dewhiten":
    raise ValueError(
      f"Expected --input_transform to be one of {', '.join(INPUT_TRANSFORMS)},"
      f" received {transform!r}. Name one of these."
    )
  scales = dewhiten_scales(model_flags)
  found = [len(of) for of in scales]
  if not any(found) or any(
    number not in (0, size) for number, size in zip(found, sizes, strict=True)
  ):
    raise ValueError(
      "Expected a scale for each number of a feature, to dewhiten it, received"
      f" {', '.join(map(str, found))} scales for the features"
      f" {model_flags['feature_names']} with"
      f" {', '.join(map(str, sizes))} numbers. Name files of scales by"
      " --dewhiten_scales, or set --input_transform=none."
    )
  return quantization.dewhitened(scale, bias, scales, sizes)


def dewhiten_scales(model_flags: dict) -> list[Sequence[float]]:
  """What the numbers of each feature are multiplied by to dewhiten them.

  Args:
    model_flags: see build_model.

  Returns:
    The dewhiten_scales of model_flags.json, else those of whitening.scales_of;
    empty for a feature that stays as it is.
  """
  if "dewhiten_scales" in model_flags:
    return model_flags["dewhiten_scales"]
  return whitening.scales_of(*_names_and_sizes(model_flags))


def _check_outputs(outputs, model_flags) -> None:
  """Checks what create_model returned; see BaseModel.create_model.

  Raises:
    ContractError: it is not as described there.
  """
  function = f"{model_flags['model']}.create_model"
  if not isinstance(outputs, dict) or "predictions" not in outputs:
    received = f"a {type(outputs).__name__}"
    if isinstance(outputs, dict):
      received = f"the keys {sorted(outputs)}"
    raise ContractError(
      f'Expected {function} to return a dict with the key "predictions",'
      f' received {received}. Return {{"predictions": probabilities}}.'
    )
  _check_predictions(outputs["predictions"], "predictions", model_flags)
  more = outputs.get("auxiliary_predictions", [])
  if not isinstance(more, list):
    raise ContractError(
      f"Expected {function} to return a list as auxiliary_predictions, received"
      f" a {type(more).__name__}."
    )
  for predictions in more:
    _check_predictions(predictions, "auxiliary_predictions", model_flags)
  _check_scalars(outputs, function)


def _check_predictions(predictions, key: str, model_flags) -> None:
  """Checks the shape and the dtype of predictions.

  Raises:
    ContractError: they are not as BaseModel.create_model describes.
  """
  function = f"{model_flags['model']}.create_model"
  expected = (None, num_outputs(model_flags))
  received = getattr(predictions, "shape", type(predictions).__name__)
  if received != expected:
    raise ContractError(
      f"Expected {function} to return {key} of shape {expected}, a probability"
      f" for each video and class, received {received}. Let the last layer have"
      " vocab_size units, without the dimension of the frames."
    )
  if predictions.dtype != "float32":
    raise ContractError(
      f"Expected {function} to return float32 {key} under any"
      f" --mixed_precision, received {predictions.dtype}. Use"
      " layers.classifiers.probabilities(logits), or give the last layer"
      ' dtype="float32".'
    )


def _layers_within(model: keras.Model) -> list[keras.layers.Layer]:
  """The layers of a model, with those of the models among them."""
  found = []
  for layer in model.layers:
    inner = _layers_within(layer) if isinstance(layer, keras.Model) else []
    found += [layer, *inner]
  return found


def _check_softmax(inputs, outputs, softmaxes, model_name: str) -> None:
  """Checks that predictions come from a softmax over exclusive classes.

  Args:
    inputs: of the whole model.
    outputs: of create_model.
    softmaxes: layers that have made one.
    model_name: for the message.

  Raises:
    ContractError: they do not, so that a video could have several classes.
  """
  for predictions in [
    outputs["predictions"],
    *outputs.get("auxiliary_predictions", []),
  ]:
    found = _layers_within(keras.Model(inputs, predictions))
    if not any(layer is softmax for layer in found for softmax in softmaxes):
      raise ContractError(
        f"Expected {model_name}.create_model to make its predictions with"
        " layers.classifiers.probabilities(logits), which gives one softmax"
        " over the classes with --exclusive_classes, received predictions that"
        " do not come from it. Call it on the logits, or leave the flag out."
      )


def _check_scalars(outputs, function) -> None:
  """Checks the losses among what create_model returned.

  Raises:
    ContractError: one of them is not a scalar.
  """
  scalars = {
    "regularization_loss": outputs.get("regularization_loss", 0.0),
    **outputs.get("auxiliary_losses", {}),
  }
  for name, value in scalars.items():
    if tuple(getattr(value, "shape", ())):
      raise ContractError(
        f"Expected {function} to return a scalar as {name}, received the shape"
        f" {value.shape}. Return its sum, or the mean over the videos."
      )


def model_inputs(model: keras.Model, batch: dict) -> dict:
  """The entries of a batch that a model takes.

  Args:
    model: result of build_model.
    batch: of readers.py.

  Returns:
    {name: tensor}.
  """
  return {name: batch[name] for name in model.input}


def mixup_partners(values):
  """The values of the video that each video is mixed with: the one before it.

  Batches are shuffled, so any other video would do.

  Args:
    values: (batch, ...).

  Returns:
    The same shape.
  """
  return ops.roll(values, 1, axis=0)


def add_mixup(model: keras.Model) -> keras.Model:
  """The same model with the same weights, on weighted means of two videos.

  The transformed features x become w x + (1 - w) x', where x' is another video
  of the batch. Missing frames of the shorter video count as zeros; num_frames
  becomes that of the longer video. Source: Zhang et al. 2018, mixup.

  Args:
    model: result of build_model.

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

  video_matrix = model.input["video_matrix"]
  replaced, mixed = [num_frames], [longer]
  for layer in model.layers:
    # Models get the outputs of these layers; none gets the video matrix itself.
    if not isinstance(layer, _FROM_VIDEO_MATRIX) or not any(
      tensor is video_matrix for tensor in keras.tree.flatten(layer.input)
    ):
      continue
    replaced.append(layer.output)
    if isinstance(layer, preprocessing.MeanFrame):
      # The mean is over the frames of the longer video.
      valid, longer_valid = (
        ops.cast(ops.maximum(frames, 1), layer.output.dtype)[:, None]
        for frames in (num_frames, longer)
      )
      mixed.append(mix(layer.output * valid) / longer_valid)
    else:
      mixed.append(mix(layer.output))
  with _dtype_policy(model.dtype_policy):
    rest = keras.Model(replaced, model.output)
    return keras.Model({**model.input, "mixup_weight": weight}, rest(mixed))


def regularization_loss(model: keras.Model, outputs: dict):
  """Sums the losses of kernel regularizers and the model's own.

  Args:
    model: result of build_model.
    outputs: of a call of the model.

  Returns:
    A float32 scalar.
  """
  losses = list(model.losses)
  if "regularization_loss" in outputs:
    losses.append(outputs["regularization_loss"])
  return sum(losses, ops.zeros((), "float32"))
