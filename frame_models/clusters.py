"""Models that assign frames to learned clusters: NetVLAD and its relatives.

Shapes in comments: B videos, T frames, D features, K clusters.
"""

import keras
from absl import flags

import models
from layers import (
  classifiers,
  normalization,
  pooling,
  preprocessing,
  sampling,
)

# What the winners of 2017 trained all of their models on clusters with. Source:
# the commands in the README of their code, Youtube-8M-WILLOW, and the defaults
# of the flags there. These are the starter's, but the rate falls to 0.9 of it.
_WINNERS_SETTINGS = {
  "batch_size": 80,
  "base_learning_rate": 0.0002,
  "learning_rate_schedule": "exponential",
  "learning_rate_decay_examples": 4000000,
  "optimizer": "AdamOptimizer",
  "clip_gradient_norm": 1.0,
  "num_epochs": 0,
  "max_frames": 300,
  "input_transform": "l2",
  "iterations": 300,
  "sample_random_frames": True,
  "video_level_classifier_model": "MoeModel",
  "moe_num_mixtures": 2,
}


def soft_assignment(frames, clusters, name):
  """How much each frame belongs to each cluster: softmax(BN(x W)).

  Args:
    frames: (B, T, D) symbolic, all of them valid.
    clusters: K.
    name: of the layers.

  Returns:
    (B, T, K), the sum over K being 1.
  """
  scores = keras.layers.Dense(
    clusters,
    use_bias=False,
    kernel_initializer=keras.initializers.RandomNormal(
      stddev=frames.shape[-1] ** -0.5
    ),
    name=f"{name}_clusters",
  )(frames)
  scores = normalization.batch_normalization(name=f"{name}_clusters_bn")(scores)
  return keras.layers.Softmax(dtype="float32")(scores)


def pool_sampled_frames(
  model_input,
  num_frames,
  feature_sizes,
  iterations,
  random_frames,
  clusters,
  pool,
):
  """Samples frames, normalizes them and pools each feature by its clusters.

  Args:
    model_input: (B, T, D) float.
    num_frames: (B,) int32.
    feature_sizes: sizes of the features that model_input concatenates.
    iterations: frames sampled from each video.
    random_frames: see sampling.SampleFrames.
    clusters: number of clusters of the first feature, and of later ones.
    pool: function (frames of one feature, their soft_assignment, name) ->
      (B, any).

  Returns:
    The concatenated results of pool, (B, any).
  """
  frames = sampling.SampleFrames(iterations, random_frames)(
    model_input, num_frames
  )
  frames = normalization.batch_normalization(name="input_bn")(frames)
  pooled = []
  for index, feature in enumerate(
    preprocessing.split_features(frames, feature_sizes)
  ):
    name = f"feature_{index}"
    assignment = soft_assignment(feature, clusters[min(index, 1)], name)
    pooled.append(pool(feature, assignment, name))
  return classifiers.side_by_side(pooled)


def hidden_layer(pooled, units, clusters):
  """A linear layer on pooled frames, with the winner's initial weights.

  W ~ N(0, 1/sqrt(K)), b ~ N(0, 0.01). The pooled vectors have length 1, however
  many numbers they hold, so 1/sqrt of those would be too small. Source: the
  code of Miech et al. 2017.

  Args:
    pooled: (B, D).
    units: number of outputs.
    clusters: K, the clusters of the first feature.

  Returns:
    (B, units).
  """
  return keras.layers.Dense(
    units,
    kernel_initializer=keras.initializers.RandomNormal(stddev=clusters**-0.5),
    bias_initializer=keras.initializers.RandomNormal(stddev=0.01),
    name="hidden",
  )(pooled)


def classify_gated(
  pooled,
  vocab_size,
  hidden_size,
  clusters,
  classifier_name,
  **classifier_params,
):
  """hidden_layer -> context gating -> classifier.

  Args:
    pooled: (B, D).
    vocab_size: number of classes.
    hidden_size: units of the hidden layer.
    clusters: of the first feature.
    classifier_name: a class of video_level_models.
    **classifier_params: passed on to it.

  Returns:
    The classifier's dict, see models.BaseModel.create_model.
  """
  hidden = hidden_layer(pooled, hidden_size, clusters)
  hidden = normalization.context_gating(hidden, "hidden_gating")
  return models.classify(classifier_name, hidden, vocab_size, classifier_params)


flags.DEFINE_integer(
  "netvlad_cluster_size",
  256,
  "NetVladModel: clusters of the first feature; later ones have half as many.",
  lower_bound=2,
)
flags.DEFINE_integer(
  "netvlad_hidden_size",
  1024,
  "NetVladModel: units of the hidden layer.",
  lower_bound=1,
)
flags.DEFINE_bool(
  "netvlad_residual",
  True,
  "NetVladModel: subtract the cluster centers; False: NetRVLAD.",
)


class NetVladModel(models.BaseModel):
  """Gated NetVLAD, the model that won the challenge of 2017.

  Sampled frames -> BN -> for each feature its Vlad -> concatenated -> dense
  layer -> context gating -> mixture of experts with output gating. Source:
  Miech et al. 2017, Learnable pooling with context gating.
  """

  batch_size = 80
  base_learning_rate = 0.0002
  presets = {
    "published": {
      **_WINNERS_SETTINGS,
      "learning_rate_decay": 0.8,
      "max_steps": 700000,
      "netvlad_cluster_size": 256,
      "netvlad_hidden_size": 1024,
      "netvlad_residual": True,
      "moe_output_gating": True,
      "l2_penalty": 1e-6,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    iterations=300,
    sample_random_frames=True,
    netvlad_cluster_size=256,
    netvlad_hidden_size=1024,
    netvlad_residual=True,
    moe_output_gating=True,
    l2_penalty=1e-6,
    video_level_classifier_model="MoeModel",
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      iterations: frames sampled from each video.
      sample_random_frames: see sampling.SampleFrames.
      netvlad_cluster_size: clusters of the first feature, twice those of
        others.
      netvlad_hidden_size: units of the hidden layer.
      netvlad_residual: False for NetRVLAD, without centers.
      moe_output_gating: see MoeModel.
      l2_penalty: weight of half the sum of squares of the classifier's kernels.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """

    def pool(frames, assignment, name):
      return pooling.Vlad(netvlad_residual, name=f"{name}_vlad")(
        frames, assignment
      )

    pooled = pool_sampled_frames(
      model_input,
      num_frames,
      feature_sizes,
      iterations,
      sample_random_frames,
      (netvlad_cluster_size, netvlad_cluster_size // 2),
      pool,
    )
    return classify_gated(
      pooled,
      vocab_size,
      netvlad_hidden_size,
      netvlad_cluster_size,
      video_level_classifier_model,
      moe_output_gating=moe_output_gating,
      l2_penalty=l2_penalty,
      **classifier_params,
    )


flags.DEFINE_integer(
  "fv_cluster_size",
  128,
  "NetFvModel: clusters of the first feature; later ones have half as many.",
  lower_bound=2,
)
flags.DEFINE_integer(
  "fv_hidden_size",
  1024,
  "NetFvModel: units of the hidden layer.",
  lower_bound=1,
)


class NetFvModel(models.BaseModel):
  """NetVladModel with Fisher vectors instead of Vlad.

  Source: Miech et al. 2017, section 4.1.
  """

  batch_size = 80
  base_learning_rate = 0.0002
  presets = {
    "published": {
      **_WINNERS_SETTINGS,
      "learning_rate_decay": 0.8,
      "max_steps": 600000,
      "fv_cluster_size": 128,
      "fv_hidden_size": 1024,
      "moe_output_gating": True,
      "l2_penalty": 1e-6,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    iterations=300,
    sample_random_frames=True,
    fv_cluster_size=128,
    fv_hidden_size=1024,
    moe_output_gating=True,
    l2_penalty=1e-6,
    video_level_classifier_model="MoeModel",
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      iterations: frames sampled from each video.
      sample_random_frames: see sampling.SampleFrames.
      fv_cluster_size: clusters of the first feature, twice those of others.
      fv_hidden_size: units of the hidden layer.
      moe_output_gating: see MoeModel.
      l2_penalty: weight of half the sum of squares of the classifier's kernels.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """

    def pool(frames, assignment, name):
      return pooling.FisherVector(name=f"{name}_fisher")(frames, assignment)

    pooled = pool_sampled_frames(
      model_input,
      num_frames,
      feature_sizes,
      iterations,
      sample_random_frames,
      (fv_cluster_size, fv_cluster_size // 2),
      pool,
    )
    return classify_gated(
      pooled,
      vocab_size,
      fv_hidden_size,
      fv_cluster_size,
      video_level_classifier_model,
      moe_output_gating=moe_output_gating,
      l2_penalty=l2_penalty,
      **classifier_params,
    )


flags.DEFINE_integer(
  "dbow_cluster_size",
  8000,
  "SoftDbowModel: words of the first feature; later ones have an eighth"
  " as many.",
  lower_bound=8,
)
flags.DEFINE_integer(
  "dbow_hidden_size",
  1024,
  "SoftDbowModel: units of the hidden layer.",
  lower_bound=1,
)
flags.DEFINE_bool(
  "dbow_relu",
  False,
  "SoftDbowModel: batch normalization and ReLU after the hidden layer; False:"
  " it is linear.",
)


class SoftDbowModel(models.BaseModel):
  """A bag of visual and of audio words, softly assigned.

  Sampled frames -> BN -> for each feature its BagOfWords -> concatenated ->
  dense layer -> classifier. Source: Miech et al. 2017, section 4.1.
  """

  batch_size = 80
  base_learning_rate = 0.0002
  earlier_defaults = {"dbow_relu": True}
  presets = {
    "published": {
      **_WINNERS_SETTINGS,
      "learning_rate_decay": 0.9,
      "max_steps": 800000,
      "dbow_cluster_size": 8000,
      "dbow_hidden_size": 1024,
      "dbow_relu": False,
      "moe_output_gating": False,
      "l2_penalty": 1e-8,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    iterations=300,
    sample_random_frames=True,
    dbow_cluster_size=8000,
    dbow_hidden_size=1024,
    dbow_relu=False,
    video_level_classifier_model="MoeModel",
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      iterations: frames sampled from each video.
      sample_random_frames: see sampling.SampleFrames.
      dbow_cluster_size: words of the first feature, eight times those of
        others.
      dbow_hidden_size: units of the hidden layer.
      dbow_relu: whether batch normalization and ReLU follow it.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """

    def pool(frames, assignment, name):
      return pooling.BagOfWords(name=f"{name}_words")(assignment)

    pooled = pool_sampled_frames(
      model_input,
      num_frames,
      feature_sizes,
      iterations,
      sample_random_frames,
      (dbow_cluster_size, max(dbow_cluster_size // 8, 2)),
      pool,
    )
    hidden = hidden_layer(pooled, dbow_hidden_size, dbow_cluster_size)
    if dbow_relu:
      hidden = normalization.batch_normalization(name="hidden_bn")(hidden)
      hidden = keras.layers.Activation("relu")(hidden)
    return models.classify(
      video_level_classifier_model, hidden, vocab_size, classifier_params
    )
