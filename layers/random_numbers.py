"""Random numbers that are fast with XLA.

keras.random lets TensorFlow choose the algorithm, which takes XLA 50 times as
long on a CPU; see docs/performance.md.
"""

import keras


def uniform(shape, seed_generator):
  """Random float32 numbers in [0, 1), like keras.random.uniform.

  Args:
    shape: of the result.
    seed_generator: a keras.random.SeedGenerator.
  """
  if keras.backend.backend() != "tensorflow":
    return keras.random.uniform(shape, seed=seed_generator)
  import tensorflow as tf

  seed = tf.bitcast(tf.cast(seed_generator.next(), tf.uint32), tf.int32)
  return tf.random.stateless_uniform(shape, seed, alg="philox")
