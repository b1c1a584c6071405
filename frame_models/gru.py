"""A model of stacked gated recurrent units."""

from absl import flags

import models
from layers import classifiers, masking, recurrent

flags.DEFINE_integer(
  "gru_cells",
  1200,
  "GruModel: units of each GRU.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "gru_layers",
  2,
  "GruModel: stacked GRUs.",
  lower_bound=1,
)


class GruModel(models.BaseModel):
  """Stacked GRUs; the last valid states of all layers are classified.

  Source: Cho et al. 2014; Miech et al. 2017, section 4.2.
  """

  batch_size = 128
  base_learning_rate = 0.0002
  xla = False
  earlier_defaults = {"l2_penalty": 1e-8}
  # The command of the winning team of 2017, for its ensemble (WILLOW), and the
  # defaults of the flags there.
  presets = {
    "published": {
      "gru_cells": 1200,
      "gru_layers": 2,
      "video_level_classifier_model": "MoeModel",
      "moe_num_mixtures": 2,
      "moe_output_gating": False,
      "l2_penalty": 1e-6,
      "input_transform": "l2",
      "batch_size": 128,
      "base_learning_rate": 0.0002,
      "learning_rate_schedule": "exponential",
      "learning_rate_decay": 0.9,
      "learning_rate_decay_examples": 4000000,
      "optimizer": "AdamOptimizer",
      "clip_gradient_norm": 1.0,
      "num_epochs": 0,
      "max_steps": 300000,
      "max_frames": 300,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    gru_cells=1200,
    gru_layers=2,
    video_level_classifier_model="MoeModel",
    l2_penalty=1e-6,
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      gru_cells: units of each layer.
      gru_layers: number of layers.
      video_level_classifier_model: a class of video_level_models.
      l2_penalty: of the classifier, see MoeModel.
      **classifier_params: passed on to it.
    """
    mask = masking.FrameMask()(model_input, num_frames)
    states, finals = model_input, []
    for layer in range(gru_layers):
      states, final = recurrent.GRU(
        gru_cells, return_sequences=True, return_state=True, name=f"gru_{layer}"
      )(states, mask=mask)
      finals.append(final)
    return models.classify(
      video_level_classifier_model,
      classifiers.side_by_side(finals),
      vocab_size,
      {**classifier_params, "l2_penalty": l2_penalty},
    )
