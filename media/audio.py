"""VGGish: from the sound of a video to 128 numbers for each of its moments.

The network and its input are those of "CNN Architectures for Large-Scale Audio
Classification" (https://arxiv.org/abs/1609.09430), as released with AudioSet.
YouTube-8M's audio features were made in the same way.
"""

import os
from typing import Any

import numpy as np

import errors
from media import encoders

SAMPLE_RATE = 16000  # samples a second, of one channel
_WINDOW = 400  # samples of 25 ms
_HOP = 160  # samples of 10 ms
_FFT = 512
_BANDS = 64
_LOWEST_HZ, _HIGHEST_HZ = 125.0, 7500.0
_LOG_OFFSET = 0.01
_PATCH = 96  # windows
# Windows of a patch overlap, so its sound is longer than 96 hops.
PATCH_SAMPLES = (_PATCH - 1) * _HOP + _WINDOW  # 15600

_AT_ONCE = 32  # patches, so that memory does not grow with the video


# --------------------------------------------------------------------------
# The front end


def mel(hertz):
  """Frequencies on HTK's mel scale, 1127 ln(1 + f / 700); any shape."""
  return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def mel_weights() -> np.ndarray:
  """Triangles of equal width on the mel scale, which overlap by half.

  Returns:
    (257, 64): how much each frequency of the spectrum is in each band.
  """
  edges = np.linspace(mel(_LOWEST_HZ), mel(_HIGHEST_HZ), _BANDS + 2)
  low, center, high = edges[:-2], edges[1:-1], edges[2:]
  of_bin = mel(np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT)[:, None]
  rising = (of_bin - low) / (center - low)
  falling = (high - of_bin) / (high - center)
  # The mean of the samples is in no band: 0 Hz is below the lowest edge.
  return np.maximum(0.0, np.minimum(rising, falling))


def log_mel(
  samples: np.ndarray, starts: np.ndarray | None = None
) -> np.ndarray:
  """The patches that VGGish takes: log(mel spectrum + 0.01).

  A patch has 96 windows of 25 ms, 10 ms apart. Each is multiplied by a periodic
  Hann window and padded to 512 samples; the magnitudes of its Fourier transform
  are summed in 64 bands from 125 to 7500 Hz.

  Args:
    samples: (n,), float from -1 to 1, at 16 kHz.
    starts: (patches,), the first sample of each patch, at most
      n - PATCH_SAMPLES; None for patches without overlap from the beginning on,
      0.96 s apart, without what is left at the end.

  Returns:
    (patches, 96, 64), float32.
  """
  if starts is None:
    windows = max(0, (len(samples) - _WINDOW) // _HOP + 1)
    starts = np.arange(windows // _PATCH) * (_PATCH * _HOP)
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
  weights = mel_weights()
  patches = np.empty((len(starts), _PATCH, _BANDS), np.float32)
  for number, start in enumerate(starts):
    sound = samples[start : start + PATCH_SAMPLES].astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(sound, _WINDOW)[::_HOP]
    magnitudes = np.abs(np.fft.rfft(windows * hann, _FFT))  # (96, 257)
    patches[number] = np.log(magnitudes @ weights + _LOG_OFFSET)
  return patches


# --------------------------------------------------------------------------
# The network

# After the layers with True the larger of 2 x 2 neighbors is taken.
_CONVOLUTIONS = {
  "conv1": True,
  "conv2": True,
  "conv3/conv3_1": False,
  "conv3/conv3_2": True,
  "conv4/conv4_1": False,
  "conv4/conv4_2": True,
}
_DENSE = ("fc1/fc1_1", "fc1/fc1_2", "fc2")
_SIZE = 128
# What the poolings leave of 96 x 64.
_CELLS = (96 // 16) * (64 // 16)

_WEIGHTS = (
  "VGGish's checkpoint vggish_model.ckpt, from"
  " https://storage.googleapis.com/audioset/vggish_model.ckpt"
)
_PCA = (
  "VGGish's PCA vggish_pca_params.npz, from"
  " https://storage.googleapis.com/audioset/vggish_pca_params.npz"
)


class Vggish:
  """The embedding of VGGish, for each moment of a video.

  Attributes:
    size: 128.
    dtype: of the vectors. "uint8" after the PCA of the release, as YouTube-8M's
      audio features; "float32" without.
  """

  size = _SIZE

  def __init__(self, weights: str, pca_params: str = ""):
    """Reads weights.

    Args:
      weights: a TensorFlow checkpoint, in one file (as it was released) or as
        the beginning of the names of several.
      pca_params: the file with the PCA, or empty for the numbers before it.

    Raises:
      errors.UserError: a file is missing or holds something else.
    """
    self._layers = _read_checkpoint(weights)
    self._pca = _read_pca(pca_params) if pca_params else None
    self.dtype = "uint8" if pca_params else "float32"
    self._settings = {
      "weights": os.path.abspath(weights),
      "pca_params": os.path.abspath(pca_params) if pca_params else "",
    }

  def settings(self) -> dict[str, str]:
    """The arguments that make it again, with absolute paths."""
    return dict(self._settings)

  def encode(
    self, samples: np.ndarray, times: np.ndarray | None = None
  ) -> np.ndarray:
    """A vector for each moment: of the 0.96 s of sound that begin there.

    This is where YouTube-8M's own extractor takes them for its frames, one a
    second. Near the end of the sound it is its last 0.96 s; sound shorter than
    that is followed by zeros. For a moment at or after the end, see `no_sound`.

    Args:
      samples: (n,), float32 from -1 to 1, at 16 kHz, from the video's time 0
        on.
      times: (moments,), float seconds, not negative, as those of the frames;
        None for each whole second before the end of the sound.

    Returns:
      (moments, 128), of `dtype`.
    """
    if times is None:
      times = np.arange(-(-len(samples) // SAMPLE_RATE))
    vectors = self.no_sound(len(times))
    starts = np.rint(np.asarray(times) * SAMPLE_RATE / _HOP).astype(int) * _HOP
    heard = np.asarray(times) * SAMPLE_RATE < len(samples)
    missing = max(0, PATCH_SAMPLES - len(samples))
    samples = np.pad(samples, (0, missing))
    starts = np.minimum(starts[heard], len(samples) - PATCH_SAMPLES)
    found = np.empty((len(starts), _SIZE), self.dtype)
    for first in range(0, len(starts), _AT_ONCE):
      part = log_mel(samples, starts[first : first + _AT_ONCE])
      found[first : first + len(part)] = self._postprocess(self.embed(part))
    vectors[heard] = found
    return vectors

  def no_sound(self, count: int) -> np.ndarray:
    """What stands for moments without sound, such as those of a silent film.

    Args:
      count: number of moments.

    Returns:
      (count, 128): the byte 127, which stands for about 0, the mean of
      YouTube-8M's numbers; without the PCA, 0.
    """
    return np.full(
      (count, _SIZE), 127 if self.dtype == "uint8" else 0, self.dtype
    )

  def embed(self, patches: np.ndarray) -> np.ndarray:
    """Runs the network up to its last layer, before an activation.

    Args:
      patches: (n, 96, 64), float32.

    Returns:
      (n, 128), float32.
    """
    import tensorflow as tf

    values = tf.constant(patches)[..., None]  # (n, 96, 64, 1)
    for name, is_pooled in _CONVOLUTIONS.items():
      kernel, bias = self._layers[name]
      values = tf.nn.relu(tf.nn.conv2d(values, kernel, 1, "SAME") + bias)
      if is_pooled:
        values = tf.nn.max_pool2d(values, 2, 2, "SAME")
    values = tf.reshape(values, [len(patches), -1])
    for name in _DENSE:
      kernel, bias = self._layers[name]
      values = tf.matmul(values, kernel) + bias
      if name != _DENSE[-1]:
        values = tf.nn.relu(values)
    return values.numpy()

  def _postprocess(self, embeddings: np.ndarray) -> np.ndarray:
    """PCA, and bytes as the release makes them: it does not round."""
    if self._pca is None:
      return embeddings
    rows, means = self._pca
    projected = np.clip((embeddings - means) @ rows.T, -2.0, 2.0)
    return ((projected + 2.0) * (255.0 / 4.0)).astype(np.uint8)


def _read_checkpoint(path: str) -> dict[str, tuple[Any, Any]]:
  """The kernel and bias of each layer, as tensors.

  The numbers of channels are those of the checkpoint, which must fit together.

  Raises:
    errors.UserError: it lacks one, or they do not fit.
  """
  import tensorflow as tf

  layers, inputs = {}, 1
  try:
    reader = tf.train.load_checkpoint(path)
    for name in (*_CONVOLUTIONS, *_DENSE):
      kernel = reader.get_tensor(f"vggish/{name}/weights")
      bias = reader.get_tensor(f"vggish/{name}/biases")
      if name == _DENSE[0]:
        inputs *= _CELLS
      outputs = _SIZE if name == _DENSE[-1] else bias.shape[-1]
      window = (3, 3) if name in _CONVOLUTIONS else ()
      if kernel.shape != (*window, inputs, outputs) or bias.shape != (outputs,):
        raise ValueError(f"vggish/{name}/weights has the shape {kernel.shape}")
      layers[name] = (tf.constant(kernel), tf.constant(bias))
      inputs = outputs
  except (
    tf.errors.OpError,
    ValueError,
    IndexError,
    RuntimeError,
  ) as error:
    raise errors.UserError(
      f"Expected {_WEIGHTS}, received {path} ({encoders.first_line(error)})."
    ) from error
  return layers


def _read_pca(path: str) -> tuple[np.ndarray, np.ndarray]:
  """The components, (128, 128), one a row, and the means, (128,).

  Raises:
    errors.UserError: the file lacks them.
  """
  try:
    with np.load(path, allow_pickle=False) as arrays:
      rows = arrays["pca_eigen_vectors"].astype(np.float32)
      means = arrays["pca_means"].astype(np.float32).reshape(-1)
    if rows.shape != (_SIZE, _SIZE) or means.shape != (_SIZE,):
      raise ValueError(f"shapes {rows.shape} and {means.shape}")
  except Exception as error:  # OSError, KeyError, BadZipFile, ...
    raise errors.UserError(
      f"Expected {_PCA}, received {path} ({encoders.first_line(error)})."
    ) from error
  return rows, means
