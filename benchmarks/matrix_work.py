"""Counts the matrix products that a training step needs.

They are counted in the program that XLA would make of the step; products in a
loop count once per iteration. The gradient of the input is not included,
because it is not needed, nor are sums and other passes over memory. A model's
rate times this number, divided by the machine's rate of large matrix products,
is the share of the machine that is used.
"""

import math
import re

import tensorflow as tf

import losses
import models
from layers import recurrent

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?([\w.-]+) = \(?\w+\[([\d,]*)\][^=]*? ([\w-]+)\((.*)$"
)
_CALLED = re.compile(r"(?:calls|to_apply|condition|body)=%?([\w.-]+)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_NAME = re.compile(r"%?([\w.-]+)")
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_CONSTANT = re.compile(r"s32\[\] constant\((\d+)\)")
_NUMBER_OF_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def _numbers(text):
  return [int(number) for number in text.split(",") if number]


def count_flops(hlo: str, default_turns: int = 1) -> float:
  """Floating point operations of the matrix products in a program.

  Args:
    hlo: XLA's optimized program as text; a product of (m, k) and (k, n) counts
      as 2 m k n.
    default_turns: iterations of a loop whose number is not in the program.
  """
  computations, entry, name = {}, None, None
  for line in hlo.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      name = header.group(1)
      computations[name] = []
      if line.startswith("ENTRY"):
        entry = name
    elif name and line.startswith(" "):
      computations[name].append(line)
  counted = {}

  def count(name):
    if name not in counted:
      counted[name] = sum(_products(computations[name], count, turns))
    return counted[name]

  def turns(line):
    """The iterations of a loop: as XLA found, or from its condition."""
    known = _NUMBER_OF_TURNS.search(line)
    if known:
      return int(known.group(1))
    (name,) = _CONDITION.findall(line)
    condition = computations[name]
    called = [computations[name] for name in _CALLED.findall(str(condition))]
    limits = _CONSTANT.findall(str([condition, *called]))
    return max(map(int, limits), default=default_turns)

  return count(entry)


def _products(lines, count, turns):
  """Yields the operations of each line of a computation; see count_flops."""
  shapes = {}
  for line in lines:
    found = _INSTRUCTION.match(line)
    if found:
      name, shape, kind, arguments = found.groups()
      shapes[name] = _numbers(shape)
      if kind == "dot":
        left = shapes[_NAME.findall(arguments)[0]]
        contracted = _numbers(_CONTRACTED.findall(line)[0])
        size = math.prod(left[index] for index in contracted)
        yield 2.0 * math.prod(shapes[name]) * size
    times = turns(line) if " while(" in line else 1
    for called in _CALLED.findall(line):
      yield times * count(called)


def gflop_per_video(model_flags: dict, batch_size: int, num_frames: int):
  """Matrix products of a training step, in 10^9 operations per video.

  Args:
    model_flags: see train_dir.py.
    batch_size: videos per step.
    num_frames: frames of each video; ignored at video level.
  """
  model = models.build_model(model_flags)
  loss = losses.CrossEntropyLoss()
  size = sum(map(int, model_flags["feature_sizes"].split(",")))
  shape, dtype = (batch_size, size), tf.float32
  if model_flags["frame_features"]:
    shape, dtype = (batch_size, num_frames, size), tf.uint8

  @tf.function(jit_compile=True, autograph=False)
  def step(video_matrix):
    inputs = {
      "video_matrix": video_matrix,
      "num_frames": tf.fill([batch_size], num_frames),
    }
    labels = tf.zeros([batch_size, model_flags["num_classes"]], tf.bool)
    with tf.GradientTape() as tape:
      with recurrent.keras_loops():
        outputs = model(inputs, training=True)
      total = loss.calculate_loss(outputs["predictions"], labels)
      total = sum(outputs.get("auxiliary_losses", {}).values(), total)
    return tape.gradient(total, model.trainable_variables)

  program = step.experimental_get_compiler_ir(tf.zeros(shape, dtype))
  # Loops over frames backward in time do not state their length.
  flops = count_flops(program(stage="optimized_hlo"), num_frames)
  return flops / batch_size / 1e9
