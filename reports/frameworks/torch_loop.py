"""Training under PyTorch: autograd, torch.optim.Adam, torch.compile.

Several processes, which torchrun starts, train by DistributedDataParallel.
"""

from collections.abc import Callable
from typing import Any

import torch

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

  def __init__(self, job: Job, process: int):
    del process  # torchrun has told PyTorch
    has_gpu = torch.cuda.is_available()
    self._processes = job.num_processes
    if self._processes > 1:
      torch.distributed.init_process_group("nccl" if has_gpu else "gloo")
    self.model = recipe.build_model(job)
    self._parameters = [
      variable.value for variable in self.model.trainable_variables
    ]
    self._device = self._parameters[0].device
    self.device = torch.cuda.get_device_name() if has_gpu else "CPU"
    self._network = self.model
    if self._processes > 1:
      self._network = torch.nn.parallel.DistributedDataParallel(self.model)
    self._loss = recipe.make_loss(job)
    # Its equations are those of recipe.py.
    self._optimizer = torch.optim.Adam(
      self._parameters,
      lr=job.learning_rate,
      betas=(recipe.BETA_1, recipe.BETA_2),
      eps=recipe.EPSILON,
    )
    self.how = "torch.compile" if job.compiled else "eager"
    self._forward: Callable[..., Any] = self._forward_pass
    if job.compiled:
      self._forward = torch.compile(self._forward_pass, dynamic=False)

  def _forward_pass(self, inputs, labels):
    """The loss of this process's part of a batch, and the predictions."""
    outputs = self._network(inputs, training=True)
    loss = recipe.training_loss(outputs, self.model.losses, self._loss, labels)
    return loss, outputs["predictions"]

  def _forward_and_backward(self, batch: Batch):
    """As _forward_pass; the gradients are in the parameters then."""
    tensors = {
      name: torch.from_numpy(values).to(self._device)
      for name, values in batch.items()
    }
    self._optimizer.zero_grad(set_to_none=True)
    loss, predictions = self._forward(
      models.model_inputs(self.model, tensors), tensors["labels"]
    )
    # Of several processes, this takes the mean of the gradients.
    loss.backward()
    return loss.detach(), predictions.detach()

  def gradients(self, batch: Batch):
    """See recipe.Loop."""
    _, predictions = self._forward_and_backward(batch)
    gradients = [
      torch.zeros_like(one) if one.grad is None else one.grad
      for one in self._parameters
    ]
    return predictions.cpu().numpy(), [one.cpu().numpy() for one in gradients]

  def step(self, batch: Batch) -> float:
    """See recipe.Loop."""
    loss, _ = self._forward_and_backward(batch)
    self._optimizer.step()
    if self._processes > 1:
      torch.distributed.all_reduce(loss)
      loss /= self._processes
    return loss.item()

  def peak_gpu_bytes(self) -> int | None:
    """See recipe.Loop."""
    if self._device.type != "cuda":
      return None
    return torch.cuda.max_memory_allocated()
