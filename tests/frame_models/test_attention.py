"""Tests of frame_models.attention."""

import math

import numpy as np
import pytest
from small_models import (
  NUM_FRAMES,
  bidirectional_states,
  build,
  classified,
  count_trainable,
  dense,
  normalized,
  predict,
  random_frames,
  random_statistics,
  random_weights,
  relu,
  sigmoid,
  softmax,
  unit,
  valid_parts,
)

import models


def layer_normalized(values, weights, name):
  values = values - values.mean(axis=-1, keepdims=True)
  deviation = np.sqrt((values**2).mean(axis=-1, keepdims=True) + 0.001)
  return values / deviation * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def attended(queries, frames, weights, name):
  """What queries take from a video's valid frames, head by head."""
  query, key, value = (
    weights[f"{name}/{part}/kernel"] for part in ("query", "key", "value")
  )
  output = weights[f"{name}/attention_output/kernel"]
  heads, size = query.shape[1:]
  result = np.zeros_like(queries)
  for head in range(heads):
    scores = (queries @ query[:, head]) @ (frames @ key[:, head]).T
    assigned = softmax(scores / math.sqrt(size))
    result += assigned @ (frames @ value[:, head]) @ output[head]
  return result


def gelu(values):
  return values * 0.5 * (1.0 + np.vectorize(math.erf)(values / math.sqrt(2.0)))


def transformer_prediction(valid, weights):
  """The prediction of a transformer of size 4 with two layers."""
  frames = layer_normalized(
    dense(valid, weights, "projection"), weights, "projection_norm"
  )
  for index in range(len(frames)):
    # 10000^(2 i / 4) is 1 and 100.
    angles = np.array([index, index / 100.0])
    frames[index] += np.concatenate([np.sin(angles), np.cos(angles)])
  for layer in range(2):
    name = f"encoder_{layer}"
    normal = layer_normalized(frames, weights, f"{name}_norm_0")
    frames = frames + attended(normal, normal, weights, f"{name}_attention")
    inner = layer_normalized(frames, weights, f"{name}_norm_1")
    inner = gelu(dense(inner, weights, f"{name}_inner"))
    frames = frames + dense(inner, weights, f"{name}_outer")
  frames = layer_normalized(frames, weights, "norm")
  return classified(frames.mean(axis=0), weights)


@pytest.fixture(scope="module")
def transformer():
  """A small TransformerModel with random weights, and these by path."""
  model = build(
    "TransformerModel",
    "3,2",
    4,
    transformer_size=4,
    transformer_heads=2,
    transformer_layers=2,
  )
  return model, random_weights(model)


def test_transformer_model_against_plain_loops(transformer):
  model, weights = transformer
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = [
    transformer_prediction(valid, weights)
    for valid in valid_parts(frames, NUM_FRAMES)
  ]
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


def test_the_order_of_frames_matters_to_a_transformer(transformer):
  model, _ = transformer
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = predict(model, frames, NUM_FRAMES)
  swapped = frames.copy()
  swapped[:, [0, 2]] = swapped[:, [2, 0]]
  changes = abs(predict(model, swapped, NUM_FRAMES) - expected).max(axis=1)
  # The third video has one frame, and now a different one.
  assert changes.min() > 1e-3


def test_the_length_of_a_batch_does_not_matter_to_a_transformer(transformer):
  model, _ = transformer
  frames = random_frames(NUM_FRAMES, 7, 5)
  longer = np.concatenate([frames, random_frames(NUM_FRAMES, 6, 5)], axis=1)
  np.testing.assert_allclose(
    predict(model, longer, NUM_FRAMES),
    predict(model, frames, NUM_FRAMES),
    atol=1e-6,
  )


def test_transformer_model_refuses_heads_that_do_not_fit():
  with pytest.raises(ValueError, match="--transformer_heads=3"):
    build("TransformerModel", "5", 4, transformer_size=4, transformer_heads=3)


def attention_cluster(**hyperparameters):
  """A small AttentionClusterModel with random weights, and these by path."""
  model = build(
    "AttentionClusterModel",
    "3,2",
    3,
    attention_units=2,
    attention_hidden_sizes="6,5",
    dropout_rate=0.0,
    **hyperparameters,
  )
  return model, random_weights(model)


def attention_cluster_prediction(sampled, weights, scale=1.0):
  """The prediction of attention_cluster for the frames that it samples."""
  vectors = []
  for index, features in enumerate((slice(0, 3), slice(3, 5))):
    name = f"feature_{index}"
    assert f"{name}_attention/bias" not in weights
    frames = sampled[:, features]
    scores = dense(scale * frames, weights, f"{name}_attention")
    for k in range(2):
      pooled = softmax(scores[:, k]) @ frames
      shifted = (
        weights[f"{name}_cluster/alpha"][k] * pooled
        + weights[f"{name}_cluster/beta"][k]
      )
      vectors.append(unit(shifted) / math.sqrt(2.0))
  hidden = np.concatenate(vectors)
  for layer in range(2):
    hidden = np.tanh(dense(hidden, weights, f"hidden_{layer}"))
  return classified(hidden, weights)


@pytest.mark.parametrize(
  ("transform", "scale"),
  # The root of the numbers of a frame, where frames have length 1.
  [
    ({}, 5.0**0.5),
    ({"input_transform": "l2"}, 5.0**0.5),
    ({"input_transform": "none"}, 1.0),
  ],
)
def test_attention_cluster_model_against_plain_loops(transform, scale):
  model, weights = attention_cluster(iterations=4, **transform)
  # The evenly spaced four of 10, 3 and 1 frames.
  samples = [[1, 3, 6, 8], [0, 1, 1, 2], [0, 0, 0, 0]]
  num_frames = [10, 3, 1]
  # Of length 1, so that each transform leaves them as they are.
  frames = random_frames(num_frames, 11, 5)
  expected = [
    attention_cluster_prediction(frames[video, indices], weights, scale)
    for video, indices in enumerate(samples)
  ]
  np.testing.assert_allclose(
    predict(model, frames, num_frames), expected, atol=1e-5
  )


def test_attention_cluster_model_trains_on_jittered_frames():
  model, weights = attention_cluster(iterations=2, input_transform="none")
  frames = random_frames([4] * 40, 4, 5)
  frames[:] = frames[0]
  # One of the first two frames, and one of the last two.
  possible = np.array(
    [
      attention_cluster_prediction(frames[0, [first, second]], weights)
      for first in (0, 1)
      for second in (2, 3)
    ]
  )
  predictions = predict(model, frames, [4] * 40, training=True)
  distances = abs(predictions[:, None] - possible[None]).max(axis=2)
  assert (distances.min(axis=1) < 1e-5).all()
  assert set(distances.argmin(axis=1)) == {0, 1, 2, 3}


@pytest.mark.parametrize("transform", ["l2", "none"])
def test_layers_of_attention_cluster_model_keep_their_places(transform):
  # Among all operations; checkpoints of earlier versions need them.
  model, _ = attention_cluster(input_transform=transform)
  places = {
    operation.name: place
    for place, operation in enumerate(model.operations)
    if getattr(operation, "trainable_weights", ())
  }
  assert places == {
    "feature_0_attention": 10,
    "feature_1_attention": 12,
    "feature_0_cluster": 15,
    "feature_1_cluster": 16,
    "hidden_0": 19,
    "hidden_1": 20,
    "classifier": 21,
  }


@pytest.mark.parametrize("sizes", ["6", "6,5,4", "6,x", "", "0,5"])
def test_attention_models_refuse_other_sizes_than_two(sizes):
  with pytest.raises(ValueError, match="Expected two layer sizes"):
    build("AttentionClusterModel", "5", 3, attention_hidden_sizes=sizes)


def test_attention_lstm_model_against_plain_loops():
  model = build(
    "AttentionLstmModel",
    "3,2",
    4,
    stream_dense_size=4,
    lstm_cells=3,
    attention_hidden_sizes="6,5",
  )
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = []
  for valid in valid_parts(frames, NUM_FRAMES):
    vectors = []
    for index, features in enumerate((slice(0, 3), slice(3, 5))):
      name = f"feature_{index}"
      states = np.tanh(dense(valid[:, features], weights, f"{name}_dense"))
      states = bidirectional_states(states, weights, f"{name}_lstm")
      scores = dense(states, weights, f"{name}_attention")[:, 0]
      vectors.append(softmax(scores) @ states)
    hidden = relu(dense(np.concatenate(vectors), weights, "hidden_0"))
    hidden = np.tanh(dense(hidden, weights, "hidden_1"))
    expected.append(classified(hidden, weights))
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_the_penalty_of_attention_lstm_model_is_on_all_kernels(penalty):
  model = build(
    "AttentionLstmModel",
    "3,2",
    4,
    stream_dense_size=4,
    lstm_cells=3,
    attention_hidden_sizes="6,5",
    l2_penalty=penalty,
  )
  weights = random_weights(model)
  # For each feature a dense layer, two of each of two LSTMs and the attention;
  # two hidden layers and the classifier.
  kernels = [path for path in weights if path.endswith("kernel")]
  assert len(kernels) == 2 * (1 + 4 + 1) + 3
  assert len(model.losses) == (len(kernels) if penalty else 0)
  expected = sum(0.5 * penalty * (weights[path] ** 2).sum() for path in kernels)
  loss = float(models.regularization_loss(model, {}))
  assert loss == pytest.approx(expected, rel=1e-5)


# --------------------------------------------------------------------------
# LatentPoolingModel


@pytest.fixture(scope="module")
def latent_pooling():
  """A small LatentPoolingModel, and its weights and statistics by path."""
  model = build(
    "LatentPoolingModel",
    "3,2",
    4,
    latent_queries=3,
    latent_blocks=2,
    latent_size=4,
    latent_heads=2,
  )
  return model, {**random_weights(model), **random_statistics(model)}


def latent_pooling_prediction(valid, weights):
  """The prediction of latent_pooling for a video's valid frames."""
  frames = layer_normalized(
    dense(valid, weights, "projection"), weights, "projection_norm"
  )
  latents = weights["queries/vectors"]
  assert latents.shape == (3, 4)
  for block in range(2):
    name = f"block_{block}"
    normal = layer_normalized(latents, weights, f"{name}_norm_0")
    latents = latents + attended(normal, frames, weights, f"{name}_frames")
    normal = layer_normalized(latents, weights, f"{name}_norm_1")
    latents = latents + attended(normal, normal, weights, f"{name}_self")
    inner = layer_normalized(latents, weights, f"{name}_norm_2")
    inner = gelu(dense(inner, weights, f"{name}_inner"))
    latents = latents + dense(inner, weights, f"{name}_outer")
  latents = layer_normalized(latents, weights, "norm")
  hidden = dense(latents.reshape(-1), weights, "hidden")
  gates = dense(hidden, weights, "hidden_gating_dense")
  gates = sigmoid(normalized(gates, weights, "hidden_gating_bn"))
  return classified(hidden * gates, weights)


def test_latent_pooling_model_against_plain_loops(latent_pooling):
  model, weights = latent_pooling
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = [
    latent_pooling_prediction(valid, weights)
    for valid in valid_parts(frames, NUM_FRAMES)
  ]
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


def test_the_order_of_frames_does_not_matter_to_latent_pooling(latent_pooling):
  model, _ = latent_pooling
  frames = random_frames([7, 7], 7, 5)
  frames[1] = frames[0, ::-1]
  first, second = predict(model, frames, [7, 7])
  np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_video_without_frames_has_one_of_zeros_for_latent_pooling(
  latent_pooling,
):
  model, weights = latent_pooling
  frames = random_frames([5, 0], 7, 5)
  predictions = predict(model, frames, [5, 0])
  np.testing.assert_allclose(
    predictions[1],
    latent_pooling_prediction(np.zeros((1, 5)), weights),
    atol=1e-5,
  )


def test_queries_of_latent_pooling_start_small_and_different():
  model = build("LatentPoolingModel", "5", 3, latent_queries=50)
  vectors = model.get_layer("queries").vectors.numpy()
  # 25,600 numbers: give or take 6 standard errors.
  assert vectors.std() == pytest.approx(0.02, rel=0.027)
  assert abs(np.corrcoef(vectors) - np.eye(50)).max() < 0.3


def test_size_of_latent_pooling_model():
  # Frames: 1152 * 512 + 512 and a norm 1,024 = 591,360; queries 16 * 512 =
  # 8,192. A block: two attentions of 4 * 512^2, a net of 2 * 4 * 512^2 + 2,560
  # and three norms 3,072 = 4,199,936. The last norm 1,024; hidden 8192 * 1024 +
  # 1,024 = 8,389,632; gating 1024^2 + 2,048 = 1,050,624; the classifier
  # 1025 * 3862 = 3,958,550.
  size = count_trainable("LatentPoolingModel", "1024,128", 3862)
  assert size == 22_399_254


def test_latent_pooling_model_refuses_heads_that_do_not_fit():
  with pytest.raises(ValueError, match="--latent_heads=3"):
    build("LatentPoolingModel", "5", 4, latent_size=4, latent_heads=3)
