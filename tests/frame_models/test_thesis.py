"""Tests of frame_models.thesis."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import (
  NUM_FRAMES,
  bidirectional_states,
  build,
  classified,
  count_trainable,
  dense,
  lstm_states,
  predict,
  random_frames,
  random_weights,
  relu,
  run,
  unit,
  valid_parts,
  without_counters,
)

import losses
from frame_models import thesis

# Sizes of small streams, and of a small net with them.
SMALL_STREAMS = {
  "stream_dense_size": 4,
  "lstm_cells": 3,
  "stream_hidden_sizes": "5",
}
SMALL_NN_STREAMS = {
  "nn_tower_sizes": "7",
  "nn_branch_sizes": "6,4",
  **SMALL_STREAMS,
}

# The features of "3,2".
FEATURES = (slice(0, 3), slice(3, 5))


def preset(model_class, **changes):
  """The hyper-parameters of the preset "thesis", without those of training."""
  return {
    name: value
    for name, value in model_class.presets["thesis"].items()
    if name not in ("max_frames", "min_frames")
  } | changes


def relu_layers(values, weights, name):
  """The layers NAME_0, NAME_1, ... of a model."""
  layer = 0
  while f"{name}_{layer}/kernel" in weights:
    values = relu(dense(values, weights, f"{name}_{layer}"))
    layer += 1
  return values


def alternating_states(frames, weights, name, layer):
  """The states of an LSTM that is backward in every other layer."""
  if layer % 2:
    return lstm_states(frames[::-1], weights, f"{name}/lstm_cell")[::-1]
  return lstm_states(frames, weights, f"{name}/lstm_cell")


def stream_vectors(frames, weights, features=FEATURES):
  """The streams of a video's valid frames, each in two directions."""
  vectors = []
  for stream, feature in enumerate(features):
    name = f"stream_{stream}"
    states = relu(dense(frames[:, feature], weights, f"{name}_dense"))
    for layer in range(2):
      states = bidirectional_states(states, weights, f"{name}_lstm_{layer}")
    vectors.append(relu_layers(states.max(axis=0), weights, f"{name}_hidden"))
  return vectors


def vectors_of_the_preset(frames, weights, activation):
  """The streams of a video's valid frames in the preset "thesis"."""
  vectors = []
  for stream, feature in enumerate(FEATURES):
    name = f"stream_{stream}"
    states = activation(dense(frames[:, feature], weights, f"{name}_dense"))
    for layer in range(2):
      states = alternating_states(
        states, weights, f"{name}_lstm_{layer}", layer
      )
    states = relu(dense(states, weights, f"{name}_frame"))
    vectors.append(relu_layers(states.max(axis=0), weights, f"{name}_hidden"))
  return vectors


# --------------------------------------------------------------------------
# The networks of the thesis's code


@pytest.mark.parametrize(
  ("model_class", "expected"),
  [
    # Dense 1152 * 2304 + 2304 = 2,656,512 and three of 2304 * 2304 + 2304 =
    # 5,310,720; four LSTMs of 4 * 2304 * (2304 + 2304 + 1) = 42,476,544;
    # 2304 * 2048 + 2048 = 4,720,640; 2048 * 3846 + 3846 = 7,880,454.
    (thesis.BiLstmModel, 201_095_942),
    # Dense 524,800 and 66,048; LSTMs of rgb 4 * 1024 * (512 + 1024 + 1) =
    # 6,295,552 and 4 * 1024 * (1024 + 1024 + 1) = 8,392,704, of audio 328,192
    # and 131,584; 16 units a frame 16,400 and 2,064; (32 + 1) * 8192 = 270,336;
    # (8192 + 1) * 4096 = 33,558,528; (4096 + 1) * 3846 = 15,757,062.
    (thesis.StreamLstmModel, 65_343_270),
    # Two towers of 144,280,576 together and twice (4096 + 1) * 3846; the
    # streams up to their LSTMs, 15,738,880; 1,025 + 129; twice (1 + 1) * 8192
    # and (8192 + 1) * 3846; (4 * 3846 + 1) * 8192 = 126,033,920; 33,558,528;
    # 15,757,062.
    (thesis.NnStreamLstmModel, 429_937_568),
  ],
)
def test_the_presets_have_as_many_weights_as_the_thesiss_networks(
  model_class, expected
):
  count = count_trainable(
    model_class.__name__, "1024,128", 3846, **preset(model_class)
  )
  assert count == expected


@pytest.mark.parametrize(
  ("model_class", "small"),
  [
    (thesis.BiLstmModel, {"lstm_cells": 3, "nn_joint_sizes": "6"}),
    (thesis.StreamLstmModel, {"nn_joint_sizes": "6"}),
    (
      thesis.NnStreamLstmModel,
      {
        "nn_tower_sizes": "6",
        "stream_hidden_sizes": "5",
        "nn_joint_sizes": "6",
      },
    ),
  ],
)
def test_the_presets_begin_with_keras_own_weights(model_class, small):
  with tf.Graph().as_default():
    model = build(
      model_class.__name__, "3,2", 4, **preset(model_class, **small)
    )
  own = keras.layers.Dense(1)
  for layer in model.layers:
    if isinstance(layer, keras.layers.Dense):
      for part in ("kernel_initializer", "bias_initializer"):
        assert type(getattr(layer, part)) is type(getattr(own, part)), layer


def test_the_preset_of_bi_lstm_model_against_plain_loops():
  model = build(
    "BiLstmModel",
    "3,2",
    4,
    **preset(thesis.BiLstmModel, lstm_cells=3, nn_joint_sizes="6"),
  )
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = []
  for states in valid_parts(frames, NUM_FRAMES):
    for block, name in enumerate(
      ("projection", "projection_1", "projection_2", "projection_3")
    ):
      inputs = relu(dense(states, weights, name))
      after = alternating_states(inputs, weights, f"lstm_{block}", block)
      states = inputs + after
    # Of the last block only what its LSTM gives.
    hidden = relu(dense(after.max(axis=0), weights, "hidden_0"))
    expected.append(classified(hidden, weights))
  assert weights["hidden_0/kernel"].shape == (3, 6)
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


def test_the_preset_of_stream_lstm_model_against_plain_loops():
  model = build(
    "StreamLstmModel",
    "3,2",
    4,
    **preset(
      thesis.StreamLstmModel,
      stream_dense_size=4,
      stream_frame_size=2,
      nn_joint_sizes="6,5",
    ),
  )
  weights = random_weights(model)
  # As many cells as the feature has numbers.
  assert weights["stream_0_frame/kernel"].shape == (3, 2)
  assert weights["stream_1_frame/kernel"].shape == (2, 2)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = []
  for valid in valid_parts(frames, NUM_FRAMES):
    joint = np.concatenate(vectors_of_the_preset(valid, weights, relu))
    assert joint.shape == (4,)
    joint = relu_layers(joint, weights, "joint")
    expected.append(classified(joint, weights, "stream_0_classifier"))
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


def test_the_preset_of_nn_stream_lstm_model_against_plain_loops():
  model = build(
    "NnStreamLstmModel",
    "3,2",
    4,
    **preset(
      thesis.NnStreamLstmModel,
      nn_tower_sizes="6,classes",
      stream_dense_size=4,
      stream_hidden_sizes="5,classes",
      nn_joint_sizes="7,6",
    ),
  )
  weights = random_weights(model, scale=0.5)
  # Frames of other lengths than 1: the net gets them as they are.
  lengths = np.arange(1.0, 8.0)[None, :, None]
  frames = lengths * random_frames(NUM_FRAMES, 7, 5)
  expected = []
  for valid in valid_parts(frames, NUM_FRAMES):
    mean = valid.mean(axis=0)
    branches = [
      relu_layers(mean[feature], weights, f"tower_{index}")
      for index, feature in enumerate(FEATURES)
    ]
    branches += vectors_of_the_preset(unit(valid), weights, np.tanh)
    # Each as wide as the classes.
    assert [branch.shape for branch in branches] == [(4,)] * 4
    joint = relu_layers(np.concatenate(branches), weights, "joint")
    expected.append(classified(joint, weights))
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


def test_dropout_of_the_preset_is_on_the_lstms_states():
  model = build(
    "StreamLstmModel",
    "3,2",
    4,
    **preset(thesis.StreamLstmModel, stream_dense_size=4, nn_joint_sizes="200"),
  )
  random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)

  def changes_in_training():
    return abs(
      predict(model, frames, NUM_FRAMES, training=True)
      - predict(model, frames, NUM_FRAMES)
    ).max()

  assert changes_in_training() > 0.01
  for stream in range(2):
    kernel = model.get_layer(f"stream_{stream}_frame").kernel
    kernel.assign(np.zeros(kernel.shape))
  # Nothing is dropped after the layer on the frames.
  assert changes_in_training() < 1e-6


# --------------------------------------------------------------------------
# StreamLstmModel


def logit(probability):
  return float(np.log(probability / (1.0 - probability)))


@pytest.mark.parametrize("feature_sizes", ["6", "6,2", "6,2,3"])
def test_one_stream_for_each_feature(feature_sizes):
  model = build(
    "StreamLstmModel",
    feature_sizes,
    5,
    stream_dense_size=4,
    stream_hidden_sizes="3,classes",
  )
  sizes = [int(size) for size in feature_sizes.split(",")]
  names = [layer.name for layer in model.layers]
  assert sorted(name for name in names if name.startswith("stream_")) == sorted(
    f"stream_{stream}_{part}"
    for stream in range(len(sizes))
    for part in [
      "dense",
      "lstm_0",
      "lstm_1",
      "hidden_0",
      "hidden_1",
      "classifier",
    ]
  )
  for stream, size in enumerate(sizes):

    def shape(part, stream=stream):
      return tuple(model.get_layer(f"stream_{stream}_{part}").kernel.shape)

    assert shape("dense") == (size, 4)
    # Each direction has as many units as the stream has features.
    assert shape("hidden_0") == (2 * size, 3)
    assert shape("hidden_1") == (3, 5)
    assert shape("classifier") == (5, 5)


@pytest.mark.parametrize(
  ("probabilities", "expected"),
  [
    ([0.79], 0.79),
    ([0.79, 0.99], 0.89),
    # (0.2 + 0.3 + 0.7) / 3
    ([0.2, 0.3, 0.7], 0.4),
  ],
)
def test_the_prediction_is_the_mean_of_the_streams_probabilities(
  probabilities, expected
):
  feature_sizes = ",".join("2" for _ in probabilities)
  model = build("StreamLstmModel", feature_sizes, 1, **SMALL_STREAMS)
  for stream, probability in enumerate(probabilities):
    classifier = model.get_layer(f"stream_{stream}_classifier")
    classifier.kernel.assign(np.zeros(classifier.kernel.shape))
    classifier.bias.assign([logit(probability)])
  num_frames = [3, 1]
  frames = random_frames(num_frames, 3, 2 * len(probabilities))
  np.testing.assert_allclose(
    predict(model, frames, num_frames), [[expected], [expected]], atol=1e-6
  )


def test_a_stream_sees_its_own_feature_only():
  model = build("StreamLstmModel", "3,2", 4, **SMALL_STREAMS)
  random_weights(model)
  num_frames = [4, 2]
  frames = random_frames(num_frames, 4, 5)
  # Changing the sign of a feature does not change the length of a frame.
  other_rgb = frames * [-1, -1, -1, 1, 1]
  other_audio = frames * [1, 1, 1, -1, -1]
  kernels = [
    model.get_layer(f"stream_{stream}_classifier").kernel for stream in range(2)
  ]
  weights = [kernel.numpy() for kernel in kernels]
  for silenced, same, different in (
    (1, other_audio, other_rgb),
    (0, other_rgb, other_audio),
  ):
    for stream, kernel in enumerate(kernels):
      kernel.assign(weights[stream] * (stream != silenced))
    expected = predict(model, frames, num_frames)
    np.testing.assert_array_equal(predict(model, same, num_frames), expected)
    changes = abs(predict(model, different, num_frames) - expected)
    assert changes.max(axis=1).min() > 1e-3


def test_stream_lstm_model_against_plain_loops():
  model = build("StreamLstmModel", "3,2", 4, **SMALL_STREAMS)
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = []
  for valid in valid_parts(frames, NUM_FRAMES):
    vectors = stream_vectors(valid, weights)
    assert [vector.shape for vector in vectors] == [(5,), (5,)]
    probabilities = [
      classified(vector, weights, f"stream_{stream}_classifier")
      for stream, vector in enumerate(vectors)
    ]
    expected.append(np.mean(probabilities, axis=0))
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


@pytest.mark.parametrize("joint_sizes", ["", "7,6"])
def test_concatenated_streams_are_classified_once(joint_sizes):
  model = build(
    "StreamLstmModel",
    "3,2",
    4,
    stream_fusion="concat",
    nn_joint_sizes=joint_sizes,
    **SMALL_STREAMS,
  )
  weights = random_weights(model)
  kernels = [path for path in weights if path.endswith("classifier/kernel")]
  assert kernels == ["stream_0_classifier/kernel"]
  # Both streams, or the last joint layer.
  assert weights[kernels[0]].shape == (6 if joint_sizes else 10, 4)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = [
    classified(
      relu_layers(
        np.concatenate(stream_vectors(valid, weights)), weights, "joint"
      ),
      weights,
      "stream_0_classifier",
    )
    for valid in valid_parts(frames, NUM_FRAMES)
  ]
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


def test_joint_layers_without_joint_streams_are_refused():
  # A preset may have set one of both, which then cannot be removed.
  with pytest.raises(
    ValueError,
    match=r"^Expected --stream_fusion=concat .* Add --nn_joint_sizes= for ",
  ):
    build("StreamLstmModel", "3,2", 4, nn_joint_sizes="6", **SMALL_STREAMS)


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_stream_lstm_model_drops_a_classifiers_inputs(fusion):
  sizes = {**SMALL_STREAMS, "stream_hidden_sizes": "200"}
  model = build("StreamLstmModel", "3,2", 4, stream_fusion=fusion, **sizes)
  weights = {
    without_counters(path): value
    for path, value in random_weights(model).items()
  }
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = predict(model, frames, NUM_FRAMES)
  in_training = predict(model, frames, NUM_FRAMES, training=True)
  assert abs(in_training - expected).max() > 0.01
  all_units = build(
    "StreamLstmModel", "3,2", 4, stream_fusion=fusion, dropout_rate=0.0, **sizes
  )
  for variable in all_units.trainable_variables:
    variable.assign(weights[without_counters(variable.path)])
  np.testing.assert_allclose(
    predict(all_units, frames, NUM_FRAMES, training=True), expected, atol=1e-6
  )


@pytest.mark.parametrize(
  "sizes", ["5,", "0", "-1", "x", "5;6", "\u00b2", "5,category", "class"]
)
def test_sizes_that_are_none_are_refused(sizes):
  with pytest.raises(
    ValueError, match=r"^Expected layer sizes such as .*class"
  ):
    build(
      "StreamLstmModel",
      "3,2",
      4,
      **{**SMALL_STREAMS, "stream_hidden_sizes": sizes},
    )


@pytest.mark.parametrize(
  "model_class",
  [
    thesis.StreamLstmModel,
    thesis.NnStreamLstmModel,
    thesis.AutoencoderConcatModel,
    thesis.BiLstmModel,
  ],
)
def test_the_models_declare_their_own_training_settings(model_class):
  assert model_class.batch_size == 128
  assert model_class.base_learning_rate == 0.001


# --------------------------------------------------------------------------
# NnStreamLstmModel and AutoencoderConcatModel


def nn_streams_prediction(net_inputs, vectors, weights):
  """The prediction from the inputs of the net's towers, and the streams."""
  net = np.concatenate(
    [
      relu_layers(values, weights, f"tower_{index}")
      for index, values in enumerate(net_inputs)
    ]
  )
  net = relu_layers(net, weights, "nn_branch")
  joint = relu_layers(np.concatenate([net, *vectors]), weights, "joint")
  return classified(joint, weights)


@pytest.mark.parametrize("joint_sizes", ["", "8"])
def test_nn_stream_lstm_model_against_plain_loops(joint_sizes):
  model = build(
    "NnStreamLstmModel",
    "3,2",
    4,
    nn_joint_sizes=joint_sizes,
    **SMALL_NN_STREAMS,
  )
  weights = random_weights(model, scale=0.5)
  assert weights["tower_0_0/kernel"].shape == (3, 7)
  assert weights["tower_1_0/kernel"].shape == (2, 7)
  assert weights["nn_branch_0/kernel"].shape == (14, 6)
  assert ("joint_0/kernel" in weights) == bool(joint_sizes)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = [
    nn_streams_prediction(
      [valid.mean(axis=0)[feature] for feature in FEATURES],
      stream_vectors(valid, weights),
      weights,
    )
    for valid in valid_parts(frames, NUM_FRAMES)
  ]
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


@pytest.mark.parametrize(
  "off", [{"autoencoder": False}, {"autoencoder_levels": ""}]
)
def test_without_its_autoencoders_it_is_nn_stream_lstm_model(off):
  with_streams = build("NnStreamLstmModel", "3,2", 4, **SMALL_NN_STREAMS)
  without = build("AutoencoderConcatModel", "3,2", 4, **off, **SMALL_NN_STREAMS)
  weights = {
    without_counters(path): value
    for path, value in random_weights(with_streams).items()
  }
  variables = {without_counters(v.path): v for v in without.trainable_variables}
  assert {path: tuple(v.shape) for path, v in variables.items()} == {
    path: value.shape for path, value in weights.items()
  }
  for path, variable in variables.items():
    variable.assign(weights[path])
  frames = random_frames(NUM_FRAMES, 7, 5)
  outputs = run(without, frames, NUM_FRAMES)
  assert outputs["auxiliary_losses"] == {}
  np.testing.assert_allclose(
    outputs["predictions"], predict(with_streams, frames, NUM_FRAMES), atol=1e-6
  )


def coded(values, weights, name):
  """A code, and the squared distance of what is decoded from it."""
  code = relu(dense(values, weights, f"encoder{name}"))
  # The decoder ends in no activation: features may be negative.
  decoded = dense(code, weights, f"decoder{name}")
  return code, ((decoded - values) ** 2).sum(axis=-1)


@pytest.mark.parametrize(
  ("levels", "training"),
  [
    ("video,frame", False),
    ("frame, video", True),
    ("video", True),
    ("frame", False),
  ],
)
def test_autoencoders_against_plain_loops(levels, training):
  model = build(
    "AutoencoderConcatModel",
    "3,2",
    4,
    autoencoder_levels=levels,
    autoencoder_code_size=9,
    autoencoder_frame_code_size=8,
    reconstruction_weight=0.25,
    dropout_rate=0.0,
    **SMALL_NN_STREAMS,
  )
  weights = random_weights(model, scale=0.4)
  frames = random_frames(NUM_FRAMES, 7, 5)
  errors, expected = [], []
  for valid in valid_parts(frames, NUM_FRAMES):
    of_video = {}
    net_inputs = [valid.mean(axis=0)[feature] for feature in FEATURES]
    streams, features = valid, FEATURES
    if "video" in levels:
      for index in range(2):
        net_inputs[index], error = coded(
          net_inputs[index], weights, f"_video_{index}"
        )
        of_video[f"reconstruction_loss_feature{index}_video"] = error
    if "frame" in levels:
      codes = []
      for index, feature in enumerate(FEATURES):
        code, error = coded(valid[:, feature], weights, f"_frame_{index}")
        codes.append(code)
        of_video[f"reconstruction_loss_feature{index}_frame"] = error.mean()
      streams = np.concatenate(codes, axis=1)
      features = (slice(0, 8), slice(8, 16))
    errors.append(of_video)
    expected.append(
      nn_streams_prediction(
        net_inputs, stream_vectors(streams, weights, features), weights
      )
    )
  outputs = run(model, frames, NUM_FRAMES, training)
  assert set(outputs["auxiliary_losses"]) == set(errors[0])
  for tag, value in outputs["auxiliary_losses"].items():
    mean = np.mean([of_video[tag] for of_video in errors])
    np.testing.assert_allclose(value, 0.25 * mean, rtol=1e-5)
  np.testing.assert_allclose(outputs["predictions"], expected, atol=1e-5)


def test_one_autoencoder_of_all_features_against_plain_loops():
  model = build(
    "AutoencoderConcatModel",
    "3,2",
    4,
    autoencoder_levels="joint_video",
    autoencoder_code_size=9,
    dropout_rate=0.0,
    **SMALL_NN_STREAMS,
  )
  weights = random_weights(model, scale=0.4)
  frames = random_frames(NUM_FRAMES, 7, 5)
  errors, expected = [], []
  for valid in valid_parts(frames, NUM_FRAMES):
    code, error = coded(valid.mean(axis=0), weights, "")
    errors.append(error)
    expected.append(
      nn_streams_prediction([code], stream_vectors(valid, weights), weights)
    )
  outputs = run(model, frames, NUM_FRAMES)
  assert set(outputs["auxiliary_losses"]) == {"reconstruction_loss"}
  np.testing.assert_allclose(
    outputs["auxiliary_losses"]["reconstruction_loss"],
    np.mean(errors),
    rtol=1e-5,
  )
  np.testing.assert_allclose(outputs["predictions"], expected, atol=1e-5)


@pytest.mark.parametrize(
  "levels", ["videos", "video;frame", "joint_video,video"]
)
def test_levels_that_are_none_are_refused(levels):
  with pytest.raises(ValueError, match=r"^Expected --autoencoder_levels"):
    build(
      "AutoencoderConcatModel",
      "3,2",
      4,
      autoencoder_levels=levels,
      **SMALL_NN_STREAMS,
    )


def large(name):
  """A model of its default size, which it does not allocate."""
  with tf.Graph().as_default():
    return build(name, "1024,128", 3862)


def products_of_a_frame(model):
  """How many products of a weight and a number there are for each frame."""
  return sum(
    int(np.prod(variable.shape))
    for variable in model.trainable_variables
    if "kernel" in variable.path
    and any(part in variable.path for part in ("_dense", "_lstm", "_frame"))
  )


def test_codes_are_wide_and_those_of_frames_cheap():
  model = large("AutoencoderConcatModel")
  # Wider than features of 1024 and 128; together wider than 3862 classes.
  assert {
    layer.name: layer.units
    for layer in model.layers
    if layer.name.startswith("encoder")
  } == {
    "encoder_video_0": 4096,
    "encoder_video_1": 4096,
    "encoder_frame_0": 2048,
    "encoder_frame_1": 2048,
  }
  without = products_of_a_frame(large("NnStreamLstmModel"))
  # Dense 1152 * 512; of rgb LSTMs 2 * 4096 * (512 + 1024 + 2048 + 1024), of
  # audio 2 * 512 * (512 + 128 + 256 + 128).
  assert without == 589_824 + 37_748_736 + 1_048_576
  assert products_of_a_frame(model) < 1.5 * without


def test_the_reconstruction_errors_fall_in_training():
  random.seed(1)  # of the initializers; TensorFlow's seed affects other tests
  model = build(
    "AutoencoderConcatModel",
    "5",
    4,
    autoencoder_code_size=20,
    autoencoder_frame_code_size=20,
    lstm_layers=1,
    **SMALL_NN_STREAMS,
  )
  num_frames = np.array([6, 3, 1, 2, 5, 1, 1, 4], np.int32)
  batch = {
    "video_matrix": random_frames(num_frames, 6, 5).astype("float32"),
    "num_frames": num_frames,
  }
  labels = np.arange(4) % 2 == np.arange(8)[:, None] % 2
  optimizer = keras.optimizers.Adam(0.01)

  @tf.function
  def step():
    with tf.GradientTape() as tape:
      outputs = model(batch, training=True)
      errors = outputs["auxiliary_losses"]
      loss = losses.CrossEntropyLoss().calculate_loss(
        outputs["predictions"], labels
      )
      loss = sum(errors.values(), loss)
    weights = model.trainable_variables
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    optimizer.apply(gradients, weights)
    return errors

  optimizer.build(model.trainable_variables)
  errors = [
    {tag: float(error) for tag, error in step().items()} for _ in range(60)
  ]
  parts = valid_parts(batch["video_matrix"], num_frames)
  means = [valid.mean(axis=0) for valid in parts]
  of_frames = np.mean([np.mean(valid, axis=0) for valid in parts], axis=0)
  # The best that a decoder that ignores the code can reach.
  constants = {
    "reconstruction_loss_feature0_video": np.mean(
      ((means - np.mean(means, axis=0)) ** 2).sum(axis=1)
    ),
    "reconstruction_loss_feature0_frame": np.mean(
      [((valid - of_frames) ** 2).sum(axis=1).mean() for valid in parts]
    ),
  }
  assert set(errors[0]) == set(constants)
  for tag, constant in constants.items():
    assert errors[0][tag] > 0.5 * constant
    assert errors[-1][tag] < 0.1 * constant


# --------------------------------------------------------------------------
# BiLstmModel


@pytest.mark.parametrize("joint_sizes", [None, "7"])
def test_bi_lstm_model_against_plain_loops(joint_sizes):
  model = build(
    "BiLstmModel",
    "3,2",
    4,
    lstm_cells=3,
    lstm_layers=2,
    nn_joint_sizes=joint_sizes,
  )
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = []
  for valid in valid_parts(frames, NUM_FRAMES):
    states = relu(dense(valid, weights, "projection"))
    for layer in range(2):
      # The shortcut.
      states = states + bidirectional_states(states, weights, f"lstm_{layer}")
    hidden = relu(dense(states.max(axis=0), weights, "hidden_0"))
    expected.append(classified(hidden, weights))
  assert weights["hidden_0/kernel"].shape == (6, 7 if joint_sizes else 6)
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


# --------------------------------------------------------------------------
# Models of earlier versions


@pytest.mark.parametrize(
  ("name", "noted", "layers"),
  [
    (
      "StreamLstmModel",
      {},
      {
        "stream_0_dense": (3, 4),
        "stream_1_dense": (2, 4),
        "stream_0_classifier": (6, 4),
        "stream_1_classifier": (6, 4),
      },
    ),
    (
      "NnStreamLstmModel",
      {"nn_branch_sizes": "2048,1024"},
      {
        "stream_0_dense": (3, 4),
        "stream_1_dense": (2, 4),
        "nn_branch_0": (5, 2048),
        "nn_branch_1": (2048, 1024),
        "classifier": (1036, 4),
      },
    ),
    (
      "AutoencoderConcatModel",
      {"autoencoder_code_size": 7, "nn_branch_sizes": "6,4"},
      {
        "stream_0_dense": (3, 4),
        "stream_1_dense": (2, 4),
        "encoder": (5, 7),
        "decoder": (7, 5),
        "nn_branch_0": (7, 6),
        "nn_branch_1": (6, 4),
        "classifier": (16, 4),
      },
    ),
    (
      "AutoencoderConcatModel",
      {"autoencoder": False, "nn_branch_sizes": "6,4"},
      {
        "stream_0_dense": (3, 4),
        "stream_1_dense": (2, 4),
        "nn_branch_0": (5, 6),
        "nn_branch_1": (6, 4),
        "classifier": (16, 4),
      },
    ),
  ],
)
def test_an_earlier_version_is_built_as_it_was(name, noted, layers):
  noted = {
    "stream_dense_size": 4,
    "lstm_cells": 3,
    "lstm_layers": 2,
    **noted,
  }
  model_class = getattr(thesis, name)
  model = build(name, "3,2", 4, **{**model_class.earlier_defaults, **noted})
  dense_layers = {
    layer.name: tuple(layer.kernel.shape)
    for layer in model.layers
    if isinstance(layer, keras.layers.Dense)
  }
  assert dense_layers == layers
  # Checkpoints count layers, so that even one without weights would shift them.
  assert ("Dropout" in [type(layer).__name__ for layer in model.layers]) == (
    name != "StreamLstmModel"
  )
  frames = random_frames(NUM_FRAMES, 7, 5)
  weights = random_weights(model, scale=0.3)
  expected = []
  for valid in valid_parts(frames, NUM_FRAMES):
    vectors = stream_vectors(valid, weights)
    if name == "StreamLstmModel":
      probabilities = [
        classified(vector, weights, f"stream_{stream}_classifier")
        for stream, vector in enumerate(vectors)
      ]
      expected.append(np.mean(probabilities, axis=0))
      continue
    net_input = valid.mean(axis=0)
    if "encoder" in layers:
      net_input, _ = coded(net_input, weights, "")
    expected.append(nn_streams_prediction([net_input], vectors, weights))
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )
