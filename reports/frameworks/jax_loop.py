"""Training under JAX: stateless_call, value_and_grad, jit.

Several processes meet by jax.distributed, each with one device; the batches are
divided among them, and jit adds the communication.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import models
from reports.frameworks import recipe
from reports.frameworks.batches import Batch
from reports.frameworks.jobs import Job


class Loop:
  """See recipe.Loop.

  Args:
    job: what to train.
    process: which of its processes this is.
  """

  how = "jit"

  def __init__(self, job: Job, process: int):
    if job.num_processes > 1:
      jax.distributed.initialize(job.address, job.num_processes, process)
    if job.is_check:  # TF32 has 10 bits of precision
      jax.config.update("jax_default_matmul_precision", "highest")
    mesh = Mesh(np.array(jax.devices()[: job.num_processes]), ("videos",))
    self._by_video = by_video = NamedSharding(mesh, PartitionSpec("videos"))
    self._everywhere = everywhere = NamedSharding(mesh, PartitionSpec())
    self.model = recipe.build_model(job)
    self._loss = recipe.make_loss(job)
    self._rate = job.learning_rate
    self._count = 0
    weights = [self._all(one) for one in self.model.trainable_variables]
    zeros = [
      [self._all(np.zeros(one.shape, np.float32)) for one in weights]
      for _ in range(2)
    ]
    self._others = [
      self._all(one) for one in self.model.non_trainable_variables
    ]
    self._state = (weights, *zeros)
    self._gradients = jax.jit(
      jax.grad(self._value, has_aux=True),
      out_shardings=(everywhere, (everywhere, by_video)),
    )
    # The new state takes the memory of the old one.
    self._step = jax.jit(
      self._train, donate_argnums=(0, 1), out_shardings=everywhere
    )
    device = jax.local_devices()[0]
    self.device = "CPU" if device.platform == "cpu" else device.device_kind

  def _all(self, values):
    """An array that each device has whole."""
    return jax.make_array_from_process_local_data(
      self._everywhere, np.asarray(values)
    )

  def _arrays(self, batch: Batch):
    """The whole batch, of which each device has the part of its process."""
    return {
      name: jax.make_array_from_process_local_data(self._by_video, values)
      for name, values in batch.items()
    }

  def _value(self, weights, others, batch):
    """The loss of a batch, and the new other variables and the predictions."""
    outputs, others, layer_losses = self.model.stateless_call(
      weights,
      others,
      models.model_inputs(self.model, batch),
      training=True,
      return_losses=True,
    )
    loss = recipe.training_loss(
      outputs, layer_losses, self._loss, batch["labels"]
    )
    return loss, (others, outputs["predictions"])

  def _train(self, state, others, batch, mean_part, square_part):
    """A step: the loss, the new weights and Adam's averages, and the others.

    Args:
      state: the weights, and Adam's means and squares.
      others: the variables without gradients.
      batch: by name.
      mean_part: 1 - b1^t, float32.
      square_part: 1 - b2^t.
    """
    weights, means, squares = state
    (loss, (others, _)), gradients = jax.value_and_grad(
      self._value, has_aux=True
    )(weights, others, batch)

    def update(weight, mean, square, gradient):
      """Adam, see recipe.py."""
      mean = recipe.BETA_1 * mean + (1.0 - recipe.BETA_1) * gradient
      square = recipe.BETA_2 * square + (
        1.0 - recipe.BETA_2
      ) * jax.numpy.square(gradient)
      change = (mean / mean_part) / (
        jax.numpy.sqrt(square / square_part) + recipe.EPSILON
      )
      return weight - self._rate * change, mean, square

    updated = map(update, weights, means, squares, gradients)
    return loss, tuple(map(list, zip(*updated, strict=True))), others

  def gradients(self, batch: Batch):
    """See recipe.Loop."""
    found, (self._others, predictions) = self._gradients(
      self._state[0], self._others, self._arrays(batch)
    )
    rows = [np.asarray(shard.data) for shard in predictions.addressable_shards]
    return np.concatenate(rows), [np.asarray(one) for one in found]

  def step(self, batch: Batch) -> float:
    """See recipe.Loop."""
    self._count += 1
    parts = map(np.float32, recipe.corrections(self._count))
    loss, self._state, self._others = self._step(
      self._state, self._others, self._arrays(batch), *parts
    )
    jax.block_until_ready(self._state)
    return float(loss)

  def peak_gpu_bytes(self) -> int | None:
    """See recipe.Loop."""
    known = jax.local_devices()[0].memory_stats() or {}
    return known.get("peak_bytes_in_use")
