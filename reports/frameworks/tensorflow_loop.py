"""Training under TensorFlow: GradientTape, tf.function, XLA.

Several processes are the machines of a MultiWorkerMirroredStrategy.
"""

import tensorflow as tf

import models
from layers import recurrent
from reports.frameworks import recipe
from reports.frameworks.batches import Batch
from reports.frameworks.jobs import Job


class Loop:
  """See recipe.Loop.

  Args:
    job: what to train. With several processes, TF_CONFIG names them all.
    process: which of them this is.
  """

  def __init__(self, job: Job, process: int):
    del process  # TF_CONFIG says it
    self._strategy = tf.distribute.get_strategy()
    if job.num_processes > 1:
      self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
    if job.is_check:  # TF32 has 10 bits of precision
      tf.config.experimental.enable_tensor_float_32_execution(False)
    with self._strategy.scope():
      self.model = recipe.build_model(job)
      self._variables = [
        variable.value for variable in self.model.trainable_variables
      ]
      self._means, self._squares = (
        [
          tf.Variable(tf.zeros_like(variable), trainable=False)
          for variable in self._variables
        ]
        for _ in range(2)
      )
    self._loss = recipe.make_loss(job)
    self._rate = job.learning_rate
    self._count = 0
    self._replicas = job.num_processes
    # XLA cannot compile the communication of several replicas.
    self._xla = job.compiled and self._replicas == 1
    self.how = "tf.function"
    if job.compiled:
      self.how = "XLA" if self._xla else "tf.function, XLA for the update"
    self._update = self._compiled(self._update_weights, job.compiled)
    self._step = self._compiled(self._on_replicas(self._train), self._xla)
    self._gradients = self._compiled(
      self._on_replicas(self._forward_and_backward), self._xla
    )
    self._gpus = tf.config.list_physical_devices("GPU")
    self.device = "CPU"
    if self._gpus:
      details = tf.config.experimental.get_device_details(self._gpus[0])
      self.device = details.get("device_name", "GPU")

  @staticmethod
  def _compiled(function, with_xla):
    return tf.function(function, jit_compile=with_xla or None, autograph=False)

  def _forward_and_backward(self, batch):
    """The loss, the predictions and the gradients, on each replica."""
    inputs = models.model_inputs(self.model, batch)
    with tf.GradientTape() as tape:
      with recurrent.keras_loops(self._xla):  # XLA can compile only these
        outputs = self.model(inputs, training=True)
      loss = recipe.training_loss(
        outputs, self.model.losses, self._loss, batch["labels"]
      )
      loss /= self._replicas
    gradients = tape.gradient(loss, self._variables)
    if self._replicas > 1:
      context = tf.distribute.get_replica_context()
      loss, gradients = context.all_reduce(
        tf.distribute.ReduceOp.SUM, (loss, gradients)
      )
    return loss, outputs["predictions"], gradients

  def _update_weights(self, gradients, mean_part, square_part):
    """Adam, see recipe.py, on each replica.

    Args:
      gradients: of the weights.
      mean_part: 1 - b1^t, float32.
      square_part: 1 - b2^t.
    """
    for variable, mean, square, gradient in zip(
      self._variables, self._means, self._squares, gradients, strict=True
    ):
      new_mean = recipe.BETA_1 * mean + (1.0 - recipe.BETA_1) * gradient
      new_square = recipe.BETA_2 * square + (1.0 - recipe.BETA_2) * tf.square(
        gradient
      )
      mean.assign(new_mean)
      square.assign(new_square)
      variable.assign_sub(
        self._rate
        * (new_mean / mean_part)
        / (tf.sqrt(new_square / square_part) + recipe.EPSILON)
      )

  def _on_replicas(self, function):
    """Runs a function of a replica on each of them."""
    if self._replicas == 1:
      return function
    return lambda *arguments: self._strategy.run(function, args=arguments)

  def _train(self, batch, mean_part, square_part):
    """A step on each replica; returns the loss."""
    loss, _, gradients = self._forward_and_backward(batch)
    update = self._update_weights if self._xla else self._update
    update(gradients, mean_part, square_part)
    return loss

  def gradients(self, batch: Batch):
    """See recipe.Loop."""
    _, predictions, gradients = self._gradients(_tensors(batch))
    return self._local(predictions), list(map(self._local, gradients))

  def step(self, batch: Batch) -> float:
    """See recipe.Loop."""
    self._count += 1
    parts = map(tf.constant, recipe.corrections(self._count))
    return float(self._local(self._step(_tensors(batch), *parts)))

  def _local(self, value):
    """This process's value of what a replica returned, as an array."""
    return self._strategy.experimental_local_results(value)[0].numpy()

  def peak_gpu_bytes(self) -> int | None:
    """See recipe.Loop."""
    if not self._gpus:
      return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def _tensors(batch: Batch):
  return {name: tf.constant(values) for name, values in batch.items()}
