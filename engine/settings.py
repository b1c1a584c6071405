"""Training settings: the flags of train.py as values."""

import dataclasses

from engine.skipped import Policy

# That a counter of 64 bits holds.
_MOST_EXAMPLES = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Settings:
  """Training settings. The flag of the same name describes each attribute."""

  batch_size: int
  base_learning_rate: float
  segment_labels: bool = False
  min_frames: int = 0
  num_readers: int = 8
  skip_corrupt: bool = False
  max_corrupt_fraction: float = 0.01
  seed: int = 0
  regularization_penalty: float = 1.0
  learning_rate_schedule: str = "exponential"
  learning_rate_decay: float = 0.95
  learning_rate_decay_examples: int = 4000000
  warmup_examples: int = 0
  warmup_fraction: float = 0.0
  optimizer: str = "AdamOptimizer"
  weight_decay: float | None = None
  clip_gradient_norm: float = 1.0
  clip_global_norm: float = 0.0
  nan_policy: str = "stop"
  accumulate_steps: int = 1
  mixup_alpha: float = 0.0
  ema_decay: float = 0.0
  teacher: str = ""
  teacher_weight: float = 0.5
  num_epochs: int | None = 5
  max_steps: int | None = None
  max_minutes: float = 0.0
  export_model_steps: int = 1000
  keep_checkpoints: int = 5
  mixed_precision: str = ""
  xla: bool | None = None
  start_new_model: bool = False
  init_checkpoint: str = ""
  profile_steps: tuple[int, int] | None = None
  eval_data_pattern: str = ""
  eval_steps: int | None = None
  early_stopping: int = 0
  best_metric: str = "gap"

  @property
  def policy(self) -> Policy:
    """What to do about records that cannot be used."""
    return Policy(self.skip_corrupt, self.max_corrupt_fraction)

  @property
  def dtype_policy(self) -> str | None:
    """The Keras dtype policy to build the model with; None for float32."""
    return f"mixed_{self.mixed_precision}" if self.mixed_precision else None

  @property
  def steps_between_evaluations(self) -> int:
    """How often the run is evaluated while it trains; 0 for never."""
    if not self.eval_data_pattern:
      return 0
    return self.eval_steps or self.export_model_steps

  def step_examples(self, num_replicas: int) -> int:
    """How many examples a step has, over all batches and replicas of it."""
    return self.batch_size * self.accumulate_steps * num_replicas

  def largest_batch(self, epoch_videos: int, num_replicas: int) -> int:
    """The most examples that a batch of some replicas can have.

    Args:
      epoch_videos: examples in one epoch.
      num_replicas: that share the batch.
    """
    size = self.batch_size * num_replicas
    if not self.num_epochs:
      return size
    return min(size, self.num_epochs * epoch_videos)

  def planned_examples(self, epoch_videos: int, step_videos: int) -> int:
    """How many examples the whole run will see; 0 if it has no end.

    Args:
      epoch_videos: examples in one epoch.
      step_videos: examples in one step, over all replicas.
    """
    ends = []
    if self.num_epochs:
      ends.append(self.num_epochs * epoch_videos)
    if self.max_steps:
      ends.append(self.max_steps * step_videos)
    return min([*ends, _MOST_EXAMPLES]) if ends else 0
