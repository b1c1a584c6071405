"""Chooses what a run computes on: one device, several GPUs, several machines.

Every replica has a copy of the weights and its own batch. Gradients are summed
over all replicas before the weights are updated, so R replicas with batches of
B videos compute what one computes with batches of R * B videos. See
docs/distributed.md.
"""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import logging

import errors
from engine import cluster_start

CLUSTER_TIMEOUT_SECONDS = 1800
"""How long a machine waits for the others to start."""

# A machine that does not answer for this long is considered lost.
_PATIENCE_SECONDS = 60
# How often the others hear from the chief while it works alone.
_SIGN_OF_LIFE_SECONDS = 5
# Raised by a computation when a machine does not answer.
_LOST_ERRORS = (
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.DeadlineExceededError,
  tf.errors.InternalError,
  tf.errors.UnavailableError,
)


def read_cluster(tf_config: str) -> tuple[list[str], int]:
  """Reads TF_CONFIG: the addresses of all workers, and which of them this is.

  Raises:
    errors.UserError: it is not JSON, has machines that are not workers, or does
      not say which of them this is.
  """
  try:
    config = errors.parse_json(tf_config or "{}")
    cluster = config.get("cluster") or {}
    others = [job for job in cluster if job not in ("worker", "chief")]
    addresses = [*cluster.get("chief", []), *cluster.get("worker", [])]
    if not all(isinstance(address, str) for address in addresses):
      raise ValueError("addresses must be strings")
    task = config.get("task") or {}
    job, index = task.get("type", "worker"), int(task.get("index", 0))
  except (ValueError, AttributeError, TypeError, OverflowError) as error:
    raise errors.UserError(
      f"Expected JSON with a cluster and a task in TF_CONFIG, received"
      f" {tf_config!r} ({error}). Fix it, or unset it to train on this machine"
      " only."
    ) from error
  if others:
    raise errors.UserError(
      f"Expected only workers in the cluster of TF_CONFIG, received"
      f" {others[0]!r} too. List every machine as a worker; the first one does"
      " the work of master and ps."
    )
  if len(addresses) < 2:
    return addresses, 0
  if job == "worker":
    index += len(cluster.get("chief", []))
  if job not in cluster or not 0 <= index < len(addresses):
    raise errors.UserError(
      f"Expected the task in TF_CONFIG to be one of its {len(addresses)}"
      f" machines, received {task}. Give each machine the same cluster and its"
      " own index, from 0 on."
    )
  return addresses, index


class Placement:
  """Where a run computes.

  Args:
    strategy: a tf.distribute.Strategy; None for TensorFlow's default, a single
      device.
    num_workers: machines.
    worker: which of them this is; 0 is the chief.

  Attributes:
    strategy: see above.
    num_workers: see above.
    worker: see above.
    num_replicas: over all machines.
  """

  def __init__(self, strategy=None, num_workers=1, worker=0):
    self.strategy = strategy or tf.distribute.get_strategy()
    self.num_workers = num_workers
    self.worker = worker
    self.num_replicas = self.strategy.num_replicas_in_sync

  @property
  def is_chief(self) -> bool:
    """Whether this machine writes the files of the run."""
    return self.worker == 0

  @property
  def local_replicas(self) -> int:
    """Replicas on this machine."""
    return self.num_replicas // self.num_workers

  def replicated(self, value) -> tf.Variable:
    """Makes a variable that all replicas update equally; needs the scope."""
    return tf.Variable(
      value,
      trainable=False,
      aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )

  def split(self, batch: dict[str, tf.Tensor]):
    """Cuts this machine's batch into parts of equal size for its replicas."""
    if self.local_replicas == 1:
      return batch
    number = tf.shape(next(iter(batch.values())))[0]

    def part(context):
      index = context.replica_id_in_sync_group % self.local_replicas
      begin, end = (
        number * border // self.local_replicas for border in (index, index + 1)
      )
      return {name: value[begin:end] for name, value in batch.items()}

    return self.strategy.experimental_distribute_values_from_function(part)

  def weigh(self, batch, num_videos):
    """Computes the weight of a replica's part of a step's videos.

    Args:
      batch: the replica's, by name, (videos, ...) each; may have no videos.
      num_videos: how many, an int64 scalar.

    Returns:
      (the batch, with a video of zeros if it had none; the replica's share of
      the videos of all replicas, float32; the videos of each machine, int64).
    """
    if self.num_replicas == 1:
      return batch, 1.0, num_videos[None]
    row = tf.one_hot(self.worker, self.num_workers, dtype=tf.int64)
    counts = self.sum(row * num_videos)
    # All may be without, if they had bad records only.
    total = tf.maximum(tf.reduce_sum(counts), 1)
    share = tf.cast(num_videos, tf.float32) / tf.cast(total, tf.float32)
    missing = tf.maximum(1 - num_videos, 0)
    batch = {
      name: tf.pad(value, [[0, missing]] + [[0, 0]] * (value.shape.rank - 1))
      for name, value in batch.items()
    }
    return batch, share, counts

  def sum(self, values):
    """Sums nested tensors over all replicas; call it in a replica's context."""
    if self.num_replicas == 1:
      return values
    return tf.distribute.get_replica_context().all_reduce(
      tf.distribute.ReduceOp.SUM, values
    )

  def _sum_of_copies(self, value):
    # A tensor from outside the replica has no device.
    return self.sum(tf.identity(value))

  def compile_forward(self, function, with_xla):
    """Compiles a function of a batch that this machine's replicas divide.

    Args:
      function: (a part of the batch) -> nested (videos, ...) tensors.
      with_xla: whether XLA compiles it, on a single device.

    Returns:
      A function of a batch, by name, (videos, ...) each, that returns the
      results of `function` for the whole batch.
    """
    # TensorFlow warns of functions of the same code that are traced often. Each
    # model has one, so an ensemble has several: these are told apart.
    return tf.function(
      functools.partial(self._forward, function),
      jit_compile=(with_xla and self.num_replicas == 1) or None,
      reduce_retracing=True,
      autograph=False,
    )

  def _forward(self, function, batch):
    results = self.strategy.run(function, args=(self.split(batch),))
    return tf.nest.map_structure(self.join, results)

  def join(self, values) -> tf.Tensor:
    """Concatenates the (batch, ...) values of this machine's replicas."""
    local = self.strategy.experimental_local_results(values)
    return local[0] if len(local) == 1 else tf.concat(local, axis=0)

  def first(self, values):
    """Returns the value of one replica, where all replicas have the same."""
    return tf.nest.map_structure(
      lambda value: self.strategy.experimental_local_results(value)[0], values
    )

  def next_batch(self, iterator, element_spec):
    """Takes the next batch, as long as any machine has one.

    Args:
      iterator: of this machine's batches.
      element_spec: of the wanted entries, by name.

    Returns:
      (whether any machine had a batch, a bool scalar, the same on each machine;
      this machine's batch, without videos if only others had one).
    """
    batch = iterator.get_next_as_optional()
    more = batch.has_value()

    def take():
      found = batch.get_value()
      return {name: found[name] for name in element_spec}

    def nothing():
      return {
        name: tf.zeros([size or 0 for size in spec.shape], spec.dtype)
        for name, spec in element_spec.items()
      }

    taken = tf.cond(more, take, nothing)
    for name, spec in element_spec.items():
      taken[name] = tf.ensure_shape(taken[name], spec.shape)
    if self.num_workers == 1:
      return more, taken
    anywhere = self.strategy.run(
      self._sum_of_copies, args=(tf.cast(more, tf.int32),)
    )
    return self.first(anywhere) > 0, taken

  def most(self, values: Sequence[float]) -> list[float]:
    """The largest of each number over all machines, the same on each of them.

    All machines must call this the same number of times.
    """
    if self.num_workers == 1:
      return list(values)
    return self._most(tf.constant(values, tf.float64)).numpy().tolist()

  def wait_for_all(self) -> None:
    """Waits until all machines have called it."""
    self.most([0.0])

  def let_chief_work(self, work: Callable[[], object]) -> None:
    """Runs a function on the chief only, however long it takes.

    The other machines wait for it. All exchange signs of life meanwhile: one
    that does not answer for a minute is considered lost.

    Args:
      work: the function, which may not compute across machines.
    """
    if self.num_workers == 1:
      work()
      return
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
      pending = thread.submit(work) if self.is_chief else None
      is_working = True
      while is_working:
        if pending:
          concurrent.futures.wait([pending], _SIGN_OF_LIFE_SECONDS)
        (is_working,) = self.most([float(bool(pending and not pending.done()))])
      if pending:
        pending.result()

  def check_same(self, numbers: list[int], message: str) -> None:
    """Checks that all machines have the same numbers, below 2^53.

    Raises:
      errors.UserError: the numbers differ; with the message.
    """
    # All are equal if the largest is also the smallest.
    both_ways = [*numbers, *(-number for number in numbers)]
    if self.most(both_ways) != both_ways:
      raise errors.UserError(message)

  @contextlib.contextmanager
  def naming_lost_machine(self, step: int):
    """A block that machines compute together; names the step if one is lost.

    Args:
      step: steps so far.

    Raises:
      errors.MachineError: another machine does not answer.
    """
    try:
      yield
    except _LOST_ERRORS as error:
      if self.num_workers == 1:
        raise
      raise errors.MachineError(
        f"Expected {self.num_workers} machines to train together, lost one"
        f" after step {step}. Start the same command on all of them again: it"
        " continues from the last checkpoint."
      ) from error

  @tf.function(reduce_retracing=True)
  def _most(self, values):
    # tf.distribute has no reduction that takes the largest.
    row = tf.one_hot(self.worker, self.num_workers, dtype=values.dtype)
    table = row[:, None] * values[None] / self.local_replicas
    rows = self.strategy.run(self._sum_of_copies, args=(table,))
    return tf.reduce_max(self.first(rows), axis=0)


def choose(
  tf_config: str,
  num_gpu: int | None,
  cluster_timeout: float = CLUSTER_TIMEOUT_SECONDS,
) -> Placement:
  """Chooses what to compute on; call it before any computation.

  Args:
    tf_config: the content of the environment variable TF_CONFIG.
    num_gpu: GPUs to use, 0 for the CPU, None for all.
    cluster_timeout: seconds to wait for the other machines.

  Returns:
    All workers of TF_CONFIG if it names several; else all GPUs of this machine,
    or its logical CPUs if there are several; else its only device.

  Raises:
    errors.UserError: TF_CONFIG is wrong, or one of its machines does not
      answer.
  """
  addresses, worker = read_cluster(tf_config)
  if num_gpu is not None:
    gpus = tf.config.list_physical_devices("GPU")
    tf.config.set_visible_devices(gpus[:num_gpu], "GPU")
  if len(addresses) > 1:
    return _choose_cluster(addresses, worker, cluster_timeout)
  kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
  devices = tf.config.list_logical_devices(kind)
  if len(devices) == 1:
    logging.info("Computing on one %s.", kind)
    return Placement()
  strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
  logging.info("Computing on %d %ss of this machine.", len(devices), kind)
  return Placement(strategy)


def _choose_cluster(addresses, worker, timeout) -> Placement:
  logging.info(
    "Machine %d of %d; waiting for the others: %s.",
    worker,
    len(addresses),
    ", ".join(addresses),
  )
  cluster_start.wait_for_machines(addresses, worker, timeout)
  resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
    tf.train.ClusterSpec({"worker": addresses}),
    task_type="worker",
    task_id=worker,
    rpc_layer="grpc",
  )
  options = tf.distribute.experimental.CommunicationOptions(
    timeout_seconds=_PATIENCE_SECONDS
  )
  with cluster_start.ended_if_stuck(addresses, cluster_start.JOINING_SECONDS):
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
  placement = Placement(strategy, len(addresses), worker)
  logging.info(
    "Computing on %d machines with %d replicas in total.",
    placement.num_workers,
    placement.num_replicas,
  )
  return placement
