"""NeXtVLAD: VLAD over parts of frames; one network, or a mixture of several.

Shapes in comments: B videos, T frames, D features, K clusters, V classes, N
branches.
"""

import keras
from absl import flags
from keras import ops

import models
from layers import (
  classifiers,
  distillation,
  dropout,
  masking,
  normalization,
  pooling,
  preprocessing,
)

# Of the distillation between the branches of MixNextVladModel; the authors'
# --cl_temperature. Their --cl_lambda is 9, its square.
_TEMPERATURE = 3.0

# What Lin et al. trained both models with. Source: the scripts of their code,
# linrongc/youtube-8m, which train on two GPUs with 80 videos each, and the
# defaults of the flags there, which are the starter's.
_AUTHORS_SETTINGS = {
  "batch_size": 160,
  "base_learning_rate": 0.0002,
  "learning_rate_schedule": "exponential",
  "learning_rate_decay": 0.8,
  "optimizer": "AdamOptimizer",
  "clip_gradient_norm": 1.0,
  "max_steps": 700000,
  "max_frames": 300,
  "input_transform": "dewhiten",
  "nextvlad_groups": 8,
  "nextvlad_expansion": 2,
  "nextvlad_hidden_size": 2048,
  "dropout_rate": 0.5,
  "l2_penalty": 1e-5,
}


def _dense(units, name, activation=None, use_bias=False):
  return keras.layers.Dense(
    units,
    use_bias=use_bias,
    activation=activation,
    kernel_initializer="he_normal",
    name=name,
  )


def _pool(frames, mask, clusters, groups, expansion, name):
  """Frames of one feature (B, T, D) -> (B, K expansion D / groups).

  Raises:
    ValueError: the groups do not divide the numbers of a frame.
  """
  size = expansion * frames.shape[-1]
  if size % groups:
    raise ValueError(
      f"Expected --nextvlad_expansion times the {frames.shape[-1]} numbers of"
      f" a feature to be a multiple of its groups, received {groups} groups"
      f" for {size} numbers. Change --nextvlad_groups."
    )
  frames = _dense(size, f"{name}_expansion", use_bias=True)(frames)
  attention = _dense(groups, f"{name}_attention", "sigmoid", use_bias=True)(
    frames
  )
  scores = _dense(groups * clusters, f"{name}_clusters")(frames)
  scores = normalization.batch_normalization(name=f"{name}_clusters_bn")(
    scores, mask=mask
  )
  vector = pooling.NextVlad(clusters, name=f"{name}_vlad")(
    frames, attention, scores, mask
  )
  return normalization.batch_normalization(name=f"{name}_vlad_bn")(vector)


def next_vlad_logits(
  features,
  mask,
  vocab_size,
  nextvlad_cluster_size,
  nextvlad_groups,
  nextvlad_expansion,
  nextvlad_hidden_size,
  nextvlad_gating_reduction,
  dropout_rate,
  l2_penalty,
  prefix="",
):
  """The whole network; see NextVladModel.

  Args:
    features: the frames of each feature, (B, T, D) each.
    mask: (B, T) bool, the valid frames.
    vocab_size: V.
    nextvlad_cluster_size: see NextVladModel, as all that follow.
    nextvlad_groups: likewise.
    nextvlad_expansion: likewise.
    nextvlad_hidden_size: likewise.
    nextvlad_gating_reduction: likewise.
    dropout_rate: likewise.
    l2_penalty: likewise.
    prefix: of the layers' names.

  Returns:
    (B, V), whose sigmoids are the probabilities.

  Raises:
    ValueError: the groups do not divide the numbers of a frame.
  """
  pooled = []
  for index, frames in enumerate(features):
    share = 2 if index else 1
    pooled.append(
      _pool(
        frames,
        mask,
        nextvlad_cluster_size // share,
        nextvlad_groups // share,
        nextvlad_expansion,
        f"{prefix}feature_{index}",
      )
    )
  hidden = dropout.Dropout(dropout_rate)(classifiers.side_by_side(pooled))
  hidden = _dense(nextvlad_hidden_size, f"{prefix}hidden")(hidden)
  hidden = normalization.batch_normalization(name=f"{prefix}hidden_bn")(hidden)
  gates = _dense(
    max(nextvlad_hidden_size // nextvlad_gating_reduction, 1),
    f"{prefix}gate_inner",
  )(hidden)
  gates = normalization.batch_normalization(name=f"{prefix}gate_inner_bn")(
    gates
  )
  gates = keras.layers.Activation("relu")(gates)
  gates = _dense(nextvlad_hidden_size, f"{prefix}gate_outer", "sigmoid")(gates)
  hidden = keras.layers.Multiply()([hidden, gates])
  return keras.layers.Dense(
    vocab_size,
    kernel_initializer="he_normal",
    bias_initializer=classifiers.prior_bias(vocab_size),
    kernel_regularizer=classifiers.L2(l2_penalty),
    bias_regularizer=classifiers.L2(l2_penalty),
    name=f"{prefix}classifier",
  )(hidden)


flags.DEFINE_integer(
  "nextvlad_cluster_size",
  None,
  "Clusters of the first feature; later ones have half as many. Default: 128"
  " (NextVladModel), 112 (MixNextVladModel).",
  lower_bound=2,
)
flags.DEFINE_integer(
  "nextvlad_groups",
  8,
  "NextVladModel, MixNextVladModel: parts of a frame of the first feature;"
  " later ones have half as many.",
  lower_bound=2,
)
flags.DEFINE_integer(
  "nextvlad_expansion",
  2,
  "NextVladModel, MixNextVladModel: factor on the features before they are cut"
  " into parts.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "nextvlad_hidden_size",
  2048,
  "NextVladModel, MixNextVladModel: units of the hidden layer.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "nextvlad_gating_reduction",
  None,
  "The gate's inner layer is this many times narrower. Default: 8"
  " (NextVladModel), 16 (MixNextVladModel).",
  lower_bound=1,
)


class NextVladModel(models.BaseModel):
  """NeXtVLAD: VLAD over groups of features, with a gate instead of a mixture.

  All frames, for each feature: dense layer (expansion) -> NextVlad -> BN;
  concatenated -> dropout -> dense layer -> BN -> squeeze-and-excitation gate ->
  logistic classifier. Batch statistics exclude padded frames. Source: Lin et
  al. 2018, NeXtVLAD.
  """

  batch_size = 160
  base_learning_rate = 0.0002
  input_transform = "dewhiten"
  xla = False
  # Five epochs are what the flag of the authors' code stands at.
  presets = {
    "published": {
      **_AUTHORS_SETTINGS,
      "learning_rate_decay_examples": 2000000,
      "num_epochs": 5,
      "nextvlad_cluster_size": 128,
      "nextvlad_gating_reduction": 8,
    },
    "recommended": {
      **models.RECOMMENDED_TRAINING,
      "base_learning_rate": 0.001,
    },
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    nextvlad_cluster_size=128,
    nextvlad_groups=8,
    nextvlad_expansion=2,
    nextvlad_hidden_size=2048,
    nextvlad_gating_reduction=8,
    dropout_rate=0.5,
    l2_penalty=1e-5,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      nextvlad_cluster_size: clusters of the first feature, twice those of
        others.
      nextvlad_groups: parts of a frame of the first feature, twice those of
        others.
      nextvlad_expansion: factor on the features before they are cut.
      nextvlad_hidden_size: units of the hidden layer.
      nextvlad_gating_reduction: the factor by which the gate's inner layer is
        narrower.
      dropout_rate: fraction of the pooled features left out in training.
      l2_penalty: weight of half the sum of squares of the classifier's kernel
        and bias.
    """
    logits = next_vlad_logits(
      preprocessing.split_features(model_input, feature_sizes),
      masking.FrameMask()(model_input, num_frames),
      vocab_size,
      nextvlad_cluster_size,
      nextvlad_groups,
      nextvlad_expansion,
      nextvlad_hidden_size,
      nextvlad_gating_reduction,
      dropout_rate,
      l2_penalty,
    )
    return {"predictions": classifiers.probabilities(logits)}


flags.DEFINE_integer(
  "mix_branches",
  3,
  "MixNextVladModel: networks that are mixed.",
  lower_bound=2,
)


class MixNextVladModel(models.BaseModel):
  """A mixture of NeXtVLADs that learn from it while they make it.

  Several networks like NextVladModel, the branches; the logits of the mixture
  are sum_n m_n logits_n with m = softmax(dense layer(BN(mean frame))). The
  branches are trained by the labels too (auxiliary_predictions), and to rank
  the classes as the mixture does (distillation_loss, see
  layers.distillation). Source: Lin et al. 2018, NeXtVLAD, and its
  code. There the mean frame includes the padding.
  """

  batch_size = 160
  base_learning_rate = 0.0002
  input_transform = "dewhiten"
  xla = False
  presets = {
    "published": {
      **_AUTHORS_SETTINGS,
      "learning_rate_decay_examples": 2500000,
      "num_epochs": 15,
      "nextvlad_cluster_size": 112,
      "nextvlad_gating_reduction": 16,
      "mix_branches": 3,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    mean_frame,
    mix_branches=3,
    nextvlad_cluster_size=112,
    nextvlad_groups=8,
    nextvlad_expansion=2,
    nextvlad_hidden_size=2048,
    nextvlad_gating_reduction=16,
    dropout_rate=0.5,
    l2_penalty=1e-5,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      mix_branches: N, networks that are mixed.
      nextvlad_cluster_size: see NextVladModel, as all that follow.
      nextvlad_groups: likewise.
      nextvlad_expansion: likewise.
      nextvlad_hidden_size: likewise.
      nextvlad_gating_reduction: likewise.
      dropout_rate: likewise.
      l2_penalty: likewise.
    """
    features = preprocessing.split_features(model_input, feature_sizes)
    mask = masking.FrameMask()(model_input, num_frames)
    branches = [
      next_vlad_logits(
        features,
        mask,
        vocab_size,
        nextvlad_cluster_size,
        nextvlad_groups,
        nextvlad_expansion,
        nextvlad_hidden_size,
        nextvlad_gating_reduction,
        dropout_rate,
        l2_penalty,
        prefix=f"branch_{branch}_",
      )
      for branch in range(mix_branches)
    ]
    shares = normalization.batch_normalization(name="mixture_bn")(mean_frame)
    shares = _dense(mix_branches, "mixture", use_bias=True)(shares)
    shares = keras.layers.Softmax(dtype="float32")(shares)  # (B, N)
    stacked = ops.cast(ops.stack(branches, axis=1), "float32")  # (B, N, V)
    mixture = ops.sum(shares[:, :, None] * stacked, axis=1)
    return {
      "predictions": classifiers.probabilities(mixture),
      "auxiliary_predictions": [
        classifiers.probabilities(logits) for logits in branches
      ],
      "auxiliary_losses": {
        "distillation_loss": distillation.Distillation(_TEMPERATURE)(
          mixture, stacked
        )
      },
    }
