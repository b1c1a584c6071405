import math

import numpy as np
import pytest
import tensorflow as tf

import errors
from media import audio


def sound(seconds, seed=0):
  """Two tones and noise."""
  random = np.random.default_rng(seed)
  count = int(seconds * 16000)
  at = np.arange(count) / 16000
  tones = np.sin(2 * np.pi * 440 * at) + np.sin(2 * np.pi * 3000 * at**1.1)
  return (0.3 * tones + 0.1 * random.normal(size=count)).astype(np.float32)


# --------------------------------------------------------------------------
# The front end, by its definition


def mel_of(hertz):
  return 1127 * math.log(1 + hertz / 700)


def slow_window(samples):
  """The 64 numbers of one window of 400 samples, by plain loops."""
  shaped = [
    float(sample) * (0.5 - 0.5 * math.cos(2 * math.pi * n / 400))
    for n, sample in enumerate(samples)
  ]
  bands = [0.0] * 64
  step = (mel_of(7500) - mel_of(125)) / 65
  for k in range(257):
    real = sum(
      x * math.cos(2 * math.pi * k * n / 512) for n, x in enumerate(shaped)
    )
    imaginary = sum(
      x * math.sin(2 * math.pi * k * n / 512) for n, x in enumerate(shaped)
    )
    magnitude = math.hypot(real, imaginary)
    for band in range(64):
      center = mel_of(125) + (band + 1) * step
      distance = abs(mel_of(k * 16000 / 512) - center) / step
      bands[band] += magnitude * max(0.0, 1 - distance)
  return [math.log(value + 0.01) for value in bands]


def test_log_mel_is_what_plain_loops_give():
  samples = sound(2.1)
  patches = audio.log_mel(samples)
  assert (patches.shape, patches.dtype) == ((2, 96, 64), np.float32)
  for patch, window in ((0, 0), (0, 95), (1, 0), (1, 50)):
    start = (patch * 96 + window) * 160
    np.testing.assert_allclose(
      patches[patch, window],
      slow_window(samples[start : start + 400]),
      rtol=1e-5,
      atol=1e-5,
    )


@pytest.mark.parametrize(
  ("count", "patches"),
  [(0, 0), (399, 0), (15599, 0), (15600, 1), (30959, 1), (30960, 2)],
)
def test_only_whole_patches_count(count, patches):
  assert audio.log_mel(np.zeros(count, np.float32)).shape[0] == patches


def test_silence_is_the_log_of_the_offset():
  patch = audio.log_mel(np.zeros(15600, np.float32))
  np.testing.assert_allclose(patch, math.log(0.01), rtol=1e-6)


def test_a_tone_is_in_its_band():
  for hertz in (200, 1000, 5000):
    at = np.arange(15600) / 16000
    patch = audio.log_mel(np.sin(2 * np.pi * hertz * at))
    edges = np.linspace(mel_of(125), mel_of(7500), 66)
    nearest = np.abs(edges[1:-1] - mel_of(hertz)).argmin()
    assert patch[0].mean(axis=0).argmax() == nearest


# --------------------------------------------------------------------------
# The network

# Name in the checkpoint, and shape, with fewer channels than VGGish has.
SHAPES = {
  "conv1": (3, 3, 1, 2),
  "conv2": (3, 3, 2, 3),
  "conv3/conv3_1": (3, 3, 3, 4),
  "conv3/conv3_2": (3, 3, 4, 4),
  "conv4/conv4_1": (3, 3, 4, 5),
  "conv4/conv4_2": (3, 3, 5, 5),
  "fc1/fc1_1": (6 * 4 * 5, 7),
  "fc1/fc1_2": (7, 6),
  "fc2": (6, 128),
}
VARIABLES = {
  f"vggish/{name}/{kind}": shape if kind == "weights" else shape[-1:]
  for name, shape in SHAPES.items()
  for kind in ("weights", "biases")
}


def values_of(shapes=VARIABLES):
  """Random values of variables, of which about half the activations are 0."""
  random = np.random.default_rng(3)
  return {
    name: (random.normal(size=shape) / math.prod(shape[:-1]) ** 0.5).astype(
      np.float32
    )
    for name, shape in shapes.items()
  }


def write_checkpoint(path, values, version=1):
  """Writes values as the release does: in the first format, one file."""
  v1 = tf.compat.v1
  with tf.Graph().as_default(), v1.Session() as session:
    for name, value in values.items():
      v1.get_variable(name, initializer=value, use_resource=False)
    session.run(v1.global_variables_initializer())
    v1.train.Saver(write_version=version).save(
      session, str(path), write_meta_graph=False
    )
  return str(path)


def write_pca(path):
  random = np.random.default_rng(4)
  rows = random.normal(size=(128, 128)) * 0.4
  means = random.normal(size=(128, 1)) * 0.1
  np.savez(path, pca_eigen_vectors=rows, pca_means=means)
  return rows, means


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("vggish")
  write_pca(folder / "pca.npz")
  return write_checkpoint(folder / "v.ckpt", values_of()), str(
    folder / "pca.npz"
  )


def convolved(image, kernel, bias):
  """A 3 x 3 convolution with zeros around the image, and a ReLU."""
  height, width, _ = image.shape
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
  total = np.zeros((height, width, kernel.shape[3])) + bias
  for row in range(3):
    for column in range(3):
      part = padded[row : row + height, column : column + width]
      total += part @ kernel[row, column]
  return np.maximum(total, 0)


def pooled(image):
  height, width, channels = image.shape
  cells = image.reshape(height // 2, 2, width // 2, 2, channels)
  return cells.max(axis=(1, 3))


def slow_network(patch):
  """The network on one patch, in NumPy."""
  of = {
    name.removeprefix("vggish/"): value.astype(np.float64)
    for name, value in values_of().items()
  }

  def layer(image, name):
    return convolved(image, of[f"{name}/weights"], of[f"{name}/biases"])

  image = patch.astype(np.float64)[:, :, None]
  image = pooled(layer(image, "conv1"))
  image = pooled(layer(image, "conv2"))
  image = pooled(layer(layer(image, "conv3/conv3_1"), "conv3/conv3_2"))
  image = pooled(layer(layer(image, "conv4/conv4_1"), "conv4/conv4_2"))
  assert image.shape == (6, 4, 5)
  vector = image.reshape(-1)
  for name in ("fc1/fc1_1", "fc1/fc1_2"):
    vector = vector @ of[f"{name}/weights"] + of[f"{name}/biases"]
    vector = np.maximum(vector, 0)
  return vector @ of["fc2/weights"] + of["fc2/biases"]


@pytest.mark.parametrize("version", [1, 2])
def test_the_network_on_patches(version, tmp_path):
  path = write_checkpoint(tmp_path / "v.ckpt", values_of(), version)
  assert (tmp_path / "v.ckpt").exists() == (version == 1)
  network = audio.Vggish(path)
  patches = audio.log_mel(sound(2.1))
  found = network.embed(patches)
  expected = [slow_network(patch) for patch in patches]
  assert np.std(expected) > 0.1
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_vector_for_each_second(files):
  network = audio.Vggish(files[0])
  samples = sound(3.2)
  found = network.encode(samples)
  assert (found.shape, found.dtype, network.dtype) == (
    (4, 128),
    np.float32,
    "float32",
  )
  for second, start in enumerate((0, 16000, 32000, len(samples) - 15600)):
    patch = audio.log_mel(samples[start : start + 15600])
    np.testing.assert_allclose(
      found[second], network.embed(patch)[0], rtol=1e-4, atol=1e-5
    )


def test_a_vector_for_each_frame_whatever_their_times(files):
  network = audio.Vggish(files[0])
  samples = sound(3.2)
  times = np.array([0.0, 0.25, 0.333, 2.0, 3.19, 3.2, 9.0])
  found = network.encode(samples, times)
  starts = (0, 4000, 33 * 160, 32000, len(samples) - 15600)
  expected = network.embed(audio.log_mel(samples, np.array(starts)))
  np.testing.assert_allclose(found[:5], expected, rtol=1e-4, atol=1e-5)
  assert (found[5:] == 0).all()


def test_many_patches_are_those_of_each(files):
  network = audio.Vggish(*files)
  samples = sound(5)
  times = np.linspace(0, 4, 70)
  together = network.encode(samples, times)
  for number in (0, 31, 32, 69):
    alone = network.encode(samples, times[number : number + 1])[0]
    # Sums in another order may give the next byte.
    assert np.abs(together[number].astype(int) - alone).max() <= 1


def test_sound_that_is_shorter_than_a_patch_is_padded(files):
  network = audio.Vggish(files[0])
  short = sound(0.3)
  padded = np.concatenate([short, np.zeros(15600 - len(short), np.float32)])
  np.testing.assert_allclose(
    network.encode(short), network.embed(audio.log_mel(padded)), atol=1e-6
  )
  assert network.encode(short[:0]).shape == (0, 128)


def test_pca_and_bytes_are_those_of_the_release(files, tmp_path):
  rows, means = write_pca(tmp_path / "pca.npz")
  network = audio.Vggish(files[0], str(tmp_path / "pca.npz"))
  samples = sound(2)
  found = network.encode(samples)
  assert (found.dtype, network.dtype) == (np.uint8, "uint8")
  raw = audio.Vggish(files[0]).encode(samples)
  for second in (0, 1):
    for component in (0, 5, 127):
      total = 0.0
      for number in range(128):
        total += rows[component, number] * (
          raw[second, number] - means[number, 0]
        )
      byte = math.floor((min(max(total, -2), 2) + 2) * 255 / 4)
      assert abs(int(found[second, component]) - byte) <= 1
  expected = np.clip((raw - means[:, 0]) @ rows.T, -2, 2) + 2
  assert (found == np.floor(expected * 63.75)).mean() > 0.98
  assert np.ptp(found) > 100


def test_moments_without_sound(files):
  assert (audio.Vggish(*files).no_sound(2) == 127).all()
  assert (audio.Vggish(*files).encode(sound(1), [5.0]) == 127).all()
  assert (audio.Vggish(files[0]).no_sound(2) == 0).all()


def test_it_is_made_again_from_its_settings(files):
  network = audio.Vggish(*files)
  again = audio.Vggish(**network.settings())
  np.testing.assert_array_equal(
    again.encode(sound(2)), network.encode(sound(2))
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"vggish/fc2/weights": None}, "vggish/fc2/weights"),
    ({"vggish/fc2/weights": (6, 127)}, "has the shape (6, 127)"),
    ({"vggish/conv2/weights": (3, 3, 1, 3)}, "has the shape (3, 3, 1, 3)"),
    ({"vggish/conv1/biases": (7,)}, "has the shape (3, 3, 1, 2)"),
  ],
)
def test_other_checkpoints_are_refused(change, message, tmp_path):
  shapes = {**VARIABLES, **change}
  shapes = {name: shape for name, shape in shapes.items() if shape}
  path = write_checkpoint(tmp_path / "v.ckpt", values_of(shapes))
  with pytest.raises(errors.UserError) as caught:
    audio.Vggish(path)
  assert message in str(caught.value)
  assert "storage.googleapis.com/audioset/vggish_model.ckpt" in str(
    caught.value
  )


def test_missing_and_wrong_files_are_refused(files, tmp_path):
  (tmp_path / "text").write_text("no checkpoint")
  for path in (tmp_path / "text", tmp_path / "absent"):
    with pytest.raises(errors.UserError, match="Expected VGGish's checkpoint"):
      audio.Vggish(str(path))
    with pytest.raises(errors.UserError, match="Expected VGGish's PCA"):
      audio.Vggish(files[0], str(path))
  np.savez(tmp_path / "other.npz", pca_means=np.zeros(128))
  with pytest.raises(errors.UserError, match="pca_eigen_vectors"):
    audio.Vggish(files[0], str(tmp_path / "other.npz"))
